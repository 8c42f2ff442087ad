"""Only sound replies reach a strategy, whichever strategy of Flower it is."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message
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

from strategies.checked_grid import CheckedGrid, TooFewReplies, num_bytes
from strategies.checks import Limits, WorkerDied
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
