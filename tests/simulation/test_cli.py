"""`climb-sim`: what it refuses, and what `model` prints."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from climb_model.model.climb import build_model
from climb_model.model.language_model import load_language_model
from climb_model.sharing import shared_state
from configs.load import load_settings
from server.cli import main as server_main
from simulation.cli import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with the outline of one site and of the server."""
    for name in ("A", "CENTRAL"):
        (tmp_path / "data" / name / "data_unilateral").mkdir(parents=True)
    return tmp_path / "data"


def one_line(found: tuple[int, str, str], code: int) -> str:
    assert found[:2] == (code, "")
    assert found[2].count("\n") == 1
    return found[2].rstrip("\n")


@pytest.mark.parametrize("given", ["preset", "data", "out"])
def test_run_says_what_it_lacks(given: str, command: Command, root: Path, tmp_path: Path) -> None:
    values = {"preset": "debug", "data": root, "out": tmp_path / "run"}
    rest = [item for name, value in values.items() if name != given for item in (f"--{name}", value)]
    line = one_line(command(main, "run", *rest), 2)
    assert line == f"climb-sim: run needs --{given} (or --resume RUN alone)"


def test_run_refuses_wrong_settings_before_anything_else(command: Command, tmp_path: Path) -> None:
    line = one_line(
        command(
            main, "run", "--preset", "debug", "--data", tmp_path / "no", "--out", tmp_path / "r", "sed=1"
        ),
        2,
    )
    assert line == "climb-sim: override: the top level has no key 'sed'; did you mean 'seed'?"


def test_run_refuses_an_output_that_is_there(command: Command, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "summary.json").touch()
    line = one_line(command(main, "run", "--preset", "debug", "--data", root, "--out", out), 2)
    assert line == f"climb-sim: --out must be a new folder, got {out}, which is there already"


def test_run_refuses_a_missing_data_folder(command: Command, tmp_path: Path) -> None:
    line = one_line(
        command(main, "run", "--preset", "debug", "--data", tmp_path / "no", "--out", tmp_path / "run"), 2
    )
    assert line == f"climb-sim: --data must be a folder, got {tmp_path / 'no'}, where there is nothing"


def test_run_needs_the_server_s_exams(command: Command, root: Path, tmp_path: Path) -> None:
    (root / "CENTRAL" / "data_unilateral").rmdir()
    (root / "CENTRAL").rmdir()
    line = one_line(command(main, "run", "--preset", "debug", "--data", root, "--out", tmp_path / "run"), 2)
    assert line == (
        f"climb-sim: --data {root} holds no CENTRAL, the server's own exams: give --central DIR "
        "(one hospital by itself: climb-site train)"
    )


def test_run_needs_a_site_beside_the_server(command: Command, root: Path, tmp_path: Path) -> None:
    (root / "A" / "data_unilateral").rmdir()
    line = one_line(command(main, "run", "--preset", "debug", "--data", root, "--out", tmp_path / "run"), 2)
    assert line == f"climb-sim: --data must hold site folders beside the server's, got {root} without any"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--preset", "debug"], "--preset"),
        (["--out", "x"], "--out"),
        (["--engine", "local"], "--engine"),
        (["seed=1"], "key=value"),
    ],
)
def test_resume_takes_nothing_else(more: list[str], named: str, command: Command, tmp_path: Path) -> None:
    line = one_line(command(main, "run", "--resume", tmp_path, *more), 2)
    assert line == f"climb-sim: --resume goes on with the settings and folders of the run, got {named} too"


def test_resume_of_a_folder_that_is_no_run_is_one_line(command: Command, tmp_path: Path) -> None:
    line = one_line(command(main, "run", "--resume", tmp_path), 1)
    assert line.startswith(f"climb-sim: {tmp_path} is no run folder")


def test_demo_and_make_data_overwrite_nothing(command: Command, root: Path) -> None:
    line = one_line(command(main, "demo", "--out", root), 2)
    assert line == f"climb-sim: --out must be a new folder, got {root}, which is there already"
    line = one_line(command(main, "make-data", root), 2)
    assert line == f"climb-sim: OUT must be a new folder, got {root}, which is there already"


@pytest.mark.parametrize(
    ("option", "value"), [("--sites", "0"), ("--exams", "1"), ("--difficulty", "nan"), ("--workers", "0")]
)
def test_make_data_refuses_impossible_numbers(
    option: str, value: str, command: Command, tmp_path: Path
) -> None:
    line = one_line(command(main, "make-data", tmp_path / "out", option, value), 2)
    assert line.startswith(f"climb-sim make-data: argument {option}: must be a ")
    assert f"got '{value}'" in line


