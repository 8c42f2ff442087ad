"""Sites that come later are asked between rounds and take part from the next one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.admission import Terms
from server.newcomers import Newcomers

FINGERPRINT = {"vision": "a" * 64, "text": "b" * 64}
TERMS = Terms(version="0.2.0", versions={}, fingerprint=FINGERPRINT, settings="cafe")


@pytest.fixture
def group(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Three nodes A, B, C, of which only those in `there` are connected."""
    group = nodes("A", "B", "C")
    group.there = {2}
    monkeypatch.setattr(group.grid, "get_node_ids", lambda: sorted(group.there))
    return group


def test_a_new_node_is_asked_at_one_look_and_admitted_at_the_next(group: Any) -> None:
    newcomers = Newcomers(group.grid, TERMS, 1000, refused=())
    assert newcomers.look({2: "A"}).sites == {}
    group.there = {2, 3}
    assert newcomers.look({2: "A"}).sites == {}
    joined = newcomers.look({2: "A"})
    assert joined.sites == {3: "B"}
    assert joined.exams == {"B": 30}
    assert newcomers.look({2: "A", 3: "B"}).sites == {}


def test_one_that_does_not_fit_is_told_once_and_asked_again_after_it_was_away(group: Any) -> None:
    group.says[3]["settings"] = "beef"
    newcomers = Newcomers(group.grid, TERMS, 1000, refused=())
    group.there = {2, 3}
    newcomers.look({2: "A"})
    [rejected] = newcomers.look({2: "A"}).rejected
    assert rejected.site == "B"
    assert newcomers.look({2: "A"}).rejected == newcomers.look({2: "A"}).rejected == ()
    group.there = {2}
    newcomers.look({2: "A"})
    group.there, group.says[3]["settings"] = {2, 3}, "cafe"
    newcomers.look({2: "A"})
    assert newcomers.look({2: "A"}).sites == {3: "B"}


def test_one_that_the_first_exchange_refused_is_not_asked_while_it_stays(group: Any) -> None:
    newcomers = Newcomers(group.grid, TERMS, 1000, refused=[3])
    group.there = {2, 3}
    for _ in range(3):
        assert newcomers.look({2: "A"}).sites == {}


def test_a_name_that_is_taken_is_refused(group: Any) -> None:
    group.says[3]["site"] = "A"
    newcomers = Newcomers(group.grid, TERMS, 1000, refused=())
    group.there = {2, 3}
    newcomers.look({2: "A"})
    [rejected] = newcomers.look({2: "A"}).rejected
    assert rejected.reason == "another site named 'A' takes part; give one another name"


def test_a_clock_is_not_judged_when_nobody_knows_when_the_answer_came(group: Any) -> None:
    group.says[3] |= {"clock": 0.0, "versions": json.dumps({})}
    newcomers = Newcomers(group.grid, TERMS, 1000, refused=())
    group.there = {2, 3}
    newcomers.look({2: "A"})
    joined = newcomers.look({2: "A"})
    assert joined.sites == {3: "B"}
    assert joined.warnings == ()
    assert joined.handshake["B"]["clock_offset_s"] is None
