"""Which exams, views and sentences a training step sees; all of it from one generator."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from climb_model.data.exam import DataError
from climb_model.prepare import ExamSet, Sentences
from configs.schema import TrainingConfig


@dataclass(frozen=True)
class BatchPlan:
    """One step's exams (rows of the exam set), their views, and the different texts drawn for them."""

    exams: np.ndarray
    views: np.ndarray
    texts: tuple[Sentences, ...]


def round_seed(seed: int, site: str, round: int) -> int:
    """Seed of one site's round. Derived, not stored: a resumed round draws the same numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{site}/{round}".encode()).digest()[:8], "big") >> 1


def trainable(exams: ExamSet) -> np.ndarray:
    """Rows of the exams that have a report.

    Raises:
        DataError: with fewer than two patients, where nothing can be contrasted.
    """
    rows = np.array([row for row, report in enumerate(exams.reports) if report], dtype=np.int64)
    num_patients = len({exams.patients[row] for row in rows})
    if num_patients < 2:
        fact = f"site '{exams.site}': 2 patients or more with a report wanted, got {num_patients}"
        raise DataError(fact, fact)
    return rows


def plan_round(
    exams: ExamSet, config: TrainingConfig, num_views: int, rng: np.random.Generator
) -> Iterator[BatchPlan]:
    """The batches of one round. A site with fewer exams than a batch trains with all it has."""
    rows = trainable(exams)
    size = min(config.batch_size, len(rows))
    num_steps = config.steps_per_round or max(len(rows) // size, 1)
    queue = np.empty(0, dtype=np.int64)
    for _ in range(num_steps):
        if len(queue) < size:
            queue = rng.permutation(rows)
        chosen, queue = queue[:size], queue[size:]
        if len({exams.patients[row] for row in chosen}) < 2:
            queue = np.empty(0, dtype=np.int64)  # both breasts of one patient only: nothing to contrast
            other = rng.permutation([r for r in rows if exams.patients[r] != exams.patients[chosen[0]]])
            chosen = np.concatenate([chosen[:-1], other[:1]])
        drawn = (
            choose_text(exams.reports[row], config.report_sentences, rng)
            for _ in range(config.texts_per_exam)
            for row in chosen
        )
        texts = tuple(dict.fromkeys(drawn))
        yield BatchPlan(chosen, rng.integers(num_views, size=size), texts)


def choose_text(report: Sentences, most: int, rng: np.random.Generator) -> Sentences:
    """The whole report, or 1 to `most` of its sentences in their order."""
    if most == 0 or len(report) < 2:
        return report
    number = int(rng.integers(1, min(most, len(report)) + 1))
    kept = np.sort(rng.choice(len(report), number, replace=False))
    return tuple(report[sentence] for sentence in kept)
