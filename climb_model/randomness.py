"""Seeds derived from names, and the global random states of a process."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch


def derived_seed(*parts: int | str) -> int:
    """A seed of 63 bits from a study's seed and names; the same on every machine."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def own_random_states(seed: int | None = None) -> Generator[None]:
    """Keep what happens inside from the random states outside, and the other way round with a seed.

    Covers `random`, NumPy's legacy state and torch's CPU generator.

    Args:
        seed: sets all three for the inside; None leaves them as they are on entry.
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.random.set_rng_state(cpu)
