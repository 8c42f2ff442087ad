"""Running out of memory: found out before the first step of a round, and told with what to do."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch

from climb_model.prepare import ExamSet, Sentences, joined
from climb_model.training.batches import BatchPlan, trainable
from climb_model.training.errors import TrainingError
from configs.schema import TrainingConfig

CPU_ALLOCATOR = "can't allocate memory"
"""What torch's CPU allocator says; it has no error of its own."""


@contextmanager
def told_of_memory(
    site: str, config: TrainingConfig, num_exams: int, num_devices: int = 1
) -> Generator[None]:
    """Turn running out of memory into one line with what to do.

    Args:
        num_exams: of the batch.
        num_devices: that share it.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not isinstance(error, torch.OutOfMemoryError) and CPU_ALLOCATOR not in str(error):
            raise
        on_one = -(-num_exams // num_devices)
        at_once = min(config.chunk_size or on_one, on_one)
        wanted = max(at_once // 4, 1)
        advice = (
            f"set training.chunk_size={wanted} (in a federation the site's own chunk-size={wanted}): "
            "the same gradients in about a quarter of it"
            if at_once > 1
            else "one exam at a time is too much for it: a larger device is wanted, or fewer slices"
        )
        raise TrainingError(
            f"site '{site}': memory ran out with {at_once} of {num_exams} exams at once; {advice}"
        ) from None


def largest_batch(exams: ExamSet, config: TrainingConfig) -> BatchPlan:
    """A batch of the longest reports, and of the longest drawings of sentences that they allow."""
    longest = sorted(trainable(exams), key=lambda row: len(joined(exams.reports[row])), reverse=True)
    chosen = np.array(longest[: config.batch_size])
    texts = (text for row in chosen for text in longest_texts(exams.reports[row], config))
    return BatchPlan(chosen, np.zeros_like(chosen), tuple(dict.fromkeys(texts)))


def longest_texts(report: Sentences, config: TrainingConfig) -> list[Sentences]:
    """The whole report, or `texts_per_exam` drawings of its longest sentences."""
    most = config.report_sentences
    if not most or len(report) < 2:
        return [report]
    ordered = tuple(sorted(report, key=len, reverse=True))
    return [ordered[first : first + most] for first in range(min(config.texts_per_exam, len(report)))]
