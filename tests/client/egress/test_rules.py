"""Each rule of a policy: refused, and allowed at its border."""

from __future__ import annotations

import struct
import time
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto

from client.audit import read_log
from client.egress.policy import Minimum
from client.egress.records import read_reply, read_tensor
from client.egress.rules import _KNOWN_PARTS  # pyright: ignore[reportPrivateUsage]
from climb_model.sharing import BEHIND_NUMBERS, PRIVATE_PARTS, REFUSAL, SHARED_PARTS

MARKER = "Geheimwort4711"


def test_what_keeps_all_rules_leaves_as_it_is(door: Any, update: Any, greeting: Any) -> None:
    assert door.passes(update())
    assert door.passes(greeting(), message="query.hello", behind=None)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"coordinator": "cd" * 32}, "does not name this coordinator"),
        ({"study": "other"}, "does not name this study"),
        ({"preset": "climb-code"}, "does not allow preset 'climb-code'"),
        ({"preset": MARKER}, "does not allow this preset"),
        ({"message": "query"}, "knows no message of this kind"),
        ({"message": "evaluate"}, "knows no message of this kind"),
    ],
)
def test_who_asks_for_what(door: Any, update: Any, changed: dict[str, Any], told: str) -> None:
    assert door.line(update(), **changed) == f"site 'Klinik': its policy {told}"


def test_a_star_allows_every_study_and_preset(door: Any, update: Any) -> None:
    free = door.having(studies=("*",), presets=("*",))
    assert free.passes(update(), study="other", preset="climb-code")


def test_a_coordinator_is_known_in_either_spelling(door: Any, update: Any) -> None:
    assert door.passes(update(), coordinator=":".join(["AB"] * 32))


@pytest.mark.parametrize(
    "further",
    [
        {"extra": ConfigRecord({"text": MARKER})},
        {"extra": MetricRecord({"value": 1.0})},
        {"hello": ConfigRecord({"site": "Klinik"})},
        {MARKER: ArrayRecord({"fusion.v": Array(np.ones(2, np.float32))})},
    ],
)
def test_no_further_record(door: Any, update: Any, further: dict[str, Any]) -> None:
    content = RecordDict({**update(), **further})
    assert door.line(content) == "site 'Klinik': its policy does not let a further record leave"


def test_a_record_of_another_kind_in_an_agreed_place(door: Any, update: Any) -> None:
    content = RecordDict({"arrays": update()["arrays"], "metrics": ConfigRecord({"loss": MARKER})})
    assert door.line(content) == "site 'Klinik': its policy does not let a further record leave"


ONES = np.ones((2, 2), np.float32)


@pytest.mark.parametrize(
    ("name", "value", "agreed", "told"),
    [
        ("report_generator.head", ONES, {}, "does not let a further tensor of 'report_generator' leave"),
        (f"report_generator.{MARKER}", ONES, {}, "does not let a further tensor of 'report_generator' leave"),
        (MARKER, ONES, {}, "does not let a further tensor leave"),
        ("fusion.w", ONES, {}, "does not let a further tensor of 'fusion' leave, which was not asked for"),
        ("fusion.w", ONES, None, "does not let a further tensor of 'fusion' leave, which was not asked for"),
        ("fusion.w", ONES, {"fusion.w": (4,)}, "does not let tensor 'fusion.w' leave in this shape"),
        ("log_scale2", ONES, {"log_scale2": (2, 2)}, "does not let tensor 'log_scale2' leave"),
        ("fixed", ONES, {"fixed": (2, 2)}, "does not let tensor 'fixed' leave in this shape"),
        ("fusion.w", ONES.astype(np.float64), {"fusion.w": (2, 2)}, "leave in this type"),
        ("fusion.w", ONES.astype(np.int64), {"fusion.w": (2, 2)}, "leave in this type"),
        ("fusion.w", ONES * np.nan, {"fusion.w": (2, 2)}, "leave: its values are not finite"),
        ("fusion.w", ONES * np.inf, {"fusion.w": (2, 2)}, "leave: its values are not finite"),
    ],
)
def test_tensors(
    door: Any, update: Any, name: str, value: np.ndarray, agreed: dict[str, Any] | None, told: str
) -> None:
    line = door.line(update({name: value}), agreed=agreed)
    assert line.startswith("site 'Klinik': its policy")
    assert line.endswith(told)