def test_make_data_refuses_a_missing_tissue_folder(command: Command, tmp_path: Path) -> None:
    line = one_line(command(main, "make-data", tmp_path / "out", "--tissue", tmp_path / "no"), 2)
    assert line == f"climb-sim: --tissue must be a folder, got {tmp_path / 'no'}, where there is nothing"


def test_model_prints_one_json_object_without_weights(command: Command) -> None:
    code, out, err = command(main, "model", "--preset", "climb", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["trainable_parameters"] >= found["shared_parameters"] > 0
    assert found["shared_tensors"]["slice_positions.weight"] == [192, 384]


def test_model_prints_a_table_of_overridden_settings(command: Command) -> None:
    code, out, _ = command(main, "model", "--preset", "debug", "model.fusion.max_slice_tokens=12")
    assert code == 0
    assert f"slice_positions         {12 * 64}" in out
    assert "frozen: slices by builtin:filters, reports by builtin:german" in out


def test_a_mistake_is_no_traceback_in_a_real_process() -> None:
    program = Path(sys.executable).parent / "climb-sim"
    found = subprocess.run(
        [program, "model", "--preset", "clim"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "climb-sim: there is no preset 'clim'; did you mean 'climb'?\n"


def test_data_run_resume_and_evaluation_follow_each_other(command: Command, tmp_path: Path) -> None:
    """The chain of commands that the README shows, at its smallest."""
    data, out = tmp_path / "data", tmp_path / "run"
    made = command(
        main, "make-data", data, "--sites", 2, "--exams", 20, "--central-exams", 20, "--workers", 1
    )
    assert made[0] == 0
    assert made[1].endswith(f"{data}: 2 sites with 20 breasts each, CENTRAL with 20\n")
    code, printed, _ = command(main, "run", "--preset", "debug", "--data", data, "--out", out, "seed=3")
    assert code == 0
    assert printed.endswith(f"report: {out / 'report.html'}\n")
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    assert len(summary["exams"]) == 2
    assert "CENTRAL" not in summary["exams"]
    weights = (out / "shared.safetensors").read_bytes()
    assert command(main, "run", "--resume", out)[0] == 0
    assert (out / "shared.safetensors").read_bytes() == weights
    code, table, _ = command(server_main, "evaluate", out, "--data", data / "CENTRAL")
    assert code == 0
    (mean,) = [line.split() for line in table.splitlines() if line.startswith("mean")]
    assert f"{summary['mean_auc']:.3f}" in mean


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma"])
def test_a_study_with_a_frozen_language_model_as_fusion(
    name: str, command: Command, make_site: Callable[..., Path], language_models: Path, tmp_path: Path
) -> None:
    """Trained and measured again from a folder of weights; the frozen model is not in the result."""
    for site in ("A", "B", "CENTRAL"):
        make_site(tmp_path / "data", site, exams=16)
    out, weights = tmp_path / "run", ["--weights", language_models]
    overrides = [
        f"model.fusion.language_model={name}",
        f"model.text.weights={name}",
        "model.text.width=32",
        "evaluation.findings=[Zyste, Karzinom]",
        "training.learning_rate=1e-3",
    ]
    code, _, told = command(
        main, "run", "--preset", "debug", "--data", tmp_path / "data", "--out", out, *weights, *overrides
    )
    assert code == 0, told
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    assert set(summary["fingerprint"]) == {"vision", "text", "tokenizer", "preprocessing", "language_model"}
    trained = 64 * 32 + 32 + 32 * 64 + 64 * 64 + 192 * 64 + 1  # in, class token, out, projection, positions
    assert summary["shared_parameters"] == trained
    settings = load_settings("debug", overrides)
    given = load_language_model(name, language_models, width=32, whole=True)
    untrained, weights_now = shared_state(build_model(settings, given)), load_file(out / "shared.safetensors")
    assert set(untrained) == set(weights_now)
    assert not [key for key in untrained if torch.equal(untrained[key], weights_now[key])]
    code, table, told = command(
        server_main, "evaluate", out, "--data", tmp_path / "data" / "CENTRAL", *weights
    )
    assert code == 0, told
    assert f"{summary['mean_auc']:.3f}" in table


def test_model_counts_what_trains_around_a_language_model_without_its_weights(command: Command) -> None:
    llama = "meta-llama/Llama-3.2-1B"
    settings = [
        f"model.fusion.language_model={llama}",
        f"model.text.weights={llama}",
        "model.text.width=2048",
        "objectives.coca=0",
        "objectives.inverse_coca=0",
    ]
    code, table, told = command(main, "model", "--preset", "climb", *settings)
    assert code == 0, told
    assert f"frozen: slices by facebook/dinov2-small, reports by {llama}, fusion by {llama}\n" in table
    (line,) = [line for line in table.splitlines() if line.startswith("all ")]
    assert line.split() == ["all", "1,796,097", "1,796,097", "1,796,097"]
