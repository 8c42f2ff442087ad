"""Who is admitted, and what is said of the others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from climb_model.runs import RunError
from server.admission import Admission, Terms
from server.hello import first_exchange

FINGERPRINT = {"vision": "a" * 64, "text": "b" * 64}
TERMS = Terms(
    version="0.2.0", versions={"torch": "2.13.0", "flwr": "1.41.0"}, fingerprint=FINGERPRINT, settings="cafe"
)


def exchange(nodes: Any, terms: Terms = TERMS) -> Admission:
    return first_exchange(
        nodes.grid,
        terms,
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
    assert admission.warnings == ()
    told = admission.handshake["A"]
    assert told.pop("clock_offset_s") == pytest.approx(0.0, abs=5.0)
    assert told == {
        "version": "0.2.0",
        "versions": {"python": "3.11.9", "torch": "2.13.0+cpu", "flwr": "1.41.0"},
        "data": {"splits": {"train": {"exams": 20, "patients": 12}}, "lacking": {"T2": 3}, "left_out": 1},
    }


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
        "B": "site 'B' differs in the report encoder's weights (dddddddddddd, the coordinator's is "
        "bbbbbbbbbbbb): compare the folder --weights with the coordinator's",
        "C": "site 'C' differs in more (ffffffffffff, the coordinator's is none): give it the coordinator's "
        "version of the image; it differs in the slice encoder's weights (eeeeeeeeeeee, the coordinator's is "
        "aaaaaaaaaaaa): compare the folder --weights with the coordinator's",
    }


def test_a_site_with_other_settings_is_refused(nodes: Any) -> None:
    group = nodes("A", "B")
    group.says[2]["settings"] = "beef"
    assert reasons(exchange(group)) == {
        "A": "site 'A' differs in settings (beef, the coordinator's are cafe): give it the coordinator's "
        "version of the image"
    }


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("0.1.0", "runs climb-federated 0.1.0, the study needs 0.2.0: upgrade its image"),
        (
            "0.10.0",
            "runs climb-federated 0.10.0, newer than the coordinator's 0.2.0: upgrade the coordinator, or "
            "give the site the image of 0.2.0",
        ),
    ],
)
def test_a_site_of_another_version_is_told_who_must_upgrade(nodes: Any, version: str, told: str) -> None:
    group = nodes("A", "B")
    group.says[2] |= {"version": version, "settings": "beef"}
    assert reasons(exchange(group)) == {"A": f"site 'A' {told}"}


def test_a_site_from_before_versions_were_told_is_told_to_upgrade(nodes: Any) -> None:
    group = nodes("A", "B")
    for word in ("version", "versions", "summary", "clock"):
        del group.says[2][word]
    assert reasons(exchange(group)) == {
        "A": "site 'A' runs an older climb-federated than 0.2.0: upgrade its image"
    }


def test_another_minor_version_of_a_library_is_told_and_no_reason_to_refuse(nodes: Any) -> None:
    group = nodes("A", "B")
    group.says[2]["versions"] = json.dumps({"torch": "2.12.1", "flwr": "1.41.9", "python": "3.12.0"})
    admission = exchange(group)
    assert set(admission.sites.values()) == {"A", "B"}
    assert admission.warnings == (
        "site 'A' has torch 2.12.1, the coordinator 2.13.0: results can differ by rounding",
    )


def test_a_program_that_does_not_know_its_version_is_told_and_not_refused(nodes: Any) -> None:
    group = nodes("A")
    group.says[2]["version"] = "unknown"
    admission = exchange(group)
    assert set(admission.sites.values()) == {"A"}
    assert admission.warnings == ("site 'A' or the coordinator does not know its version of climb-federated",)


def test_a_clock_ahead_is_refused_and_one_behind_is_told(nodes: Any) -> None:
    group = nodes("A", "B", "C")
    group.says[2]["clock"] += 60.0
    group.says[3]["clock"] -= 600.0
    group.says[4]["clock"] += 2.0
    admission = exchange(group)
    assert set(admission.sites.values()) == {"B", "C"}
    [line] = reasons(admission).values()
    assert line.startswith("site 'A' has a clock that is 60 s ahead of the coordinator's, at most 5 s wanted")
    [warning] = admission.warnings
    assert warning.startswith("site 'B' has a clock that is about 600 s behind the coordinator's")


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
        {"versions": "[]"},
        {"versions": "[" * 4000},
        {"versions": '{"a":' + "[" * 900 + "]" * 900 + "}"},
        {"versions": json.dumps({"torch": 2})},
        {"summary": '{"a":' + "[" * 3900},
        {"clock": float("nan")},
        {"clock": 5},
        {"summary": "{}" * 3000},
        {"summary": json.dumps({"patients": ["Meier"]})},
        {"summary": json.dumps({"exams": -1})},
        {"summary": json.dumps({"exams": {"a": {"b": {"c": 1}}}})},
        {"summary": json.dumps({"exams": True})},
        {"summary": json.dumps({"x" * 65: 1})},
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


@pytest.fixture
def members(tmp_path: Path) -> Path:
    """Records of the sites A (node 2), B (3) and C (4), as `climb-server admit` leaves them."""
    for node, name in ((2, "A"), (3, "B"), (4, "C")):
        values = {"name": name, "state": "admitted", "node": node}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def test_a_registered_site_has_its_own_name_alone(nodes: Any, members: Path) -> None:
    """Of C, whether A is there or not; and A takes part in spite of it."""
    terms = replace(TERMS, members=members)
    group = nodes("A", "B", "C")
    group.says[4]["site"] = "A"
    words = "site 'C' says that it is 'A': its site.yaml must name it as its key is admitted"
    admission = exchange(group, terms)
    assert admission.sites == {2: "A", 3: "B"}
    assert reasons(admission) == {"C": words}
    assert admission.refused == {4}
    del group.says[2]
    group.replace[2] = lambda _: RecordDict({"refused": ConfigRecord({"site": "B", "refused": "no"})})
    admission = exchange(group, terms)
    assert admission.sites == {3: "B"}
    assert reasons(admission) == {"A": "no", "C": words}


def test_a_node_that_is_not_registered_takes_no_part(nodes: Any, members: Path) -> None:
    group = nodes("A", "B", "C")
    (members / "A.yaml").unlink()
    (members / "B.yaml").write_text("name: B\nstate: revoked\nnode: 3\n")
    admission = exchange(group, replace(TERMS, members=members))
    assert admission.sites == {4: "C"}
    line = "a node is not registered as a site that is admitted (climb-server sites)"
    assert reasons(admission) == {"node-2": line, "node-3": line}


def test_a_registered_site_that_fails_is_told_by_its_name(nodes: Any, members: Path) -> None:
    def fail(_: object) -> RecordDict:
        raise ValueError("/secret/path")

    group = nodes("A", "B", "C")
    group.replace[2] = fail
    group.says[3]["clock"] = 5
    assert reasons(exchange(group, replace(TERMS, members=members))) == {
        "A": "site 'A' failed at the first exchange (Flower error 2)",
        "B": "site 'B' answered the first exchange with clock 5, expected seconds",
    }


def test_nobody_there_is_one_clear_line(nodes: Any) -> None:
    with pytest.raises(RunError, match="no site connected within 0 s, 2 expected"):
        first_exchange(
            nodes().grid,
            TERMS,
            num_sites=2,
            max_exams=10,
            wait_s=0.0,
            timeout_s=1.0,
        )