@pytest.mark.parametrize(
    ("name", "value", "agreed"),
    [
        ("fixed", np.ones((2, 3), np.float32), None),
        ("log_scale", np.array(3.0, np.float32), None),
        ("fusion.a", np.ones((2, 3), np.float16), {"fusion.a": (2, 3)}),
        ("fusion.a", np.full((2,), 3e38, np.float32), {"fusion.a": (2,)}),
        ("fusion.a", np.ones((0, 3), np.float32), {"fusion.a": (0, 3)}),
        ("fusion.a", np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)), {"fusion.a": (2, 3)}),
    ],
)
def test_tensors_that_may_leave(door: Any, update: Any, name: str, value: np.ndarray, agreed: Any) -> None:
    assert door.passes(update({name: value}), agreed=agreed)


def hidden(kind: str) -> Array:
    """An array in whose bytes something hides."""
    plain = Array(ONES)
    if kind == "behind":
        return Array(dtype="float32", shape=(2, 2), stype="numpy.ndarray", data=plain.data + MARKER.encode())
    if kind == "header":
        length = struct.unpack("<H", plain.data[8:10])[0]
        header = plain.data[10 : 10 + length].replace(b" " * len(MARKER), MARKER.encode(), 1)
        return Array("float32", (2, 2), "numpy.ndarray", plain.data[:10] + header + plain.data[10 + length :])
    if kind == "stype":
        return Array("float32", (2, 2), MARKER, plain.data)
    if kind == "shape":
        return Array("float32", (4,), "numpy.ndarray", plain.data)
    return Array("float32", (2, 2), "numpy.ndarray", MARKER.encode())


@pytest.mark.parametrize("kind", ["behind", "header", "stype", "shape", "nothing"])
def test_bytes_that_are_not_exactly_one_array(door: Any, update: Any, kind: str) -> None:
    line = door.line(
        update({"fusion.w": hidden(kind)}), agreed={"fusion.w": (4,) if kind == "shape" else (2, 2)}
    )
    assert line == "site 'Klinik': its policy does not let tensor 'fusion.w' leave: it is no plain array"


@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,), (2, 3), (3, 1, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_what_numpy_writes_is_one_array(shape: tuple[int, ...], dtype: type) -> None:
    value = np.full(shape, 2.0, dtype)
    tensor = read_tensor("w", Array(value))
    assert tensor.norm == pytest.approx(2 * value.size**0.5)


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ({"accession": 4711}, "does not let a further number leave"),
        ({MARKER: 1}, "does not let a further number leave"),
        ({"loss": float("nan")}, "wants one finite number as 'loss'"),
        ({"loss": float("inf")}, "wants one finite number as 'loss'"),
        ({"loss": [1.0, 2.0]}, "wants one finite number as 'loss'"),
    ],
)
def test_numbers(door: Any, update: Any, numbers: dict[str, Any], told: str) -> None:
    assert door.line(update(None, **numbers)) == f"site 'Klinik': its policy {told}"


MANY = "lets at most 40 characters leave as 'notices'"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"report": MARKER}, "does not let a further word leave"),
        ({MARKER: "x"}, "does not let a further word leave"),
        ({"notices": ["20 exams lack a sequence", "3 notices withheld"]}, MANY),
        ({"notices": ["2 exams lack a sequence"] * 2}, MANY),
        ({"notices": b"bytes"}, "wants lines as 'notices'"),
        ({"notices": 5}, "wants lines as 'notices'"),
        ({"notices": "2 exams lack a sequence"}, "wants lines as 'notices'"),
        ({"site": ["Klinik"]}, "wants one text as 'site'"),
        ({"site": 5}, "wants text as 'site'"),
        ({"site": "PAT4711"}, "lets no other name leave than the site's own"),
    ],
)
def test_words(door: Any, greeting: Any, words: dict[str, Any], told: str) -> None:
    line = door.line(greeting(**words), message="query.hello", behind=None)
    assert line == f"site 'Klinik': its policy {told}"


