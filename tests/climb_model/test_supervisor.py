"""Programs that run all the time, as small Python processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from climb_model import logs, supervisor
from climb_model.supervisor import Backoff, Service, ServiceState, Supervisor, end_left_behind

QUICK = Backoff(first_s=0.05, most_s=0.2, reset_s=60.0)
FOREVER = "import time; time.sleep(1000)"


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "POLL_S", 0.01)


def service(
    folder: Path, name: str, code: str, ready: Callable[[], bool] | None = None, ready_s: float = 60.0
) -> Service:
    return Service(name, [sys.executable, "-S", "-c", code], {}, folder / f"{name}.log", ready, ready_s)


@contextmanager
def running(services: list[Service], lines: list[str], backoff: Backoff = QUICK) -> Iterator[Supervisor]:
    stop = threading.Event()
    one = Supervisor(services, lines.append, backoff=backoff)
    thread = threading.Thread(target=one.run_until, args=(stop,))
    thread.start()
    try:
        yield one
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_each_waits_until_the_one_before_is_ready(tmp_path: Path) -> None:
    open_door = tmp_path / "open"
    lines: list[str] = []
    services = [
        service(tmp_path, "first", FOREVER, ready=open_door.exists),
        service(tmp_path, "second", FOREVER),
    ]
    with running(services, lines) as one:
        until(lambda: one.states()["first"].pid is not None)
        time.sleep(0.2)
        assert one.states()["second"].since is None
        assert not one.states()["first"].ready
        open_door.touch()
        until(lambda: one.states()["second"].ready)
        pids = [state.pid for state in one.states().values()]
    assert [line.partition(":")[0] for line in lines] == ["first", "second"]
    assert not any(is_alive(pid) for pid in pids if pid)
    assert [state.pid for state in one.states().values()] == [None, None]


def test_a_program_reads_its_file_again_when_it_is_replaced(tmp_path: Path) -> None:
    """By SIGHUP to the process alone: what it started in its group is not told."""
    file = tmp_path / "certificate"
    file.write_text("old")
    code = f"""
import pathlib, signal, subprocess, sys, time
subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(1000)"])
signal.signal(signal.SIGHUP, lambda *_: print("read", pathlib.Path({str(file)!r}).read_text(), flush=True))
print("up", flush=True)
while True:
    time.sleep(0.01)
"""
    log = tmp_path / "one.log"
    one = Service(
        "one",
        [sys.executable, "-S", "-c", code],
        {},
        log,
        ready=lambda: log.exists() and "up" in log.read_text(),
        reread=file,
    )
    lines: list[str] = []
    with running([one], lines) as supervisor_:
        until(lambda: supervisor_.states()["one"].ready)
        pid = supervisor_.states()["one"].pid
        for text in ("new", "newer"):
            new = tmp_path / "partial"
            new.write_text(text)
            new.replace(file)
            until(lambda text=text: f"read {text}\n" in log.read_text())
        time.sleep(0.1)
        state = supervisor_.states()["one"]
    assert log.read_text() == "up\nread new\nread newer\n"
    assert (state.pid, state.restarts) == (pid, 0)
    assert lines[1:] == [f"one: reads {file} again"] * 2


def test_an_ended_one_is_started_again_with_growing_pauses_and_the_others_go_on(tmp_path: Path) -> None:
    lines: list[str] = []
    services = [service(tmp_path, "frail", "raise SystemExit(3)"), service(tmp_path, "firm", FOREVER)]
    with running(services, lines) as one:
        until(lambda: one.states()["frail"].restarts >= 4)
        assert one.states()["frail"].last_exit == 3
        assert one.states()["firm"].restarts == 0
    pauses = [line.split("again in ")[1].split(" s")[0] for line in lines if "ended with exit code 3" in line]
    assert pauses[:4] == ["0.05", "0.1", "0.2", "0.2"]


def test_a_killed_one_comes_back_and_a_long_life_makes_the_pause_small_again(tmp_path: Path) -> None:
    lines: list[str] = []
    with running([service(tmp_path, "one", FOREVER)], lines, Backoff(first_s=0.05, reset_s=0.3)) as one:
        for restarts in range(3):
            until(
                lambda wanted=restarts: one.states()["one"].restarts == wanted and one.states()["one"].ready
            )
            time.sleep(0.4)
            pid = one.states()["one"].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        until(lambda: one.states()["one"].restarts == 3)
    assert [line.split("; ")[0] for line in lines if "signal" in line] == ["one: ended by signal 9"] * 3
    assert all("again in 0.05 s" in line for line in lines if "signal" in line)


def test_one_that_never_becomes_ready_is_ended_and_started_again(tmp_path: Path) -> None:
    lines: list[str] = []
    slow = service(tmp_path, "slow", FOREVER, ready=lambda: False, ready_s=0.1)
    with running([slow], lines) as one:
        until(lambda: one.states()["slow"].restarts >= 1)
    assert "slow: not ready after 0.1 s; it is ended" in lines


def test_a_missing_program_is_told_and_tried_again(tmp_path: Path) -> None:
    lines: list[str] = []
    with running([Service("none", ["/no/such/program"], {}, tmp_path / "log")], lines):
        until(lambda: len(lines) >= 2)
    assert lines[0] == "none: cannot be started: No such file or directory: /no/such/program"


def test_one_that_ignores_the_request_to_end_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_S", 0.3)
    deaf = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(1000)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    log = tmp_path / "deaf.log"
    with running([service(tmp_path, "deaf", deaf)], []) as one:
        until(lambda: log.exists() and log.read_text().endswith("\n"))
        pid = one.states()["deaf"].pid
    child = int(log.read_text())
    assert one.states()["deaf"].last_exit == -signal.SIGKILL
    assert pid is not None
    assert not is_alive(pid)
    until(lambda: not is_alive(child))


def test_a_large_log_is_moved_aside_while_its_writer_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES", 2000)
    talker = "import time\nwhile True: print('x' * 100, flush=True); time.sleep(0.002)"
    log = tmp_path / "talker.log"
    with running([service(tmp_path, "talker", talker)], []):
        until((tmp_path / "talker.log.1").exists)
        until(lambda: 0 < log.stat().st_size < 2000)
    assert set(log.read_bytes()) == set(b"x\n")  # no hole of zeros before the writer's place


def test_whoever_keeps_a_status_file_is_told_each_change_once(tmp_path: Path) -> None:
    told: list[dict[str, ServiceState]] = []

    def keep(states: Mapping[str, ServiceState]) -> None:
        told.append(dict(states))

    stop = threading.Event()
    one = Supervisor([service(tmp_path, "one", FOREVER)], lambda _: None, changed=keep)
    thread = threading.Thread(target=one.run_until, args=(stop,))
    thread.start()
    until(lambda: bool(told) and told[-1]["one"].ready)
    time.sleep(0.1)
    stop.set()
    thread.join(20)
    assert [states["one"].ready for states in told] == [True, False]
    assert told[-1]["one"].last_exit == -signal.SIGTERM


def test_what_a_killed_supervisor_left_is_ended_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-c", FOREVER]
    ours = subprocess.Popen(command, env={"MARK": str(tmp_path)})
    other = subprocess.Popen(command, env={"MARK": f"{tmp_path}2"})
    try:
        until(lambda: (Path(f"/proc/{other.pid}/environ").read_bytes()).startswith(b"MARK"))
        ending = threading.Thread(target=end_left_behind, args=("MARK", str(tmp_path)))
        ending.start()
        assert ours.wait(10) == -signal.SIGTERM
        ending.join(10)
        assert other.poll() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()
