"""Only sound replies reach a strategy, whichever strategy of Flower it is."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)

from climb_model.sharing import SharingError
from strategies import checked_grid, post
from strategies.checked_grid import CheckedGrid, TooFewReplies, late_sites, num_bytes
from strategies.checks import Limits, WorkerDied
from strategies.deadline import Deadlines
from strategies.fedavg import StreamingFedAvg

START = {"w": np.zeros((3, 4), np.float32)}
LIMITS = Limits(max_exams=1000, max_update_norm=100.0)


def value(number: float) -> dict[str, np.ndarray]:
    return {"w": np.full((3, 4), number, np.float32)}


def checked(
    kit: Any, answers: dict[int, Any], min_sites: int = 2, order: list[int] | None = None
) -> CheckedGrid:
    names = {node: f"site{node}" for node in answers}
    return CheckedGrid(kit.grid(answers, order), names, LIMITS, min_sites)


def round_of(grid: CheckedGrid, strategy: Strategy | None = None) -> np.ndarray:
    """One round of a strategy: the new weights."""
    strategy = strategy or StreamingFedAvg(2)
    arrays = ArrayRecord({name: Array(value) for name, value in START.items()})
    messages = strategy.configure_train(1, arrays, ConfigRecord(), grid)
    averaged, _ = strategy.aggregate_train(1, grid.send_and_receive(messages))
    assert averaged is not None
    return averaged["w"].numpy()


def test_a_bad_reply_is_dropped_with_its_site_and_reason_and_the_rest_is_averaged(kit: Any) -> None:
    grid = checked(
        kit,
        {
            2: kit.answer(value(1.0), exams=1),
            3: kit.answer(value(float("nan"))),
            4: kit.answer(value(5.0), exams=3),
            5: lambda message: Message(Error(2, "boom"), reply_to=message),
            6: lambda _: None,
        },
    )
    np.testing.assert_array_equal(round_of(grid), np.full((3, 4), 4.0, np.float32))
    assert {entry.site: entry.reason for entry in grid.traffic.rejected} == {
        "site3": "site 'site3' sent 'w' with values that are not finite",
        "site5": "site 'site5' failed (Flower error 2)",
        "site6": "site 'site6' did not answer",
    }
    assert {site: facts.exams for site, facts in grid.traffic.facts.items()} == {"site2": 1, "site4": 3}


def test_replies_come_sorted_by_site_whatever_the_order_of_arrival(kit: Any) -> None:
    answers = {node: kit.answer(value(node)) for node in (2, 3, 4, 5)}
    grid = CheckedGrid(
        kit.grid(answers, order=[4, 2, 5, 3]), {2: "d", 3: "c", 4: "b", 5: "a"}, LIMITS, min_sites=1
    )
    messages = [kit.ask(node, START) for node in (3, 5, 2, 4)]
    assert [reply.metadata.src_node_id for reply in grid.send_and_receive(messages)] == [5, 4, 3, 2]


def test_with_too_few_sound_replies_nothing_is_averaged(kit: Any) -> None:
    grid = checked(kit, {2: kit.answer(value(1.0)), 3: kit.answer(value(1.0), exams=0)})
    with pytest.raises(TooFewReplies, match=r"1 of 2 sites sent a sound reply, 2 needed .*num-examples 0"):
        round_of(grid)
    with pytest.raises(TooFewReplies):
        round_of(checked(kit, {2: kit.answer(value(1.0)), 3: lambda _: None}), FedAvg())


def test_a_worker_that_died_ends_the_round_with_one_clear_line(kit: Any) -> None:
    text = "<class 'ray.exceptions.ActorDiedError'>:<'The actor died. /home/x'>"
    grid = checked(
        kit, {2: kit.answer(value(1.0)), 3: lambda message: Message(Error(0, text), reply_to=message)}
    )
    with pytest.raises(WorkerDied, match=r"^a worker process of Flower's simulation died .* --resume$"):
        round_of(grid)


def test_only_admitted_sites_are_asked_and_a_stranger_is_not_heard(kit: Any) -> None:
    scripted = kit.grid({node: kit.answer(value(1.0)) for node in (2, 3, 4)})
    grid = CheckedGrid(scripted, {2: "a", 4: "b"}, LIMITS, min_sites=2)
    assert list(grid.get_node_ids()) == [2, 4]
    round_of(grid)
    assert sorted(scripted.sent) == [2, 4]
    scripted.answers[4] = lambda _: Message(kit.content(value(9.0)), reply_to=kit.ask(3, START))
    with pytest.raises(TooFewReplies):
        round_of(grid)


def test_a_second_reply_of_one_site_counts_once(kit: Any) -> None:
    grid = checked(
        kit, {2: kit.answer(value(0.0), exams=1), 3: kit.answer(value(8.0), exams=1)}, order=[2, 3, 2, 3]
    )
    np.testing.assert_array_equal(round_of(grid), np.full((3, 4), 4.0, np.float32))


def test_bytes_of_both_directions_are_counted_for_each_site(kit: Any) -> None:
    grid = checked(kit, {2: kit.answer(value(1.0)), 3: kit.answer(value(1.0))})
    round_of(grid)
    up = num_bytes(kit.content(value(1.0)))
    assert grid.traffic.bytes_up == {"site2": up, "site3": up}
    assert set(grid.traffic.bytes_down) == {"site2", "site3"}
    assert min(grid.traffic.bytes_down.values()) > 48  # 12 float32


def test_too_few_connected_sites_end_the_wait(kit: Any) -> None:
    scripted = kit.grid({2: kit.answer(value(1.0))})
    grid = CheckedGrid(scripted, {2: "a", 3: "b"}, LIMITS, min_sites=2, patience_s=0.0)
    with pytest.raises(TooFewReplies, match="1 admitted sites are connected, 2 needed"):
        round_of(grid)


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "streaming": lambda: StreamingFedAvg(2),
    "FedAvg": FedAvg,
    "FedAvgM": FedAvgM,
    "FedProx": lambda: FedProx(proximal_mu=0.1),
    "FedAdam": FedAdam,
    "FedYogi": FedYogi,
    "FedAdagrad": FedAdagrad,
    "FedMedian": FedMedian,
    "FedTrimmedAvg": FedTrimmedAvg,
    "Krum": lambda: Krum(num_malicious_nodes=0),
    "MultiKrum": lambda: MultiKrum(num_malicious_nodes=0, num_nodes_to_select=2),
    "Bulyan": lambda: Bulyan(num_malicious_nodes=0),
    "QFedAvg": lambda: QFedAvg(client_learning_rate=0.1, train_loss_key="loss"),
    "central DP": lambda: DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.0, 1e6, 5),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_of_flower_works_unchanged_and_sees_no_bad_reply(kit: Any, name: str) -> None:
    answers = {node: kit.answer(value(node / 10), exams=node) for node in (2, 3, 4, 5, 6)}
    expected = round_of(checked(kit, answers), STRATEGIES[name]())
    answers[7] = kit.answer(value(float("inf")))
    answers[8] = kit.answer({"w": np.zeros(1, np.float32)})
    answers[9] = lambda message: Message(Error(2, "boom"), reply_to=message)
    grid = checked(kit, answers)
    np.testing.assert_allclose(round_of(grid, STRATEGIES[name]()), expected, atol=1e-6)
    assert np.isfinite(expected).all()
    assert [entry.site for entry in grid.traffic.rejected] == ["site7", "site8", "site9"]


def test_one_reply_is_alive_at_a_time_whatever_the_number_of_sites(kit: Any) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    def answer(message: Message) -> Message:
        nonlocal most
        most = max(most, sum(reference() is not None for reference in alive))
        reply = kit.answer(value(1.0))(message)
        alive.append(weakref.ref(reply.content["arrays"]))
        return reply

    round_of(checked(kit, {node: answer for node in range(2, 42)}))
    assert len(alive) == 40
    assert most == 0


HALF = Limits(max_exams=1000, max_update_norm=100.0, payload="float16")


def half_site(kit: Any, change: np.ndarray, exams: int = 10) -> Any:
    """A site that adds `change` to what it was sent and replies with the difference in float16."""

    def answer(message: Message) -> Message:
        assert message.content["arrays"]["w"].numpy().dtype == np.float16
        return Message(kit.content({"w": change.astype(np.float16)}, exams), reply_to=message)

    return answer


def test_float16_halves_the_bytes_of_both_directions(kit: Any) -> None:
    start = {"w": np.zeros((100, 100), np.float32)}
    told: dict[str, tuple[int, int]] = {}
    for limits, dtype in ((LIMITS, np.float32), (HALF, np.float16)):
        answer = kit.answer({"w": np.ones((100, 100), dtype)})
        grid = CheckedGrid(kit.grid({2: answer}), {2: "A"}, limits, min_sites=1)
        list(grid.send_and_receive([kit.ask(2, start)]))
        told[limits.payload] = (grid.traffic.bytes_down["A"], grid.traffic.bytes_up["A"])
    whole, half = np.array(told["float32"]), np.array(told["float16"])
    assert (half < 0.51 * whole).all()
    assert (half > 20_000).all()


@pytest.mark.parametrize("change", [0.0, 2.0**-20])
def test_a_difference_in_float16_is_added_to_the_servers_own_unrounded_tensor(
    kit: Any, change: float
) -> None:
    """So a round that changes nothing leaves the server's weights as they are, to the last bit."""
    start = {"w": np.full((3, 4), 1.0 / 3.0, np.float32)}
    answers = {node: half_site(kit, np.full((3, 4), change, np.float32)) for node in (2, 3)}
    grid = CheckedGrid(kit.grid(answers), {2: "A", 3: "B"}, HALF, min_sites=2)
    for reply in grid.send_and_receive([kit.ask(node, start) for node in answers]):
        array = reply.content["arrays"]["w"].numpy()
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, start["w"] + np.float32(change))


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_of_flower_works_unchanged_with_float16(kit: Any, name: str) -> None:
    changes = {node: np.full((3, 4), node / 8, np.float32) for node in (2, 3, 4, 5, 6)}
    replies = {node: kit.answer({"w": change}) for node, change in changes.items()}
    whole = round_of(checked(kit, replies), STRATEGIES[name]())
    answers = {node: half_site(kit, change) for node, change in changes.items()}
    answers[7] = half_site(kit, np.full((3, 4), np.inf))
    answers[8] = kit.answer(value(1.0))
    grid = CheckedGrid(kit.grid(answers), {node: f"site{node}" for node in answers}, HALF, min_sites=2)
    np.testing.assert_allclose(round_of(grid, STRATEGIES[name]()), whole, atol=1e-6)
    assert {entry.site: entry.reason for entry in grid.traffic.rejected} == {
        "site7": "site 'site7' sent 'w' with values that are not finite",
        "site8": "site 'site8' sent 'w' as float32, expected float16",
    }


