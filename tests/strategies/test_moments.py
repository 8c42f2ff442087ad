"""Server-side optimizers go on from a checkpoint as if they had never stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi, Strategy

from strategies.moments import read_moments, write_moments

KINDS: dict[str, Callable[[], Strategy]] = {
    "FedAdam": FedAdam,
    "FedYogi": FedYogi,
    "FedAdagrad": FedAdagrad,
    "FedAvgM": lambda: FedAvgM(server_learning_rate=0.5, server_momentum=0.9),
}


def one_round(
    kit: Any, strategy: Strategy, number: int, before: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    moved = [
        {name: np.asarray(value + rng.normal(size=value.shape), np.float32) for name, value in before.items()}
        for _ in range(2)
    ]
    grid = kit.grid({node: kit.answer(moved[node - 2]) for node in (2, 3)})
    arrays = ArrayRecord({name: Array(value) for name, value in before.items()})
    messages = strategy.configure_train(number, arrays, ConfigRecord(), grid)
    in_order: list[Message] = sorted(messages, key=lambda message: message.metadata.dst_node_id)
    averaged, _ = strategy.aggregate_train(number, list(grid.send_and_receive(in_order)))
    assert averaged is not None
    return {name: np.asarray(averaged[name].numpy(), np.float32) for name in before}


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_optimizer_takes_the_same_step(kit: Any, kind: str) -> None:
    start = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((), np.float32)}
    whole = KINDS[kind]()
    middle = one_round(kit, whole, 1, start)
    kept = {name: value.clone() for name, value in read_moments(whole).items()}
    end = one_round(kit, whole, 2, middle)
    restored, forgetful = KINDS[kind](), KINDS[kind]()
    write_moments(restored, kept)
    again = one_round(kit, restored, 2, middle)
    without = one_round(kit, forgetful, 2, middle)
    assert kept
    np.testing.assert_array_equal(again["a"], end["a"])
    np.testing.assert_array_equal(again["b"], end["b"])
    assert not np.array_equal(without["a"], end["a"])


def test_plain_averaging_has_no_moments() -> None:
    assert read_moments(FedAvg()) == {}
    write_moments(FedAvg(), {})
