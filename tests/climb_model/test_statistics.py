"""Laws and hand cases of AUC and its patient bootstrap."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as reference_roc_curve

from climb_model.evaluation.statistics import AucRow, auc, auc_table, mean_auc, mean_auc_interval, roc_curve

EXAMS = st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 1)), min_size=2, max_size=40).filter(
    lambda exams: len({label for _, label in exams}) == 2
)
LAWS = settings(deadline=None, derandomize=True, max_examples=60)


def split(exams: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.array(exams, dtype=np.float64)
    return pairs[:, 0], pairs[:, 1]


def row(finding: str, value: float | None) -> AucRow:
    return AucRow(finding=finding, auc=value, ci_low=None, ci_high=None, positives=1, negatives=1)


def study(num_patients: int, num_findings: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Scores, labels and patients of two breasts each; the scores are moderately good."""
    generator = np.random.default_rng(seed)
    labels = (generator.random((2 * num_patients, num_findings)) < 0.3).astype(np.float64)
    scores = labels + generator.normal(scale=1.5, size=labels.shape)
    return scores, labels, [f"p{exam // 2}" for exam in range(2 * num_patients)]


def test_auc_by_hand() -> None:
    # pairs (positive, negative): 3>1, 3>2, 2>1, 2=2 -> 3.5 of 4
    assert auc([1, 2, 2, 3], [0, 0, 1, 1]) == 3.5 / 4


@pytest.mark.parametrize(
    ("scores", "labels", "value"),
    [
        ([0, 1], [0, 1], 1.0),
        ([1, 0], [0, 1], 0.0),
        ([5, 5, 5], [0, 1, 1], 0.5),
        ([-np.inf, np.inf], [0, 1], 1.0),
        ([1, 2], [1, 1], None),
        ([1, 2], [0, 0], None),
        ([], [], None),
        ([1, 2, 9], [0, 1, np.nan], 1.0),
        ([1, 2], [np.nan, 1], None),
    ],
)
def test_auc_of_edge_cases(scores: list[float], labels: list[float], value: float | None) -> None:
    assert auc(scores, labels) == value


@given(EXAMS)
@LAWS
def test_auc_equals_scikit_learn_with_ties(exams: list[tuple[int, int]]) -> None:
    scores, labels = split(exams)
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@given(EXAMS)
@LAWS
def test_auc_depends_on_the_order_of_scores_only(exams: list[tuple[int, int]]) -> None:
    scores, labels = split(exams)
    assert auc(np.exp(scores) * 7 - 3, labels) == auc(scores, labels)


@given(EXAMS)
@LAWS
def test_negated_scores_or_exchanged_labels_mirror_the_auc(exams: list[tuple[int, int]]) -> None:
    scores, labels = split(exams)
    value = auc(scores, labels)
    assert value is not None
    assert auc(-scores, labels) == pytest.approx(1 - value, abs=1e-12)
    assert auc(scores, 1 - labels) == pytest.approx(1 - value, abs=1e-12)


@given(EXAMS)
@LAWS
def test_the_area_below_the_roc_curve_is_the_auc(exams: list[tuple[int, int]]) -> None:
    scores, labels = split(exams)
    false_positive, true_positive = roc_curve(scores, labels)
    assert (false_positive[0], true_positive[0]) == (0, 0)
    assert (false_positive[-1], true_positive[-1]) == (1, 1)
    assert (np.diff(false_positive) >= 0).all()
    assert (np.diff(true_positive) >= 0).all()
    assert np.trapezoid(true_positive, false_positive) == pytest.approx(auc(scores, labels), abs=1e-12)


def test_roc_curve_equals_scikit_learn() -> None:
    scores, labels, _ = study(60, 1, seed=3)
    reference = reference_roc_curve(labels[:, 0], scores[:, 0], drop_intermediate=False)
    ours = roc_curve(scores[:, 0], labels[:, 0])
    np.testing.assert_allclose(ours[0], reference[0], atol=1e-12)
    np.testing.assert_allclose(ours[1], reference[1], atol=1e-12)


def test_roc_curve_without_negatives_is_refused() -> None:
    with pytest.raises(ValueError, match="positive and negative exams, got 2 and 0"):
        roc_curve([1, 2], [1, 1])


def test_the_interval_equals_a_plain_loop_over_patients() -> None:
    scores, labels, patients = study(30, 2, seed=1)
    draws, seed = 200, 4
    table = auc_table(scores, labels, patients, ("X", "Y"), draws=draws, seed=seed)
    names = sorted(set(patients))
    exams_of = {name: [i for i, patient in enumerate(patients) if patient == name] for name in names}
    counts = np.random.default_rng(seed).multinomial(30, np.full(30, 1 / 30), size=draws)
    aucs = []
    for count in counts:
        exams = [exam for name, times in zip(names, count, strict=True) for exam in exams_of[name] * times]
        aucs.append([roc_auc_score(labels[exams, column], scores[exams, column]) for column in (0, 1)])
    for column, line in enumerate(table):
        low, high = np.percentile(np.array(aucs)[:, column], (2.5, 97.5))
        assert (line.ci_low, line.ci_high) == (pytest.approx(low), pytest.approx(high))
    low, high = np.percentile(np.mean(aucs, axis=1), (2.5, 97.5))
    assert mean_auc_interval(scores, labels, patients, draws=draws, seed=seed) == (
        pytest.approx(low),
        pytest.approx(high),
    )


