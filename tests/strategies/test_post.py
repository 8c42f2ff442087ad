"""Messages through a SuperLink that loses, delays and refuses: one answer a site, in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from strategies import post
from strategies.post import Answer, ask, push

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
    assert until == pytest.approx(time.time() + 100.0 + post.TTL_SPARE_S, abs=2.0)


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
    monkeypatch.setattr(post, "LINK_DOWN_S", 0.05)
    with pytest.raises(httpx.ConnectError):
        exchange(link)


def test_a_run_that_was_stopped_ends_the_wait(kit: Any) -> None:
    def stopped(_: Message) -> None:
        raise RuntimeError("the run is not running")

    with pytest.raises(RuntimeError, match="not running"):
        exchange(kit.link({2: stopped, 3: never}))


def test_a_message_that_flower_did_not_take_has_a_name_as_well(kit: Any) -> None:
    link = kit.link({2: reply, 3: reply}, offline=[3])
    assert push(link, messages([2, 3])) == ["message-0", "message-1"]


def test_no_thread_is_left_behind_that_still_looks_for_a_reply(kit: Any) -> None:
    before = threading.active_count()
    exchange(kit.link({2: never, 3: never}), seconds=0.05)
    time.sleep(0.2)
    assert threading.active_count() <= before


def test_simulated_sites_are_asked_by_their_own_grid(kit: Any) -> None:
    grid = kit.grid({2: reply, 3: lambda _: None})
    answers = list(ask(grid, messages([2, 3]), seconds=None, enough=2))
    assert [(answer.node, answer.reply is None, answer.wall_s) for answer in answers] == [
        (2, False, None),
        (3, True, None),
    ]