def test_weights_that_float16_cannot_hold_are_said_before_anything_is_sent(kit: Any) -> None:
    scripted = kit.grid({2: kit.answer(value(1.0))})
    grid = CheckedGrid(scripted, {2: "A"}, HALF, min_sites=1)
    with pytest.raises(SharingError, match=r"^the server: 'w' has values beyond 65504 .*float32$"):
        list(grid.send_and_receive([kit.ask(2, value(1e5))]))
    assert scripted.sent == []


def test_a_site_that_is_not_connected_is_told_in_the_history(kit: Any) -> None:
    scripted = kit.grid({node: kit.answer(value(1.0)) for node in (2, 3)})
    grid = CheckedGrid(scripted, {2: "A", 3: "B", 4: "C"}, LIMITS, min_sites=2)
    round_of(grid)
    assert [(entry.site, entry.reason) for entry in grid.traffic.rejected] == [
        ("C", "site 'C' was not connected")
    ]
    scripted.answers[4] = kit.answer(value(1.0))
    round_of(grid)
    assert grid.traffic.rejected == []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "POLL_S", 0.01)


@pytest.mark.usefixtures("quick")
def test_a_late_site_is_told_so_in_its_next_message_and_the_others_are_averaged(kit: Any) -> None:
    link = kit.link({2: kit.answer(value(1.0)), 3: kit.answer(value(3.0)), 4: lambda _: None})
    deadlines = Deadlines(most_s=3600.0, factor=1.0, least_s=0.2, taken={"A": 0.001})
    grid = CheckedGrid(link, {2: "A", 3: "B", 4: "C"}, LIMITS, min_sites=2, deadlines=deadlines)
    np.testing.assert_array_equal(round_of(grid), np.full((3, 4), 2.0, np.float32))
    assert grid.traffic.deadline_s == 1.0
    assert [(entry.site, entry.reason) for entry in grid.traffic.rejected] == [
        ("C", "site 'C' did not answer within 1 s")
    ]
    assert set(grid.traffic.wall_s) == {"A", "B"}
    history = [{"site": entry.site, "reason": entry.reason} for entry in grid.traffic.rejected]
    assert late_sites(1, history, 1.0) == {"C": "your reply of round 1 came too late: 1 s were allowed"}
    link.nodes[4] = kit.answer(value(5.0))
    for expected in ({4: "your reply of round 1 came too late: 1 s were allowed"}, {}):
        already = len(link.pushed)
        round_of(grid)
        sent = list(link.pushed.values())[already:]
        told = {
            message.metadata.dst_node_id: message.content["config"].get("notice")
            for message in sent
            if message.content["config"].get("notice")
        }
        assert told == expected