def test_words_at_their_length(door: Any, greeting: Any) -> None:
    told = ["2000 exams lack a sequence"]
    roomy = door.having(words={"hello": {"site": 6, "notices": len(told[0])}, "refused": {}})
    assert roomy.passes(greeting(notices=told), message="query.hello", behind=None)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (None, "wants to know how many exams are behind an update"),
        ({"num-steps": None}, "wants to know how many optimizer steps are behind an update"),
        ({"num-tokens": True}, "wants to know how many report tokens are behind"),
        ({"num-batch-tokens": 384.0}, "wants to know how many report tokens in every step are behind"),
        ({"num-exams": 31}, "wants at least 32 exams behind an update"),
        ({"num-tokens": 383}, "wants at least 384 report tokens behind"),
        ({"num-batch-tokens": 383}, "wants at least 384 report tokens in every step behind"),
        ({"num-steps": 1}, "wants at least 2 optimizer steps behind"),
    ],
)
def test_the_minimum_behind_an_update(
    door: Any, update: Any, behind: dict[str, int], changed: Any, told: str
) -> None:
    facts = None if changed is None else behind | changed
    assert told in door.line(update(), behind=facts)


def test_a_site_may_choose_another_minimum(door: Any, update: Any) -> None:
    few = {"num-exams": 4, "num-tokens": 10, "num-batch-tokens": 5, "num-steps": 1}
    least = Minimum(exams=4, tokens=10, batch_tokens=5, steps=1)
    assert door.having(minimum=least).passes(update(), behind=few)


def test_bytes_of_a_reply(door: Any, update: Any) -> None:
    size = read_reply(update()).num_bytes
    assert door.having(bytes_per_round=size).passes(update())
    line = door.having(bytes_per_round=size - 1).line(update())
    assert line == f"site 'Klinik': its policy lets at most {size - 1} bytes leave in a reply"


def test_the_count_of_bytes_is_that_of_the_wire_but_for_its_wrapping(update: Any, greeting: Any) -> None:
    for content in (update({"fusion.w": np.ones((300, 300), np.float32)}), greeting()):
        wire = len(recorddict_to_proto(content).SerializeToString())
        assert abs(read_reply(content).num_bytes - wire) < 150


TOLD = "site 'Klinik': failed with ValueError; its own log says more"


def refusal(**words: Any) -> RecordDict:
    return RecordDict({"refused": ConfigRecord({"site": "Klinik", "refused": TOLD} | words)})


def test_a_refusal_leaves_without_facts_behind_it(door: Any) -> None:
    for kind in ("train", "query.hello"):
        assert door.passes(refusal(), message=kind, behind=None)
    assert door.passes(refusal(site=""), behind=None)
    assert door.having(bytes_per_round=0, rounds_per_day=0).passes(refusal(), behind=None)


def test_a_refusal_of_the_studys_program_counts_and_one_in_the_sites_own_words_does_not(door: Any) -> None:
    told = refusal(refused="site 'Klinik': is paused by its admin: Umbau")
    few = door.having(messages_per_day=2)
    for _ in range(3):
        assert few.passes(told, behind=None, own_line=True)
    assert few.passes(refusal(), behind=None)
    assert few.passes(refusal(), behind=None)
    assert few.line(refusal(), behind=None) == (
        "site 'Klinik': its policy lets at most 2 messages leave in 24 hours"
    )
    assert few.passes(told, behind=None, own_line=True)
    assert "lets at most 0 bytes leave in a run" in door.having(bytes_per_run=0).line(refusal(), behind=None)


@pytest.mark.parametrize(
    "words", [{"text": MARKER}, {"site": MARKER}, {"refused": f"{TOLD}{TOLD}"}, {"refused": [TOLD]}]
)
@pytest.mark.parametrize("own_line", [True, False])
def test_a_refusal_holds_no_more_than_the_policy_says(
    door: Any, words: dict[str, Any], own_line: bool
) -> None:
    tight = door.having(words={"hello": {}, "refused": {"site": 64, "refused": len(TOLD)}})
    left = tight.check(refusal(**words), behind=None, own_line=own_line)
    line = str(left["refused"]["refused"])
    assert "its policy" in line or line == "site 'Klinik': refused; its own log says more"
    assert MARKER not in str(left)


def test_a_policy_may_forbid_even_the_line_of_a_refusal(door: Any, update: Any) -> None:
    silent = door.having(words={"hello": {}, "refused": {"site": 64}})
    assert dict(silent.check(update(), study="other")["refused"]) == {"site": "Klinik"}


