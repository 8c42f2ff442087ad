"""The weighted mean of replies."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.mean import RunningMean


def mean_of(*replies: tuple[int, float]) -> float:
    mean = RunningMean()
    for weight, value in replies:
        mean.add({"w": np.array([value], np.float32)}, weight)
    return float(mean.result()["w"][0])


def test_hospitals_weigh_as_their_exams() -> None:
    assert mean_of((1, 0.0), (3, 4.0)) == 3.0  # (1 * 0 + 3 * 4) / 4, by hand


def test_one_hospital_is_its_own_mean_to_the_last_bit() -> None:
    value = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    mean = RunningMean()
    mean.add({"w": value}, 12345)
    assert mean.result()["w"].dtype == np.float32
    np.testing.assert_array_equal(mean.result()["w"], value)


def test_a_scalar_stays_a_scalar() -> None:
    mean = RunningMean()
    mean.add({"log_scale": np.array(2.0, np.float32)}, 2)
    mean.add({"log_scale": np.array(5.0, np.float32)}, 1)
    assert mean.result()["log_scale"].shape == ()
    assert float(mean.result()["log_scale"]) == 3.0


def test_sums_are_kept_in_float64() -> None:
    # In float32, 1 + 1e-9 is 1 and the small hospital would be lost: (1 - 1 + 3e-9) / 3.
    assert mean_of((1, 1.0), (1, 3e-9), (1, -1.0)) == pytest.approx(1e-9, rel=1e-6)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(-100, 100, width=32)), min_size=1, max_size=8))
def test_the_mean_lies_between_its_replies_and_ignores_their_order(replies: list[tuple[int, float]]) -> None:
    mean = mean_of(*replies)
    values = [value for _, value in replies]
    assert min(values) - 1e-4 <= mean <= max(values) + 1e-4
    assert mean_of(*reversed(replies)) == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("weight", [0, -1])
def test_a_weight_that_is_not_positive_is_refused(weight: int) -> None:
    with pytest.raises(ValueError, match=f"must be > 0, got {weight}"):
        RunningMean().add({"w": np.zeros(1, np.float32)}, weight)


def test_other_names_or_shapes_than_before_are_refused_and_change_nothing() -> None:
    mean = RunningMean()
    mean.add({"a": np.ones(2, np.float32), "b": np.ones(1, np.float32)}, 1)
    with pytest.raises(ValueError, match="the same tensors"):
        mean.add({"a": np.zeros(2, np.float32)}, 1)
    with pytest.raises(ValueError, match=r"'b' must have shape \(1,\)"):
        mean.add({"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}, 1)
    assert mean.num_replies == 1
    assert mean.result()["a"].tolist() == [1.0, 1.0]


def test_the_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one reply"):
        RunningMean().result()


def test_memory_does_not_grow_with_the_number_of_replies() -> None:
    size = 250_000  # 1 MB a reply

    def peak(num_replies: int) -> int:
        tracemalloc.start()
        mean = RunningMean()
        for number in range(num_replies):
            mean.add({"w": np.full(size, number, np.float32)}, 1)
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    assert peak(40) < peak(4) + 4 * size / 10
