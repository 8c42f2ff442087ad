"""Nodes that answer a first exchange as a test says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from simulation.local_grid import LocalGrid, LocalNode

FINGERPRINT = {"vision": "a" * 64, "text": "b" * 64}
VERSIONS = {"python": "3.11.9", "torch": "2.13.0+cpu", "flwr": "1.41.0"}
SUMMARY = {"splits": {"train": {"exams": 20, "patients": 12}}, "lacking": {"T2": 3}, "left_out": 1}
NUMBERS = ("num-examples", "clock")


class Nodes:
    """A Grid of nodes that say hello; what node N says can be changed with `says[N]`."""

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        self.says: dict[int, dict[str, Any]] = {
            number: {
                "site": name,
                "version": "0.2.0",
                "versions": json.dumps(VERSIONS),
                "fingerprint": json.dumps(FINGERPRINT),
                "settings": "cafe",
                "summary": json.dumps(SUMMARY),
                "notices": [],
                "num-examples": 10 * number,
                "clock": time.time(),
            }
            for number, name in enumerate(names, start=2)
        }
        self.replace: dict[int, Callable[[Message], RecordDict]] = {}
        app = ClientApp()

        @app.query("hello")
        def hello(message: Message, context: Context) -> Message:
            node = context.node_id
            if node in self.replace:
                return Message(self.replace[node](message), reply_to=message)
            return Message(self.content(self.says[node]), reply_to=message)

        self.grid = LocalGrid(app, [LocalNode(number, {}) for number in self.says], {})

    def content(self, says: Mapping[str, Any]) -> RecordDict:
        words = {key: value for key, value in says.items() if key not in NUMBERS}
        numbers = {key: value for key, value in says.items() if key in NUMBERS}
        return RecordDict({"hello": ConfigRecord(words), "metrics": MetricRecord(numbers)})


@pytest.fixture
def nodes() -> Callable[..., Nodes]:
    """Make nodes with sites of these names."""
    return lambda *names: Nodes(names)
