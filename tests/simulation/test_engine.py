"""A whole study in this process: what it leaves behind, and what goes wrong with one hospital."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from climb_model.data.exam import DataError
from climb_model.data.synthetic import RECORD
from climb_model.lock import LockedError
from climb_model.model.climb import build_model
from climb_model.progress import Silent
from climb_model.runs import RoundRecord, RunError, RunFolder
from climb_model.sharing import shared_spec
from configs.load import settings_from_file, settings_hash
from configs.schema import Settings
from simulation.engine import resume, run
from strategies.checked_grid import TooFewReplies


class Notebook(Silent):
    """Writes down what an observer hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def started(self, settings: Settings, sites: Mapping[str, int]) -> None:
        self.heard.append(("started", settings.preset, dict(sites)))

    def preparing(self, site: str, done: int, total: int) -> None:
        if done == total:
            self.heard.append(("prepared", site, total))

    def site_progress(self, site: str, round: int, step: int, steps: int, loss: float) -> None:
        assert loss > 0
        self.heard.append(("step", site, round, step, steps))

    def round_done(self, record: RoundRecord) -> None:
        self.heard.append(("round", record.round))

    def finished(self, summary: Mapping[str, object]) -> None:
        self.heard.append(("finished", summary["rounds"]))


@pytest.fixture(scope="module")
def finished(study: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Notebook]:
    out, notebook = tmp_path_factory.mktemp("runs") / "study-1", Notebook()
    summary = run(study.settings(), sites=study.sites, central=study.central, out=out, observer=notebook)
    return out, summary, notebook


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def test_the_run_folder_holds_what_the_architecture_says(finished: Any, study: Any) -> None:
    out, summary, _ = finished
    assert settings_from_file(out / "config.yaml") == study.settings()
    rounds = records(out)
    assert [record["round"] for record in rounds] == [0, 1, 2]
    assert rounds[0]["sites"] == {}
    assert {name: site["exams"] for name, site in rounds[1]["sites"].items()} == {"A": 6, "B": 12, "C": 18}
    facts = {"exams", "steps", "loss", "seconds", "bytes_up", "bytes_down", "wall_s"}
    assert set(rounds[1]["sites"]["A"]) == facts
    assert [record["global_step"] for record in rounds] == [0, 2, 4]
    assert set(rounds[2]["auc"]) == {"Zyste", "Karzinom"}
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary["sites"] == 3
    assert summary["exams"] == {"A": 6, "B": 12, "C": 18}
    assert summary["config_hash"] == settings_hash(study.settings())
    assert summary["engine"] == "local"
    assert summary["mean_auc"] == rounds[2]["mean_auc"]
    assert set(summary["auc_table"]["Zyste"]) == {"auc", "ci_low", "ci_high", "positives", "negatives"}
    assert summary["measured_on"] == {"site": "CENTRAL", "split": "test"}
    assert summary["operating_specificity"] == study.settings().evaluation.specificity
    assert summary["validation_exams"] == 0  # these hospitals have no split val
    assert set(summary["operating"]["Zyste"]) == {
        *("brier", "calibration_error", "threshold", "sensitivity", "specificity")
    }
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [
        "round-0001.safetensors",
        "round-0002.safetensors",
    ]
    assert sorted(path.name for path in (out / "sites").iterdir()) == ["A", "B", "C"]


