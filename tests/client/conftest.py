"""One hospital whose reports, exams and folders carry words that must never leave it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import app
from climb_model.model.climb import build_model
from climb_model.run_config import to_run_config
from climb_model.sharing import shared_state
from configs.load import load_settings
from configs.schema import Settings
from simulation.local_grid import LocalGrid, LocalNode

MARKERS = ("Geheimwort", "PAT4711", "Krankenhausordner", "Privatordner")


@dataclass(frozen=True)
class Hospital:
    """A hospital and a server's way to talk to it."""

    folder: Path
    private: Path
    settings: Settings
    name: str = "H"

    def ask(
        self,
        kind: str,
        content: RecordDict | None = None,
        run_config: dict[str, str] | None = None,
        **config: str,
    ) -> Message:
        """The hospital's answer to one message."""
        node = {"name": self.name, "data": str(self.folder), "private": str(self.private), **config}
        grid = LocalGrid(app, [LocalNode(2, node)], run_config or to_run_config(self.settings, "study"))
        message = Message(content or RecordDict(), dst_node_id=2, message_type=kind)
        [reply] = grid.send_and_receive([message])
        return reply

    def train(
        self,
        round: object = 1,
        global_step: object = 0,
        shared: dict[str, torch.Tensor] | None = None,
        **more: Any,
    ) -> Message:
        """The answer to a training message, with untrained weights if no others are given.

        Args:
            more: further settings of the message.
        """
        return self.ask("train", self.order(round, global_step, shared, **more).content)

    def order(
        self,
        round: object = 1,
        global_step: object = 0,
        shared: dict[str, torch.Tensor] | None = None,
        **more: Any,
    ) -> Message:
        """A training message."""
        shared = shared or shared_state(build_model(self.settings))
        arrays = ArrayRecord({name: Array(value.numpy()) for name, value in shared.items()})
        config: dict[str, Any] = {"server-round": round, "global-step": global_step, **more}
        content = RecordDict({"arrays": arrays, "config": ConfigRecord(config)})
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        return Message(content, dst_node_id=2, message_type="train")


@pytest.fixture
def hospital(make_site: Callable[..., Path], tmp_path: Path) -> Hospital:
    folder = make_site(tmp_path / "Krankenhausordner", "PAT4711", exams=8)
    reports = folder / "metadata_unilateral" / "reports.csv"
    with reports.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    for row in rows[1:]:
        row[1] += " Geheimwort Karzinom."
    with reports.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    settings = load_settings(
        "debug",
        [
            "training.num_threads=1",
            "evaluation.findings=[Zyste, Karzinom]",
            "evaluation.max_unknown_share=0.9",
        ],
    )
    return Hospital(folder, tmp_path / "Privatordner", settings)