def test_only_who_was_late_by_the_history_is_told_so_after_a_resume(kit: Any) -> None:
    reasons = {"A": "did not answer within 5 s", "B": "was not connected", "C": "lost its connection"}
    rejected = [{"site": site, "reason": f"site '{site}' {reason}"} for site, reason in reasons.items()]
    assert late_sites(3, rejected, 6.0) == late_sites(3, rejected, None) == {}
    late = late_sites(3, rejected, 5.0)
    link = kit.link({node: kit.answer(value(1.0)) for node in (2, 3)})
    grid = CheckedGrid(link, {2: "A", 3: "B"}, LIMITS, min_sites=2, late=late)
    list(grid.send_and_receive([kit.ask(node, START) for node in (2, 3)], timeout=20.0))
    told = [message.content["config"].get("notice") for message in link.pushed.values()]
    assert told == ["your reply of round 3 came too late: 5 s were allowed", None]


@pytest.mark.usefixtures("quick")
def test_a_lost_site_is_asked_again_and_one_that_stays_away_is_rejected(kit: Any) -> None:
    asked: list[int] = []

    def gone(message: Message) -> Message:
        return Message(Error(ErrorCode.NODE_UNAVAILABLE, "/secret"), reply_to=message)

    def flaky(message: Message) -> Message:
        asked.append(1)
        return gone(message) if len(asked) == 1 else kit.answer(value(2.0))(message)

    link = kit.link({2: flaky, 3: kit.answer(value(4.0)), 4: gone}, offline=[4])
    grid = CheckedGrid(link, {2: "A", 3: "B", 4: "C"}, LIMITS, min_sites=2)
    messages = [kit.ask(node, START) for node in (2, 3, 4)]
    assert len(list(grid.send_and_receive(messages, timeout=20.0))) == 2
    assert grid.traffic.notices == ["site 'A' was asked 2 times: its connection was lost"]
    assert [(entry.site, entry.reason) for entry in grid.traffic.rejected] == [
        ("C", "site 'C' lost its connection")
    ]


