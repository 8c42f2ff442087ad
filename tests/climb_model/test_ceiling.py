"""Pooling under the mask and the supervised ceiling on exams with a known answer."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from climb_model.data.store import MAGIC, KeptTokens, StoreIndex
from climb_model.evaluation.ceiling import ceiling_auc, pooled_features, supervised_ceiling
from climb_model.prepare import ExamSet
from configs.load import load_settings


def planted(num_exams: int, num_features: int, num_findings: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features that give the findings away up to noise; the same rule for every seed."""
    rule = np.random.default_rng(99).normal(size=(num_findings, num_features)).astype(np.float32)
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(num_exams, num_findings)).astype(np.float32)
    labels = (hidden + generator.normal(scale=0.3, size=hidden.shape) > 0.8).astype(np.float64)
    features = hidden @ rule + generator.normal(scale=2, size=(num_exams, num_features))
    return features.astype(np.float32), labels


def test_pooling_by_hand() -> None:
    tokens = np.array([[[1.0], [3.0], [9.0], [-2.0]]], dtype=np.float16)
    present = np.array([[True, True, False, True]])
    features = pooled_features(tokens, present, 2)
    # sequence 0: mean 2, max 3, deviation 1; sequence 1: one slice -2; both present
    assert features.tolist() == [[2.0, 3.0, 1.0, -2.0, -2.0, 0.0, 1.0, 1.0]]


def test_an_absent_sequence_is_zeros_and_says_so() -> None:
    tokens = np.full((1, 4, 2), 5.0, dtype=np.float32)
    features = pooled_features(tokens, np.array([[True, True, False, False]]), 2)
    assert features.tolist() == [[5, 5, 5, 5, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]]


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.integers(0, 10_000))
def test_hidden_tokens_never_change_the_features(seed: int) -> None:
    generator = np.random.default_rng(seed)
    tokens = generator.normal(size=(3, 6, 4)).astype(np.float32)
    present = generator.random((3, 6)) < 0.6
    other = tokens.copy()
    other[~present] = np.nan
    np.testing.assert_array_equal(pooled_features(tokens, present, 2), pooled_features(other, present, 2))


