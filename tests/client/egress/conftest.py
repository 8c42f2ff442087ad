"""A site's egress with a small policy, and replies to put before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from client.egress.egress import Egress, agreed_shapes
from client.egress.policy import Minimum, Policy
from client.egress.rules import Leaving

CA = "ab" * 32
BEHIND = {"num-exams": 32, "num-tokens": 384, "num-batch-tokens": 384, "num-steps": 2}
POLICY = Policy(
    coordinators=(CA,),
    studies=("study",),
    presets=("debug",),
    tensors={"fusion.*": None, "log_scale": (), "fixed": (2, 3)},
    dtypes=("float32", "float16"),
    numbers={"hello": ("num-examples",), "train": ("num-examples", "loss")},
    words={"hello": {"site": 64, "notices": 40}, "refused": {"site": 64, "refused": 300}},
    bytes_per_round=10_000,
    bytes_per_run=100_000,
    rounds_per_day=3,
    messages_per_day=50,
    minimum=Minimum(),
)


def make_update(arrays: Mapping[str, Any] | None = None, **numbers: Any) -> RecordDict:
    """A training reply with two tensors unless told."""
    arrays = {"fusion.w": np.ones((2, 2), np.float32)} if arrays is None else arrays
    made = {name: Array(value) if isinstance(value, np.ndarray) else value for name, value in arrays.items()}
    return RecordDict(
        {"arrays": ArrayRecord(made), "metrics": MetricRecord({"num-examples": 40, "loss": 1.5} | numbers)}
    )


def make_greeting(**words: Any) -> RecordDict:
    """A first exchange."""
    told = ConfigRecord({"site": "Klinik", "notices": ["2 exams lack a sequence"]} | words)
    return RecordDict({"hello": told, "metrics": MetricRecord({"num-examples": 40})})


@dataclass
class Door:
    """A site's way out."""

    private: Path
    policy: Policy | Path = POLICY

    def check(self, content: RecordDict, **changed: Any) -> RecordDict:
        """`Egress.check` of a training reply that keeps every rule, but for what is changed."""
        known = {
            "message": "train",
            "study": "study",
            "run_id": 7,
            "round": 1,
            "behind": BEHIND,
            "preset": "debug",
            "coordinator": CA,
            "agreed": agreed_shapes(content),
        }
        return Egress(self.private, self.policy, "Klinik").check(Leaving(**(known | changed)), content)

    def line(self, content: RecordDict, **changed: Any) -> str:
        """The line of the refusal that leaves in its place."""
        left = self.check(content, **changed)
        assert set(left) == {"refused"}, "it left"
        assert left["refused"]["site"] == "Klinik"
        return str(left["refused"]["refused"])

    def passes(self, content: RecordDict, **changed: Any) -> bool:
        """Whether it leaves as it is."""
        return self.check(content, **changed) is content

    def having(self, **changed: Any) -> Door:
        """The same with another policy."""
        assert isinstance(self.policy, Policy)
        return Door(self.private, replace(self.policy, **changed))


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path / "private")


@pytest.fixture
def behind() -> dict[str, int]:
    """Facts that just keep the default minimum."""
    return dict(BEHIND)


@pytest.fixture
def update() -> Callable[..., RecordDict]:
    return make_update


@pytest.fixture
def greeting() -> Callable[..., RecordDict]:
    return make_greeting
