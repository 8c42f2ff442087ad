"""What a site keeps between rounds on its own disk: private weights and the optimizer's moments."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from climb_model.atomic import write_atomic
from climb_model.sharing import is_shared
from configs.errors import UserError

NUM_KEPT = 2

_DAMAGE = (
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    RuntimeError,
    pickle.UnpicklingError,
)
"""What `torch.load` raises over bytes that are no state."""


class StateError(UserError):
    """Private state that cannot be used; for the site's own screen, since the line names a file."""


@dataclass(frozen=True)
class PrivateState:
    """State after a site's round."""

    round: int
    number: str
    """Of the study: one that is begun anew under the same name has another."""

    settings: str
    """Hash of the study's settings."""

    optimizer: dict[str, Any]
    private: dict[str, Tensor]
    """Trainable tensors that are not shared."""


def save_state(folder: Path, state: PrivateState) -> None:
    """Write the state of a round as a whole and keep the study's last two rounds.

    The server may still ask for the round before: its own checkpoint comes later. What is left of an earlier
    study of this name is removed, now that there is something in its place.
    """
    content = io.BytesIO()
    torch.save(
        {
            "round": state.round,
            "number": state.number,
            "settings": state.settings,
            "optimizer": state.optimizer,
            "private": state.private,
        },
        content,
    )
    write_atomic(folder / f"round-{state.round:04d}.pt", content.getvalue())
    own: list[Path] = []
    for path in _files(folder):
        if _number_of(path) == state.number:
            own.append(path)
        else:
            path.unlink()
    for old in own[:-NUM_KEPT]:
        old.unlink()


def state_before(folder: Path, round: int, number: str, settings: str) -> PrivateState | None:
    """The study's newest state of a round before `round`; None if the site has none.

    The study's states of `round` and later are removed: the server never kept what they belong to. Those of
    an earlier study of its name stay until this one saves its first.

    Args:
        number: of the study.

    Raises:
        StateError: if the state is damaged or belongs to other settings.
    """
    earlier: list[Path] = []
    for path in _files(folder):
        if _number_of(path) not in (number, None):
            continue
        if _round_of(path) < round:
            earlier.append(path)
        else:
            path.unlink()
    if not earlier:
        return None
    path = earlier[-1]
    try:
        values = cast(dict[str, Any], torch.load(path, map_location="cpu", weights_only=True))
        state = PrivateState(
            values["round"], number, values["settings"], values["optimizer"], values["private"]
        )
    except _DAMAGE:
        raise StateError(f"private state {path} is damaged: delete it to start without it") from None
    if state.settings != settings:
        raise StateError(
            f"private state {path} belongs to settings {state.settings}, the study has {settings}: "
            "choose another study name or delete it"
        )
    return state


def has_earlier_study(folder: Path, number: str) -> bool:
    """Whether there is state of an earlier study of this name."""
    return any(_number_of(path) not in (number, None) for path in _files(folder))


@torch.no_grad()
def load_private(model: nn.Module, private: dict[str, Tensor]) -> None:
    """Copy the private tensors into a model.

    Raises:
        StateError: if the names or shapes are not the model's.
    """
    own = {name: value for name, value in model.named_parameters() if not is_shared(name)}
    if {name: value.shape for name, value in own.items()} != {n: v.shape for n, v in private.items()}:
        raise StateError("the private state was made by a model of another form")
    for name, value in private.items():
        own[name].copy_(value)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("round-*.pt"))


def _number_of(path: Path) -> str | None:
    """Number of the study that a state belongs to, without reading its tensors; None: it is damaged."""
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return str(cast(dict[str, Any], values).get("number", ""))
    except _DAMAGE:
        return None


def _round_of(path: Path) -> int:
    return int(path.stem.removeprefix("round-"))
