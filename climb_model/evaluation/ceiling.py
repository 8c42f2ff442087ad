"""What labels would reach on the same frozen slice tokens: a yardstick for zero-shot diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from climb_model.evaluation.statistics import auc
from climb_model.prepare import ExamSet
from configs.schema import Settings

FloatArray = NDArray[np.floating]

STRENGTHS = (0.03, 0.3, 3.0, 30.0, 300.0)
"""Inverse L2 penalties tried, for features scaled so that an exam's squared length is 1 on average."""

EXAMS_AT_ONCE = 64
"""Exams pooled together: tokens may be a memory map larger than memory."""

RANK_TOLERANCE = 1e-10
"""Directions with less than this share of the largest variance are rounding errors."""


class Ceiling(TypedDict):
    """The result of `ceiling_auc`; plain values, ready for JSON."""

    mean_auc: float | None
    """Mean over the defined findings; None if there is none."""

    auc: dict[str, float | None]
    """Test AUC of each finding; None: undefined."""

    undefined: dict[str, str]
    """Name of each undefined finding to the reason."""

    strength: float
    """The inverse L2 penalty that validation chose."""


def supervised_ceiling(
    train: Sequence[ExamSet], val: Sequence[ExamSet], test: ExamSet, settings: Settings
) -> Ceiling:
    """`ceiling_auc` on all sites' pooled exams: what no federation may do, hence a yardstick.

    Args:
        train: the sites' training exams; their labels are needed. Only view 0 is used.
        val: the sites' validation exams, which choose the L2 strength.
        test: the server's own exams.
    """
    sides = [
        (
            np.concatenate([_features(exams, settings) for exams in side]),
            np.concatenate([exams.labels for exams in side]),
        )
        for side in (train, val, [test])
    ]
    (train_x, train_y), (val_x, val_y), (test_x, test_y) = sides
    findings = settings.evaluation.findings
    return ceiling_auc(train_x, train_y, val_x, val_y, test_x, test_y, findings=findings)


