"""The process in which a study's app works with the exams: no key, no secret, nothing that sends.

It is started as a file, isolated (`python -I -B`), so that nothing of this project is imported before the
code that was chosen is first on the path. Its one argument is a folder:

    order.json   what `Order` of `client.node.child` holds
    message.pb   the message, as Flower's protocol writes it
    context.pb   the context; its `node_config` names this site's folders
    reply.pb     written here: the records of the reply
    facts.json   written here: what stands behind an update, in counts
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("configs", "climb_model", "strategies", "server", "client")
"""Whatever a bundle may hold; all of it must come from the chosen root."""

BEHIND = "behind-update"
"""Where the app leaves the facts behind an update, in `context.state`."""

WRONG_CODE = 3
"""Exit code: a module came from another place than the chosen code."""

_PARENT_DEATH = 1
_OOM_SCORE = "500"

_GPU_TAKEN = ("out of memory", "busy or unavailable")
"""What CUDA says of a GPU that has no room left for this process, or is another's alone."""


def main(folder: Path) -> int:
    """Work on the one message of a folder; returns the exit code."""
    order: dict[str, Any] = json.loads((folder / "order.json").read_text("utf-8"))
    _limit(order)
    _fence(folder, order)
    root = Path(order["root"])
    sys.path.insert(0, str(root))
    refused = _gpu_refusal(order)
    if refused is not None:
        (folder / "refused.txt").write_text(refused, "utf-8")
        return 0
    return _work(folder, root, order)


def _work(folder: Path, root: Path, order: dict[str, Any]) -> int:
    from flwr.app import MetricRecord
    from flwr.common.serde import context_from_proto, message_from_proto, recorddict_to_proto
    from flwr.proto.message_pb2 import Context as ProtoContext
    from flwr.proto.message_pb2 import Message as ProtoMessage
    from flwr.supercore.task_identity import TaskIdentity

    message = message_from_proto(ProtoMessage.FromString((folder / "message.pb").read_bytes()))
    message.metadata.__dict__["_message_id"] = order["message_id"]
    context = context_from_proto(ProtoContext.FromString((folder / "context.pb").read_bytes()))
    TaskIdentity.task_id = order["task_id"]
    TaskIdentity.run_id, TaskIdentity.node_id = context.run_id, context.node_id
    app = importlib.import_module("client.app").app
    if not _all_from(root):
        return WRONG_CODE
    reply = app(message=message, context=context)
    if not _all_from(root):
        return WRONG_CODE
    facts = context.state.get(BEHIND)
    if isinstance(facts, MetricRecord):
        (folder / "facts.json").write_text(json.dumps(dict(facts)), "utf-8")
    unfinished = folder / "reply.unfinished"
    unfinished.write_bytes(recorddict_to_proto(reply.content).SerializeToString())
    unfinished.rename(folder / "reply.pb")
    return 0


def _limit(order: dict[str, Any]) -> None:
    """The hospital's own work comes first, and this process ends with the one that started it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PARENT_DEATH, signal.SIGKILL)
    if os.getppid() != order["parent"]:
        raise SystemExit("the gate has ended")
    os.umask(0o077)  # private weights are their owner's alone
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold reports
    os.nice(order["nice"])
    if order["num_threads"]:
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[-order["num_threads"] :])
    score = Path("/proc/self/oom_score_adj")
    if score.is_file() and os.access(score, os.W_OK):
        score.write_text(_OOM_SCORE)  # when memory ends, the training ends first


def _fence(folder: Path, order: dict[str, Any]) -> None:
    """Keep away from the node's key, secret, policy and approvals, from connections and other processes."""
    fence, seccomp = _beside("fence"), _beside("seccomp")
    hidden = [Path(path) for path in order["hidden"]]
    readable = [Path(order["root"]), *map(Path, order["readable"])]
    writable = [folder, *map(Path, order["writable"])]
    connects = "," in order["devices"]  # processes of several devices find each other by TCP
    if not fence.fence_in(hidden, readable=readable, writable=writable, connects=connects):
        sys.stderr.write("this kernel has no Landlock: the app may reach what this user may\n")
    if not seccomp.restrict_calls(gpu="cpu" not in order["devices"], connects=connects):
        sys.stderr.write("this machine takes no filter of system calls: the app may connect\n")


def _beside(name: str) -> Any:
    """A module that lies beside this one; the chosen code may hold another of its name."""
    found = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _gpu_refusal(order: dict[str, Any]) -> str | None:
    """A line if the hospital's own work leaves too little of one of this site's GPUs.

    Training waits until its whole share is free: the rest of the memory is the hospital's at all times.
    """
    gpus = _gpus(order["devices"])
    if not gpus:
        return None
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for gpu in gpus:
        if gpu >= found:
            continue  # the app tells that it is missing
        free, total = _memory_mib(gpu)
        share = order["gpu_memory_share"]
        wanted = max(1, order["min_free_gpu_mib"], int(share * total) if share < 1 else 0)
        if free < wanted:
            return (
                f"its GPU is needed for other work: {free} MiB are free, "
                f"this site lends it from {wanted} MiB on"
            )
    return None


def _gpus(devices: str) -> list[int]:
    """Numbers of the GPUs that `devices` of `site.yaml` names; `auto` is the first."""
    if devices == "auto":
        return [0]
    return [int(name.partition(":")[2] or 0) for name in devices.split(",") if "cuda" in name]


def _memory_mib(gpu: int) -> tuple[int, int]:
    """MiB that are free on a GPU, and all; 0 and 0 if it takes no further process."""
    import torch

    try:
        free, total = torch.cuda.mem_get_info(gpu)
    except RuntimeError as error:
        if not any(words in str(error) for words in _GPU_TAKEN):
            raise
        return 0, 0
    return free >> 20, total >> 20


def _all_from(root: Path) -> bool:
    """Whether every module of the project that is loaded lies in the chosen code."""
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] not in PACKAGES:
            continue
        file = getattr(module, "__file__", None)
        if file is None or not Path(file).resolve().is_relative_to(root.resolve()):
            sys.stderr.write(f"{name} was loaded from {file}, expected below {root}\n")
            return False
    return True


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
