"""Running out of memory: found out before the first step of a round, and told with what to do."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch

from climb_model.prepare import ExamSet
from climb_model.training.batches import BatchPlan, trainable
from climb_model.training.step import joined
from configs.errors import UserError
from configs.schema import TrainingConfig

CPU_ALLOCATOR = "can't allocate memory"
"""What torch's CPU allocator says; it has no error of its own."""


class TrainingError(UserError):
    """Training that cannot go on; the message names site and step and holds no data."""


@contextmanager
def told_of_memory(site: str, config: TrainingConfig, num_exams: int) -> Generator[None]:
    """Turn running out of memory into one line with what to do.

    Args:
        num_exams: of the batch.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not isinstance(error, torch.OutOfMemoryError) and CPU_ALLOCATOR not in str(error):
            raise
        at_once = min(config.chunk_size or num_exams, num_exams)
        advice = (
            f"set training.chunk_size={max(at_once // 4, 1)}: the same gradients in about a quarter of it"
            if at_once > 1
            else "one exam at a time is too much for it: a larger device is wanted, or fewer slices"
        )
        raise TrainingError(
            f"site '{site}': memory ran out with {at_once} of {num_exams} exams at once; {advice}"
        ) from None


def largest_batch(exams: ExamSet, config: TrainingConfig) -> BatchPlan:
    """The batch of a round that needs the most memory: the longest reports, whole and all different."""
    longest = sorted(trainable(exams), key=lambda row: len(joined(exams.reports[row])), reverse=True)
    chosen = np.array(longest[: config.batch_size])
    texts = tuple(dict.fromkeys(exams.reports[row] for row in chosen))
    return BatchPlan(chosen, np.zeros_like(chosen), texts)
