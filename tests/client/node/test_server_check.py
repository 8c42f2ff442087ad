"""Whether the server answers, is the right one, and has the same time: every answer in words."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from client.node.server_check import check_server, clock_line


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "ca.crt", folder / "server.key"


@pytest.fixture
def serve(certificate: tuple[Path, Path]) -> Iterator[Callable[..., str]]:
    """Start a server whose clock differs from ours; gives its `host:port`."""
    servers: list[http.server.HTTPServer] = []

    def start(*, ahead_s: float = 0.0, code: int = 200, location: str = "") -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response_only(code if self.path == "/health" else 404)
                self.send_header("Date", formatdate(time.time() + ahead_s, usegmt=True))
                if location:
                    self.send_header("Location", location)
                self.end_headers()

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return f"localhost:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("ahead_s", "told"),
    [
        (0.0, ""),
        (
            -30.0,
            "clock is 30 s ahead of the server's; Flower refuses",
        ),
        (600.0, "clock is 600 s behind the server's"),
        (100.0, ""),
    ],
)
def test_the_clock_is_compared(
    ahead_s: float, told: str, serve: Callable[..., str], certificate: tuple[Path, Path]
) -> None:
    found = check_server(serve(ahead_s=ahead_s), certificate[0])
    assert found.answers
    assert found.offset_s == pytest.approx(-ahead_s, abs=1.5)
    assert told in found.problem
    assert bool(told) == bool(found.problem)


@pytest.mark.parametrize(("offset", "wrong"), [(4.9, False), (5.1, True), (-299.0, False), (-301.0, True)])
def test_flowers_limits_of_the_clock(offset: float, wrong: bool) -> None:
    assert bool(clock_line(offset)) is wrong


@pytest.mark.parametrize(("code", "told"), [(502, "does not answer yet"), (404, "is it the study's server")])
def test_a_server_that_answers_otherwise_is_told(
    code: int, told: str, serve: Callable[..., str], certificate: tuple[Path, Path]
) -> None:
    found = check_server(serve(code=code), certificate[0])
    assert not found.answers
    assert told in found.problem


def test_a_server_does_not_send_the_site_elsewhere(
    serve: Callable[..., str], certificate: tuple[Path, Path]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inside:
        inside.setblocking(False)
        address = f"http://127.0.0.1:{inside.getsockname()[1]}/pacs/delete?all=1"
        found = check_server(serve(code=302, location=address), certificate[0])
        assert not found.answers
        assert "answers 302 to /health: is it the study's server" in found.problem
        with pytest.raises(BlockingIOError):
            inside.accept()


@pytest.mark.parametrize(
    "answer", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nDate: " + b"9" * 400 + b"\r\n\r\n"]
)
def test_a_server_that_speaks_nonsense_ends_nothing(answer: bytes, certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            with context.wrap_socket(listener.accept()[0], server_side=True) as peer:
                peer.recv(1000)
                peer.sendall(answer)

        speaker = threading.Thread(target=speak)
        speaker.start()
        found = check_server(f"localhost:{listener.getsockname()[1]}", certificate[0])
        speaker.join()
    assert found.offset_s is None
    assert found.problem.isprintable()


def test_a_server_of_another_name_is_not_trusted(
    serve: Callable[..., str], certificate: tuple[Path, Path]
) -> None:
    found = check_server(serve().replace("localhost", "127.0.0.1"), certificate[0])
    assert not found.answers
    assert "is not to be trusted" in found.problem


def test_nobody_there_is_told(certificate: tuple[Path, Path]) -> None:
    found = check_server("localhost:9", certificate[0])
    assert not found.answers
    assert "outbound TCP" in found.problem
