"""The relay itself: a test that it does not slow or cut would prove nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from relay import Link, Relay, recorded


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """Address of a server that sends back what comes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(peer: socket.socket) -> None:
        with peer, suppress(OSError):
            while content := peer.recv(65536):
                peer.sendall(content)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def back(peer: socket.socket, num_bytes: int) -> bytes:
    content = b""
    while len(content) < num_bytes and (part := peer.recv(65536)):
        content += part
    return content


def test_all_bytes_pass_and_are_counted_and_kept(echo: tuple[str, int], tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    with Relay(echo, record=tmp_path) as relay:
        with socket.create_connection(("127.0.0.1", relay.port)) as peer:
            threading.Thread(target=peer.sendall, args=(content,), daemon=True).start()
            assert back(peer, len(content)) == content
        assert (relay.bytes_up, relay.bytes_down) == (len(content), len(content))
        assert relay.num_connections == 1
    assert (tmp_path / "1.up").read_bytes() == (tmp_path / "1.down").read_bytes() == content
    assert recorded(tmp_path) == content + b"\n" + content


def test_the_rate_and_the_delay_hold(echo: tuple[str, int]) -> None:
    content = bytes(50_000)  # 0.4 s at 1 Mbit/s; both ways at the same time
    with Relay(echo, Link(rate=1e6, delay_s=0.1)) as relay:
        with socket.create_connection(("127.0.0.1", relay.port)) as peer:
            begin = time.monotonic()
            peer.sendall(content)
            assert back(peer, len(content)) == content
        assert 0.6 <= time.monotonic() - begin < 1.5


def test_nothing_passes_while_it_is_cut_and_nothing_is_lost(echo: tuple[str, int]) -> None:
    with Relay(echo) as relay, socket.create_connection(("127.0.0.1", relay.port)) as peer:
        peer.sendall(b"before")
        assert back(peer, 6) == b"before"
        relay.cut()
        time.sleep(0.05)
        peer.sendall(b"after")
        peer.settimeout(0.3)
        with pytest.raises(TimeoutError):
            peer.recv(1)
        relay.restore()
        peer.settimeout(5)
        assert back(peer, 5) == b"after"
        relay.drop()
        with suppress(ConnectionResetError):
            assert peer.recv(1) == b""


def test_a_link_that_stalls_goes_on_afterwards(echo: tuple[str, int]) -> None:
    with Relay(echo, Link(stall_every_s=0.1, stall_s=0.3)) as relay:
        time.sleep(0.15)  # the stall has begun
        with socket.create_connection(("127.0.0.1", relay.port)) as peer:
            begin = time.monotonic()
            peer.sendall(b"x")
            assert back(peer, 1) == b"x"
        assert 0.1 < time.monotonic() - begin < 1
