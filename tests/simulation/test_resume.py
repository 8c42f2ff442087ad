"""A killed process and what goes on from what it left: the same bits as without the kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from client.state import PrivateState, StateError, has_earlier_study, save_state, state_before
from climb_model.runs import RunFolder
from simulation.engine import resume, run

STEPS = "training.steps_per_round=12"
ROUNDS = "federation.num_rounds=3"

DRIVER = """
import json, sys
from pathlib import Path
from configs.load import load_settings
from simulation.engine import resume, run

plan = json.loads(sys.argv[1])
out = Path(plan["out"])
if plan["resume"]:
    resume(out)
else:
    sites = {name: Path(path) for name, path in plan["sites"].items()}
    run(load_settings("debug", plan["overrides"]), sites=sites, central=Path(plan["central"]), out=out)
"""


def start(study: Any, out: Path, overrides: list[str], *, again: bool = False) -> subprocess.Popen[bytes]:
    plan = {
        "out": str(out),
        "resume": again,
        "sites": {name: str(path) for name, path in study.sites.items()},
        "central": str(study.central),
        "overrides": overrides,
    }
    return subprocess.Popen([sys.executable, "-c", DRIVER, json.dumps(plan)])


def kill_when(process: subprocess.Popen[bytes], appears: Path) -> None:
    """SIGKILL the process within a millisecond or so of a file's appearance."""
    end = time.monotonic() + 120
    while not appears.exists():
        assert process.poll() is None, f"the process ended before {appears.name} appeared"
        assert time.monotonic() < end, f"{appears.name} did not appear"
        time.sleep(0.0005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.fixture(scope="module")
def overrides(study: Any) -> list[str]:
    del study
    return [
        "training.num_threads=1",
        "evaluation.findings=[Zyste, Karzinom]",
        "evaluation.bootstrap=20",
        STEPS,
        ROUNDS,
    ]


@pytest.fixture(scope="module")
def uninterrupted(study: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "study"
    run(study.settings(STEPS, ROUNDS), sites=study.sites, central=study.central, out=out)
    return out


def assert_same_result(out: Path, whole: Path) -> None:
    ours, theirs = load_file(out / "shared.safetensors"), load_file(whole / "shared.safetensors")
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), f"{name} differs after a resume"
    assert facts(out) == facts(whole)


def facts(out: Path) -> list[dict[str, Any]]:
    """The history without the seconds, which are never the same."""
    records = [record.to_json() for record in RunFolder.open(out).history()]
    for record in records:
        record.pop("seconds")
        for site in record["sites"].values():  # type: ignore[attr-defined]
            site.pop("seconds")
    return records


MOMENTS: dict[str, tuple[str, Callable[[Path], bool]]] = {
    "while slice tokens are made": (
        "sites/B/tokens",
        lambda out: not (out / "checkpoints").exists(),
    ),
    "before the first round": (
        "checkpoints/round-0000.safetensors",
        lambda out: not (out / "sites/A/study").exists(),
    ),
    "while the second site trains in round 1": (
        "sites/A/study/round-0001.pt",
        lambda out: not (out / "checkpoints/round-0001.safetensors").exists(),
    ),
    "between a site's save and the server's in round 2": (
        "sites/B/study/round-0002.pt",
        lambda out: not (out / "checkpoints/round-0002.safetensors").exists(),
    ),
    "right after the server's checkpoint of round 2": (
        "checkpoints/round-0002.safetensors",
        lambda out: not (out / "sites/A/study/round-0003.pt").exists(),
    ),
    "between the last checkpoint and the summary": (
        "checkpoints/round-0003.safetensors",
        lambda out: not (out / "summary.json").exists(),
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(
    study: Any, overrides: list[str], uninterrupted: Path, tmp_path: Path, moment: str
) -> None:
    appears, still_true = MOMENTS[moment]
    out = tmp_path / "study"
    kill_when(start(study, out, overrides), out / appears)
    assert still_true(out), "the kill came too late to test this moment"
    resume(out)
    assert_same_result(out, uninterrupted)


def test_a_run_killed_again_and_again_ends_with_the_same_bits(
    study: Any, overrides: list[str], uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    kill_when(start(study, out, overrides), out / "sites/C/study/round-0001.pt")
    kill_when(start(study, out, overrides, again=True), out / "sites/A/study/round-0002.pt")
    kill_when(start(study, out, overrides, again=True), out / "checkpoints/round-0002.safetensors")
    process = start(study, out, overrides, again=True)
    assert process.wait(120) == 0
    assert_same_result(out, uninterrupted)


def test_a_site_that_ran_ahead_starts_from_the_round_before(uninterrupted: Path, tmp_path: Path) -> None:
    """The server's last checkpoint is round 2, the sites have saved round 3: as if killed in between."""
    out = tmp_path / "study"
    shutil.copytree(uninterrupted, out)
    (out / "checkpoints/round-0003.safetensors").unlink()
    (out / "summary.json").unlink()
    assert (out / "sites/A/study/round-0003.pt").exists()
    resume(out)
    assert_same_result(out, uninterrupted)


def test_the_optimizers_moments_matter(uninterrupted: Path, tmp_path: Path) -> None:
    """Without a site's private state the result is another one: the tests above would notice its loss."""
    out = tmp_path / "study"
    shutil.copytree(uninterrupted, out)
    (out / "checkpoints/round-0003.safetensors").unlink()
    (out / "summary.json").unlink()
    shutil.rmtree(out / "sites/A/study")
    resume(out)
    ours, theirs = load_file(out / "shared.safetensors"), load_file(uninterrupted / "shared.safetensors")
    assert not torch.equal(ours["text_projection.weight"], theirs["text_projection.weight"])
    assert "no private state of an earlier round" in (out / "sites/A/site.log").read_text()


def test_tensorboard_has_each_round_once_after_a_resume(uninterrupted: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "study"
    shutil.copytree(uninterrupted, out)
    (out / "checkpoints/round-0003.safetensors").unlink()
    (out / "summary.json").unlink()
    resume(out)
    board = EventAccumulator(str(out / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("federation/mean_auc")] == [0, 1, 2, 3]
    assert [event.step for event in board.Scalars("site_A/loss")] == [1, 2, 3]


NUMBER, OTHER = "0" * 16, "f" * 16


def state(round: int, settings: str = "abc", number: str = NUMBER) -> PrivateState:
    return PrivateState(round, number, settings, {"state": {0: {"step": torch.tensor(float(round))}}}, {})


def test_the_last_two_rounds_of_private_state_are_kept(tmp_path: Path) -> None:
    for round in (1, 2, 3, 4):
        save_state(tmp_path, state(round))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-0003.pt", "round-0004.pt"]


def test_a_site_starts_from_its_newest_earlier_state_and_removes_later_ones(tmp_path: Path) -> None:
    for round in (3, 4):
        save_state(tmp_path, state(round))
    found = state_before(tmp_path, 4, NUMBER, "abc")
    assert found is not None
    assert found.round == 3
    assert found.optimizer["state"][0]["step"].item() == 3.0
    assert [path.name for path in tmp_path.iterdir()] == ["round-0003.pt"]
    assert state_before(tmp_path, 1, NUMBER, "abc") is None
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_or_foreign_private_state_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path, state(1, settings="other"))
    with pytest.raises(StateError, match="belongs to settings other, the study has abc"):
        state_before(tmp_path, 2, NUMBER, "abc")
    (tmp_path / "round-0001.pt").write_bytes(b"PK rubbish")
    with pytest.raises(StateError, match=r"round-0001\.pt is damaged"):
        state_before(tmp_path, 2, NUMBER, "abc")


@pytest.mark.parametrize("settings", ["abc", "other"])
def test_state_of_an_earlier_study_of_the_name_is_not_used_and_stays_until_the_first_save(
    tmp_path: Path, settings: str
) -> None:
    for round in (3, 4):
        save_state(tmp_path, state(round, settings, OTHER))
    for asked in (1, 5):
        assert state_before(tmp_path, asked, NUMBER, "abc") is None
        assert has_earlier_study(tmp_path, NUMBER)
        assert not has_earlier_study(tmp_path, OTHER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-0003.pt", "round-0004.pt"]
    save_state(tmp_path, state(1))
    assert [path.name for path in tmp_path.iterdir()] == ["round-0001.pt"]
    assert state_before(tmp_path, 2, NUMBER, "abc") is not None


def test_a_study_begun_anew_under_its_old_name_gives_what_it_gave_at_first(
    study: Any, uninterrupted: Path, tmp_path: Path
) -> None:
    """The sites still hold round 3 of the first attempt; the new number does not change a bit."""
    out = tmp_path / "study"
    shutil.copytree(uninterrupted, out)
    marker = out / "run.json"
    first = json.loads(marker.read_text())["number"]
    for path in (*out.glob("checkpoints/*"), out / "summary.json", out / "history.jsonl"):
        path.unlink()
    (out / "checkpoints").rmdir()
    run(study.settings(STEPS, ROUNDS), sites=study.sites, central=study.central, out=out)
    assert json.loads(marker.read_text())["number"] != first
    assert_same_result(out, uninterrupted)
    told = (out / "sites/A/site.log").read_text()
    assert told.count("round 1: the private state here is of an earlier study 'study', starting without") == 1
    assert "round 2: the private state here" not in told