def test_a_site_that_was_admitted_later_is_asked_from_then_on(kit: Any) -> None:
    scripted = kit.grid({node: kit.answer(value(1.0)) for node in (2, 3, 4)})
    grid = CheckedGrid(scripted, {2: "A", 3: "B"}, LIMITS, min_sites=2)
    round_of(grid)
    assert scripted.sent == [2, 3]
    grid.admit({4: "C"})
    round_of(grid)
    assert scripted.sent == [2, 3, 4]
    assert dict(grid.sites) == {2: "A", 3: "B", 4: "C"}


class Clock:
    """Time that goes on only while a site hangs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.time, self.sleep = time.time, time.sleep

    def monotonic(self) -> float:
        return self.now


@pytest.mark.usefixtures("quick")
def test_a_site_that_hangs_in_the_first_round_holds_the_others_up_no_longer_than_a_multiple_of_their_time(
    kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hangs, which is first in the order of the sites; B answers after 100 s and C after 200 s."""
    clock, came = Clock(), {3: threading.Event(), 4: threading.Event()}
    monkeypatch.setattr(post, "time", clock)
    monkeypatch.setattr(checked_grid, "time", clock)

    def hangs(_: Message) -> None:
        for node, at in ((3, 100.0), (4, 200.0)):
            if clock.now >= at:
                came[node].wait(10)
        clock.now += 10.0

    def answers_at(node: int, seconds: float) -> Any:
        def pull(message: Message) -> Message | None:
            if clock.now < seconds:
                return None
            came[node].set()
            return kit.answer(value(float(node)))(message)

        return pull

    link = kit.link({2: hangs, 3: answers_at(3, 100.0), 4: answers_at(4, 200.0)})
    deadlines = Deadlines(most_s=1e6, factor=3.0, least_s=10.0)
    grid = CheckedGrid(link, {2: "A", 3: "B", 4: "C"}, LIMITS, min_sites=1, deadlines=deadlines)
    np.testing.assert_array_equal(round_of(grid), np.full((3, 4), 3.5, np.float32))
    deadline_s = grid.traffic.deadline_s
    assert deadline_s is not None
    assert 600.0 <= deadline_s < 1e6  # three times C's 200 s, and what the hanging site added meanwhile
    assert clock.now < 1e6
    assert [(entry.site, entry.reason) for entry in grid.traffic.rejected] == [
        ("A", f"site 'A' did not answer within {deadline_s:g} s")
    ]


