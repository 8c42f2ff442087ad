"""The server's checkpoints: everything a run needs to go on after its process died."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from climb_model.atomic import write_atomic
from climb_model.runs import RoundRecord, RunError

NUM_KEPT = 2
_SHARED, _SERVER = "shared/", "server/"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state after a round, written as one file.

    The whole history lies inside, so that no second file can disagree with the weights. Random states
    are not kept: all randomness of a round is derived from the seed, the site and the round.
    """

    study: str
    settings: str
    """Hash of the study's settings."""

    round: int
    global_step: int
    exams: dict[str, int]
    """Training exams of each admitted site."""

    notices: dict[str, tuple[str, ...]]
    """What each admitted site told at the first exchange, in counts only."""

    history: tuple[RoundRecord, ...]
    shared: dict[str, Tensor]
    handshake: dict[str, dict[str, object]] = field(default_factory=dict[str, "dict[str, object]"])
    """Each admitted site's versions, clock offset and data in counts, as JSON's types."""

    server: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Moments of a server-side optimizer; averaging has none."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint as a whole and keep the last two."""
    facts = {
        "study": checkpoint.study,
        "settings": checkpoint.settings,
        "round": checkpoint.round,
        "global_step": checkpoint.global_step,
        "exams": checkpoint.exams,
        "notices": checkpoint.notices,
        "handshake": checkpoint.handshake,
        "history": [record.to_json() for record in checkpoint.history],
    }
    tensors = _named(_SHARED, checkpoint.shared) | _named(_SERVER, checkpoint.server)
    metadata = {"climb": json.dumps(facts, ensure_ascii=False, allow_nan=False)}
    write_atomic(folder / f"round-{checkpoint.round:04d}.safetensors", safetensors_bytes(tensors, metadata))
    for old in _files(folder)[:-NUM_KEPT]:
        old.unlink()


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint of the highest round, or None if there is none.

    Raises:
        RunError: if that file is damaged. The round before is never taken instead without being asked.
    """
    files = _files(folder)
    return _load(files[-1]) if files else None


def _load(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["climb"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        raise RunError(
            f"checkpoint {path} is damaged: delete it to go on from the round before, if that is kept"
        ) from None
    return Checkpoint(
        study=facts["study"],
        settings=facts["settings"],
        round=facts["round"],
        global_step=facts["global_step"],
        exams=facts["exams"],
        notices={site: tuple(lines) for site, lines in facts["notices"].items()},
        history=tuple(RoundRecord.from_json(record) for record in facts["history"]),
        handshake=facts["handshake"],
        shared=_unnamed(_SHARED, tensors),
        server=_unnamed(_SERVER, tensors),
    )


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("round-*.safetensors"))


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value.contiguous() for name, value in tensors.items()}


def _unnamed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value for name, value in sorted(tensors.items()) if name.startswith(prefix)
    }