def test_patients_are_drawn_not_exams() -> None:
    """Copying every exam of a patient adds no information, so the interval must stay the same.

    A bootstrap over exams would believe in four times as many and shrink the interval by half.
    """
    scores, labels, patients = study(40, 1, seed=2)
    once = auc_table(scores, labels, patients, ("X",), draws=500, seed=0)[0]
    copies = (np.repeat(scores, 4, axis=0), np.repeat(labels, 4, axis=0))
    owners = [patient for patient in patients for _ in range(4)]
    copied = auc_table(*copies, owners, ("X",), draws=500, seed=0)[0]
    assert (copied.ci_low, copied.ci_high) == (pytest.approx(once.ci_low), pytest.approx(once.ci_high))
    every_exam_its_own_patient = [str(exam) for exam in range(4 * len(scores))]
    as_exams = auc_table(*copies, every_exam_its_own_patient, ("X",), draws=500, seed=0)[0]
    assert once.ci_high is not None
    assert once.ci_low is not None
    assert as_exams.ci_high is not None
    assert as_exams.ci_low is not None
    assert as_exams.ci_high - as_exams.ci_low < 0.65 * (once.ci_high - once.ci_low)


def test_the_order_of_exams_does_not_change_the_table() -> None:
    scores, labels, patients = study(25, 3, seed=5)
    shuffled = np.random.default_rng(0).permutation(len(patients))
    names = ("X", "Y", "Z")
    table = auc_table(scores, labels, patients, names, draws=100, seed=1)
    again = auc_table(
        scores[shuffled], labels[shuffled], [patients[i] for i in shuffled], names, draws=100, seed=1
    )
    for line, other in zip(table, again, strict=True):
        assert line == other


def test_draws_without_positives_are_skipped_and_counted() -> None:
    scores = np.array([[3.0], [1.0], [2.0]])
    labels = np.array([[1.0], [0.0], [0.0]])
    patients = ["a", "b", "c"]
    line = auc_table(scores, labels, patients, ("X",), draws=400, seed=0)[0]
    counts = np.random.default_rng(0).multinomial(3, np.full(3, 1 / 3), size=400)
    useless = int(((counts[:, 0] == 0) | (counts[:, 0] == 3)).sum())
    assert useless > 50
    assert line.skipped_draws == useless
    assert (line.auc, line.ci_low, line.ci_high) == (1.0, 1.0, 1.0)


def test_an_interval_without_any_usable_draw_is_none() -> None:
    one_patient = auc_table([[1.0], [2.0]], [[1.0], [1.0]], ["a", "a"], ("X",), draws=10, seed=0)[0]
    assert (one_patient.auc, one_patient.ci_low, one_patient.ci_high) == (None, None, None)
    assert (one_patient.positives, one_patient.negatives, one_patient.skipped_draws) == (2, 0, 10)
    no_draw = auc_table([[1.0], [2.0]], [[0.0], [1.0]], ["a", "b"], ("X",), draws=0, seed=0)[0]
    assert (no_draw.auc, no_draw.ci_low, no_draw.ci_high, no_draw.skipped_draws) == (1.0, None, None, 0)


def test_unknown_labels_are_left_out_of_that_finding_only() -> None:
    scores, labels, patients = study(30, 2, seed=6)
    full = auc_table(scores, labels, patients, ("X", "Y"), draws=50, seed=0)
    labels[:7, 0] = np.nan
    holed = auc_table(scores, labels, patients, ("X", "Y"), draws=50, seed=0)
    assert holed[1] == full[1]
    assert holed[0].auc == auc(scores[7:, 0], labels[7:, 0])
    assert holed[0].positives + holed[0].negatives == len(labels) - 7


def test_undefined_findings_leave_the_mean_by_name() -> None:
    assert mean_auc([row("X", 0.5), row("Y", None), row("Z", 1.0)]) == (0.75, ("Y",))
    assert mean_auc([row("Y", None)]) == (None, ("Y",))
    assert mean_auc([]) == (None, ())


def test_an_undefined_finding_does_not_change_the_interval_of_the_mean() -> None:
    scores, labels, patients = study(30, 2, seed=7)
    without = mean_auc_interval(scores, labels, patients, draws=100, seed=0)
    wider = mean_auc_interval(
        np.hstack([scores, scores[:, :1]]),
        np.hstack([labels, np.zeros((len(labels), 1))]),
        patients,
        draws=100,
        seed=0,
    )
    assert None not in without
    assert wider == without
    assert mean_auc_interval(scores, np.zeros_like(labels), patients, draws=100, seed=0) == (None, None)


def test_the_interval_is_the_seeds_alone() -> None:
    scores, labels, patients = study(30, 1, seed=8)
    first = auc_table(scores, labels, patients, ("X",), draws=100, seed=1)
    assert auc_table(scores, labels, patients, ("X",), draws=100, seed=1) == first
    assert auc_table(scores, labels, patients, ("X",), draws=100, seed=2) != first


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1, 2], [0, 2], r"label is 1, 0 or nan \(unknown\), got 2.0"),
        ([1, np.nan], [0, 1], "got 1 nan"),
        ([1, 2, 3], [0, 1], r"got \(3,\) scores and \(2,\) labels"),
    ],
)
def test_bad_scores_and_labels_are_refused(scores: list[float], labels: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auc(scores, labels)


def test_tables_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 exams and 1 findings needs .* got \(3, 1\) scores"):
        auc_table(np.zeros((3, 1)), np.zeros((3, 1)), ["a", "b"], ("X",), draws=1, seed=0)


def test_a_thousand_draws_of_nine_findings_take_seconds_not_minutes() -> None:
    scores, labels, patients = study(200, 9, seed=9)
    start = time.process_time()
    auc_table(scores, labels, patients, tuple("abcdefghi"), draws=1000, seed=0)
    mean_auc_interval(scores, labels, patients, draws=1000, seed=0)
    assert time.process_time() - start < 6
