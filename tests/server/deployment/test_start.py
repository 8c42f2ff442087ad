"""The server's programs: their command lines, the status file, and a real server tried from outside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from climb_model.lock import LockedError, only_process
from climb_model.ports import free_port
from climb_model.supervisor import Service, ServiceState
from server.cli import main
from server.deployment import start as starting
from server.deployment.flower import environment
from server.deployment.home import Home, HomeSettings
from server.deployment.start import ServerStatus, heading, start, status
from server.deployment.studies import StudyState, Travelled
from server.deployment.study_cli import server_lines, study_lines
from server.deployment.superlink import healthy, superexec_service, superlink_service

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(
        tmp_path / "home",
        HomeSettings(host="localhost", port=free_port(), superlink_port=free_port(), listen="127.0.0.1"),
    )


def values(command: list[str]) -> dict[str, str]:
    """Each option with what follows it."""
    return {
        option: value for option, value in zip(command, [*command[1:], ""], strict=True) if option[0] == "-"
    }


def test_the_superlink_is_on_loopback_with_tls_known_nodes_and_apps_of_their_own(home: Home) -> None:
    service = superlink_service(home)
    options = values(list(service.command))
    assert options["--host"] == "127.0.0.1"
    assert options["--port"] == str(home.settings().superlink_port)
    assert options["--isolation"] == "process"
    assert options["--database"] == str(home.database)
    assert options["--ssl-certfile"] == str(home.loopback_certificate)
    assert options["--superexec-auth-secret-file"] == str(home.superexec_secret)
    assert {"--enable-supernode-auth", "--disable-runtime-dependency-installation"} <= options.keys()
    assert "--insecure" not in options


def test_the_superexec_trusts_our_authority_alone_and_gives_apps_the_folder_of_studies(home: Home) -> None:
    service = superexec_service(home)
    options = values(list(service.command))
    assert options["--runtime-api-address"] == f"127.0.0.1:{home.settings().superlink_port}"
    assert options["--root-certificates"] == str(home.ca_certificate)
    assert "--insecure" not in options
    assert service.environment["CLIMB_SERVER"] == str(home.studies)


def test_tensors_travel_in_small_pieces(home: Home) -> None:
    """A setting that Flower calls private: it is read where this test says, and an array is cut so."""
    code = (
        "import numpy as np; from flwr.app import Array\n"
        "pieces = Array(np.zeros(2**19 + 1)).children.values()\n"
        "print([len(piece.data) for piece in pieces])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=dict(superexec_service(home).environment),
        capture_output=True,
        text=True,
        check=True,
    )
    sizes = json.loads(done.stdout)
    assert max(sizes) == 2**20
    assert len(sizes) > 1


def test_no_process_of_flowers_calls_home_or_the_hub(home: Home) -> None:
    for service in (superlink_service(home), superexec_service(home)):
        wanted = {
            "FLWR_HOME": str(home.flower),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
        }
        assert wanted.items() <= dict(service.environment).items()


def test_who_starts_is_told_the_address_the_fingerprint_and_the_expiry(home: Home) -> None:
    text = "\n".join(heading(home))
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(home.ca_certificate)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    digest = shown.strip().partition("=")[2].replace(":", "").lower()
    assert digest in text.replace(" ", "")
    assert home.settings().server in text
    assert "certificate of the server: good until" in text


def test_a_second_server_of_one_folder_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "LOCK_S", 0.0)
    with (
        only_process(home.path / "lock", what="is the server"),
        pytest.raises(LockedError, match="is the server of"),
    ):
        start(home, lambda _: None, threading.Event())


def test_the_status_file_counts_while_its_server_lives(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert status(home) == ServerStatus(pid=None, services={})
    sleeper = Service(
        "superlink", [sys.executable, "-S", "-c", "import time; time.sleep(1000)"], {}, home.logs / "log"
    )
    monkeypatch.setattr(starting, "superlink_service", lambda _: sleeper)
    monkeypatch.setattr(
        starting, "superexec_service", lambda _: Service("superexec", ["/no"], {}, sleeper.log)
    )
    monkeypatch.setattr(starting, "proxy_service", lambda _: Service("proxy", ["/no"], {}, sleeper.log))
    stop = threading.Event()
    lines: list[str] = []
    thread = threading.Thread(target=start, args=(home, lines.append, stop))
    thread.start()
    try:
        end = time.monotonic() + 20
        while not status(home).ready("superlink"):
            assert time.monotonic() < end
            time.sleep(0.05)
        running = status(home)
        assert running.pid == os.getpid()
        assert running.services["superlink"].pid is not None
    finally:
        stop.set()
        thread.join(20)
    assert (home.path / "status.json").is_file()
    assert status(home).pid is None
    assert lines[0] == f"server of {home.path}"


def test_status_is_told_in_lines() -> None:
    up = ServiceState(pid=7, since=0.0, ready=True, restarts=2, last_exit=-9)
    assert server_lines(ServerStatus(pid=3, services={"superlink": up})) == [
        "server: runs (process 3)",
        "  superlink  runs since 1970-01-01T00:00:00Z, started again 2 times, the last ended with -9",
    ]
    study = StudyState(
        name="s",
        state="running",
        detail="",
        run=Path("/r"),
        flower_runs=(1,),
        num_rounds=3,
        round=1,
        mean_auc=0.6,
        sites={"A": Travelled(rounds=1, bytes_up=26_300_000, bytes_down=100_000)},
        rejected=({"site": "B", "reason": "did not\nanswer"},),
    )
    assert study_lines(study) == [
        "study 's': running, round 1 of 3, mean AUC 0.600",
        "  site A: 1 rounds, 26.3 MB up, 0.1 MB down",
        "  rejected in round 1: B: did not answer",
    ]


def test_without_a_server_status_works_and_the_other_verbs_say_what_comes_first(
    home: Home, tmp_path: Path, command: Command
) -> None:
    code, out, _ = command(main, "status", "--home", home.path)
    assert code == 0
    assert out.startswith("server: does not run (climb-server start)\n")
    code, out, _ = command(main, "status", "--home", home.path, "--json")
    assert json.loads(out)["server"] == {"pid": None, "services": {}}
    begin = ["run", "--preset", "debug", "--central", tmp_path, "--out", tmp_path / "run"]
    for verb in (begin, ["stop", "s"], ["resume", "s"]):
        code, _, error = command(main, *verb, "--home", home.path)
        assert code == 2
        assert "does not run: climb-server start comes first" in error
    assert not (tmp_path / "run").exists()


NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@pytest.fixture
def server(home: Home) -> Iterator[Home]:
    """A home whose three programs run, started as its admin would."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    code = "import sys; from server.cli import main; sys.exit(main())"
    with (home.logs / "start.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "start", "--home", str(home.path)], stdout=log, stderr=log
        )
    try:
        end = time.monotonic() + 180
        while not status(home).ready("proxy"):
            assert process.poll() is None, (home.logs / "start.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.2)
        yield home
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert left(home) == []


def left(home: Home) -> list[str]:
    """Processes that were started for a home and live."""
    mark = f"FLWR_HOME={home.flower}".encode()
    found: list[str] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120])
        except OSError:
            continue
    return found