def test_pooling_has_no_seams_between_blocks_of_exams() -> None:
    generator = np.random.default_rng(0)
    tokens = generator.normal(size=(130, 4, 3)).astype(np.float32)
    present = generator.random((130, 4)) < 0.7
    whole = pooled_features(tokens, present, 2)
    parts = [pooled_features(tokens[i : i + 1], present[i : i + 1], 2) for i in range(130)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_pooling_refuses_what_does_not_fit() -> None:
    tokens = np.zeros((2, 4, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="4 slice tokens cannot be shared evenly by 3 sequences"):
        pooled_features(tokens, np.ones((2, 4), dtype=bool), 3)
    with pytest.raises(ValueError, match=r"got \(2, 4, 3\) and \(2, 3\) bool"):
        pooled_features(tokens, np.ones((2, 3), dtype=bool), 1)
    tokens[0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        pooled_features(tokens, np.ones((2, 4), dtype=bool), 1)


@pytest.mark.parametrize("num_features", [12, 300])
def test_the_regression_equals_scikit_learns_own_pipeline(num_features: int) -> None:
    sets = [planted(n, num_features, 1, seed) for n, seed in ((90, 0), (60, 1), (80, 2))]
    (train_x, train_y), (_, _), (test_x, test_y) = sets
    result = ceiling_auc(*(part for pair in sets for part in pair), findings=("X",), strengths=(3.0,))
    # features / sqrt(num_features) with C is the same model as features with C / num_features
    regression = LogisticRegression(C=3.0 / num_features, tol=1e-8, max_iter=5000)
    reference = make_pipeline(StandardScaler(), regression)
    reference.fit(train_x.astype(np.float64), train_y[:, 0])
    wanted = roc_auc_score(test_y[:, 0], reference.decision_function(test_x.astype(np.float64)))
    assert 0.6 < wanted < 1
    assert result["auc"]["X"] == pytest.approx(wanted, abs=2e-3)


def test_planted_findings_are_found_and_noise_is_not() -> None:
    train, val, test = (planted(n, 60, 3, seed) for n, seed in ((300, 0), (80, 1), (300, 2)))
    found = ceiling_auc(*train, *val, *test, findings=("X", "Y", "Z"))
    assert found["mean_auc"] == pytest.approx(np.mean([found["auc"][name] for name in "XYZ"]))
    assert found["mean_auc"] is not None
    assert found["mean_auc"] > 0.9
    assert json.loads(json.dumps(found)) == found
    shuffled = np.random.default_rng(0).permutation(300)
    lost = ceiling_auc(train[0][shuffled], train[1], *val, *test, findings=("X", "Y", "Z"))
    assert lost["mean_auc"] is not None
    assert abs(lost["mean_auc"] - 0.5) < 0.12


def test_validation_alone_chooses_the_strength() -> None:
    train, val, test = (planted(n, 60, 1, seed) for n, seed in ((120, 0), (80, 1), (100, 2)))
    strengths = (1e-3, 1.0, 1e3)
    chosen = ceiling_auc(*train, *val, *test, findings=("X",), strengths=strengths)["strength"]
    on_val = {
        strength: ceiling_auc(*train, *val, *val, findings=("X",), strengths=(strength,))["mean_auc"]
        for strength in strengths
    }
    assert on_val[chosen] == max(value for value in on_val.values() if value is not None)
    opposite = (test[0], 1 - test[1])
    assert ceiling_auc(*train, *val, *opposite, findings=("X",), strengths=strengths)["strength"] == chosen


def test_unknown_labels_are_left_out() -> None:
    train, val, test = (planted(n, 20, 1, seed) for n, seed in ((100, 0), (60, 1), (60, 2)))
    train_y = train[1].copy()
    train_y[50:] = np.nan
    wrong_x = train[0].copy()
    wrong_x[50:] = train[0][:50]
    holed = ceiling_auc(wrong_x, train_y, *val, *test, findings=("X",), strengths=(3.0,))
    short = ceiling_auc(train[0][:50], train_y[:50], *val, *test, findings=("X",), strengths=(3.0,))
    assert holed["auc"]["X"] == pytest.approx(short["auc"]["X"], abs=1e-3)


def test_undefined_findings_are_named_with_their_reason() -> None:
    train, val, test = (planted(n, 20, 3, seed) for n, seed in ((100, 0), (60, 1), (60, 2)))
    train[1][:, 1] = 0
    test[1][:, 2] = 0
    result = ceiling_auc(*train, *val, *test, findings=("X", "Y", "Z"))
    assert result["undefined"] == {
        "Y": "no positive or no negative training exam",
        "Z": "no positive or no negative test exam",
    }
    assert (result["auc"]["Y"], result["auc"]["Z"]) == (None, None)
    assert result["mean_auc"] == result["auc"]["X"]


def test_bad_arrays_are_refused() -> None:
    train, val, test = (planted(20, 5, 1, seed) for seed in range(3))
    with pytest.raises(ValueError, match=r"val exams need \(exam, 5\) features .* got \(20, 4\)"):
        ceiling_auc(*train, val[0][:, :4], val[1], *test, findings=("X",))
    with pytest.raises(ValueError, match="both labels in training and validation"):
        ceiling_auc(*train, val[0], np.zeros_like(val[1]), *test, findings=("X",))
    broken = test[0].copy()
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match="test features are not finite"):
        ceiling_auc(*train, *val, broken, test[1], findings=("X",))


def exam_set(site: str, num_exams: int, seed: int) -> ExamSet:
    """Kept tokens of two views in reverse row order; only view 0 knows the findings."""
    generator = np.random.default_rng(seed)
    labels = (generator.random((num_exams, 9)) < 0.4).astype(np.float64)
    tokens = generator.normal(size=(num_exams, 2, 6, 9))
    tokens[:, 0] += 2 * labels[::-1, None]
    uids = tuple(f"{site}-{exam}" for exam in range(num_exams))
    index = StoreIndex(MAGIC, site, "key", uids, 2, 6, 9, {})
    present = np.ones((num_exams, 6), dtype=bool)
    return ExamSet(
        site=site,
        uids=uids,
        patients=uids,
        kept=KeptTokens(index, tokens.astype(np.float16), present),
        rows=np.arange(num_exams)[::-1],
        reports=((),) * num_exams,
        labels=labels,
        notices=(),
        left_out={},
    )


def test_the_ceiling_pools_all_sites_and_reads_each_exams_own_row() -> None:
    train = [exam_set("A", 40, 0), exam_set("B", 40, 1)]
    found = supervised_ceiling(train, [exam_set("A", 30, 2)], exam_set("C", 60, 3), load_settings("climb"))
    assert found["mean_auc"] is not None
    assert found["mean_auc"] > 0.95
    assert not found["undefined"]
    assert tuple(found["auc"]) == load_settings("climb").evaluation.findings


def test_a_cohort_of_the_demos_size_takes_seconds() -> None:
    train, val, test = (planted(n, 3 * 3 * 384 + 3, 9, seed) for n, seed in ((560, 0), (100, 1), (200, 2)))
    start = time.process_time()
    ceiling_auc(*train, *val, *test, findings=tuple("abcdefghi"))
    assert time.process_time() - start < 15
