"""A study on Flower's simulation runtime: the two apps as `flwr run` starts them, sites in Ray's workers."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from client.site import VARIABLE as SITES_VARIABLE
from climb_model.atomic import write_text_atomic
from climb_model.environment import NO_HUB
from climb_model.ports import free_port
from climb_model.progress import Silent
from climb_model.runs import RunError, RunFolder, RunObserver
from climb_model.supervisor import end_left_behind
from configs.schema import Settings
from server.deployment.flower import (
    CONNECTION,
    HOME_VARIABLE,
    app_folder,
    environment,
    script,
    write_connection,
    write_run_config,
)
from server.deployment.studies import Watch
from server.place import FAILURE
from server.place import VARIABLE as SERVER_VARIABLE

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
    app = app_folder()
    home = folder.path / "flower"
    home.mkdir(exist_ok=True)
    write_text_atomic(home / "sites.json", json.dumps(list(nodes), indent=2, ensure_ascii=False) + "\n")
    write_run_config(home / "run_config.toml", run_config)
    inherited = _inherited(folder, home, local=any("weights" in node for node in nodes))
    with _superlink(home, inherited) as superlink:
        _submit_and_wait(folder, app, home, inherited, len(nodes), superlink, observer or Silent())
    summary = _outcome(folder, home)
    (observer or Silent()).finished(summary)
    return summary


def _submit_and_wait(
    folder: RunFolder,
    app: Path,
    home: Path,
    inherited: Mapping[str, str],
    num_sites: int,
    superlink: subprocess.Popen[bytes],
    observer: RunObserver,
) -> None:
    command = [
        *script("flwr"),
        "run",
        str(app),
        CONNECTION,
        "--run-config",
        str(home / "run_config.toml"),
        "--federation-config",
        _federation_config(folder.settings, num_sites),
        "--stream",
    ]
    (folder.path / FAILURE).unlink(missing_ok=True)
    watch = Watch(folder, observer)
    with (home / "run.log").open("ab") as log:
        stream = subprocess.Popen(
            command, env=dict(inherited), stdin=subprocess.DEVNULL, stdout=log, stderr=log
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


def _outcome(folder: RunFolder, home: Path) -> dict[str, object]:
    summary = folder.summary()
    if summary is not None:
        return summary
    failure = folder.path / FAILURE
    if failure.is_file():
        raise RunError(failure.read_text("utf-8").strip())
    raise RunError(f"the Flower run ended without a result; its log is {home / 'run.log'}")


@contextmanager
def _superlink(home: Path, inherited: Mapping[str, str]) -> Generator[subprocess.Popen[bytes]]:
    """A SuperLink in simulation mode on a free port; it and all it started end with the block."""
    end_left_behind(HOME_VARIABLE, str(home), STOP_S)
    port = free_port()
    write_connection(home, port, None)
    command = [*script("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--disable-runtime-dependency-installation"]
    with (home / "superlink.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env=dict(inherited),
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
    # Ray's workers and agents follow their driver after a while; whoever does not is made to
    end_left_behind(HOME_VARIABLE, str(home), STOP_S)


def _inherited(folder: RunFolder, home: Path, *, local: bool) -> dict[str, str]:
    """What the SuperLink, the server's app and the sites' workers inherit.

    Args:
        local: whether the encoders' weights are in a folder, not at the hub.
    """
    places = {SERVER_VARIABLE: str(folder.path / "server.json"), SITES_VARIABLE: str(home / "sites.json")}
    return {**environment(home), **places, **(NO_HUB if local else {})}


def _federation_config(settings: Settings, num_sites: int) -> str:
    """As many sites at once as the cores allow, each with the threads that its training is fixed to."""
    threads = settings.training.num_threads
    cores = max(os.cpu_count() or 1, threads)
    return (
        f"num-supernodes={num_sites} client-resources-num-cpus={threads} client-resources-num-gpus=0.0 "
        f"init-args-num-cpus={cores}"
    )
