"""A study on Flower's simulation runtime: the two apps as `flwr run` starts them, sites in Ray's workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from client.site import VARIABLE as SITES_VARIABLE
from climb_model.atomic import write_text_atomic
from climb_model.checkpoints import newest_checkpoint
from climb_model.progress import Silent
from climb_model.runs import RunError, RunFolder, RunObserver
from configs.schema import Settings
from server.app import FAILURE
from server.place import VARIABLE as SERVER_VARIABLE

CHECKOUT = Path(__file__).resolve().parent.parent
"""What `flwr run` bundles: the project with its `pyproject.toml`."""

CONNECTION = "climb"
START_S = 60.0
"""Seconds the SuperLink may take to start."""

STOP_S = 15.0
"""Seconds it may take to stop before it is killed."""

POLL_S = 0.5


def run_flower(
    folder: RunFolder,
    nodes: Sequence[Mapping[str, str]],
    run_config: Mapping[str, str],
    observer: RunObserver | None,
) -> dict[str, object]:
    """Run or go on with a study on a SuperLink of its own, which is stopped whatever happens.

    Everything of Flower's lies in `RUN/flower` and goes through a free port of this machine. The
    observer hears of rounds, not of steps: those are in other processes.

    Args:
        folder: the run, begun; `server.json` is written.
        nodes: each site's name, data, private folder and weights, sorted by name.

    Raises:
        RunError: with the server's own line if the study failed.
    """
    if not (CHECKOUT / "pyproject.toml").is_file():
        raise RunError(f"the flower engine bundles a checkout of the project; {CHECKOUT} is none")
    home = folder.path / "flower"
    home.mkdir(exist_ok=True)
    write_text_atomic(home / "sites.json", json.dumps(list(nodes), indent=2, ensure_ascii=False) + "\n")
    lines = [f"{key} = {_toml(value)}" for key, value in run_config.items()]
    write_text_atomic(home / "run_config.toml", "\n".join(lines) + "\n")
    environment = _environment(folder, home, offline=any("weights" in node for node in nodes))
    with _superlink(home, environment) as superlink:
        _submit_and_wait(folder, home, environment, len(nodes), superlink, observer or Silent())
    summary = _outcome(folder, home)
    (observer or Silent()).finished(summary)
    return summary


def _submit_and_wait(
    folder: RunFolder,
    home: Path,
    environment: Mapping[str, str],
    num_sites: int,
    superlink: subprocess.Popen[bytes],
    observer: RunObserver,
) -> None:
    command = [
        *_script("flwr"),
        "run",
        str(CHECKOUT),
        CONNECTION,
        "--run-config",
        str(home / "run_config.toml"),
        "--federation-config",
        _federation_config(folder.settings, num_sites),
        "--stream",
    ]
    (folder.path / FAILURE).unlink(missing_ok=True)
    watch = _Watch(folder, observer)
    with (home / "run.log").open("ab") as log:
        stream = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            while stream.poll() is None and superlink.poll() is None and not watch.ended():
                watch.tell()
                time.sleep(POLL_S)
            watch.tell()
            _leave_time(stream)
        finally:
            stream.terminate()
            stream.wait()


def _leave_time(stream: subprocess.Popen[bytes]) -> None:
    """Let Ray shut down by itself; a worker that still trains is not waited for."""
    with suppress(subprocess.TimeoutExpired):
        stream.wait(STOP_S)


class _Watch:
    """Tells an observer of what another process writes into the run folder."""

    def __init__(self, folder: RunFolder, observer: RunObserver) -> None:
        self._folder = folder
        self._observer = observer
        self._num_told = len(folder.history())
        self._started = False

    def ended(self) -> bool:
        """Whether the server wrote how the study ended."""
        return self._folder.summary() is not None or (self._folder.path / FAILURE).is_file()

    def tell(self) -> None:
        """Pass on what is new since the last call."""
        history = self._folder.history()
        if len(history) > self._num_told and not self._started:
            checkpoint = newest_checkpoint(self._folder.checkpoints)
            self._observer.started(self._folder.settings, checkpoint.exams if checkpoint else {})
            self._started = True
        for record in history[self._num_told :]:
            self._observer.round_done(record)
        self._num_told = max(self._num_told, len(history))


def _outcome(folder: RunFolder, home: Path) -> dict[str, object]:
    summary = folder.summary()
    if summary is not None:
        return summary
    failure = folder.path / FAILURE
    if failure.is_file():
        raise RunError(failure.read_text("utf-8").strip())
    raise RunError(f"the Flower run ended without a result; its log is {home / 'run.log'}")


@contextmanager
def _superlink(home: Path, environment: Mapping[str, str]) -> Generator[subprocess.Popen[bytes]]:
    """A SuperLink in simulation mode on a free port; it and all it started end with the block."""
    _end_left_behind(home)
    port = _free_port()
    write_text_atomic(
        home / "config.toml",
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f'address = "127.0.0.1:{port}"\ninsecure = true\n',
    )
    command = [*_script("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--disable-runtime-dependency-installation"]
    with (home / "superlink.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(process, port, home)
        yield process
    finally:
        _stop(process, home)


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, home: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end:
        try:
            with opener.open(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise RunError(f"Flower's SuperLink did not start on port {port}; its log is {home / 'superlink.log'}")


def _stop(process: subprocess.Popen[bytes], home: Path) -> None:
    """End the SuperLink, which ends what it started, and then whatever is left of it."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _end_left_behind(home)


def _end_left_behind(home: Path) -> None:
    """End processes of this run that its engine, or an engine that was killed, left behind.

    Ray's workers and agents follow their driver after a while; whoever does not is made to. A
    process belongs to this run if it was started with this run's `FLWR_HOME`; systems without
    `/proc` do not say.
    """
    for number, patience in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
        for process in _processes(home):
            with suppress(ProcessLookupError):
                os.kill(process, number)
        end = time.monotonic() + patience
        while _processes(home) and time.monotonic() < end:
            time.sleep(0.2)


def _processes(home: Path) -> list[int]:
    mark = f"FLWR_HOME={home}".encode()
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        with suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _environment(folder: RunFolder, home: Path, *, offline: bool) -> dict[str, str]:
    """What the SuperLink, the server's app and the sites' workers inherit."""
    ours = {
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        SERVER_VARIABLE: str(folder.path / "server.json"),
        SITES_VARIABLE: str(home / "sites.json"),
    }
    return {**os.environ, **ours, **({"HF_HUB_OFFLINE": "1"} if offline else {})}


def _federation_config(settings: Settings, num_sites: int) -> str:
    """As many sites at once as the cores allow, each with the threads that its training is fixed to."""
    threads = settings.training.num_threads
    cores = max(os.cpu_count() or 1, threads)
    return (
        f"num-supernodes={num_sites} client-resources-num-cpus={threads} client-resources-num-gpus=0.0 "
        f"init-args-num-cpus={cores}"
    )


def _script(name: str) -> list[str]:
    """A console script of this environment, also where its folder is not on the path."""
    path = Path(sys.executable).parent / name
    if not path.is_file():
        raise RunError(f"the flower engine needs '{name}' beside {sys.executable}: install flwr[simulation]")
    return [str(path)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _toml(text: str) -> str:
    """A TOML basic string; JSON's escapes are valid in it."""
    return json.dumps(text)
