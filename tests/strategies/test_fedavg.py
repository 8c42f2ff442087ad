"""The adapter to Flower's FedAvg."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.serverapp.strategy import FedAvg

from strategies.fedavg import StreamingFedAvg


def replies(kit: Any, values: list[tuple[int, np.ndarray]]) -> Iterator[Message]:
    for node, (exams, value) in enumerate(values, start=2):
        tensors = {"w": value, "log_scale": np.array(node, np.float32)}
        yield Message(kit.content(tensors, exams, loss=float(node)), reply_to=kit.ask(node, {}))


def test_it_gives_what_flowers_own_fedavg_gives(kit: Any) -> None:
    rng = np.random.default_rng(0)
    values = [(exams, rng.normal(size=(4, 5)).astype(np.float32)) for exams in (1, 17, 300, 5)]
    ours, our_numbers = StreamingFedAvg(2).aggregate_train(1, replies(kit, values))
    theirs, their_numbers = FedAvg().aggregate_train(1, list(replies(kit, values)))
    assert ours is not None
    assert theirs is not None
    assert set(ours) == set(theirs)
    for name in ours:
        assert ours[name].numpy().dtype == np.float32
        np.testing.assert_allclose(ours[name].numpy(), theirs[name].numpy(), rtol=0, atol=1e-6)
    assert our_numbers == their_numbers
    assert our_numbers is not None
    assert our_numbers["loss"] == pytest.approx((1 * 2 + 17 * 3 + 300 * 4 + 5 * 5) / 323)


def test_no_reply_gives_no_weights() -> None:
    assert StreamingFedAvg(2).aggregate_train(1, iter([])) == (None, None)


def test_each_reply_is_released_before_the_next_is_made(kit: Any) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    def watched() -> Iterator[Message]:
        nonlocal most
        for message in replies(kit, [(1, np.zeros(10, np.float32))] * 20):
            alive.append(weakref.ref(message.content["arrays"]))
            yield message
            most = max(most, sum(reference() is not None for reference in alive))

    StreamingFedAvg(2).aggregate_train(1, watched())
    assert len(alive) == 20
    assert most == 0  # when the next is asked for, not even the last one's arrays are alive
