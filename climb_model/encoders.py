"""The frozen encoders of a study, loaded once in a process."""

from __future__ import annotations

from pathlib import Path

import torch

from climb_model.model.frozen import FrozenEncoders
from configs.load import settings_hash
from configs.schema import Settings

_loaded: dict[tuple[str, Path | None, torch.device | None], FrozenEncoders] = {}


def frozen_encoders(
    settings: Settings, weights: Path | None, device: torch.device | None = None
) -> FrozenEncoders:
    """`FrozenEncoders.load`, remembered for the last settings and folder.

    Every party of a study holds the same encoders, and they never change, so virtual sites of one
    process share them. Nothing of a site is kept here.
    """
    key = (settings_hash(settings), weights, device)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = FrozenEncoders.load(settings, weights, device)
    return _loaded[key]
