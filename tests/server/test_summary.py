"""What is told of the server's own exams when a study ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from client.app import app as client_app
from climb_model.data.synthetic import RECORD
from climb_model.run_config import to_run_config
from climb_model.runs import RunFolder
from configs.load import load_settings
from server.place import ServerPlace
from server.rounds import run_study
from simulation.local_grid import LocalGrid, LocalNode

DRAWN = {"kind": "synthetic: no patient", "seed": 3, "sites": 1, "exams": 8}
SETTINGS = [
    "training.num_threads=1",
    "evaluation.findings=[Zyste]",
    "evaluation.bootstrap=0",
    "federation.num_rounds=1",
    "federation.min_sites=1",
    "training.steps_per_round=1",
]


@pytest.mark.parametrize("drawn", [True, False])
def test_a_study_measured_on_drawn_exams_says_so_without_the_simulation(
    drawn: bool, make_site: Callable[..., Path], tmp_path: Path
) -> None:
    central, site = make_site(tmp_path, "CENTRAL", exams=8), make_site(tmp_path, "A")
    if drawn:
        (central / RECORD).write_text(json.dumps(DRAWN))
    settings = load_settings("debug", SETTINGS)
    run = RunFolder.create(tmp_path / "run", settings, "study")
    node = {"name": "A", "data": str(site), "private": str(tmp_path / "private")}
    grid = LocalGrid(client_app, [LocalNode(2, node)], to_run_config(settings, "study"))
    told = run_study(grid, "study", settings, ServerPlace(data=central, run=run.path, num_sites=1))
    assert run.summary() == told
    assert told.get("data") == (DRAWN if drawn else None)
    card = (run.path / "model_card.md").read_text("utf-8")
    assert ("The exams are synthetic" in card) == drawn
