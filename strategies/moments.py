"""What Flower's server-side optimizers remember between rounds, as tensors for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from flwr.serverapp.strategy import FedAvgM, Strategy
from flwr.serverapp.strategy.fedopt import FedOpt
from torch import Tensor

_FIRST, _SECOND, _MOMENTUM = "first/", "second/", "momentum/"


def read_moments(strategy: Strategy) -> dict[str, Tensor]:
    """The moments after a round: of FedAdam, FedYogi, FedAdagrad and FedAvgM; others have none."""
    if isinstance(strategy, FedOpt):
        return _named(_FIRST, strategy.m_t or {}) | _named(_SECOND, strategy.v_t or {})
    if isinstance(strategy, FedAvgM):
        vectors = strategy.momentum_vector or []
        return _named(_MOMENTUM, {f"{index:06d}": value for index, value in enumerate(vectors)})
    return {}


def write_moments(strategy: Strategy, moments: Mapping[str, Tensor]) -> None:
    """Give a new strategy the moments that `read_moments` took from one of its kind."""
    if isinstance(strategy, FedOpt):
        strategy.m_t = _unnamed(_FIRST, moments) or None
        strategy.v_t = _unnamed(_SECOND, moments) or None
    elif isinstance(strategy, FedAvgM):
        strategy.momentum_vector = list(_unnamed(_MOMENTUM, moments).values()) or None


def _named(prefix: str, values: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": torch.from_numpy(np.array(value)) for name, value in values.items()}


def _unnamed(prefix: str, moments: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): value.numpy()
        for name, value in sorted(moments.items())
        if name.startswith(prefix)
    }