def test_the_final_weights_are_the_shared_tensors_and_say_where_they_come_from(
    finished: Any, study: Any
) -> None:
    out, summary, _ = finished
    tensors = load_file(out / "shared.safetensors")
    spec = shared_spec(build_model(study.settings()))
    assert {name: tuple(value.shape) for name, value in tensors.items()} == spec
    assert summary["shared_tensors"] == len(spec)
    assert summary["shared_parameters"] == sum(value.numel() for value in tensors.values())
    with safe_open(out / "shared.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["round"] == "2"
    assert metadata["config_hash"] == settings_hash(study.settings())
    assert json.loads(metadata["fingerprint"]) == summary["fingerprint"]


def test_the_model_card_tells_the_run_without_names_exams_and_paths(finished: Any, study: Any) -> None:
    out, summary, _ = finished
    card = (out / "model_card.md").read_text("utf-8")
    assert f"Hash of all settings: {summary['config_hash']}." in card
    assert "3 sites with 36 training exams" in card
    assert f"{summary['mean_auc']:.3f}" in card
    assert all(digest in card for digest in summary["fingerprint"].values())
    assert "synthetic" not in card
    with (out / "predictions.csv").open(newline="") as file:
        secrets = {row[key] for row in csv.DictReader(file) for key in ("uid", "patient")}
    assert not [text for text in (*secrets, str(out.parent), str(study.central.parent)) if text in card]


def test_a_run_on_drawn_hospitals_says_so_on_its_card(study: Any, tmp_path: Path) -> None:
    record = study.central.parent / RECORD
    record.write_text(json.dumps({"kind": "synthetic", "tissue": None}))
    try:
        run(study.settings(), sites=study.sites, central=study.central, out=tmp_path / "run")
    finally:
        record.unlink()
    assert "all drawn from a seed" in (tmp_path / "run" / "model_card.md").read_text("utf-8")


def test_predictions_hold_each_central_exam_and_finding_once(finished: Any) -> None:
    out, summary, _ = finished
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == summary["central_exams"] * 2
    assert len({(row["uid"], row["finding"]) for row in rows}) == len(rows)
    assert {row["label"] for row in rows} == {"0", "1"}
    assert all(0 <= float(row["score"]) <= 1 for row in rows)


def test_bytes_are_the_size_of_the_shared_tensors_and_a_little_more(finished: Any) -> None:
    _, summary, _ = finished
    size = 4 * summary["shared_parameters"]
    for direction in ("up", "down"):
        assert size < summary["bytes_per_site_per_round"][direction] < size + 10_000


def test_an_observer_hears_of_sites_steps_and_rounds_in_order(finished: Any) -> None:
    _, _, notebook = finished
    heard = [entry for entry in notebook.heard if entry[0] != "prepared"]
    assert heard[0] == ("started", "debug", {"A": 6, "B": 12, "C": 18})
    assert heard[1:] == [
        ("round", 0),
        *[("step", site, 1, step, 2) for site in "ABC" for step in (1, 2)],
        ("round", 1),
        *[("step", site, 2, step, 2) for site in "ABC" for step in (1, 2)],
        ("round", 2),
        ("finished", 2),
    ]
    assert {entry[1:] for entry in notebook.heard if entry[0] == "prepared"} == {
        ("CENTRAL", 6),
        ("A", 6),
        ("B", 12),
        ("C", 18),
    }


def test_tensorboard_has_each_round_once(finished: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, _, _ = finished
    board = EventAccumulator(str(out / "tensorboard"))
    board.Reload()
    assert {"federation/mean_auc", "auc/Zyste", "site_A/loss", "site_C/seconds"} <= set(
        board.Tags()["scalars"]
    )
    losses = {event.step: event.value for event in board.Scalars("site_B/loss")}
    assert len(board.Scalars("site_B/loss")) == 2
    assert losses == pytest.approx(
        {record["round"]: record["sites"]["B"]["loss"] for record in records(out)[1:]}, abs=1e-6
    )


def test_the_same_seed_gives_the_same_bits(finished: Any, study: Any, tmp_path: Path) -> None:
    out, _, _ = finished
    torch.manual_seed(99)  # whatever ran before
    torch.rand(7)
    run(study.settings(), sites=study.sites, central=study.central, out=tmp_path / "study-1")
    again, first = load_file(tmp_path / "study-1/shared.safetensors"), load_file(out / "shared.safetensors")
    assert all(torch.equal(again[name], first[name]) for name in first)
    other = tmp_path / "other"
    run(study.settings("seed=1"), sites=study.sites, central=study.central, out=other)
    changed = load_file(other / "shared.safetensors")
    assert not torch.equal(changed["text_projection.weight"], first["text_projection.weight"])


def test_training_changes_the_weights_in_each_round(finished: Any) -> None:
    out, _, _ = finished
    states = [load_file(path) for path in sorted((out / "checkpoints").iterdir())]
    assert not torch.equal(states[0]["shared/log_scale"], states[1]["shared/log_scale"])


def test_a_run_leaves_this_process_as_it_was(study: Any, tmp_path: Path) -> None:
    import os

    threads, before = torch.get_num_threads(), torch.random.get_rng_state()
    run(
        study.settings("federation.num_rounds=1"),
        sites=study.sites,
        central=study.central,
        out=tmp_path / "x",
    )
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), before)
    assert "CLIMB_SERVER" not in os.environ


def test_a_hospital_with_broken_data_is_told_with_a_reason_and_the_others_go_on(
    study: Any, make_site: Callable[..., Path], tmp_path: Path
) -> None:
    broken = make_site(tmp_path, "BROKEN")
    (broken / "metadata_unilateral" / "reports.csv").unlink()
    sites = {**study.sites, "BROKEN": broken, "GONE": tmp_path / "nowhere"}
    summary = run(study.settings(), sites=sites, central=study.central, out=tmp_path / "run")
    assert summary["sites"] == 3
    rejected = {entry["site"]: entry["reason"] for entry in records(tmp_path / "run")[0]["rejected"]}
    assert set(rejected) == {"BROKEN", "GONE"}
    told = json.dumps(rejected)
    assert str(tmp_path) not in told
    assert "0001" not in told  # no patient
    log = (tmp_path / "run" / "sites" / "BROKEN" / "site.log").read_text()
    assert "reports.csv" in log


