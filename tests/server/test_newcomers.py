"""Sites that come later are asked between rounds and take part from the next one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message
from flwr.superlink.grid import HttpGrid

from server.admission import Terms
from server.newcomers import Newcomers
from simulation.local_grid import LocalGrid
from strategies import post

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


class Wire(HttpGrid):
    """The group's nodes behind a SuperLink."""

    def __init__(self, inner: LocalGrid) -> None:
        self._inner = inner

    def get_node_ids(self) -> list[int]:
        return list(self._inner.get_node_ids())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return list(self._inner.push_messages(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return list(self._inner.pull_messages(message_ids))


def test_a_clock_is_judged_by_when_the_answer_came_not_by_when_it_is_read(
    group: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two lies a round."""
    now = time.time()
    group.says[2] |= {"clock": now + 60.0}
    group.says[3] |= {"clock": now - 600.0}
    group.says[4] |= {"clock": now}
    group.there = {2, 3, 4}
    newcomers = Newcomers(Wire(group.grid), TERMS, 1000, refused=())
    newcomers.look({})
    monkeypatch.setattr("server.newcomers.time", SimpleNamespace(time=lambda: now + 3600.0))
    joined = [newcomers.look({})]
    while sum(len(one.sites) + len(one.rejected) for one in joined) < 3:
        assert time.time() < now + 20.0
        time.sleep(0.02)
        joined.append(newcomers.look({}))
    sites = {node: site for one in joined for node, site in one.sites.items()}
    assert sites == {3: "B", 4: "C"}
    [rejected] = [entry for one in joined for entry in one.rejected]
    assert rejected.reason.startswith("site 'A' has a clock that is ")
    [warning] = [line for one in joined for line in one.warnings]
    assert warning.startswith("site 'B' has a clock that is about 6")
    [offset] = [one.handshake["C"]["clock_offset_s"] for one in joined if "C" in one.handshake]
    assert isinstance(offset, float)
    assert abs(offset) < 30.0


def test_a_clock_is_not_judged_where_nobody_knows_when_the_answer_came(group: Any) -> None:
    group.says[3] |= {"clock": 0.0}
    newcomers = Newcomers(group.grid, TERMS, 1000, refused=())
    group.there = {2, 3}
    newcomers.look({2: "A"})
    joined = newcomers.look({2: "A"})
    assert joined.sites == {3: "B"}
    assert joined.warnings == ()
    assert joined.handshake["B"]["clock_offset_s"] is None


def test_a_registered_name_counts_as_it_is_when_the_answer_is_read(group: Any, tmp_path: Path) -> None:
    """B is admitted during the study, and C says that it is A."""

    def admit(node: int, name: str) -> None:
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\nstate: admitted\nnode: {node}\n")

    admit(2, "A")
    admit(4, "C")
    newcomers = Newcomers(group.grid, replace(TERMS, members=tmp_path), 1000, refused=())
    group.says[4]["site"] = "A"
    group.there = {2, 3, 4}
    newcomers.look({2: "A"})
    admit(3, "B")
    joined = newcomers.look({2: "A"})
    assert joined.sites == {3: "B"}
    [rejected] = joined.rejected
    assert (rejected.site, rejected.reason.partition(":")[0]) == ("C", "site 'C' says that it is 'A'")


def test_a_site_with_a_new_key_takes_the_place_of_its_revoked_one(group: Any, tmp_path: Path) -> None:
    (tmp_path / "A.yaml").write_text("name: A\nstate: admitted\nnode: 3\n")
    newcomers = Newcomers(group.grid, replace(TERMS, members=tmp_path), 1000, refused=())
    group.says[3]["site"] = "A"
    group.there = {3}
    newcomers.look({2: "A"})
    assert newcomers.look({2: "A"}).sites == {3: "A"}


def test_over_a_network_an_upload_holds_up_no_look_and_one_that_cannot_be_read_ends_nothing(
    group: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B's upload hangs, C's reply is no message; A's comes."""
    hanging, pull, nodes = threading.Event(), group.grid.pull_messages, {}
    push = group.grid.push_messages

    def pushed(messages: Any) -> list[str]:
        names = list(push(messages))
        nodes.update(zip(names, (message.metadata.dst_node_id for message in messages), strict=True))
        return names

    def pulled(names: list[str]) -> list[Any]:
        node = nodes[names[0]]
        if node == 3:
            hanging.wait(30)
        if node == 4:
            raise ValueError("/secret")
        return list(pull(names)) if node == 2 else []

    monkeypatch.setattr(post, "is_remote", lambda _: True)
    monkeypatch.setattr(group.grid, "push_messages", pushed)
    monkeypatch.setattr(group.grid, "pull_messages", pulled)
    group.there = {2, 3, 4}
    newcomers = Newcomers(group.grid, TERMS, 1000, refused=())
    found: dict[int, str] = {}
    reasons: list[str] = []
    try:
        end = time.monotonic() + 10.0
        while (len(found) < 1 or not reasons) and time.monotonic() < end:
            before = time.monotonic()
            admission = newcomers.look(found)
            assert time.monotonic() - before < 5.0
            found |= admission.sites
            reasons += [entry.reason for entry in admission.rejected]
            time.sleep(0.02)
    finally:
        hanging.set()
    assert found == {2: "A"}
    assert reasons == ["a node sent what cannot be read (ValueError)"]
    assert newcomers.look(found).rejected == ()  # and is not asked again while it stays
