"""No word of the first exchange, no notice and no refusal is free text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto

from client.audit import read_log
from client.egress.policy import default_policy
from climb_model.made_by import library_versions, program_version
from configs.load import load_settings, settings_hash

MARKER = "Geheimwort4711"
SUMMARY: dict[str, Any] = {
    "splits": {"train": {"exams": 70, "patients": 35}, "val": {"exams": 0, "patients": 0}, "test": {}},
    "lacking": {"Pre": 0, "Sub": 1, "T2": 2},
    "left_out": 3,
}


def hello(**changed: Any) -> RecordDict:
    """A first exchange as this program writes it, but for what is changed."""
    words = {
        "site": "Klinik",
        "version": program_version(),
        "versions": json.dumps(library_versions()),
        "fingerprint": json.dumps({"vision": "ab" * 32, "language_model": ""}),
        "settings": settings_hash(load_settings("debug")),
        "summary": json.dumps(SUMMARY),
        "notices": ["2 exams lack a sequence", "3 of 5210 report tokens unknown"],
    }
    return RecordDict({"hello": ConfigRecord(words | changed), "metrics": MetricRecord({"num-examples": 40})})


@pytest.fixture
def open_door(door: Any) -> Any:
    """With the words of the default policy."""
    return door.having(words=default_policy(()).words, studies=("*",), presets=("*",))


def test_what_this_program_writes_leaves_as_it_is(open_door: Any) -> None:
    assert open_door.passes(hello(), message="query.hello", behind=None)
    assert open_door.passes(hello(version="unknown", notices=[]), message="query.hello", behind=None)
    assert open_door.passes(hello(version="0.1.0rc1.dev3+g12ab"), message="query.hello", behind=None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", MARKER),
        ("version", "1.0 Frau Meier"),
        ("versions", "free text"),
        ("versions", json.dumps({"python": MARKER})),
        ("versions", json.dumps({MARKER: "1.0"})),
        ("versions", json.dumps({"python": ["1.0"]})),
        ("versions", "{}"),
        ("versions", json.dumps(library_versions(), separators=(",  ", ": "))),
        ("fingerprint", MARKER),
        ("fingerprint", json.dumps({"vision": MARKER})),
        ("fingerprint", json.dumps({"Frau Meier": "ab"})),
        ("fingerprint", '{"vision": "ab", "vision": "cd"}'),
        ("settings", MARKER),
        ("summary", f"{MARKER}, 12.3.1960, Karzinom rechts"),
        ("summary", json.dumps(SUMMARY | {"more": 1})),
        ("summary", json.dumps(SUMMARY | {"left_out": MARKER})),
        ("summary", json.dumps(SUMMARY | {"left_out": 10**30})),
        ("summary", json.dumps(SUMMARY | {"left_out": True})),
        ("summary", json.dumps(SUMMARY | {"lacking": {MARKER: 1}})),
        ("summary", json.dumps(SUMMARY | {"splits": {MARKER: {"exams": 1}}})),
        ("summary", json.dumps(SUMMARY | {"splits": {"train": {"exams": 1.5}}})),
        ("summary", json.dumps(SUMMARY | {"splits": [1]})),
        ("summary", "[" * 2900),
    ],
)
def test_free_text_in_the_place_of_a_hash_or_a_count_stays(open_door: Any, key: str, value: str) -> None:
    line = open_door.line(hello(**{key: value}), message="query.hello", behind=None)
    assert line == f"site 'Klinik': its policy wants '{key}' in this program's own form"
    assert MARKER not in str(read_log(open_door.private))


def test_sequences_are_the_studys_own(open_door: Any) -> None:
    other = hello(summary=json.dumps(SUMMARY | {"lacking": {"Post_1": 1}}))
    assert "'summary'" in open_door.line(other, message="query.hello", behind=None)
    overrides = json.dumps(["data.sequences=[Pre, Post_1]"])
    assert open_door.passes(other, message="query.hello", behind=None, overrides=overrides)


def test_notices_that_are_not_this_programs_are_withheld_and_counted(open_door: Any) -> None:
    notices = ["2 exams lack a sequence", f"{MARKER} " * 400, 5, "3 exams lack a sequence of Frau Meier"]
    content = hello(notices=[str(each) for each in notices])
    left = open_door.check(content, message="query.hello", behind=None)
    assert left["hello"]["notices"] == ["2 exams lack a sequence", "3 notices withheld"]
    assert {**left["hello"], "notices": ()} == {**content["hello"], "notices": ()}
    assert left["metrics"] == content["metrics"]
    [entry] = read_log(open_door.private)
    assert (entry.kind, entry.fields["withheld"]) == ("sent", 3)
    assert entry.fields["words"]["notices"] == left["hello"]["notices"]  # type: ignore[index]
    assert MARKER not in str(entry) + str(left)


def refused(line: str) -> RecordDict:
    return RecordDict({"refused": ConfigRecord({"site": "Klinik", "refused": line})})


@pytest.mark.parametrize(
    ("line", "passes"),
    [
        ("site 'Klinik': failed with ValueError; its own log says more", True),
        ("site 'Klinik' has no usable exam in split 'train'", True),
        ("another process (17) works with the exams of site 'Klinik'", True),
        ("site 'Klinik': the server sent 'fusion.w' with shape (2, 2), expected (3,)", True),
        ("site 'Klinik': weights of 'builtin:filters' are missing", True),
        ("site 'Klinik': the server sent 'Geheimwort4711' with shape (2, 2), expected (3,)", False),
        ("site 'Klinik': weights of 'Geheimwort4711' are missing", False),
        ("site 'Anna': failed with ValueError; its own log says more", False),
        ("site 'Klinik': failed with Geheimwort4711; its own log says more", False),
        (f"Karzinom rechts {'x' * 270}", False),
        ("", False),
    ],
)
def test_a_refusal_that_is_not_this_programs_is_withheld(open_door: Any, line: str, passes: bool) -> None:
    content = refused(line)
    left = open_door.check(content, behind=None, agreed={"fusion.w": (2, 2)})
    [entry] = read_log(open_door.private)
    assert entry.kind == "sent"
    if passes:
        assert left is content
        assert entry.fields["withheld"] == 0
    else:
        assert dict(left["refused"]) == {
            "site": "Klinik",
            "refused": "site 'Klinik': refused; its own log says more",
        }
        assert entry.fields["withheld"] == 1
        assert MARKER.encode() not in recorddict_to_proto(left).SerializeToString()


def test_what_is_said_of_impossible_settings_repeats_what_was_sent_and_no_more(open_door: Any) -> None:
    overrides = json.dumps(["training.batch_size=1"])
    told = (
        "site 'Klinik': override: training.batch_size must be >= 2 (one exam has no other to be told from), "
        f"got 1; climb-federated {program_version()} runs here"
    )
    assert open_door.passes(refused(told), behind=None, overrides=overrides)
    other = told.replace("got 1", MARKER)
    left = open_door.check(refused(other), behind=None, overrides=overrides)
    assert MARKER not in str(left)
    for damaged in ("[" * 100_000, "{}", '["a"]', MARKER):
        left = open_door.check(refused(told), behind=None, overrides=damaged)
        assert left["refused"]["refused"] == "site 'Klinik': refused; its own log says more"
    assert all(len(str(entry.fields["overrides"])) <= 4_000 for entry in read_log(open_door.private))