def test_a_hospital_that_breaks_between_rounds_is_rejected_and_the_others_go_on(
    study: Any, make_site: Callable[..., Path], tmp_path: Path
) -> None:
    fragile = make_site(tmp_path, "FRAGILE")

    class Vandal(Silent):
        def round_done(self, record: RoundRecord) -> None:
            if record.round == 1:
                shutil.rmtree(fragile)

    sites = {**study.sites, "FRAGILE": fragile}
    run(study.settings(), sites=sites, central=study.central, out=tmp_path / "run", observer=Vandal())
    rounds = records(tmp_path / "run")
    assert set(rounds[1]["sites"]) == {"A", "B", "C", "FRAGILE"}
    assert set(rounds[2]["sites"]) == {"A", "B", "C"}
    assert [entry["site"] for entry in rounds[2]["rejected"]] == ["FRAGILE"]
    assert str(tmp_path) not in json.dumps(rounds)


def test_too_few_hospitals_stop_with_one_line_and_keep_the_last_checkpoint(
    study: Any, make_site: Callable[..., Path], tmp_path: Path
) -> None:
    fragile = make_site(tmp_path, "FRAGILE")
    kept = tmp_path / "kept"

    class Vandal(Silent):
        def round_done(self, record: RoundRecord) -> None:
            if record.round == 1:
                fragile.rename(kept)

    with pytest.raises(TooFewReplies, match=r"^1 of 2 sites sent a sound reply, 2 needed") as caught:
        run(
            study.settings(),
            sites={"A": study.sites["A"], "FRAGILE": fragile},
            central=study.central,
            out=tmp_path / "run",
            observer=Vandal(),
        )
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run" / "failure.txt").read_text().strip() == str(caught.value)
    assert [record["round"] for record in records(tmp_path / "run")] == [0, 1]
    assert not (tmp_path / "run" / "summary.json").exists()
    kept.rename(fragile)
    assert resume(tmp_path / "run")["rounds"] == 2
    assert not (tmp_path / "run" / "failure.txt").exists()


def test_a_folder_with_a_run_is_not_overwritten(finished: Any, study: Any) -> None:
    out, _, _ = finished
    with pytest.raises(RunError, match="already holds a run: go on with --resume"):
        run(study.settings(), sites=study.sites, central=study.central, out=out)


def test_a_run_that_failed_before_it_learned_is_begun_again(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(DataError):
        run(study.settings(), sites=study.sites, central=tmp_path / "nowhere", out=out)
    assert (out / "run.json").exists()
    summary = run(study.settings(), sites=study.sites, central=study.central, out=out)
    assert summary["rounds"] == study.settings().federation.num_rounds
    assert not (out / "failure.txt").exists()


def test_resuming_a_complete_run_gives_its_summary_and_trains_nothing(finished: Any) -> None:
    out, summary, _ = finished
    notebook = Notebook()
    assert resume(out, observer=notebook) == summary
    assert notebook.heard == [("finished", 2)]


def test_resuming_refuses_what_is_no_run_or_was_changed(finished: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run folder"):
        resume(tmp_path)
    out, _, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("seed: 0", "seed: 5"))
    with pytest.raises(RunError, match="was changed after the run began"):
        resume(copy)


def test_a_checkpoint_of_another_study_or_a_damaged_one_is_refused(finished: Any, tmp_path: Path) -> None:
    out, _, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (copy / "summary.json").unlink()
    marker = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**marker, "study": "another"}))
    with pytest.raises(RunError, match="checkpoint belongs to study 'study-1', not to 'another'"):
        resume(copy)
    (copy / "run.json").write_text(json.dumps(marker))
    newest = copy / "checkpoints" / "round-0002.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.raises(RunError, match=r"round-0002\.safetensors is damaged"):
        resume(copy)
    newest.unlink()
    assert resume(copy)["rounds"] == 2  # from round 1
    first, again = load_file(out / "shared.safetensors"), load_file(copy / "shared.safetensors")
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_a_run_that_another_process_works_on_is_refused(
    finished: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("server.rounds.LOCK_S", 0.0)
    out, _, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (copy / "summary.json").unlink()
    code = "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.flock(f,2); print('held',flush=True); input()"
    command = [sys.executable, "-c", code, str(copy / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match=rf"another process .* runs the study in {copy}"):
            resume(copy)
        holder.kill()
    assert resume(copy)["rounds"] == 2


def test_an_unknown_engine_is_refused_before_anything_is_written(study: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="engine must be one of local, flower, got 'ray'"):
        run(study.settings(), sites=study.sites, central=study.central, out=tmp_path / "r", engine="ray")
    assert not (tmp_path / "r").exists()


def test_the_history_is_repaired_from_the_checkpoint(finished: Any, tmp_path: Path) -> None:
    out, _, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (copy / "summary.json").unlink()
    lines = (copy / "history.jsonl").read_text().splitlines()
    (copy / "history.jsonl").write_text(lines[0] + "\n")
    resume(copy)
    assert RunFolder.open(copy).history() == RunFolder.open(out).history()