PLANTED = [
    RecordDict({MARKER: MetricRecord({MARKER: 1})}),
    RecordDict({"arrays": ArrayRecord({f"fusion.{MARKER}": Array(np.ones(2, np.float32))})}),
    RecordDict({"arrays": ArrayRecord({MARKER: Array(MARKER, (2,), MARKER, MARKER.encode())})}),
    RecordDict({"metrics": MetricRecord({MARKER: [1, 2]})}),
    RecordDict({"hello": ConfigRecord({MARKER: [MARKER], "site": MARKER})}),
    RecordDict({"hello": ConfigRecord({"notices": MARKER.encode()})}),
    RecordDict({"refused": ConfigRecord({"refused": f"{MARKER}\x00", "site": MARKER})}),
]


@pytest.mark.parametrize("content", PLANTED)
@pytest.mark.parametrize("kind", ["train", "query.hello", MARKER])
def test_what_leaves_in_the_place_of_a_reply_holds_nothing_of_it(
    door: Any, content: RecordDict, kind: str
) -> None:
    left = door.check(content, message=kind, agreed={}, study=MARKER, preset=MARKER, coordinator=MARKER)
    assert MARKER.encode() not in recorddict_to_proto(left).SerializeToString()
    left = door.check(content, message=kind, agreed={})
    assert left is not content
    assert MARKER.encode() not in recorddict_to_proto(left).SerializeToString()


def test_values_of_what_was_stopped_are_not_in_the_log_either(door: Any, greeting: Any) -> None:
    door.line(greeting(report=MARKER, notices=MARKER), message="query.hello")
    [entry] = read_log(door.private)
    assert MARKER not in str(entry.fields)
    assert entry.fields["words"] == ["site", "notices", "report"]
    assert (entry.kind, entry.fields["rule"], entry.fields["detail"]) == ("refused", "words", "notices")


@pytest.mark.parametrize("shape", [(1,) * 33, (1,) * 40_000, (2**70,), (-1,)])
def test_a_tensor_of_an_impossible_shape_is_refused_and_logged(
    door: Any, update: Any, shape: tuple[int, ...]
) -> None:
    array = Array("float32", shape, "numpy.ndarray", b"xx")
    line = door.line(update({"log_scale": array}), agreed={"log_scale": shape})
    assert line.startswith("site 'Klinik': its policy does not let tensor 'log_scale' leave")
    [entry] = read_log(door.private)
    assert len(entry.fields["tensors"][0]["shape"]) <= 33  # type: ignore[index]


def test_a_reply_that_cannot_be_read_is_refused_and_logged(
    door: Any, update: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RecursionError(MARKER)

    for place in ("egress.read_reply", "egress.broken_rule"):
        with monkeypatch.context() as patch:
            patch.setattr(f"client.egress.{place}", _first_time(place, fail))
            assert door.line(update()) == "site 'Klinik': its policy wants a reply that can be read"
    kinds = [(entry.kind, entry.fields["rule"]) for entry in read_log(door.private)]
    assert kinds == [("refused", "records")] * 2
    assert MARKER not in str(read_log(door.private))


def _first_time(place: str, fail: Any) -> Any:
    """Fails on the reply, and does its work on the refusal in its place."""
    if place == "egress.broken_rule":
        return fail
    waiting = [fail]
    return lambda content: waiting.pop()() if waiting else read_reply(content)


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ({"num-examples": 40.0}, "wants a count as 'num-examples'"),
        ({"num-examples": -1}, "wants a count as 'num-examples'"),
        ({"num-examples": 10**9}, "wants a count as 'num-examples'"),
        ({"clock": 0.0}, "wants the time of this machine as 'clock'"),
    ],
)
def test_numbers_have_their_form(door: Any, numbers: dict[str, Any], told: str) -> None:
    policy = door.having(numbers={"hello": ("num-examples", "clock"), "train": ()})
    known = {"num-examples": 40, "clock": time.time()}
    hello = ConfigRecord({"site": "Klinik"})
    content = RecordDict({"hello": hello, "metrics": MetricRecord(known | numbers)})
    assert policy.line(content, message="query.hello") == f"site 'Klinik': its policy {told}"
    sound = RecordDict({"hello": hello, "metrics": MetricRecord(known)})
    assert policy.passes(sound, message="query.hello")


def test_names_are_those_of_the_one_list() -> None:
    parts = [part.rstrip(".") for part in (*SHARED_PARTS, *PRIVATE_PARTS)]
    assert all(_KNOWN_PARTS.fullmatch(part) for part in parts)
    from client.egress import policy, rules

    assert tuple(rules.BEHIND) == BEHIND_NUMBERS
    assert policy.REFUSED == REFUSAL
