"""`climb-server card`: the model card of a finished run, with or without the names of its sites."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from climb_model.evaluation.labelled import unmeasured
from climb_model.runs import RunFolder
from configs.load import load_settings
from server.cli import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    settings = load_settings("debug")
    folder = RunFolder.create(tmp_path / "run", settings, "study")
    counts = {"rounds": 0, "shared_tensors": 1, "shared_parameters": 1}
    folder.write_summary({"exams": {"Bonn": 6}, **counts, **unmeasured(settings)[1]})
    return folder


def test_sites_are_named_if_the_coordinator_asks_for_it(run: RunFolder, command: Command) -> None:
    card = run.path / "model_card.md"
    assert command(main, "card", run.path) == (0, f"{card}\n", "")
    assert "Bonn" not in card.read_text("utf-8")
    assert command(main, "card", run.path, "--site-names")[0] == 0
    assert "| Bonn " in card.read_text("utf-8")


def test_a_run_that_has_not_ended_is_told_in_one_line(run: RunFolder, command: Command) -> None:
    (run.path / "summary.json").unlink()
    code, out, error = command(main, "card", run.path)
    assert (code, out) == (1, "")
    assert error.endswith("has no summary.json: a run writes its card when it has ended\n")


def test_a_folder_without_a_run_is_refused(tmp_path: Path, command: Command) -> None:
    code, _, error = command(main, "card", tmp_path)
    assert code == 1
    assert error.endswith("is no run folder: it has no run.json\n")
