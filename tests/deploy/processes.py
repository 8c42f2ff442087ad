"""Real programs: started with a log, found again whatever they start, ended for certain."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

POLL_S = 0.1
_LISTENS = "0A"


class Program:
    """A program that runs in the background; its output is in a log.

    Args:
        command: the program's own command, without what starts it elsewhere.
        log: file that standard output and error are appended to.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the program itself."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def tree(self) -> list[int]:
        """The program and all that it started, now."""
        return [self.pid, *descendants(self.pid)]

    def stop(self, patience_s: float = 40.0) -> int:
        """Ask it to end; returns its exit code. Killed with all it started if it does not."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        try:
            return self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.log.name}: did not end within {patience_s:g} s of SIGTERM") from None

    def kill(self) -> None:
        """Kill it and all that it started at once, as when its machine loses power."""
        everything = self.tree()
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: nobody starts anybody anew
            for pid in everything:
                signal_quietly(pid, number)
        self._process.wait()

    def said(self) -> str:
        """All that it has written so far."""
        return self.log.read_text("utf-8", "replace")


def signal_quietly(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that is gone is no error."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def descendants(pid: int) -> list[int]:
    """All processes below one, now."""
    children: dict[int, list[int]] = {}
    for other, parent in _parents().items():
        children.setdefault(parent, []).append(other)
    found, open_ = [], [pid]
    while open_:
        mine = children.get(open_.pop(), [])
        found += mine
        open_ += mine
    return found


def command_line(pid: int) -> str:
    """Of a process; empty if it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    return ""


def cpu_seconds(pid: int) -> float | None:
    """Processor time that a process has used; None if it is gone."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return None


def belonging_to(folder: Path) -> list[int]:
    """Processes whose command line, environment or working folder names a folder."""
    mark, found = str(folder).encode(), list[int]()
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        with suppress(OSError):
            content = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if mark in content or mark in os.readlink(process / "cwd").encode():
                found.append(int(process.name))
    return found


def open_ports(pid: int) -> set[tuple[str, int]]:
    """Addresses and ports at which a process of this machine listens with TCP."""
    sockets: set[str] = set()
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                sockets.add(os.readlink(entry))
    found: set[tuple[str, int]] = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == _LISTENS and f"socket:[{words[9]}]" in sockets:
                raw, port = words[1].split(":")
                packed = b"".join(bytes.fromhex(raw[i : i + 8])[::-1] for i in range(0, len(raw), 8))
                found.add((socket.inet_ntop(family, packed), int(port, 16)))
    return found


def wait_until(
    true: Callable[[], object], timeout_s: float, what: str, *, alive: Sequence[Program] = ()
) -> float:
    """Wait for something; returns the seconds that it took.

    Raises:
        AssertionError: if it does not come true in time, or a program ends meanwhile.
    """
    begin = time.monotonic()
    while not true():
        waited = time.monotonic() - begin
        assert waited < timeout_s, f"{what}: not within {timeout_s:g} s"
        for program in alive:
            assert program.code is None, f"{what}: {program.log.name} ended with {program.code}"
        time.sleep(POLL_S)
    return time.monotonic() - begin


def _parents() -> dict[int, int]:
    found: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            rest = (folder / "stat").read_text().rpartition(")")[2].split()
            if rest[0] != "Z":
                found[int(folder.name)] = int(rest[1])
    return found
