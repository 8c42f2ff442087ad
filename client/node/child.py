"""Runs the app on one message in a process of its own, and brings back what it answers."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from flwr.app import Context, RecordDict
from flwr.common.serde import context_to_proto, message_to_proto, recorddict_from_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.node.app_process import WRONG_CODE
from client.node.private import writable_places
from client.node.runtime import Received
from client.node.settings import NodeError, NodeSettings
from climb_model.clock import REPLY_SPARE_S
from climb_model.environment import NO_CALLS, NO_HUB
from climb_model.logs import rotate
from climb_model.plain_file import open_plain
from climb_model.public_lines import WITHHELD, is_public

MAX_REPLY = 256_000_000
"""Bytes of a reply that are read; the site's policy allows fewer as it comes."""

MAX_FACTS, MAX_LINE = 10_000, 1_000
"""Bytes of what else the process leaves."""

POLL_S = 0.05
LAST_WORDS_S = 5.0
"""Seconds to read what the process wrote before it ended."""

PRIVATE = "private"
"""Folder in a site's data folder, where an import keeps its key."""

_SCRIPT = Path(__file__).with_name("app_process.py")
_KEPT = ("PATH", "LANG", "TZ", "LD_LIBRARY_PATH", "HF_HOME", "HF_HUB_CACHE")
_KEPT_BEGINNINGS = ("LC_", "CUDA_", "CUBLAS_", "NVIDIA_", "OMP_", "MKL_", "TORCH_")
_OFFLINE = {**NO_CALLS, **NO_HUB, "NO_PROXY": "*"}


@dataclass(frozen=True)
class Outcome:
    """What came of a message: records, or a line in their place."""

    content: RecordDict | None
    behind: Mapping[str, int] | None = None
    """Counts behind an update: `num-exams`, `num-tokens`, `num-batch-tokens`, `num-steps`."""

    line: str = ""
    """Why there are no records; names nothing of the site but what happened."""

    bundle: str = ""
    """Digest of the code that worked on the message; '' if none did."""


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
        state: the node's `state/`; `app.log` in it gets the process's standard output and error, of which
            the last 10 to 20 MB are kept.
        ended: asked all the time; a line ends the process and is the outcome.
    """
    log = state / "app.log"
    try:
        places = writable_places(settings.private, str(received.context.run_config.get("study", "")))
    except NodeError as error:
        return Outcome(None, line=str(error))
    _write(received, settings, root, folder, places, hidden=state.parent)
    process = subprocess.Popen(
        [sys.executable, "-I", "-B", str(_SCRIPT), str(folder)],
        env=environment(folder, settings.quotas.gpu_memory_share),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,
    )
    assert process.stdout is not None
    words = threading.Thread(target=_keep_words, args=(process.stdout, log), name="app.log", daemon=True)
    words.start()
    try:
        line = None
        while line is None and not _has_ended(process.pid):
            time.sleep(POLL_S)
            line = ended()
    finally:
        with suppress(ProcessLookupError):  # while the process is not reaped, its number is no other's
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        words.join(LAST_WORDS_S)
    return Outcome(None, line=line) if line is not None else outcome_of(folder, code)


def _has_ended(pid: int) -> bool:
    """Whether a process has ended; it is not reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _keep_words(source: IO[bytes], log: Path) -> None:
    """Append what a process writes to a log that does not grow without end; a full disk holds nobody up."""
    with source:
        while chunk := source.read(1 << 16):
            with suppress(OSError):
                rotate(log)
                with log.open("ab") as file:
                    file.write(chunk)


def environment(
    folder: Path, gpu_memory_share: float, inherited: Mapping[str, str] | None = None
) -> dict[str, str]:
    """All that the process has as its environment: only what is named here is handed on.

    The share of GPU memory is in it: torch reads it in every process that the app starts, too. A site's own
    `PYTORCH_*` stays out, since another allocator would know no share.
    """
    given = os.environ if inherited is None else inherited
    kept = {key: given[key] for key in given if key in _KEPT or key.startswith(_KEPT_BEGINNINGS)}
    own = {"HOME": str(folder), "TMPDIR": str(folder), "FLWR_HOME": str(folder / "flower")}
    share = {"PYTORCH_ALLOC_CONF": f"per_process_memory_fraction:{gpu_memory_share}"}
    return {"OMP_WAIT_POLICY": "passive", **kept, **_OFFLINE, **own, **share}


def seconds_left(received: Received) -> float:
    """Seconds until nobody waits for the reply any more: `created_at` + `ttl` of the message, less what a
    reply that is ready has to be fetched in.

    0 if they are no numbers: such a message has no end.
    """
    metadata = received.message.metadata
    left = min(metadata.ttl, metadata.created_at + metadata.ttl - time.time()) - REPLY_SPARE_S
    return left if math.isfinite(left) else 0.0


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
    folders = (hidden, settings.private, settings.data / PRIVATE)  # the last has the key of pseudonyms
    order = {
        "root": str(root),
        "hidden": [str(path) for path in folders],
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


def outcome_of(folder: Path, code: int) -> Outcome:
    """What the process left, if it ended as it should."""
    if code < 0:
        name = " (out of memory?)" if code == -signal.SIGKILL else ""
        return Outcome(
            None, line=f"the training process ended by signal {-code}{name}; its own log says more"
        )
    if code == WRONG_CODE:
        return Outcome(None, line="the study's program is not the one that was approved; nothing left")
    try:
        refused = _left(folder / "refused.txt", MAX_LINE)
        reply = _left(folder / "reply.pb", MAX_REPLY)
        facts = _left(folder / "facts.json", MAX_FACTS)
    except _NotTaken as error:
        return Outcome(None, line=str(error))
    if code or (reply is None and refused is None):
        return Outcome(None, line=f"the training process ended with exit code {code}; its own log says more")
    if refused is not None or reply is None:
        line = (refused or b"").decode("utf-8", "replace")
        return Outcome(None, line=line if is_public(line) else WITHHELD)
    content = recorddict_from_proto(ProtoRecordDict.FromString(reply))
    return Outcome(content, _counts(facts))


class _NotTaken(Exception):
    """A file that is no plain one, or too large; its text is the line of a refusal."""


def _left(path: Path, most: int) -> bytes | None:
    """A file that the process left; None if there is none."""
    try:
        file = open_plain(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError:
        raise _NotTaken(f"the training process left a {path.name} that is no plain file") from None
    with os.fdopen(file, "rb") as opened:
        content = opened.read(most + 1)
    if len(content) > most:
        raise _NotTaken(f"the training process left a {path.name} of more than {most} bytes")
    return content


def _counts(facts: bytes | None) -> Mapping[str, int] | None:
    if facts is None:
        return None
    values: object = json.loads(facts)
    if not isinstance(values, dict):
        return None
    counts = cast(dict[str, object], values)
    return {key: value for key, value in counts.items() if isinstance(value, int)}
