"""`climb-site train`: a run folder like a federation's, without one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from client.cli import main
from client.state import StateError
from client.train import resume_alone, train_alone
from climb_model.lock import LockedError, only_process
from climb_model.model.climb import build_model
from climb_model.progress import Silent, watched_by
from climb_model.runs import RoundRecord, RunError, RunFolder
from climb_model.sharing import shared_spec
from configs.load import load_settings

Command = Callable[..., tuple[int, str, str]]

TINY = (
    "training.num_threads=1",
    "evaluation.findings=[Zyste, Karzinom]",
    "evaluation.bootstrap=20",
    "federation.num_rounds=3",
)
PRIVATE = ("objectives.coca=1.0", "objectives.inverse_coca=1.0", "model.generators.depth=1")
"""With the generators, which a site keeps to itself."""

SETTINGS = load_settings("debug", TINY)


class Kill(BaseException):
    """As sudden as a signal: nothing in the program handles it."""


class Killer(Silent):
    """Ends the process's work as soon as a round is on disk."""

    def __init__(self, round: int) -> None:
        self._round = round

    def round_done(self, record: RoundRecord) -> None:
        """Kill after this round."""
        if record.round == self._round:
            raise Kill


@pytest.fixture
def site(make_site: Callable[..., Path], tmp_path: Path) -> Path:
    return make_site(tmp_path / "data", "KLINIK", exams=24)


def train(command: Command, site: Path, out: Path, *more: str) -> tuple[int, str, str]:
    return command(main, "train", site, "--preset", "debug", "--out", out, *TINY, *more)


def one_line(found: tuple[int, str, str], code: int) -> str:
    assert found[0] == code
    assert found[2].startswith("climb-site: ")
    assert found[2].count("\n") == 1
    return found[2].removeprefix("climb-site: ").rstrip("\n")


def same_result(one: Path, other: Path) -> bool:
    first, second = load_file(one / "shared.safetensors"), load_file(other / "shared.safetensors")
    assert first.keys() == second.keys()
    predictions = [(run / "predictions.csv").read_text("utf-8") for run in (one, other)]
    return all(torch.equal(first[name], second[name]) for name in first) and predictions[0] == predictions[1]


def test_the_run_folder_is_that_of_a_federation(site: Path, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, told, error = train(command, site, out)
    assert (code, error) == (0, "")
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("config.yaml", "run.json", "history.jsonl", "summary.json", "shared.safetensors", "site.json"),
        *("predictions.csv", "tensorboard", "report.html", "checkpoints", "sites", "lock", "model_card.md"),
    }
    history = RunFolder.open(out).history()
    assert [record.round for record in history] == [0, 1, 2, 3]
    assert history[0].sites == {}
    assert [record.global_step for record in history] == [0, 2, 4, 6]
    assert all(record.mean_auc is not None for record in history)
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    assert (summary["engine"], summary["sites"], summary["exams"]) == ("alone", 1, {"KLINIK": 18})
    assert summary["bytes_per_site_per_round"] == {"up": 0, "down": 0}
    assert summary["measured_on"] == {"site": "KLINIK", "split": "test"}
    assert summary["operating"].keys() == {"Zyste", "Karzinom"}
    assert summary["mean_auc"] == history[-1].mean_auc  # the last round's, whichever was best
    lines = told.splitlines()
    assert sum(line.startswith("round ") for line in lines) == 4
    assert "what travels: nothing" in told
    assert "MB up" not in told
    assert lines[-2:] == ["Research use, not a medical device.", f"report: {out / 'report.html'}"]


def test_a_training_on_drawn_exams_says_so_on_card_page_and_summary(
    site: Path, command: Command, tmp_path: Path
) -> None:
    record = {"kind": "synthetic: no patient, every exam drawn from a seed", "tissue": None}
    (site.parent / "made.json").write_text(json.dumps(record), "utf-8")
    out = tmp_path / "run"
    assert train(command, site, out)[0] == 0
    assert json.loads((out / "summary.json").read_text("utf-8"))["data"] == record
    assert "The exams are synthetic" in (out / "model_card.md").read_text("utf-8")
    assert "All exams are synthetic" in (out / "report.html").read_text("utf-8")


