"""Messages without a network: a server's, and hospitals' replies to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

Answer = Callable[[Message], Message | None]


class ScriptedGrid(Grid):
    """Nodes whose replies a test decides; `order` is the order in which they arrive."""

    def __init__(self, answers: Mapping[int, Answer], order: list[int] | None = None) -> None:
        self.answers = dict(answers)
        self.order = order
        self.sent: list[int] = []

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *_: object, **__: object) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.answers)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        del timeout
        by_node = {message.metadata.dst_node_id: message for message in messages}
        self.sent = list(by_node)
        for node in self.order or self.sent:
            reply = self.answers[node](by_node[node])
            if reply is not None:
                yield reply


class FakeLink(HttpGrid):
    """A SuperLink whose nodes a test decides, one function a node; called at each look for the reply."""

    def __init__(self, nodes: Mapping[int, Answer], offline: Iterable[int] = ()) -> None:
        self.nodes = dict(nodes)
        self.offline = set(offline)
        self.pushed: dict[str, Message] = {}
        self.sent: list[int] = []
        self.failing = 0
        self._lock = threading.Lock()

    def get_node_ids(self) -> list[int]:
        return [node for node in self.nodes if node not in self.offline]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        if self.failing:
            self.failing -= 1
            raise httpx.ConnectError("down")
        names: list[str] = []
        for message in messages:
            name = f"message-{len(self.pushed)}"
            message.metadata.__dict__["_message_id"] = name
            self.pushed[name] = message
            self.sent.append(message.metadata.dst_node_id)
            names.append("" if message.metadata.dst_node_id in self.offline else name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        found: list[Message] = []
        for name in message_ids:
            message = self.pushed[name]
            reply = self.nodes[message.metadata.dst_node_id](message)
            found += [] if reply is None else [reply]
        return found


@dataclass(frozen=True)
class Kit:
    """What tests make messages with."""

    grid: type[ScriptedGrid]
    link: type[FakeLink]

    def ask(self, node: int, tensors: Mapping[str, np.ndarray]) -> Message:
        """A training message of the server."""
        content = RecordDict({"arrays": self.arrays(tensors), "config": ConfigRecord({"server-round": 1})})
        return Message(content, dst_node_id=node, message_type="train")

    def arrays(self, tensors: Mapping[str, np.ndarray]) -> ArrayRecord:
        return ArrayRecord({name: Array(value) for name, value in tensors.items()})

    def content(
        self, tensors: Mapping[str, np.ndarray], exams: int = 10, steps: int = 2, **more: object
    ) -> RecordDict:
        """A sound reply's records; `more` changes or adds numbers, None takes one away."""
        numbers: dict[str, object] = {
            "num-examples": exams,
            "num-steps": steps,
            "loss": 0.5,
            "seconds": 1.0,
        }
        numbers |= {name.replace("_", "-"): value for name, value in more.items()}
        metrics = MetricRecord({name: value for name, value in numbers.items() if value is not None})
        return RecordDict({"arrays": self.arrays(tensors), "metrics": metrics})

    def answer(self, tensors: Mapping[str, np.ndarray], exams: int = 10, **more: object) -> Answer:
        return lambda message: Message(self.content(tensors, exams, **more), reply_to=message)


@pytest.fixture
def kit() -> Kit:
    """Messages can be made only by a process with a task; this one pretends to be the server's."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    return Kit(ScriptedGrid, FakeLink)
