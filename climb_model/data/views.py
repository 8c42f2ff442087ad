"""Augmented views of an exam that cannot contradict its report."""

from __future__ import annotations

import hashlib

import numpy as np

from climb_model.data.exam import Volume

MAX_SHIFT = 0.08
"""Largest in-plane shift, as a share of rows and columns."""
MAX_GAIN = 0.15
"""Largest relative change of contrast of a sequence."""
MAX_OFFSET = 0.15
"""Largest change of brightness of a sequence, in units of its standard deviation."""


def make_view(volume: Volume, uid: str, view: int) -> Volume:
    """View 0 is the exam; further ones are shifted in-plane and changed in contrast.

    Never mirrored or transposed: a report names sides, quadrants and clock positions. The shift is
    the same in all slices and sequences. The same UID and view give the same result everywhere.
    """
    if view == 0:
        return volume
    seed = int.from_bytes(hashlib.sha256(f"{uid}/{view}".encode()).digest()[:8], "big")
    rng = np.random.default_rng(seed)
    num_sequences, _, rows, columns = volume.values.shape
    down = round(rng.uniform(-MAX_SHIFT, MAX_SHIFT) * rows)
    right = round(rng.uniform(-MAX_SHIFT, MAX_SHIFT) * columns)
    gain = 1 + rng.uniform(-MAX_GAIN, MAX_GAIN, (num_sequences, 1, 1, 1)).astype(np.float32)
    offset = rng.uniform(-MAX_OFFSET, MAX_OFFSET, (num_sequences, 1, 1, 1)).astype(np.float32)
    values = np.zeros_like(volume.values)
    target = (slice(max(down, 0), rows + min(down, 0)), slice(max(right, 0), columns + min(right, 0)))
    source = (slice(max(-down, 0), rows + min(-down, 0)), slice(max(-right, 0), columns + min(-right, 0)))
    values[..., target[0], target[1]] = volume.values[..., source[0], source[1]] * gain + offset
    values[~volume.present] = 0.0
    return Volume(values=values, present=volume.present, spacing_mm=volume.spacing_mm)
