"""How long a round waits, from what was measured before."""

from __future__ import annotations

import pytest

from strategies.deadline import Deadlines

SITES = ("A", "B", "C")


def deadlines(
    most_s: float = 3600.0, factor: float = 3.0, taken: dict[str, float] | None = None
) -> Deadlines:
    return Deadlines(most_s=most_s, factor=factor, least_s=10.0, taken=taken)


def test_nothing_measured_means_the_cap() -> None:
    assert deadlines().seconds(SITES, 0) == 3600.0
    known = deadlines(taken={"D": 5.0})
    assert known.seconds(SITES, 0) == 3600.0  # D is not asked


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ({"A": 20.0, "B": 30.0, "C": 1000.0}, 90.0),  # 3 x the median, whatever C takes
        ({"A": 20.0, "B": 30.0}, 75.0),
        ({"A": 20.1}, 61.0),  # up to whole seconds
        ({"A": 0.5, "B": 0.5, "C": 0.5}, 10.0),  # the floor
        ({"A": 9000.0}, 3600.0),  # the cap
    ],
)
def test_a_deadline_is_a_multiple_of_the_median_between_floor_and_cap(
    taken: dict[str, float], expected: float
) -> None:
    assert deadlines(taken=taken).seconds(SITES, 0) == expected


def test_a_site_with_the_slowest_link_is_in_time_in_every_round() -> None:
    taken = {"A": 40.0, "B": 45.0, "C": 50.0}
    assert deadlines(taken=taken).seconds(SITES, 50_000_000) == 445.0  # 400 s at 1 Mbit/s


@pytest.mark.parametrize(
    ("half_s", "num_bytes", "expected"),
    [
        (100.0, 0, 300.0),
        (100.1, 0, 301.0),
        (1.0, 0, 10.0),  # the floor
        (100.0, 50_000_000, 500.0),  # 400 s at 1 Mbit/s, and as long as the others for the rest
        (3000.0, 0, 3600.0),  # the cap
    ],
)
def test_after_half_of_the_sites_an_unmeasured_round_has_a_deadline(
    half_s: float, num_bytes: int, expected: float
) -> None:
    assert deadlines().after_half(half_s, num_bytes) == expected
    assert deadlines(factor=0.0).after_half(half_s, num_bytes) == 3600.0


def test_a_round_is_measured_if_one_of_its_sites_was() -> None:
    assert deadlines(taken={"C": 1.0}).measured(SITES)
    assert not deadlines(taken={"D": 1.0}).measured(SITES)


def test_the_last_reply_counts() -> None:
    measured = deadlines(taken={"A": 100.0})
    measured.learn("A", 20.0)
    assert measured.seconds(SITES, 0) == 60.0


def test_the_cap_wins_over_the_floor_and_factor_0_leaves_only_the_cap() -> None:
    assert deadlines(most_s=5.0, taken={"A": 1.0}).seconds(SITES, 0) == 5.0
    assert deadlines(factor=0.0, taken={"A": 1.0}).seconds(SITES, 0) == 3600.0
