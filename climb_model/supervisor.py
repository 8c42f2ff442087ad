"""Long-running programs of one machine: started in order, started again when they end, ended together."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from climb_model.logs import is_full

POLL_S = 0.2
STOP_S = 10.0
"""Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True)
class Service:
    """One program that runs all the time; any end of it is a failure."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    """Its whole environment."""

    log: Path
    """Where its standard output and error are appended."""

    ready: Callable[[], bool] | None = None
    """Whether it does its work now; None: as soon as it is started. May take a second or two."""

    ready_s: float = 60.0
    """Seconds it may need to become ready; then it is ended and started again."""

    reread: Path | None = None
    """A file that it reads again at SIGHUP, which it gets when the file is replaced."""


@dataclass(frozen=True, kw_only=True)
class ServiceState:
    """One service now; times in seconds of the epoch."""

    pid: int | None
    """None while it does not run."""

    since: float | None
    """When this process was started, or ended if it does not run; None before the first start."""

    ready: bool
    restarts: int
    last_exit: int | None
    """Exit code of the last process that ended, minus the signal's number if one ended it."""


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Seconds from an end to the next start: doubled each time, and small again after a long life."""

    first_s: float = 1.0
    most_s: float = 60.0
    reset_s: float = 60.0
    """A process that lived as long as this starts the series anew."""


class Supervisor:
    """Runs services until told to stop.

    The first start is in order: each waits until the one before is ready. Afterwards they are
    independent: the end of one ends no other.
    """

    def __init__(
        self,
        services: Sequence[Service],
        say: Callable[[str], None],
        *,
        changed: Callable[[Mapping[str, ServiceState]], None] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            services: their names differ.
            say: told one line whenever a service becomes ready or ends.
            changed: told all states after every such change, for a status file.
        """
        self._runners = [_Runner(service, say, backoff or Backoff()) for service in services]
        self._changed = changed
        self._lock = threading.Lock()
        self._told: dict[str, ServiceState] | None = None

    def run_until(self, stop: threading.Event) -> None:
        """Run the services until `stop` is set, then end them all."""
        try:
            while not stop.wait(POLL_S):
                with self._lock:
                    self._look()
                self._tell()
        finally:
            self.stop()

    def stop(self) -> None:
        """End all services and what they started in their process groups: SIGTERM, 10 s later SIGKILL."""
        with self._lock:
            for runner in reversed(self._runners):
                runner.signal(signal.SIGTERM)
            end = time.monotonic() + STOP_S
            for runner in reversed(self._runners):
                runner.finish(end)
        self._tell()

    def states(self) -> dict[str, ServiceState]:
        """Each service by its name, in the order of their start."""
        return {runner.service.name: runner.state for runner in self._runners}

    def _look(self) -> None:
        for runner in self._runners:
            runner.look()
            if not runner.was_ready:
                return

    def _tell(self) -> None:
        states = self.states()
        if self._changed is not None and states != self._told:
            self._changed(states)
        self._told = states


class _Runner:
    """One service and its present process."""

    def __init__(self, service: Service, say: Callable[[str], None], backoff: Backoff) -> None:
        self.service = service
        self.was_ready = False
        self.state = ServiceState(pid=None, since=None, ready=False, restarts=0, last_exit=None)
        self._say = say
        self._backoff = backoff
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._start_at = 0.0
        self._delay = backoff.first_s
        self._read: tuple[int, int] | None = None

    def look(self) -> None:
        """Start it if it is due, note its end, ask whether it is ready."""
        if self._process is None:
            if time.monotonic() >= self._start_at:
                self._start()
            return
        code = self._process.poll()
        if code is not None:
            self._ended(code)
            return
        _rotate_open(self.service.log)
        if not self.state.ready:
            self._ask()
        else:
            self._reread()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process group; a group that is gone is no error."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def finish(self, end: float) -> None:
        """Wait for its end until the monotonic time `end`, then kill it."""
        if self._process is None:
            return
        try:
            code = self._process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            code = self._process.wait()
        self.signal(signal.SIGKILL)  # what the process left behind in its group
        self._gone(code)

    def _start(self) -> None:
        service = self.service
        service.log.parent.mkdir(parents=True, exist_ok=True)
        again = self.state.since is not None
        self._read = _stamp(service.reread)
        try:
            with service.log.open("ab") as log:
                self._process = subprocess.Popen(
                    list(service.command),
                    env=dict(service.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # a terminal's Ctrl-C is for the supervisor alone
                )
        except OSError as error:
            self._say(f"{service.name}: cannot be started: {error.strerror}: {service.command[0]}")
            self._retry_later()
            return
        self._started = time.monotonic()
        self.state = ServiceState(
            pid=self._process.pid,
            since=time.time(),
            ready=False,
            restarts=self.state.restarts + again,
            last_exit=self.state.last_exit,
        )
        if service.ready is None:
            self._is_ready()

    def _reread(self) -> None:
        """Tell the process, not its group, that its file was replaced."""
        stamp = _stamp(self.service.reread)
        if self._process is not None and stamp is not None and stamp != self._read:
            self._read = stamp
            self._process.send_signal(signal.SIGHUP)
            self._say(f"{self.service.name}: reads {self.service.reread} again")

    def _ask(self) -> None:
        ready = self.service.ready
        if ready is None or ready():
            self._is_ready()
        elif time.monotonic() - self._started > self.service.ready_s:
            self._say(f"{self.service.name}: not ready after {self.service.ready_s:g} s; it is ended")
            self.signal(signal.SIGTERM)
            self.finish(time.monotonic() + STOP_S)
            self._retry_later()

    def _is_ready(self) -> None:
        self.was_ready = True
        state = self.state
        self.state = ServiceState(
            pid=state.pid, since=state.since, ready=True, restarts=state.restarts, last_exit=state.last_exit
        )
        self._say(f"{self.service.name}: runs (process {state.pid})")

    def _ended(self, code: int) -> None:
        self._gone(code)
        delay = self._retry_later()
        how = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        self._say(f"{self.service.name}: {how}; starts again in {delay:g} s; its log is {self.service.log}")

    def _gone(self, code: int) -> None:
        self._process = None
        self.state = ServiceState(
            pid=None, since=time.time(), ready=False, restarts=self.state.restarts, last_exit=code
        )

    def _retry_later(self) -> float:
        """Set the time of the next start; returns the seconds until then."""
        if self._started and time.monotonic() - self._started >= self._backoff.reset_s:
            self._delay = self._backoff.first_s
        delay = self._delay
        self._start_at = time.monotonic() + delay
        self._delay = min(2 * delay, self._backoff.most_s)
        return delay


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """What changes when a file is replaced or written; None: there is none."""
    with suppress(FileNotFoundError):
        if path is not None:
            found = path.stat()
            return found.st_ino, found.st_mtime_ns
    return None


def _rotate_open(log: Path) -> None:
    """Copy and empty a large log: its writer keeps the file open, at its end wherever that is."""
    if is_full(log):
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)


def end_left_behind(variable: str, value: str, patience_s: float = STOP_S) -> None:
    """End processes that a supervisor which was killed left behind.

    They are known by an entry of the environment that they were started with; systems without
    `/proc` do not say. This process is not among them.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in _processes(variable, value):
            with suppress(ProcessLookupError):
                os.kill(process, number)
        end = time.monotonic() + patience_s
        while _processes(variable, value) and time.monotonic() < end:
            time.sleep(POLL_S)


def _processes(variable: str, value: str) -> list[int]:
    mark = f"{variable}={value}".encode()
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        with suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found
