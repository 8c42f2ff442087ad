"""The public port: a real nginx before a small TLS server that tells what reached it."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from climb_model.ports import free_port
from server.deployment import proxy
from server.deployment.home import Home, HomeSettings
from server.deployment.proxy import ProxyError, answers, configuration, proxy_service, write_configuration

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

FLEET = "/v1/fleet/pull-messages"


def make_home(path: Path) -> Home:
    return Home.create(
        path, HomeSettings(host="localhost", port=free_port(), superlink_port=free_port(), listen="127.0.0.1")
    )


class Behind:
    """What stands in for the SuperLink, and the requests that reached it."""

    def __init__(self, home: Home, other: Home | None = None) -> None:
        reached = self.reached = list[str]()
        headers = self.headers = list[dict[str, str]]()

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                reached.append(f"{self.command} {self.path} {len(body)}")
                headers.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(b"ok")

            do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", home.settings().superlink_port), Handler)
        certified = other or home
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certified.loopback_certificate, certified.loopback_key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def until_answers(home: Home) -> None:
    end = time.monotonic() + 20
    while not answers(home):
        assert time.monotonic() < end, (home.logs / "proxy.log").read_text()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home whose proxy runs."""
    home = make_home(tmp_path_factory.mktemp("proxy") / "home")
    service = proxy_service(home)
    with service.log.open("wb") as log:
        process = subprocess.Popen(
            list(service.command), env=dict(service.environment), stdout=log, stderr=log
        )
    until_answers(home)
    yield home
    process.terminate()
    process.wait(10)


@pytest.fixture
def behind(home: Home) -> Iterator[Behind]:
    one = Behind(home)
    yield one
    one.close()


def ask(home: Home, line: str, body: bytes = b"", head: str = "") -> tuple[int, str, bytes]:
    """One request as raw text: status, head and body of the answer."""
    context = ssl.create_default_context(cafile=str(home.ca_certificate))
    port = home.settings().port
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        secure.sendall(
            f"{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}{head}\r\n".encode()
        )
        with suppress(OSError):  # refused by the head alone
            secure.sendall(body)
        answer = b""
        while part := secure.recv(65536):
            answer += part
    text, _, rest = answer.partition(b"\r\n\r\n")
    return int(text.split()[1]), text.decode(), rest


@needs_nginx
def test_nginx_takes_the_configuration_and_writes_nothing_outside_its_folder(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    path = write_configuration(home)
    command = [str(NGINX), "-t", "-p", f"{home.nginx}/", "-c", str(path), "-e", "stderr"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr
    assert "/var/" not in configuration(home)


@needs_nginx
@pytest.mark.parametrize(
    "line", [f"POST {FLEET}", "POST /v1/fleet/push-object", "GET /health", "HEAD /health"]
)
def test_the_fleet_and_health_pass_as_they_came(home: Home, behind: Behind, line: str) -> None:
    status, _, _ = ask(home, line)
    assert status == 200
    assert behind.reached == [f"{line} 0"]


TRICKS = [
    "GET /",
    "GET /docs",
    "GET /openapi.json",
    "POST /v1/control/start-run",
    "POST /v1/runtime/acquire-task",
    "POST /v1/fleet",
    "POST /v1/fleet/",
    f"GET {FLEET}",
    f"PUT {FLEET}",
    f"DELETE {FLEET}",
    "POST /health",
    "GET /health/",
    "GET /HEALTH",
    "GET /health?to=/docs",
    f"POST {FLEET}?x=1",
    f"POST {FLEET}/",
    "POST /V1/FLEET/pull-messages",
    "POST /v1/fleet/../control/start-run",
    "POST /v1/fleet/..%2fcontrol/start-run",
    "POST /v1/fleet/%2e%2e/control/start-run",
    "POST /v1/fleet/%2E./control/start-run",
    "POST /v1/fleet/..;/control/start-run",
    "POST /v1/fleet/..\\control/start-run",
    "POST /v1/control/../fleet/pull-messages",
    "POST /v1/control/start-run/..%2f..%2ffleet/pull-messages",
    "POST //v1/fleet/pull-messages",
    "POST /v1//fleet/pull-messages",
    "POST /v1/control//v1/fleet/pull-messages",
    "POST /./v1/fleet/pull-messages",
    "POST /v1/%66leet/pull-messages",
    f"POST {FLEET}%00",
    f"POST {FLEET}%0a",
    f"POST {FLEET};/v1/control/start-run",
    f"POST {FLEET}#/v1/control/start-run",
    "POST https://localhost/v1/control/start-run",
    "POST http://127.0.0.1:18443/v1/control/start-run",
    "CONNECT 127.0.0.1:18443",
    "OPTIONS *",
    "TRACE /v1/fleet/pull-messages",
]


@needs_nginx
@pytest.mark.parametrize("line", TRICKS)
def test_nothing_else_passes_however_it_is_spelt(home: Home, behind: Behind, line: str) -> None:
    status, _, _ = ask(home, line)
    assert status in (400, 404, 405)
    assert behind.reached == []


@needs_nginx
def test_what_is_refused_tells_nothing(home: Home, behind: Behind) -> None:
    status, head, body = ask(home, "GET /docs")
    assert (status, body) == (404, b"")
    assert "nginx/" not in head
    assert behind.reached == []


@needs_nginx
def test_who_asks_is_told_by_the_proxy_alone(home: Home, behind: Behind) -> None:
    assert ask(home, f"POST {FLEET}", head="X-Forwarded-For: 10.1.2.3\r\nUpgrade: websocket\r\n")[0] == 200
    assert behind.headers[0]["x-forwarded-for"] == "127.0.0.1"
    assert "upgrade" not in behind.headers[0]


@needs_nginx
def test_a_chunk_of_flowers_passes_and_more_does_not(home: Home, behind: Behind) -> None:
    chunk = 5 * 2**20 + 4096
    assert ask(home, f"POST {FLEET}", b"x" * chunk)[0] == 200
    assert ask(home, f"POST {FLEET}", b"x" * (proxy.BODY_MB * 2**20 + 1))[0] == 413
    assert behind.reached == [f"POST {FLEET} {chunk}"]


@needs_nginx
def test_while_nothing_is_behind_the_answer_is_one_after_which_flower_tries_again(home: Home) -> None:
    assert ask(home, f"POST {FLEET}")[0] == 502


@needs_nginx
def test_a_program_without_our_certificate_on_the_superlinks_port_gets_nothing(
    home: Home, tmp_path: Path
) -> None:
    impostor = Behind(home, make_home(tmp_path / "other"))
    try:
        assert ask(home, f"POST {FLEET}", b"secret")[0] == 502
        assert impostor.reached == []
    finally:
        impostor.close()


@needs_nginx
def test_old_tls_is_refused(home: Home) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(home.ca_certificate)
    context.set_ciphers("AES256-SHA256")  # TLS 1.2 without forward secrecy
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", home.settings().port), timeout=10) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


def test_without_nginx_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_home(tmp_path / "home")
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(ProxyError, match="needs nginx as its public port: apt install nginx-light"):
        proxy_service(home)


@pytest.mark.parametrize("name", ['a"b', "a$b", "a;b", "a{b"])
def test_a_folder_whose_name_nginx_would_misread_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ProxyError, match="nginx takes no"):
        configuration(make_home(tmp_path / name))


@pytest.mark.parametrize(("user", "line"), [(0, "user root;\n"), (1000, "")])
def test_workers_run_as_who_started_the_server(
    user: int, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home(tmp_path / "home")
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert configuration(home).startswith(f"# Written by climb-server start.\n{line}daemon off;\n")
