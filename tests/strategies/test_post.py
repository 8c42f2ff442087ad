"""Messages through a SuperLink that loses, delays and refuses: one answer a site, in time."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import RunNotRunningException

from strategies import post
from strategies.post import Answer, Later, LinkDown, ask, push

Pull = Callable[[Message], Message | None]
"""What a pull of one message's reply gives; None: nothing yet."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "POLL_S", 0.01)


def reply(message: Message) -> Message:
    return Message(RecordDict({"r": ConfigRecord({"n": 1})}), reply_to=message)


def error(code: int) -> Pull:
    return lambda message: Message(Error(code, "gone"), reply_to=message)


def first(*answers: Pull) -> Pull:
    """Answer the looks in turn; the last answer goes on for ever."""
    left = list(answers)
    return lambda message: (left.pop(0) if len(left) > 1 else left[0])(message)


def after(seconds: float, then: Pull = reply) -> Pull:
    end = time.monotonic() + seconds
    return lambda message: then(message) if time.monotonic() >= end else None


def never(_: Message) -> None:
    return None


def messages(nodes: Sequence[int]) -> list[Message]:
    content = RecordDict({"config": ConfigRecord({"server-round": 1})})
    return [Message(content, dst_node_id=node, message_type="train") for node in nodes]


def exchange(link: Any, seconds: float = 5.0, enough: int = 1) -> dict[int, Answer]:
    answers = list(ask(link, messages(list(link.nodes)), seconds=seconds, enough=enough))
    assert len(answers) == len(link.nodes)
    return {answer.node: answer for answer in answers}


def test_replies_come_as_they_arrive_with_the_time_they_took(kit: Any) -> None:
    link = kit.link({2: after(0.3), 3: reply, 4: after(0.1)})
    answers = list(ask(link, messages([2, 3, 4]), seconds=5.0, enough=3))
    assert [answer.node for answer in answers] == [3, 4, 2]
    walls = [answer.wall_s for answer in answers]
    assert walls[0] == pytest.approx(0.0, abs=0.1)
    assert walls[2] == pytest.approx(0.3, abs=0.2)


def test_a_site_that_does_not_answer_holds_up_nothing_longer_than_the_deadline(kit: Any) -> None:
    start = time.monotonic()
    answers = exchange(kit.link({2: reply, 3: never}), seconds=0.3, enough=2)
    assert 0.3 <= time.monotonic() - start < 1.5
    assert answers[2].reply is not None
    assert answers[3] == Answer(3, None, None, 1, lost=False)


def test_an_upload_that_hangs_holds_up_no_other_reply(kit: Any) -> None:
    hanging = threading.Event()

    def hangs(_: Message) -> None:
        hanging.wait(30)

    try:
        answers = exchange(kit.link({2: hangs, 3: after(0.1)}), seconds=0.4, enough=2)
    finally:
        hanging.set()
    assert answers[3].reply is not None
    assert answers[2].reply is None


@pytest.mark.parametrize("code", [ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE])
def test_a_site_whose_connection_was_lost_is_asked_again_and_its_reply_counts(kit: Any, code: int) -> None:
    link = kit.link({2: reply, 3: first(error(code), reply)})
    answers = exchange(link, enough=2)
    assert answers[3].reply is not None
    assert answers[3].reply.has_content()
    assert answers[3].asked == 2
    assert link.sent == [2, 3, 3]


def test_a_lost_site_that_stays_away_is_waited_for_only_if_it_is_needed(kit: Any) -> None:
    link = kit.link({2: reply, 3: error(ErrorCode.NODE_UNAVAILABLE)}, offline=[3])
    start = time.monotonic()
    assert exchange(link, seconds=30.0, enough=1)[3] == Answer(3, None, None, 1, lost=True)
    assert time.monotonic() - start < 5.0
    assert exchange(link, seconds=0.3, enough=2)[3].lost


def test_a_site_that_is_lost_again_and_again_is_given_up(kit: Any) -> None:
    link = kit.link({2: error(ErrorCode.NODE_UNAVAILABLE)})
    start = time.monotonic()
    assert exchange(link, seconds=30.0)[2].lost
    assert time.monotonic() - start < 5.0
    assert link.sent == [2] * post.MOST_ASKED


def test_a_sites_own_error_is_an_answer(kit: Any) -> None:
    link = kit.link({2: error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION)})
    answer = exchange(link)[2]
    assert answer.reply is not None
    assert answer.reply.has_error()
    assert link.sent == [2]


def test_a_message_lives_until_its_deadline_and_a_little_longer(kit: Any) -> None:
    link = kit.link({2: reply})
    exchange(link, seconds=100.0)
    [sent] = link.pushed.values()
    until = sent.metadata.created_at + sent.metadata.ttl
    assert until == pytest.approx(time.time() + 100.0 + post.REPLY_SPARE_S, abs=2.0)


