"""Flower's command line as functions: connections, nodes and runs of one SuperLink."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from climb_model.atomic import write_text_atomic
from climb_model.environment import LOOPBACK_DIRECT, NO_CALLS
from configs.errors import UserError

CONNECTION = "climb"
"""Name of the one connection in a `FLWR_HOME` of ours."""

HOME_VARIABLE = "FLWR_HOME"
TIMEOUT_S = 120.0
"""Seconds that one call of Flower's command line may take; most of them are its start."""

APP = Path(__file__).resolve().parent.parent.parent
"""Folder with the `pyproject.toml` from which the bundle is made: a checkout, or the image's."""


class FlowerError(UserError):
    """Flower's command line or control interface refused something; one line."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A SuperNode as the SuperLink knows it; times are texts in UTC, empty if there was none."""

    node: int
    status: str
    """`registered` (never seen), `online`, `offline` or `unregistered`."""

    online_since: str
    offline_since: str


@dataclass(frozen=True, kw_only=True)
class FlowerRun:
    """One run of the SuperLink."""

    run: int
    status: str
    """`pending`, `starting`, `running`, `finished:completed`, `finished:failed` or `finished:stopped`."""

    details: str

    @property
    def over(self) -> bool:
        """Whether it does nothing any more."""
        return self.status.startswith("finished")


def environment(flower_home: Path) -> dict[str, str]:
    """What every process of Flower's inherits: a private home, no telemetry, updates, installs or hub."""
    ours = {
        HOME_VARIABLE: str(flower_home),
        **NO_CALLS,
        **LOOPBACK_DIRECT,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    return {**os.environ, **ours}


def write_connection(flower_home: Path, port: int, ca: Path | None) -> None:
    """Write the connection to a SuperLink on this machine's loopback.

    Args:
        ca: certificate of the authority that signed the SuperLink's; None: it speaks plain HTTP.
    """
    security = "insecure = true" if ca is None else f"root-certificates = {toml(str(ca.resolve()))}"
    write_text_atomic(
        flower_home / "config.toml",
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f'address = "127.0.0.1:{port}"\n{security}\n',
    )


def write_run_config(path: Path, run_config: Mapping[str, str]) -> None:
    """Write a study's run settings as the TOML file that `flwr run --run-config` takes."""
    write_text_atomic(path, "".join(f"{key} = {toml(value)}\n" for key, value in run_config.items()))


def register(flower_home: Path, public_key: Path, name: str) -> int:
    """Let a site connect; returns the number of its node.

    Args:
        flower_home: folder with the connection.
        public_key: OpenSSH file with an ECDSA key.

    Raises:
        FlowerError: if the SuperLink does not run or refuses, as a key that it already knows.
    """
    answer = _ask(flower_home, "supernode", "register", str(public_key), CONNECTION, "--name", name)
    return int(str(answer["node-id"]))


def unregister(flower_home: Path, node: int) -> None:
    """Let a site connect no more, and end its session.

    Raises:
        FlowerError: if the SuperLink does not run or does not know the node.
    """
    _ask(flower_home, "supernode", "unregister", str(node), CONNECTION)


def nodes(flower_home: Path) -> list[Node]:
    """All registered nodes in the order of their registration.

    Raises:
        FlowerError: if the SuperLink does not run.
    """
    answer = _ask(flower_home, "supernode", "list", CONNECTION)
    return [
        Node(
            node=int(entry["node-id"]),
            status=entry["status"],
            online_since=_time(entry["online-at"]),
            offline_since=_time(entry["offline-at"]),
        )
        for entry in cast(list[dict[str, str]], answer["nodes"])
    ]


def contacts(flower_home: Path) -> dict[int, str]:
    """The last contact of each node that ever connected, in words.

    Raises:
        FlowerError: if the SuperLink does not run.
    """
    found: dict[int, str] = {}
    for node in nodes(flower_home):
        if node.status == "online":
            found[node.node] = f"online since {node.online_since}"
        elif node.offline_since:
            found[node.node] = f"offline since {node.offline_since}"
    return found


def runs_and_contacts(flower_home: Path) -> tuple[dict[int, FlowerRun], dict[int, str]]:
    """What `runs` and `contacts` give, asked at the same time: each call is mostly a program's start.

    Raises:
        FlowerError: if the SuperLink does not run.
    """
    with ThreadPoolExecutor(2) as pool:
        its_runs, its_contacts = pool.submit(runs, flower_home), pool.submit(contacts, flower_home)
        return its_runs.result(), its_contacts.result()


def start_run(flower_home: Path, app: Path, run_config: Path) -> int:
    """Send the bundle and start a run; returns its number.

    Raises:
        FlowerError: if the SuperLink does not run or refuses the bundle.
    """
    answer = _ask(flower_home, "run", str(app), CONNECTION, "--run-config", str(run_config))
    return int(str(answer["run-id"]))


def runs(flower_home: Path) -> dict[int, FlowerRun]:
    """All runs of the SuperLink by their numbers.

    Raises:
        FlowerError: if the SuperLink does not run.
    """
    found = (
        FlowerRun(run=int(entry["run-id"]), status=entry["status"], details=entry["status-details"])
        for entry in cast(list[dict[str, str]], _ask(flower_home, "list", CONNECTION)["runs"])
    )
    return {run.run: run for run in found}


def stop_run(flower_home: Path, run: int) -> None:
    """End a run; what its ServerApp has written stays.

    Raises:
        FlowerError: if the SuperLink does not run, or the run is over.
    """
    _ask(flower_home, "stop", str(run), CONNECTION)


def app_folder() -> Path:
    """The folder that is bundled.

    Raises:
        FlowerError: where the project is installed without its `pyproject.toml`.
    """
    if not (APP / "pyproject.toml").is_file():
        raise FlowerError(
            f"the bundle is made from a checkout of the project or from its image; {APP} is none"
        )
    return APP


def script(name: str) -> list[str]:
    """A console script of this environment, also where its folder is not on the path."""
    path = Path(sys.executable).parent / name
    if not path.is_file():
        raise FlowerError(f"'{name}' is needed beside {sys.executable}: install flwr[simulation]")
    return [str(path)]


def toml(text: str) -> str:
    """A TOML basic string; JSON's escapes are valid in it."""
    return json.dumps(text)


def _ask(flower_home: Path, *arguments: str) -> dict[str, object]:
    """One call of `flwr` and its answer."""
    command: Sequence[str] = [*script("flwr"), *arguments, "--format", "json"]
    what = " ".join(arguments[:2] if arguments[0] == "supernode" else arguments[:1])
    try:
        done = subprocess.run(
            command,
            env=environment(flower_home),
            cwd=flower_home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FlowerError(f"flwr {what}: no answer within {TIMEOUT_S:g} s") from None
    try:
        answer = cast(dict[str, object], json.loads(done.stdout))
    except ValueError:
        text = (done.stderr or done.stdout).decode("utf-8", "replace").split()
        raise FlowerError(f"flwr {what}: {' '.join(text)[-300:] or f'exit code {done.returncode}'}") from None
    if not answer.get("success"):
        raise FlowerError(f"flwr {what}: {' '.join(str(answer.get('error-message', answer)).split())[:300]}")
    return answer


def _time(text: str) -> str:
    return "" if text == "N/A" else text
