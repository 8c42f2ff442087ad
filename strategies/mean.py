"""The mean of hospitals' tensors, each weighing as its exams, one reply in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class RunningMean:
    """A weighted mean that grows by one reply at a time.

    Guarantees:
        - The result is sum(weight * value) / sum(weight), summed in float64, returned in float32.
        - Memory does not grow with the number of replies: one float64 sum of the tensors.
        - The same replies in the same order give the same bits. Feed them sorted by site.
    """

    def __init__(self) -> None:
        self.num_replies = 0
        self._weight = 0
        self._sums: dict[str, np.ndarray] = {}

    def add(self, tensors: Mapping[str, np.ndarray], weight: int) -> None:
        """Add one reply.

        Args:
            tensors: the same names and shapes each time.
            weight: training exams, > 0.

        Raises:
            ValueError: for a weight that is not positive, or other names or shapes than before.
        """
        if weight <= 0:
            raise ValueError(f"a reply weighs as its exams, which must be > 0, got {weight}")
        if not self.num_replies:
            self._sums = {name: np.zeros(np.shape(value)) for name, value in tensors.items()}
        if tensors.keys() != self._sums.keys():
            raise ValueError(f"replies must have the same tensors, got {sorted(tensors)}")
        for name, value in tensors.items():
            if np.shape(value) != self._sums[name].shape:
                raise ValueError(
                    f"'{name}' must have shape {self._sums[name].shape} in each reply, got {np.shape(value)}"
                )
        for name, value in tensors.items():
            self._sums[name] += np.multiply(value, float(weight), dtype=np.float64)
        self._weight += weight
        self.num_replies += 1

    def result(self) -> dict[str, np.ndarray]:
        """The mean so far in float32, sorted by name.

        Raises:
            ValueError: if nothing was added.
        """
        if not self.num_replies:
            raise ValueError("a mean needs at least one reply, got none")
        return {
            name: np.asarray(self._sums[name] / self._weight, dtype=np.float32) for name in sorted(self._sums)
        }