def test_a_superlink_that_is_down_for_a_while_is_waited_for(
    kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(_: Message) -> None:
        response = httpx.Response(500, request=httpx.Request("POST", "http://localhost"))
        response.raise_for_status()

    link = kit.link({2: first(down, down, reply)})
    link.failing = 3
    assert exchange(link)[2].reply is not None
    link.failing = 10**9
    monkeypatch.setattr(post, "LINK_DOWN_S", 0.5)
    with pytest.raises(LinkDown, match=r"the SuperLink does not answer \(ConnectError\)"):
        exchange(link)


def test_a_run_that_was_stopped_ends_the_wait(kit: Any) -> None:
    def stopped(_: Message) -> None:
        raise RunNotRunningException

    with pytest.raises(RunNotRunningException):
        exchange(kit.link({2: stopped, 3: never}))


def inflated(content: bytes) -> Pull:
    """Flower's own reading of an object that a site has pushed."""

    def pull(_: Message) -> None:
        inflate_object_from_contents("x", {"x": content})

    return pull


def answered_with(content: object) -> Pull:
    def pull(message: Message) -> Message:
        whole = reply(message)
        whole.__dict__["_content"] = content
        return whole

    return pull


@pytest.mark.parametrize(
    "bad",
    [
        inflated(b"garbage"),
        inflated(b"Message 0\0x"),
        inflated(b"Message  10\0" + b"\xff" * 10),
        inflated(b"RecordDict  0\0"),
        answered_with(ConfigRecord({"n": 1})),
        answered_with(Array(np.zeros(2, np.float32))),
    ],
    ids=["head", "head-2", "body", "empty", "record", "array"],
)
def test_a_reply_that_cannot_be_read_is_that_sites_alone(kit: Any, bad: Pull) -> None:
    answers = exchange(kit.link({2: bad, 3: after(0.1)}), enough=2)
    assert answers[3].reply is not None
    assert answers[2].reply is None
    assert re.fullmatch(r"sent what cannot be read \(\w+\)", answers[2].fault or "")


def test_a_reply_over_which_the_superlink_alone_fails_is_that_sites_too(
    kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Message) -> None:
        response = httpx.Response(500, request=httpx.Request("POST", "http://localhost"))
        response.raise_for_status()

    def down() -> list[int]:
        raise httpx.ConnectError("down")

    monkeypatch.setattr(post, "LINK_DOWN_S", 0.5)
    link = kit.link({2: fails, 3: reply})
    assert exchange(link)[2].unreadable == "HTTPStatusError"
    monkeypatch.setattr(link, "get_node_ids", down)
    with pytest.raises(LinkDown, match=r"the SuperLink fails \(HTTPStatusError\)"):
        exchange(link)


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
def test_with_the_superlink_down_a_lost_site_is_not_asked_beyond_the_deadline(
    kit: Any, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """Flower itself tries a call that does not get through again without end."""
    over = threading.Event()

    def down() -> list[int]:
        if hangs:
            over.wait(30)
        raise httpx.ConnectError("down")

    link = kit.link({2: reply, 3: error(ErrorCode.NODE_UNAVAILABLE)})
    monkeypatch.setattr(link, "get_node_ids", down)
    start = time.monotonic()
    try:
        answers = exchange(link, seconds=1.0, enough=2)
        assert time.monotonic() - start < 5.0
    finally:
        over.set()
    assert answers[2].reply is not None
    assert answers[3] == Answer(3, None, None, 1, lost=True)


def test_messages_that_cannot_be_sent_end_the_exchange_at_its_deadline(kit: Any) -> None:
    link = kit.link({2: reply})
    link.failing = 10**9
    start = time.monotonic()
    with pytest.raises(LinkDown):
        exchange(link, seconds=0.5)
    assert time.monotonic() - start < 5.0


def come(later: Later, num: int) -> dict[int, Answer]:
    """The first `num` answers, within some seconds."""
    found: dict[int, Answer] = {}
    end = time.monotonic() + 10.0
    while len(found) < num and time.monotonic() < end:
        found |= {answer.node: answer for answer in later.answers()}
        time.sleep(0.01)
    return found


def test_replies_that_nobody_waits_for_are_read_when_they_have_come(kit: Any) -> None:
    hanging = threading.Event()

    def hangs(_: Message) -> None:
        hanging.wait(30)

    link = kit.link({2: hangs, 3: after(0.2), 4: inflated(b"garbage"), 5: error(ErrorCode.NODE_UNAVAILABLE)})
    later = Later(link)
    try:
        later.send(messages([2, 3, 4, 5]))
        start = time.monotonic()
        answers = {answer.node: answer for answer in later.answers()}
        assert time.monotonic() - start < 5.0
        answers |= come(later, 2 - len(answers))
        assert answers[3].reply is not None
        assert answers[4].fault == "sent what cannot be read (ValueError)"
        assert set(later.awaited) == {2}  # who was lost is not awaited and has no answer
    finally:
        hanging.set()


def test_a_run_that_was_stopped_is_told_to_who_reads_later(kit: Any) -> None:
    def stopped(_: Message) -> None:
        raise RunNotRunningException

    later = Later(kit.link({2: stopped}))
    later.send(messages([2]))
    with pytest.raises(RunNotRunningException):
        come(later, 1)


def test_a_message_that_flower_did_not_take_has_a_name_as_well(kit: Any) -> None:
    link = kit.link({2: reply, 3: reply}, offline=[3])
    assert push(link, messages([2, 3])) == ["message-0", "message-1"]


def test_no_thread_is_left_behind_that_still_looks_for_a_reply(kit: Any) -> None:
    before = threading.active_count()
    exchange(kit.link({2: never, 3: never}), seconds=0.5)
    time.sleep(0.2)
    assert threading.active_count() <= before


def test_simulated_sites_are_asked_by_their_own_grid(kit: Any) -> None:
    grid = kit.grid({2: reply, 3: lambda _: None})
    answers = list(ask(grid, messages([2, 3]), seconds=None, enough=2))
    assert [(answer.node, answer.reply is None, answer.wall_s) for answer in answers] == [
        (2, False, None),
        (3, True, None),
    ]
