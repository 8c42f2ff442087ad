"""A machine of its own for one hospital: a network namespace, its only cable, and who it calls.

Addresses are link-local to the cable; nothing is routed on, so whatever is tried ends at its far end.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_NO_ONE = "02:00:00:00:00:ee"
"""A hardware address that nobody has: what is sent to it is lost in silence."""

_TCP, _UDP = 6, 17
_SYN, _ACK = 0x02, 0x10
_ALL_FRAMES = 0x0003


def impossible() -> str | None:
    """Why namespaces cannot be used here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the program ip"
    probe = f"climb-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"this machine gives no network namespaces: {made.stderr.strip()}"
    _ip("netns", "del", probe)
    return None


@dataclass(frozen=True, order=True)
class Attempt:
    """A first packet to somewhere."""

    protocol: str
    """`tcp`, `udp` or the number of another protocol."""

    address: str
    port: int


class Machine:
    """A namespace with loopback and one cable to this machine.

    The far end of the cable (`outside`) is also its gateway and its name server, where nobody listens:
    what the machine tries to reach elsewhere comes out of the cable and is seen by a `Recorder`.

    Args:
        number: 0 to 254; two machines of one number cannot be there at the same time.
    """

    def __init__(self, number: int) -> None:
        self.name = f"climb-site-{number}"
        self.cable, self._inner = f"climb{number}", f"climb{number}i"
        self.outside, self.inside = f"169.254.{number}.1", f"169.254.{number}.2"

    def __enter__(self) -> Self:
        self._remove()
        _ip("netns", "add", self.name)
        try:
            self._connect()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def command(self, *command: str) -> list[str]:
        """The command, to be run on this machine."""
        return ["ip", "netns", "exec", self.name, *command]

    def cut(self) -> None:
        """Lose every packet in both directions; no program is told."""
        self._point_at(_NO_ONE, _NO_ONE)

    def restore(self) -> None:
        """Carry packets again."""
        self._point_at(self._address(), self._address_inside())

    def limit(self, rate: float) -> None:
        """Send no more than so many bits a second."""
        queue = ("root", "tbf", "rate", f"{rate:.0f}bit", "burst", "32kbit", "latency", "200ms")
        command = ["tc", "-n", self.name, "qdisc", "replace", "dev", self._inner, *queue]
        subprocess.run(command, capture_output=True, check=True)

    def sent(self) -> int:
        """Bytes that the machine has sent so far, headers included; lost ones too."""
        return int(Path(f"/sys/class/net/{self.cable}/statistics/rx_bytes").read_text())

    def _connect(self) -> None:
        here = Path("/etc/netns") / self.name
        here.mkdir(parents=True, exist_ok=True)
        (here / "resolv.conf").write_text(f"nameserver {self.outside}\noptions timeout:1 attempts:1\n")
        _ip("link", "add", self.cable, "type", "veth", "peer", "name", self._inner)
        _ip("link", "set", self._inner, "netns", self.name)
        self._inside("addr", "add", f"{self.inside}/24", "dev", self._inner)
        self._inside("link", "set", "lo", "up")
        self._inside("link", "set", self._inner, "up")
        _ip("addr", "add", f"{self.outside}/24", "dev", self.cable)
        _ip("link", "set", self.cable, "up")
        self._inside("route", "add", "default", "via", self.outside)
        self.restore()

    def _point_at(self, outside: str, inside: str) -> None:
        """Where each end believes the other's hardware to be; never asked for, so never corrected."""
        self._inside(
            "neigh", "replace", self.outside, "lladdr", outside, "dev", self._inner, "nud", "permanent"
        )
        _ip("neigh", "replace", self.inside, "lladdr", inside, "dev", self.cable, "nud", "permanent")

    def _address(self) -> str:
        return Path(f"/sys/class/net/{self.cable}/address").read_text().strip()

    def _address_inside(self) -> str:
        shown = self._inside("-o", "link", "show", self._inner).split()
        return shown[shown.index("link/ether") + 1]

    def _inside(self, *arguments: str) -> str:
        return _ip("-n", self.name, *arguments)

    def _remove(self) -> None:
        with suppress(subprocess.CalledProcessError):
            _ip("link", "del", self.cable)
        with suppress(subprocess.CalledProcessError):
            _ip("netns", "del", self.name)
        shutil.rmtree(Path("/etc/netns") / self.name, ignore_errors=True)


class Recorder:
    """Every attempt of a machine to reach anything outside itself, answered or not."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._seen: set[Attempt] = set()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._ends = threading.Event()

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_FRAMES))
        self._socket.bind((self._machine.cable, 0))
        self._socket.settimeout(0.2)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(5)
        self._socket.close()

    def attempts(self) -> frozenset[Attempt]:
        """What was seen so far."""
        return frozenset(self._seen)

    def _read(self) -> None:
        while not self._ends.is_set():
            with suppress(TimeoutError):
                frame, where = self._socket.recvfrom(65536)
                if where[2] != socket.PACKET_OUTGOING:
                    attempt = read_frame(frame, self._machine.inside)
                    if attempt is not None:
                        self._seen.add(attempt)


def read_frame(frame: bytes, source: str) -> Attempt | None:
    """The attempt that an Ethernet frame is: a first TCP packet, or any other packet of IPv4.

    Answers to others (TCP without SYN or with ACK) and frames from elsewhere are none, and neither is
    the kernel's own talk: ARP, multicast of IPv6, ICMP.
    """
    if len(frame) < 34 or frame[12:14] != b"\x08\x00":
        return None
    packet = frame[14:]
    head, protocol = 4 * (packet[0] & 15), packet[9]
    sender, target = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    if sender != source or protocol == socket.IPPROTO_ICMP:
        return None
    if protocol not in (_TCP, _UDP):
        return Attempt(str(protocol), target, 0)
    (port,) = struct.unpack("!H", packet[head + 2 : head + 4])
    if protocol == _UDP:
        return Attempt("udp", target, port)
    flags = packet[head + 13]
    return Attempt("tcp", target, port) if flags & _SYN and not flags & _ACK else None


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)
    return done.stdout