def test_private_tensors_stay_out_of_what_a_federation_would_share(site: Path, tmp_path: Path) -> None:
    settings = load_settings("debug", [*TINY, *PRIVATE])
    out = tmp_path / "run"
    train_alone(site, settings, out)
    model = build_model(settings)
    own = {name for name, _ in model.named_parameters()} - set(shared_spec(model))
    assert set(load_file(out / "shared.safetensors")) == set(shared_spec(model))
    kept = torch.load(out / "sites" / "KLINIK" / "run" / "round-0003.pt", weights_only=True)["private"]
    assert set(kept) == own != set()
    before = dict(model.named_parameters())
    assert any(not torch.equal(kept[name], before[name].detach()) for name in own)


@pytest.mark.parametrize("killed_after", [0, 2])
@pytest.mark.parametrize("more", [(), PRIVATE])
def test_a_killed_training_goes_on_to_the_same_bits(
    killed_after: int, more: tuple[str, ...], site: Path, tmp_path: Path
) -> None:
    settings = load_settings("debug", [*TINY, *more])
    whole, cut = tmp_path / "a" / "run", tmp_path / "b" / "run"
    summary = train_alone(site, settings, whole)
    with pytest.raises(Kill), watched_by(Killer(killed_after)):
        train_alone(site, settings, cut)
    assert not (cut / "summary.json").exists()
    (cut / "history.jsonl").unlink()  # made again from the checkpoint
    again = resume_alone(cut)
    assert same_result(whole, cut)
    assert again["mean_auc"] == summary["mean_auc"]
    assert [record.round for record in RunFolder.open(cut).history()] == [0, 1, 2, 3]
    assert resume_alone(cut) == again  # complete: nothing is done


def test_private_state_newer_than_the_checkpoint_is_not_gone_on_from(site: Path, tmp_path: Path) -> None:
    """A kill between the two files of a round."""
    whole, cut = tmp_path / "a" / "run", tmp_path / "b" / "run"
    train_alone(site, SETTINGS, whole)
    shutil.copytree(whole, cut)
    for name in ("summary.json", "shared.safetensors", "checkpoints/round-0003.safetensors"):
        (cut / name).unlink()
    resume_alone(cut)
    assert same_result(whole, cut)


def test_a_lost_private_state_is_told_and_not_done_without(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Kill), watched_by(Killer(2)):
        train_alone(site, SETTINGS, out)
    (out / "sites" / "KLINIK" / "run" / "round-0002.pt").unlink()
    with pytest.raises(StateError, match="lacks the private state of round 2"):
        resume_alone(out)


def test_a_site_without_findings_trains_and_says_once_that_auc_is_undefined(
    site: Path, command: Command, tmp_path: Path
) -> None:
    measured = tmp_path / "a" / "run"
    assert train(command, site, measured)[0] == 0
    (site / "metadata_unilateral" / "findings.csv").unlink()
    out = tmp_path / "b" / "run"
    code, told, error = train(command, site, out)
    assert (code, error) == (0, "")
    line = "no findings (findings.csv or its columns are missing): every AUC is undefined"
    assert f"\nsite 'KLINIK' has {line}\n" in told
    assert f"\nsite KLINIK: {line}\n" in told
    history = RunFolder.open(out).history()
    assert [record.mean_auc for record in history] == [None] * 4
    assert history[-1].auc == {"Zyste": None, "Karzinom": None}
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    assert (summary["mean_auc"], summary["central_exams"], summary["measured_on"]) == (None, 0, None)
    assert summary["notices"] == {"KLINIK": [line]}
    assert (out / "predictions.csv").read_text("utf-8") == "uid,patient,finding,label,score\n"
    with_labels, without = (load_file(run / "shared.safetensors") for run in (measured, out))
    assert all(torch.equal(with_labels[name], without[name]) for name in without)


def test_unlabelled_test_exams_leave_auc_undefined_too(site: Path, tmp_path: Path) -> None:
    table = site / "metadata_unilateral" / "findings.csv"
    head, *rows = table.read_text("utf-8").splitlines()
    table.write_text("\n".join([head, *(f"{row.split(',')[0]},," for row in rows)]) + "\n", "utf-8")
    told: list[str] = []
    summary = train_alone(site, SETTINGS, tmp_path / "run", say=told.append)
    assert told == ["site 'KLINIK' has no labelled exam in split 'test': every AUC is undefined"]
    assert summary["mean_auc"] is None


