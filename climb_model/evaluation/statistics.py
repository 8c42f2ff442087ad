"""Areas under the ROC curve, with intervals from a bootstrap over patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Interval = tuple[float | None, float | None]

INTERVAL_PERCENT = (2.5, 97.5)
"""Percentiles of the draws between which a 95 % interval lies."""


@dataclass(frozen=True, kw_only=True)
class AucRow:
    """One finding's area under the ROC curve."""

    finding: str

    auc: float | None
    """None: undefined, because there is no positive or no negative exam."""

    ci_low: float | None
    ci_high: float | None
    """95 % interval; None where `auc` is, or where no draw could be used."""

    positives: int
    negatives: int
    """Exams whose label is known."""

    skipped_draws: int = 0
    """Bootstrap draws left out because they held no positive or no negative exam."""


def auc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Chance that a positive exam scores above a negative one; a tie counts half.

    The Mann-Whitney statistic over its maximum (Hanley and McNeil 1982).

    Args:
        scores: (exam,) the higher, the more likely positive. Only their order matters.
        labels: (exam,) 1, 0, or nan for unknown; unknown exams are left out.

    Returns:
        0 to 1, or None with no positive or no negative exam.

    Raises:
        ValueError: a label other than 0, 1 and nan, a score that is nan, or unequal lengths.
    """
    exam_scores, exam_labels = labelled(scores, labels)
    value = _weighted_auc(exam_scores, exam_labels, np.ones((1, len(exam_scores))))[0]
    return None if np.isnan(value) else float(value)


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """The ROC curve's corners, from (0, 0) to (1, 1), one for each distinct score.

    Args:
        scores: (exam,) the higher, the more likely positive.
        labels: (exam,) 1, 0, or nan for unknown; unknown exams are left out.

    Returns:
        False positive rate and true positive rate, both (corner,) and never falling. The
        trapezoids below the curve add up to `auc`.

    Raises:
        ValueError: as `auc`, and with no positive or no negative exam.
    """
    exam_scores, exam_labels = labelled(scores, labels)
    num_positives = int(exam_labels.sum())
    num_negatives = len(exam_labels) - num_positives
    if not num_positives or not num_negatives:
        raise ValueError(
            f"a ROC curve needs positive and negative exams, got {num_positives} and {num_negatives}"
        )
    order = np.argsort(-exam_scores, kind="stable")
    last_of_tie = np.append(np.diff(exam_scores[order]) != 0, True)
    hits = np.cumsum(exam_labels[order])[last_of_tie]
    alarms = np.cumsum(1 - exam_labels[order])[last_of_tie]
    return (
        np.concatenate([[0.0], alarms / num_negatives]),
        np.concatenate([[0.0], hits / num_positives]),
    )


def auc_table(
    scores: ArrayLike,
    labels: ArrayLike,
    patients: Sequence[str],
    findings: Sequence[str],
    *,
    draws: int,
    seed: int,
) -> tuple[AucRow, ...]:
    """Every finding's AUC with its 95 % percentile interval over patients.

    Patients are drawn with replacement, each with all of their exams: both breasts of a patient
    are one unit (Obuchowski 1997 on clustered ROC data; Efron and Tibshirani 1993, chapter 13,
    on percentile intervals). The same draws serve every finding. The result does not depend on the
    order of the exams.

    Args:
        scores: (exam, finding).
        labels: (exam, finding) 1, 0, or nan for unknown.
        patients: (exam,) whom each exam belongs to.
        findings: (finding,) names, in the order of the columns.
        draws: bootstrap draws; 0 leaves every interval None.
        seed: of the draws.

    Raises:
        ValueError: shapes that do not fit, a label other than 0, 1 and nan, or a score that is nan.
    """
    score_table, label_table = _tables(scores, labels, patients, findings)
    drawn = _auc_draws(score_table, label_table, patients, draws=draws, seed=seed)
    rows: list[AucRow] = []
    for column, finding in enumerate(findings):
        known = label_table[:, column]
        value = auc(score_table[:, column], known)
        skipped = int(np.isnan(drawn[:, column]).sum())
        low, high = (None, None) if value is None else percentile_interval(drawn[:, column])
        rows.append(
            AucRow(
                finding=finding,
                auc=value,
                ci_low=low,
                ci_high=high,
                positives=int((known == 1).sum()),
                negatives=int((known == 0).sum()),
                skipped_draws=skipped,
            )
        )
    return tuple(rows)


def mean_auc(rows: Sequence[AucRow]) -> tuple[float | None, tuple[str, ...]]:
    """Mean over the defined findings, and the names of the undefined ones.

    Returns:
        None as the mean if no finding is defined.
    """
    defined = [row.auc for row in rows if row.auc is not None]
    undefined = tuple(row.finding for row in rows if row.auc is None)
    return (float(np.mean(defined)) if defined else None), undefined


def mean_auc_interval(
    scores: ArrayLike, labels: ArrayLike, patients: Sequence[str], *, draws: int, seed: int
) -> Interval:
    """95 % percentile interval of the mean AUC, from the very draws behind `auc_table`.

    The mean is over the findings that are defined in all exams together; a draw in which one of
    them is undefined is left out, so that every draw averages the same findings.

    Args:
        scores: (exam, finding).
        labels: (exam, finding) 1, 0, or nan for unknown.
        patients: (exam,) whom each exam belongs to.
        draws: bootstrap draws; 0 gives (None, None).
        seed: of the draws.

    Returns:
        Lower and upper end, both None if no finding is defined or no draw could be used.

    Raises:
        ValueError: as `auc_table`.
    """
    label_table = np.asarray(labels, dtype=np.float64)
    num_findings = label_table.shape[1] if label_table.ndim == 2 else 0
    score_table, label_table = _tables(scores, labels, patients, [""] * num_findings)
    defined = [
        column
        for column in range(num_findings)
        if auc(score_table[:, column], label_table[:, column]) is not None
    ]
    if not defined:
        return None, None
    drawn = _auc_draws(score_table, label_table, patients, draws=draws, seed=seed)
    return percentile_interval(drawn[:, defined].mean(axis=1))


def _auc_draws(
    scores: FloatArray, labels: FloatArray, patients: Sequence[str], *, draws: int, seed: int
) -> FloatArray:
    """(draw, finding) AUC of each bootstrap draw; nan where it is undefined.

    A draw is a count for each patient, so all draws of a finding are one weighted rank sum.
    """
    weights = patient_weights(patients, draws=draws, seed=seed)
    if not weights.size:
        return np.full((0, scores.shape[1]), np.nan)
    columns: list[FloatArray] = []
    for column in range(scores.shape[1]):
        known = ~np.isnan(labels[:, column])
        columns.append(_weighted_auc(scores[known, column], labels[known, column], weights[:, known]))
    return np.stack(columns, axis=1) if columns else np.full((draws, 0), np.nan)


def patient_weights(patients: Sequence[str], *, draws: int, seed: int) -> FloatArray:
    """(draw, exam) how often each exam counts when patients are drawn with replacement.

    As many patients as there are, each with all of their exams.

    Raises:
        ValueError: with fewer than 0 draws.
    """
    if draws < 0:
        raise ValueError(f"bootstrap draws must be >= 0, got {draws}")
    if not len(patients):
        return np.zeros((draws, 0))
    names, patient_of_exam = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return counts[:, patient_of_exam].astype(np.float64)


def _weighted_auc(scores: FloatArray, labels: FloatArray, weights: FloatArray) -> FloatArray:
    """(draw,) AUC with exam i counted weights[draw, i] times; nan without positives or negatives."""
    if not len(scores):
        return np.full(len(weights), np.nan)
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    positive = weights[:, order] * labels[order]
    negative = weights[:, order] * (1 - labels[order])
    below = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(negative, axis=1)], axis=1)
    first = np.searchsorted(ordered, ordered, side="left")
    behind = np.searchsorted(ordered, ordered, side="right")
    wins = (positive * (below[:, first] + below[:, behind])).sum(axis=1) / 2
    pairs = positive.sum(axis=1) * below[:, -1]
    return np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def percentile_interval(values: FloatArray) -> Interval:
    """95 % percentile interval of draws; nan marks a draw left out, and without any both ends are None."""
    usable = values[~np.isnan(values)]
    if not len(usable):
        return None, None
    low, high = np.percentile(usable, INTERVAL_PERCENT)
    return float(low), float(high)


def labelled(scores: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Scores and labels of the exams whose label is known.

    Raises:
        ValueError: a label other than 0, 1 and nan, a score that is nan, or unequal lengths.
    """
    exam_scores = np.asarray(scores, dtype=np.float64)
    exam_labels = np.asarray(labels, dtype=np.float64)
    if exam_scores.ndim != 1 or exam_scores.shape != exam_labels.shape:
        raise ValueError(
            f"one score and one label for each exam wanted, got {exam_scores.shape} scores "
            f"and {exam_labels.shape} labels"
        )
    _check(exam_scores, exam_labels)
    known = ~np.isnan(exam_labels)
    return exam_scores[known], exam_labels[known]


def _tables(
    scores: ArrayLike, labels: ArrayLike, patients: Sequence[str], findings: Sequence[str]
) -> tuple[FloatArray, FloatArray]:
    score_table = np.asarray(scores, dtype=np.float64)
    label_table = np.asarray(labels, dtype=np.float64)
    wanted = (len(patients), len(findings))
    if score_table.shape != wanted or label_table.shape != wanted:
        raise ValueError(
            f"an AUC table of {wanted[0]} exams and {wanted[1]} findings needs (exam, finding) arrays of "
            f"{wanted}, got {score_table.shape} scores and {label_table.shape} labels"
        )
    _check(score_table, label_table)
    return score_table, label_table


def _check(scores: FloatArray, labels: FloatArray) -> None:
    foreign = ~np.isin(labels, (0.0, 1.0)) & ~np.isnan(labels)
    if foreign.any():
        raise ValueError(f"a label is 1, 0 or nan (unknown), got {labels[foreign].flat[0]}")
    num_nan = int(np.isnan(scores).sum())
    if num_nan:
        raise ValueError(f"scores must be numbers, got {num_nan} nan")
