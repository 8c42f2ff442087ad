"""Runs the app on one message in a process of its own, and brings back what it answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from flwr.app import Context, RecordDict
from flwr.common.serde import context_to_proto, message_to_proto, recorddict_from_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.node.app_process import WRONG_CODE
from client.node.private import writable_places
from client.node.runtime import Received
from client.node.settings import NodeError, NodeSettings
from climb_model.supervisor import LOG_BYTES

MAX_REPLY = 1_000_000_000
"""Bytes of a reply that are read; the site's policy allows far fewer."""

POLL_S = 0.1
_SCRIPT = Path(__file__).with_name("app_process.py")
_KEPT = ("PATH", "LANG", "TZ", "LD_LIBRARY_PATH", "HF_HOME", "HF_HUB_CACHE")
_KEPT_BEGINNINGS = ("LC_", "CUDA_", "CUBLAS_", "NVIDIA_", "OMP_", "MKL_", "PYTORCH_", "TORCH_")
_OFFLINE = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "NO_PROXY": "*",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TRANSFORMERS_OFFLINE": "1",
}


@dataclass(frozen=True)
class Outcome:
    """What came of a message: records, or a line in their place."""

    content: RecordDict | None
    behind: Mapping[str, int] | None = None
    """Counts behind an update: `num-exams`, `num-tokens`, `num-steps`."""

    line: str = ""
    """Why there are no records; names nothing of the site but what happened."""


def run_app(
    received: Received,
    settings: NodeSettings,
    root: Path,
    folder: Path,
    state: Path,
    ended: Callable[[], str | None],
) -> Outcome:
    """Run the app of `root` on a message; whatever it does, its process group is gone afterwards.

    Args:
        root: where `client.app` and all of its code is.
        folder: empty and private, for what goes in and comes out.
        state: the node's `state/`; `app.log` in it gets the process's standard output and error.
        ended: asked all the time; a line ends the process and is the outcome.
    """
    log = state / "app.log"
    try:
        places = writable_places(settings.private, str(received.context.run_config.get("study", "")))
    except NodeError as error:
        return Outcome(None, line=str(error))
    _write(received, settings, root, folder, places, hidden=state.parent)
    _rotate(log)
    command = [sys.executable, "-I", "-B", str(_SCRIPT), str(folder)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=environment(folder),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        line = None
        while line is None and process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_S)
            line = ended()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    return Outcome(None, line=line) if line is not None else _outcome(folder, code)


def environment(folder: Path, inherited: Mapping[str, str] | None = None) -> dict[str, str]:
    """All that the process has as its environment: only what is named here is handed on."""
    given = os.environ if inherited is None else inherited
    kept = {key: given[key] for key in given if key in _KEPT or key.startswith(_KEPT_BEGINNINGS)}
    own = {"HOME": str(folder), "TMPDIR": str(folder), "FLWR_HOME": str(folder / "flower")}
    return {"OMP_WAIT_POLICY": "passive", **kept, **_OFFLINE, **own}


def seconds_left(received: Received) -> float:
    """Seconds until nobody waits for the reply any more: the message's `created_at` + `ttl`."""
    metadata = received.message.metadata
    return min(metadata.ttl, metadata.created_at + metadata.ttl - time.time())


def _write(
    received: Received,
    settings: NodeSettings,
    root: Path,
    folder: Path,
    places: Iterable[Path],
    *,
    hidden: Path,
) -> None:
    quotas = settings.quotas
    order = {
        "root": str(root),
        "hidden": str(hidden),
        "readable": [str(path) for path in (settings.data, settings.weights) if path is not None],
        "writable": [str(place) for place in places],
        "parent": os.getpid(),
        "task_id": TaskIdentity.task_id,
        "message_id": received.message.metadata.message_id,
        "devices": settings.devices,
        "gpu_memory_share": quotas.gpu_memory_share,
        "min_free_gpu_mib": quotas.min_free_gpu_mib,
        "num_threads": quotas.num_threads,
        "nice": quotas.nice,
    }
    came = received.context
    context = Context(
        came.run_id, came.node_id, dict(settings.node_config()), RecordDict(), came.run_config, came.series_id
    )
    (folder / "order.json").write_text(json.dumps(order), "utf-8")
    (folder / "message.pb").write_bytes(message_to_proto(received.message).SerializeToString())
    (folder / "context.pb").write_bytes(context_to_proto(context).SerializeToString())


def _outcome(folder: Path, code: int) -> Outcome:
    """What the process left, if it ended as it should."""
    reply, refused, facts = folder / "reply.pb", folder / "refused.txt", folder / "facts.json"
    if code < 0:
        name = " (out of memory?)" if code == -signal.SIGKILL else ""
        return Outcome(
            None, line=f"the training process ended by signal {-code}{name}; its own log says more"
        )
    if code == WRONG_CODE:
        return Outcome(None, line="the study's program is not the one that was approved; nothing left")
    if code or not (reply.is_file() or refused.is_file()):
        return Outcome(None, line=f"the training process ended with exit code {code}; its own log says more")
    if refused.is_file():
        return Outcome(None, line=refused.read_text("utf-8")[:200])
    if reply.stat().st_size > MAX_REPLY:
        return Outcome(None, line=f"its reply has more than {MAX_REPLY} bytes")
    content = recorddict_from_proto(ProtoRecordDict.FromString(reply.read_bytes()))
    return Outcome(content, _counts(facts))


def _counts(facts: Path) -> Mapping[str, int] | None:
    if not facts.is_file() or facts.stat().st_size > 10_000:
        return None
    values: object = json.loads(facts.read_text("utf-8"))
    if not isinstance(values, dict):
        return None
    counts = cast(dict[str, object], values)
    return {key: value for key, value in counts.items() if isinstance(value, int)}


def _rotate(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.is_file() and log.stat().st_size >= LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))