def from_outside(home: Home, line: str) -> int:
    """The status that a request to the public port gets."""
    context = ssl.create_default_context(cafile=str(home.ca_certificate))
    with (
        socket.create_connection(("127.0.0.1", home.settings().port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(
            f"{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()
        )
        return int(secure.recv(65536).split()[1])


def listening(port: int) -> set[str]:
    """Addresses, in the kernel's hexadecimal, on which a TCP port listens."""
    found: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            host, _, its_port = address.partition(":")
            if state == "0A" and int(its_port, 16) == port:
                found.add(host)
    return found


@pytest.mark.deploy
def test_from_outside_only_the_fleet_and_health_are_there(server: Home) -> None:
    assert from_outside(server, "GET /health") == 200
    # Flower's own refusal of an empty message: it came through
    assert from_outside(server, "POST /v1/fleet/pull-messages") == 415
    for path in flower_paths(server):
        if path.startswith("/v1/fleet/") or path == "/health":
            continue
        for verb in ("GET", "POST"):
            assert from_outside(server, f"{verb} {path}") == 404, path
    for path in ("/docs", "/openapi.json", "/docs/oauth2-redirect", "/redoc", "/"):
        assert from_outside(server, f"GET {path}") == 404, path
    assert healthy("127.0.0.1", server.settings().superlink_port, server.ca_certificate)
    assert listening(server.settings().superlink_port) == {"0100007F"}


def flower_paths(server: Home) -> list[str]:
    """Every path that the SuperLink itself says it has, asked on loopback."""
    context = ssl.create_default_context(cafile=str(server.ca_certificate))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    at = f"https://127.0.0.1:{server.settings().superlink_port}/openapi.json"
    with opener.open(at, timeout=20) as answer:
        paths = list(json.load(answer)["paths"])
    assert any(path.startswith("/v1/control/") for path in paths)
    assert any(path.startswith("/v1/runtime/") for path in paths)
    return paths


@pytest.mark.deploy
def test_a_superlink_that_is_killed_comes_back_behind_the_same_port(server: Home, command: Command) -> None:
    before = status(server).services["superlink"].pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    end = time.monotonic() + 120
    while status(server).services["superlink"].restarts < 1 or not status(server).ready("superlink"):
        assert time.monotonic() < end
        time.sleep(0.2)
    assert from_outside(server, "GET /health") == 200
    code, out, _ = command(main, "status", "--home", server.path, "--json")
    assert code == 0
    services = json.loads(out)["server"]["services"]
    assert services["superlink"]["last_exit"] == -signal.SIGKILL
    assert {name: one["restarts"] for name, one in services.items()} == {
        "superlink": 1,
        "superexec": 0,
        "proxy": 0,
    }


@pytest.mark.deploy
def test_a_renewed_certificate_is_shown_by_the_same_processes(server: Home, command: Command) -> None:
    """Also to who is connected meanwhile; no program is started again, so no study ends."""
    before = status(server).services
    shown = certificate(server)
    code, out, _ = command(main, "renew", "--home", server.path)
    assert code == 0
    assert "shows sites the new certificate within seconds" in out
    end = time.monotonic() + 30
    while (now := certificate(server)) == shown:
        assert time.monotonic() < end
        time.sleep(0.2)
    assert now == ssl.PEM_cert_to_DER_cert(server.server_certificate.read_text())
    assert from_outside(server, "GET /health") == 200
    assert status(server).services == before
    assert f"proxy: reads {server.server_certificate} again" in (server.logs / "start.log").read_text()


def certificate(home: Home) -> bytes:
    """What the public port shows, DER."""
    context = ssl.create_default_context(cafile=str(home.ca_certificate))
    with (
        socket.create_connection(("127.0.0.1", home.settings().port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        found = secure.getpeercert(binary_form=True)
        assert found is not None
        return found


@pytest.mark.deploy
def test_every_way_to_start_code_needs_the_loopback(server: Home) -> None:
    """A site's own program, aimed at the control interface through the public port, gets nowhere."""
    config = server.path / "site-flower"
    config.mkdir()
    (config / "config.toml").write_text(
        f'[superlink]\ndefault = "x"\n\n[superlink.x]\naddress = "localhost:{server.settings().port}"\n'
        f'root-certificates = "{server.ca_certificate}"\n'
    )
    done = subprocess.run(
        [str(Path(sys.executable).parent / "flwr"), "list", "x", "--format", "json"],
        env=environment(config),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert '"success": false' in done.stdout
    assert "404" in done.stdout
