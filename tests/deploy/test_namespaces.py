"""The machines themselves: that a cut loses packets, and that the recorder misses nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from namespaces import Attempt, Machine, Recorder, impossible, read_frame

CALLS = """
import socket, sys
def tcp(host, port):
    with socket.socket() as peer:
        peer.settimeout(1)
        try:
            peer.connect((host, port))
            peer.sendall(b"hello")
            return peer.recv(5)
        except OSError as error:
            return repr(error).encode()
print(tcp(sys.argv[1], int(sys.argv[2])).decode())
"""
ELSEWHERE = """
tcp("192.0.2.7", 443)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
    peer.sendto(b"x", ("192.0.2.8", 4433))
try:
    socket.getaddrinfo("telemetry.invalid", 443)
except OSError:
    pass
"""


@pytest.fixture
def machine() -> Iterator[Machine]:
    why = impossible()
    if why:
        pytest.skip(why)
    with Machine(91) as machine:
        yield machine


def call(machine: Machine, port: int, program: str = CALLS) -> str:
    command = machine.command(sys.executable, "-c", program, machine.outside, str(port))
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()


@pytest.mark.deploy
def test_a_cut_loses_all_packets_and_every_attempt_is_seen(machine: Machine) -> None:
    with socket.create_server((machine.outside, 0)) as listener, Recorder(machine) as recorder:
        port = listener.getsockname()[1]

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                assert peer.recv(5) == b"hello"
                peer.sendall(b"there")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert call(machine, port) == "there"
        thread.join(5)
        time.sleep(0.3)
        server = Attempt("tcp", machine.outside, port)
        assert recorder.attempts() == {server}
        machine.cut()
        assert "TimeoutError" in call(machine, port)
        machine.restore()
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert call(machine, port) == "there"
        thread.join(5)
        call(machine, 9, CALLS + ELSEWHERE)
        time.sleep(0.3)
        assert recorder.attempts() == {
            server,
            Attempt("tcp", machine.outside, 9),
            Attempt("tcp", "192.0.2.7", 443),
            Attempt("udp", "192.0.2.8", 4433),
            Attempt("udp", machine.outside, 53),
        }


def test_a_frame_is_read_by_hand() -> None:
    def frame(protocol: int, rest: bytes, source: str = "169.254.1.2") -> bytes:
        head = bytes([0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0])
        return bytes(12) + b"\x08\x00" + head + socket.inet_aton(source) + bytes([1, 2, 3, 4]) + rest

    ports = (1000).to_bytes(2, "big") + (443).to_bytes(2, "big")
    syn, syn_ack, data = (ports + bytes(9) + bytes([flags]) + bytes(6) for flags in (0x02, 0x12, 0x18))
    assert read_frame(frame(6, syn), "169.254.1.2") == Attempt("tcp", "1.2.3.4", 443)
    assert read_frame(frame(6, syn_ack), "169.254.1.2") is None
    assert read_frame(frame(6, data), "169.254.1.2") is None
    assert read_frame(frame(17, ports + bytes(4)), "169.254.1.2") == Attempt("udp", "1.2.3.4", 443)
    assert read_frame(frame(47, bytes(8)), "169.254.1.2") == Attempt("47", "1.2.3.4", 0)
    assert read_frame(frame(6, syn, "169.254.1.9"), "169.254.1.2") is None
    assert read_frame(b"short", "169.254.1.2") is None