def test_nothing_on_the_page_or_the_screen_names_an_exam(
    site: Path, command: Command, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    _, told, _ = train(command, site, out)
    words = told + (out / "report.html").read_text("utf-8") + (out / "summary.json").read_text("utf-8")
    assert "_left" not in words
    assert "KLINIK0" not in words


def test_the_page_tells_of_one_site_and_of_no_server(site: Path, command: Command, tmp_path: Path) -> None:
    train(command, site, tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "One site trained a model on its own breast MRI" in page
    assert "Nothing: this training sent nothing anywhere." in page
    assert "Calibration and thresholds" in page
    assert "not a medical device" in page
    for word in ("server", "Rejected", "MB up"):
        assert word not in page


def test_a_second_process_is_refused(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Kill), watched_by(Killer(1)):
        train_alone(site, SETTINGS, out)
    with only_process(out / "lock", what="trains"), pytest.raises(LockedError, match=r"trains in .*run"):
        resume_alone(out)


def test_a_missing_site_folder_is_wrong_usage(command: Command, tmp_path: Path) -> None:
    line = one_line(train(command, tmp_path / "no", tmp_path / "run"), 2)
    assert line == f"SITE_DIR must be a folder, got {tmp_path / 'no'}, where there is nothing"
    assert not (tmp_path / "run").exists()


def test_a_site_without_training_exams_is_refused_before_a_run_begins(
    site: Path, command: Command, tmp_path: Path
) -> None:
    table = site / "metadata_unilateral" / "split.csv"
    table.write_text(table.read_text("utf-8").replace(",train,", ",val,"), "utf-8")
    line = one_line(train(command, site, tmp_path / "run"), 1)
    assert line == "site 'KLINIK': no exam in split 'train'; left out: none"
    assert not (tmp_path / "run").exists()


def test_an_output_folder_with_something_in_it_is_refused(
    site: Path, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    line = one_line(train(command, site, tmp_path / "full"), 2)
    assert line == f"--out must be a new folder, got {tmp_path / 'full'}, which is there already"
    assert train(command, site, tmp_path / "run")[0] == 0
    line = one_line(train(command, site, tmp_path / "run"), 1)
    assert line.endswith("already holds a run: go on with --resume, or choose another --out")


@pytest.mark.parametrize("missing", ["SITE_DIR", "--preset", "--out"])
def test_what_a_new_training_needs_is_named(
    missing: str, site: Path, command: Command, tmp_path: Path
) -> None:
    given = {"SITE_DIR": [site], "--preset": ["--preset", "debug"], "--out": ["--out", tmp_path / "run"]}
    del given[missing]
    found = command(main, "train", *(word for words in given.values() for word in words))
    assert one_line(found, 2) == f"train needs {missing} (or --resume RUN alone)"


@pytest.mark.parametrize("more", ["data", "federation.num_rounds=5"])
def test_resume_takes_nothing_else(more: str, command: Command, tmp_path: Path) -> None:
    assert "--resume goes on with the settings" in one_line(
        command(main, "train", "--resume", tmp_path, more), 2
    )


def test_only_a_training_of_one_site_can_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is no run folder: it has no run\.json"):
        resume_alone(tmp_path)
    RunFolder.create(tmp_path / "run", SETTINGS, "study")
    with pytest.raises(RunError, match=r"holds no training of one site alone: it has no site\.json"):
        resume_alone(tmp_path / "run")


@pytest.mark.parametrize("devices", ["cpu:7,tpu", "cuda:99"])
def test_devices_that_are_not_there_are_refused_before_a_run_begins(
    devices: str, site: Path, command: Command, tmp_path: Path
) -> None:
    line = one_line(train(command, site, tmp_path / "run", "--devices", devices), 1)
    assert "device" in line
    assert not (tmp_path / "run").exists()


def test_settings_changed_by_hand_are_refused(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Kill), watched_by(Killer(1)):
        train_alone(site, SETTINGS, out)
    config = out / "config.yaml"
    config.write_text(config.read_text("utf-8").replace("num_rounds: 3", "num_rounds: 9"), "utf-8")
    with pytest.raises(RunError, match="was changed after the run began"):
        resume_alone(out)
