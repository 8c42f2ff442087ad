"""The Grid of one process, held against what Flower's own does."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from simulation.local_grid import LocalGrid, LocalNode

Handler = Callable[[Message, Context], RecordDict]


def grid_of(handler: Handler, num_nodes: int = 3) -> LocalGrid:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(handler(message, context), reply_to=message)

    nodes = [LocalNode(number, {"name": f"site{number}"}) for number in range(2, 2 + num_nodes)]
    return LocalGrid(app, nodes, {"study": "s"})


def ask(grid: LocalGrid, content: RecordDict | None = None) -> list[Message]:
    content = content or RecordDict({"config": ConfigRecord({"n": 1})})
    return [Message(content, dst_node_id=node, message_type="train") for node in grid.get_node_ids()]


def test_each_client_gets_its_own_copy_of_a_shared_message() -> None:
    def greedy(message: Message, _: Context) -> RecordDict:
        names = sorted(message.content["arrays"])
        message.content["arrays"].clear()
        message.content["config"]["n"] = 99
        message.content["config"]["list"].append(5)
        return RecordDict({"seen": ConfigRecord({"names": names})})

    shared = RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(np.ones(3, np.float32))}),
            "config": ConfigRecord({"n": 1, "list": [1]}),
            "metrics": MetricRecord({"m": 1.0}),
        }
    )
    grid = grid_of(greedy)
    replies = list(grid.send_and_receive(ask(grid, shared)))
    assert [reply.content["seen"]["names"] for reply in replies] == [["w"]] * 3
    assert list(shared["arrays"]) == ["w"]
    assert shared["config"] == {"n": 1, "list": [1]}


def test_a_clients_state_is_its_own_and_lost_if_it_fails() -> None:
    def counting(message: Message, context: Context) -> RecordDict:
        count = context.state.get("count")
        number = int(count["n"]) if count else 0  # type: ignore[call-overload]
        context.state["count"] = MetricRecord({"n": number + 1})
        if message.content["config"]["n"] == 13:
            raise RuntimeError("after it changed its state")
        return RecordDict({"count": MetricRecord({"n": number})})

    def counts(number: int) -> list[object]:
        replies = grid.send_and_receive(ask(grid, RecordDict({"config": ConfigRecord({"n": number})})))
        return [None if reply.has_error() else reply.content["count"]["n"] for reply in replies]

    grid = grid_of(counting, num_nodes=2)
    assert counts(1) == [0, 0]
    assert counts(1) == [1, 1]
    assert counts(13) == [None, None]
    assert counts(1) == [2, 2]


def test_a_client_that_raises_gives_an_error_reply_without_its_words() -> None:
    def failing(_: Message, context: Context) -> RecordDict:
        if context.node_config["name"] == "site3":
            raise FileNotFoundError("/hospital/patient-4711")
        return RecordDict()

    grid = grid_of(failing)
    replies = list(grid.send_and_receive(ask(grid)))
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert replies[1].error.code == 2
    assert replies[1].error.reason == "FileNotFoundError"
    assert [reply.metadata.src_node_id for reply in replies] == [2, 3, 4]


def test_a_client_cannot_touch_the_random_states_of_others() -> None:
    def seeding(*_: Any) -> RecordDict:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        return RecordDict()

    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    before = (np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist())
    grid = grid_of(seeding)
    assert len(list(grid.send_and_receive(ask(grid)))) == 3
    assert (np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()) == before
    # The tests' own type checker draws from `random` too, so its state cannot be compared as a whole.
    seeded = random.Random(0)
    assert random.random() not in [seeded.random() for _ in range(1000)]


def test_clients_run_as_their_replies_are_read_and_one_reply_is_alive_at_a_time() -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    def heavy(*_: Any) -> RecordDict:
        nonlocal most
        most = max(most, sum(reference() is not None for reference in alive))
        record = ArrayRecord({"w": Array(np.zeros(1000, np.float32))})
        alive.append(weakref.ref(record))
        return RecordDict({"arrays": record})

    grid = grid_of(heavy, num_nodes=30)
    replies = iter(grid.send_and_receive(ask(grid)))
    assert alive == []
    next(replies)
    assert len(alive) == 1
    for reply in replies:
        del reply
    assert len(alive) == 30
    assert most == 0


def test_pushed_messages_are_answered_when_pulled_and_only_once() -> None:
    grid = grid_of(lambda *_: RecordDict())
    identifiers = list(grid.push_messages(ask(grid)))
    replies = list(grid.pull_messages(identifiers))
    assert [reply.metadata.reply_to_message_id for reply in replies] == identifiers
    assert len(replies) == 3
    assert list(grid.pull_messages(identifiers)) == []


def test_the_context_tells_the_client_who_it_is() -> None:
    def tell(_: Message, context: Context) -> RecordDict:
        return RecordDict({"me": ConfigRecord({**context.node_config, **context.run_config})})

    grid = grid_of(tell, num_nodes=2)
    assert [dict(reply.content["me"]) for reply in grid.send_and_receive(ask(grid))] == [
        {"name": "site2", "study": "s"},
        {"name": "site3", "study": "s"},
    ]


def test_ctrl_c_in_a_client_ends_the_run() -> None:
    def interrupted(*_: Any) -> RecordDict:
        raise KeyboardInterrupt

    grid = grid_of(interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(grid.send_and_receive(ask(grid)))
