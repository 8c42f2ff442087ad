"""Calibration and thresholds against scikit-learn, plain loops and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from climb_model.evaluation.operating import (
    brier_score,
    decide,
    expected_calibration_error,
    threshold_at,
)


def drawn(seed: int, num: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    told = np.round(rng.uniform(size=num), 2)  # ties, and borders of bins
    return told, (rng.uniform(size=num) < told).astype(float)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(0, 10_000))
def test_brier_is_scikit_learns(seed: int) -> None:
    told, labels = drawn(seed)
    assert brier_score(told, labels) == pytest.approx(brier_score_loss(labels, told), abs=1e-12)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(0, 10_000))
def test_calibration_error_is_a_plain_loop_over_bins(seed: int) -> None:
    told, labels = drawn(seed)
    total = 0.0
    for number in range(10):
        inside = [i for i in range(len(told)) if min(int(told[i] * 10), 9) == number]
        if inside:
            gap = np.mean(told[inside]) - np.mean(labels[inside])
            total += abs(gap) * len(inside) / len(told)
    assert expected_calibration_error(told, labels) == pytest.approx(total, abs=1e-12)


def test_calibration_by_hand() -> None:
    assert expected_calibration_error([0.2, 0.2, 1.0], [0, 1, 1]) == pytest.approx(0.2)
    assert brier_score([0.2, 0.2, 1.0], [0, 1, 1]) == pytest.approx((0.04 + 0.64) / 3)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.8, 0.9, 0.95, 1.0]))
def test_the_threshold_is_the_smallest_that_reaches_the_specificity(seed: int, wanted: float) -> None:
    told, labels = drawn(seed)
    threshold = threshold_at(told, labels, specificity=wanted)
    assert threshold is not None
    reached = decide(told, labels, threshold=threshold).specificity
    assert reached is not None
    assert reached >= wanted - 1e-9
    lower = told[told < threshold]
    if len(lower):
        below = decide(told, labels, threshold=float(lower.max())).specificity
        assert below is not None
        assert below < wanted


def test_a_threshold_is_held_against_other_exams() -> None:
    threshold = threshold_at([0.1, 0.2, 0.3, 0.9], [0, 0, 0, 1], specificity=0.6)
    assert threshold == 0.3  # 2 of 3 negatives lie below
    other = decide([0.1, 0.35, 0.3, 0.2], [0, 0, 1, 1], threshold=0.3)
    assert (other.sensitivity, other.specificity) == (0.5, 0.5)


def test_where_no_exam_reaches_it_the_threshold_calls_none() -> None:
    threshold = threshold_at([0.4, 0.8], [1, 0], specificity=1.0)
    assert threshold is not None
    assert threshold > 0.8
    assert decide([0.4, 0.8], [1, 0], threshold=threshold).sensitivity == 0.0


def test_unknown_labels_and_missing_kinds_are_left_out() -> None:
    assert brier_score([0.5, 0.9], [np.nan, 1]) == pytest.approx(0.01)
    assert brier_score([0.5], [np.nan]) is None
    assert expected_calibration_error([], []) is None
    assert threshold_at([0.5], [1], specificity=0.9) is None
    only = decide([0.5], [1], threshold=0.4)
    assert (only.sensitivity, only.specificity) == (1.0, None)


@pytest.mark.parametrize(
    ("told", "labels", "words"),
    [([1.2], [1], "lie in"), ([0.5], [2], "1, 0 or nan"), ([0.5], [1, 0], "one score and one label")],
)
def test_impossible_input_is_refused(told: list[float], labels: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        brier_score(told, labels)