def pooled_features(tokens: FloatArray, present: NDArray[np.bool_], num_sequences: int) -> FloatArray:
    """Mean, maximum and standard deviation of each sequence's present slice tokens.

    Args:
        tokens: (exam, token, dim) with token index = sequence x slices + slice.
        present: (exam, token) False: padding or an absent sequence; never looked at.
        num_sequences: sequences that share the tokens evenly.

    Returns:
        (exam, 3 x num_sequences x dim + num_sequences) float32: all means, maxima and deviations,
        sequence by sequence, then for each sequence 1 if it is present and 0 if not. An absent
        sequence's features are 0.

    Raises:
        ValueError: shapes that do not fit, or a present token that is not finite.
    """
    if tokens.ndim != 3 or present.shape != tokens.shape[:2] or present.dtype != np.bool_:
        raise ValueError(
            f"pooling needs (exam, token, dim) tokens and an (exam, token) bool mask, got {tokens.shape} "
            f"and {present.shape} {present.dtype}"
        )
    num_exams, num_tokens, dim = tokens.shape
    if num_sequences < 1 or num_tokens % num_sequences:
        raise ValueError(f"{num_tokens} slice tokens cannot be shared evenly by {num_sequences} sequences")
    pooled = np.zeros((num_exams, 3 * num_sequences * dim + num_sequences), dtype=np.float32)
    for start in range(0, num_exams, EXAMS_AT_ONCE):
        part = slice(start, start + EXAMS_AT_ONCE)
        shape = (-1, num_sequences, num_tokens // num_sequences)
        mask = present[part].reshape(shape)
        values = np.asarray(tokens[part], dtype=np.float32).reshape(*shape, dim)
        if not np.isfinite(values[mask]).all():
            raise ValueError("a present slice token is not finite")
        pooled[part] = _pool(values, mask)
    return pooled


def ceiling_auc(
    train_x: FloatArray,
    train_y: FloatArray,
    val_x: FloatArray,
    val_y: FloatArray,
    test_x: FloatArray,
    test_y: FloatArray,
    *,
    findings: Sequence[str],
    strengths: Sequence[float] = STRENGTHS,
) -> Ceiling:
    """Test AUC of a logistic regression for each finding, trained on labels.

    Features are standardised by the training exams. One L2 strength serves all findings, the one
    with the best mean validation AUC (a finding's few validation positives could not choose their
    own); a tie goes to the stronger penalty. The regression is fitted in the training exams' own
    span, which is exact: an L2 penalty puts no weight outside of it (Kimeldorf and Wahba 1971).

    Args:
        train_x, val_x, test_x: (exam, feature), for example of `pooled_features`.
        train_y, val_y, test_y: (exam, finding) 1, 0, or nan for unknown; unknown exams are left
            out of that finding.
        findings: (finding,) names, in the order of the columns.
        strengths: inverse penalties to choose from.

    Raises:
        ValueError: shapes that do not fit, features that are not finite, or no finding that
            training and validation both define.
    """
    for name, x, y in (("train", train_x, train_y), ("val", val_x, val_y), ("test", test_x, test_y)):
        _check(name, x, y, num_features=train_x.shape[-1], findings=findings)
    undefined = {
        finding: "no positive or no negative training exam"
        for column, finding in enumerate(findings)
        if len(np.unique(_known(train_y[:, column]))) < 2
    }
    trainable = [column for column, finding in enumerate(findings) if finding not in undefined]
    train_z, val_z, test_z = _span_of_first(train_x, val_x, test_x)

    val_aucs: dict[float, list[float]] = {strength: [] for strength in sorted(strengths)}
    test_scores: dict[tuple[float, int], FloatArray] = {}
    for column in trainable:
        labelled = ~np.isnan(train_y[:, column])
        model = LogisticRegression(max_iter=2000, warm_start=True)
        for strength, reached in val_aucs.items():
            model.set_params(C=strength)
            model.fit(train_z[labelled], train_y[labelled, column])
            value = auc(model.decision_function(val_z), val_y[:, column])
            if value is not None:
                reached.append(value)
            test_scores[strength, column] = model.decision_function(test_z)
    if not any(val_aucs.values()):
        raise ValueError("the supervised ceiling needs a finding with both labels in training and validation")
    best = max(val_aucs, key=lambda strength: float(np.mean(val_aucs[strength])))

    reached_auc: dict[str, float | None] = dict.fromkeys(findings)
    for column in trainable:
        value = auc(test_scores[best, column], test_y[:, column])
        reached_auc[findings[column]] = value
        if value is None:
            undefined[findings[column]] = "no positive or no negative test exam"
    defined = [value for value in reached_auc.values() if value is not None]
    return {
        "mean_auc": float(np.mean(defined)) if defined else None,
        "auc": reached_auc,
        "undefined": undefined,
        "strength": best,
    }


def _features(exams: ExamSet, settings: Settings) -> FloatArray:
    tokens = exams.kept.tokens[exams.rows, 0]  # (exam, slice token, dim) of view 0
    return pooled_features(tokens, exams.kept.present[exams.rows], len(settings.data.sequences))


def _pool(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(exam, sequence, slice, dim) values under their mask to (exam, feature)."""
    seen = mask[..., None]
    count = np.maximum(mask.sum(axis=2), 1)[..., None]  # (exam, sequence, 1)
    inside = np.where(seen, values, 0)
    mean = inside.sum(axis=2) / count
    variance = (np.where(seen, inside - mean[:, :, None], 0) ** 2).sum(axis=2) / count
    maximum = np.where(seen, values, -np.inf).max(axis=2)
    there = np.any(mask, axis=2)  # (exam, sequence)
    maximum = np.where(there[..., None], maximum, 0)
    blocks = np.stack([mean, maximum, np.sqrt(variance)], axis=2)  # (exam, sequence, 3, dim)
    return np.concatenate([blocks.reshape(len(mask), -1), there], axis=1).astype(np.float32)


def _span_of_first(first: FloatArray, *others: FloatArray) -> list[NDArray[np.float64]]:
    """Standardised by `first`, scaled to unit mean square length, turned into `first`'s span."""
    scaler = StandardScaler().fit(first)
    scale = np.sqrt(first.shape[1])
    scaled = [np.asarray(scaler.transform(x), dtype=np.float64) / scale for x in (first, *others)]
    power, directions = np.linalg.eigh(scaled[0] @ scaled[0].T)
    kept = power > RANK_TOLERANCE * max(power[-1], 1e-300)
    turn = scaled[0].T @ (directions[:, kept] / np.sqrt(power[kept]))  # (feature, component)
    return [x @ turn for x in scaled]


def _known(labels: FloatArray) -> FloatArray:
    return labels[~np.isnan(labels)]


def _check(name: str, x: FloatArray, y: FloatArray, *, num_features: int, findings: Sequence[str]) -> None:
    if x.ndim != 2 or x.shape[1] != num_features or not len(x) or y.shape != (len(x), len(findings)):
        raise ValueError(
            f"the supervised ceiling's {name} exams need (exam, {num_features}) features and (exam, "
            f"{len(findings)}) labels, got {x.shape} and {y.shape}"
        )
    if not np.isfinite(x).all():
        raise ValueError(f"the supervised ceiling's {name} features are not finite")