@pytest.mark.usefixtures("quick")
def test_a_refusal_says_nothing_of_the_first_rounds_time(kit: Any) -> None:
    def refuses(message: Message) -> Message:
        return Message(RecordDict({"refused": ConfigRecord({"refused": "paused"})}), reply_to=message)

    end = time.monotonic() + 1.5

    def slow(message: Message) -> Message | None:
        return kit.answer(value(3.0))(message) if time.monotonic() >= end else None

    link = kit.link({2: refuses, 3: kit.answer(value(1.0)), 4: slow})
    deadlines = Deadlines(most_s=60.0, factor=3.0, least_s=0.1)
    grid = CheckedGrid(link, {2: "A", 3: "B", 4: "C"}, LIMITS, min_sites=1, deadlines=deadlines)
    np.testing.assert_array_equal(round_of(grid), np.full((3, 4), 2.0, np.float32))


@pytest.mark.usefixtures("quick")
def test_a_site_whose_reply_cannot_be_read_is_rejected_and_the_others_are_averaged(kit: Any) -> None:
    def garbage(_: Message) -> None:
        raise ValueError("/secret")

    link = kit.link({2: garbage, 3: kit.answer(value(1.0)), 4: kit.answer(value(3.0))})
    deadlines = Deadlines(most_s=60.0, factor=3.0, least_s=0.1)
    grid = CheckedGrid(link, {2: "A", 3: "B", 4: "C"}, LIMITS, min_sites=2, deadlines=deadlines)
    np.testing.assert_array_equal(round_of(grid), np.full((3, 4), 2.0, np.float32))
    assert [(entry.site, entry.reason) for entry in grid.traffic.rejected] == [
        ("A", "site 'A' sent what cannot be read (ValueError)")
    ]
