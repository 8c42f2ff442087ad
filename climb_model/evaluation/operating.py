"""Probabilities and decisions: calibration, and a threshold that validation exams chose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from climb_model.evaluation.statistics import FloatArray, labelled

ECE_BINS = 10


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a threshold does to a set of exams. Exams at or above it count as positive."""

    threshold: float
    sensitivity: float | None
    """Share of the positive exams at or above it; None without a positive exam."""

    specificity: float | None
    """Share of the negative exams below it; None without a negative exam."""


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float | None:
    """Mean squared difference of probability and label (Brier 1950, for two classes); 0 is perfect.

    Args:
        probabilities: (exam,) in [0, 1].
        labels: (exam,) 1, 0, or nan for unknown; unknown exams are left out.

    Returns:
        None without a labelled exam.

    Raises:
        ValueError: a probability outside [0, 1], another label, or unequal lengths.
    """
    told, known = _labelled(probabilities, labels)
    return float(np.mean((told - known) ** 2)) if len(told) else None


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, bins: int = ECE_BINS
) -> float | None:
    """Mean gap between probability and share of positives, over bins of equal width.

    Naeini et al. 2015, with each bin weighted by its exams. A probability on a border belongs to the
    bin above it, 1 to the last one.

    Args, returns and errors: as `brier_score`.
    """
    told, known = _labelled(probabilities, labels)
    if not len(told):
        return None
    place = np.minimum((told * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=told - known, minlength=bins)
    return float(np.abs(gaps).sum() / len(told))


def threshold_at(probabilities: ArrayLike, labels: ArrayLike, *, specificity: float) -> float | None:
    """The smallest threshold that reaches a specificity on these exams.

    For validation exams; what it reaches on others is for `decide` to say.

    Args:
        probabilities, labels: as in `brier_score`.
        specificity: wanted, in (0, 1].

    Returns:
        The smallest probability of an exam that may be the threshold, or just above the highest
        where none reaches it. None without a negative exam.
    """
    told, known = _labelled(probabilities, labels)
    negatives = np.sort(told[known == 0])
    if not len(negatives):
        return None
    for candidate in np.unique(told):
        if np.searchsorted(negatives, candidate, side="left") >= specificity * len(negatives) - 1e-9:
            return float(candidate)
    return float(np.nextafter(told.max(), np.inf))


def decide(probabilities: ArrayLike, labels: ArrayLike, *, threshold: float) -> Decision:
    """Sensitivity and realised specificity of a threshold on a set of exams.

    Args:
        probabilities, labels: as in `brier_score`.
        threshold: from other exams than these.
    """
    told, known = _labelled(probabilities, labels)
    called = told >= threshold
    positive, negative = known == 1, known == 0
    return Decision(
        threshold=threshold,
        sensitivity=float(called[positive].mean()) if positive.any() else None,
        specificity=float((~called[negative]).mean()) if negative.any() else None,
    )


def _labelled(probabilities: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, FloatArray]:
    told, known = labelled(probabilities, labels)
    if not np.all((told >= 0) & (told <= 1)):
        raise ValueError("probabilities must lie in [0, 1]")
    return told, known
