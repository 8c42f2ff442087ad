"""Who is admitted, and what is said of the others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from climb_model.runs import RunError
from server.hello import Admission, first_exchange

FINGERPRINT = {"vision": "a" * 64, "text": "b" * 64}


def exchange(nodes: Any) -> Admission:
    return first_exchange(
        nodes.grid,
        fingerprint=FINGERPRINT,
        settings="cafe",
        num_sites=len(nodes.says),
        max_exams=1000,
        wait_s=0.0,
        timeout_s=5.0,
    )


def reasons(admission: Admission) -> dict[str, str]:
    return {entry.site: entry.reason for entry in admission.rejected}


def test_sites_that_fit_are_admitted_with_their_exams_sorted_by_name(nodes: Any) -> None:
    group = nodes("C", "A", "B")
    group.says[3]["notices"] = ["3 exams without a report left out"]
    admission = exchange(group)
    assert admission.sites == {2: "C", 3: "A", 4: "B"}
    assert list(admission.exams.items()) == [("A", 30), ("B", 40), ("C", 20)]
    assert admission.notices == {"A": ("3 exams without a report left out",), "B": (), "C": ()}
    assert admission.rejected == ()


def test_two_sites_of_one_name_are_both_refused(nodes: Any) -> None:
    admission = exchange(nodes("A", "B", "A"))
    assert admission.sites == {3: "B"}
    assert [(entry.site, entry.reason) for entry in admission.rejected] == [
        ("A", "2 sites are named 'A'; none of them can take part")
    ]


def test_a_site_with_another_encoder_is_refused_and_the_part_is_named(nodes: Any) -> None:
    group = nodes("A", "B", "C")
    group.says[3]["fingerprint"] = json.dumps({**FINGERPRINT, "text": "d" * 64})
    group.says[4]["fingerprint"] = json.dumps(
        {"vision": "e" * 64, "text": FINGERPRINT["text"], "more": "f" * 64}
    )
    admission = exchange(group)
    assert set(admission.sites.values()) == {"A"}
    assert reasons(admission) == {
        "B": "site 'B' differs in text (dddddddddddd, the server's is bbbbbbbbbbbb)",
        "C": "site 'C' differs in more (ffffffffffff, the server's is none), "
        "vision (eeeeeeeeeeee, the server's is aaaaaaaaaaaa)",
    }


def test_a_site_with_other_settings_is_refused(nodes: Any) -> None:
    group = nodes("A", "B")
    group.says[2]["settings"] = "beef"
    assert reasons(exchange(group)) == {"A": "site 'A' differs in settings (beef, the server's are cafe)"}


@pytest.mark.parametrize(
    "change",
    [
        {"num-examples": 0},
        {"num-examples": 1001},
        {"num-examples": 2.5},
        {"num-examples": [3]},
        {"site": "../A"},
        {"site": "A\nB"},
        {"site": 5},
        {"fingerprint": "no json"},
        {"fingerprint": "[1]"},
        {"fingerprint": 1},
        {"settings": 3},
        {"notices": "text"},
        {"notices": [1, 2]},
        {"secret": "words"},
    ],
)
def test_an_answer_that_is_not_as_agreed_is_refused(nodes: Any, change: dict[str, Any]) -> None:
    group = nodes("A", "B")
    group.says[2].update(change)
    admission = exchange(group)
    assert admission.sites == {3: "B"}
    [rejected] = admission.rejected
    assert rejected.site == "node-2"
    assert rejected.reason.startswith("a node answered the first exchange with")
    assert "\n" not in rejected.reason


def test_missing_or_further_records_are_refused(nodes: Any) -> None:
    group = nodes("A", "B", "C")
    whole = group.content(group.says[2])
    group.replace[2] = lambda _: RecordDict({"hello": whole["hello"]})
    group.replace[3] = lambda _: RecordDict({**whole, "more": MetricRecord({"patients": 3})})
    admission = exchange(group)
    assert admission.sites == {4: "C"}
    assert set(reasons(admission)) == {"node-2", "node-3"}


def test_a_site_that_refuses_is_told_under_its_name(nodes: Any) -> None:
    group = nodes("A", "B", "C")
    group.replace[2] = lambda _: RecordDict(
        {"refused": ConfigRecord({"site": "A", "refused": "site 'A' has no exam"})}
    )
    group.replace[3] = lambda _: RecordDict({"refused": ConfigRecord({"site": "../x", "refused": "no"})})
    assert reasons(exchange(group)) == {"A": "site 'A' has no exam", "node-3": "no"}


def test_a_node_that_fails_is_told_without_its_words(nodes: Any) -> None:
    def fail(_: object) -> RecordDict:
        raise ValueError("/secret/path")

    group = nodes("A", "B")
    group.replace[2] = fail
    assert reasons(exchange(group)) == {"node-2": "a node failed at the first exchange (Flower error 2)"}


def test_nobody_there_is_one_clear_line(nodes: Any) -> None:
    with pytest.raises(RunError, match="no site connected within 0 s, 2 expected"):
        first_exchange(
            nodes().grid,
            fingerprint=FINGERPRINT,
            settings="cafe",
            num_sites=2,
            max_exams=10,
            wait_s=0.0,
            timeout_s=1.0,
        )
