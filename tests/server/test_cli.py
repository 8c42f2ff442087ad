"""`climb-server evaluate`: a finished run, measured again on a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from climb_model.model.climb import build_model
from climb_model.model.frozen import FrozenEncoders
from climb_model.runs import RunFolder
from climb_model.sharing import shared_state
from configs.load import load_settings, settings_hash
from server.cli import main

Command = Callable[..., tuple[int, str, str]]

NUM_PATIENTS = 6
OVERRIDES = ["evaluation.findings=[Zyste, Karzinom]"]


@dataclass(frozen=True)
class Finished:
    """A run folder as a finished run leaves it, and exams to measure it on."""

    run: Path
    data: Path

    def call(self, command: Command, *more: object) -> tuple[int, str, str]:
        return command(main, "evaluate", self.run, "--data", self.data, *more)


@pytest.fixture
def finished(tmp_path: Path) -> Finished:
    settings = load_settings("debug", OVERRIDES)
    run = RunFolder.create(tmp_path / "run", settings, "study")
    run.write_shared(shared_state(build_model(settings)), 2, FrozenEncoders.load(settings, None).fingerprint)
    data = tmp_path / "CLINIC"
    write_exams(data)
    return Finished(run.path, data)


def write_exams(folder: Path) -> None:
    """One breast of each patient: noise, `Zyste` in every second patient, `Karzinom` in none."""
    rng = np.random.default_rng(0)
    uids = [f"{patient:03d}_left" for patient in range(NUM_PATIENTS)]
    for uid in uids:
        (folder / "data_unilateral" / uid).mkdir(parents=True)
        for sequence in ("Pre", "Sub", "T2"):
            values = rng.normal(100.0, 20.0, (32, 32, 4)).astype(np.float32)
            image = nib.Nifti1Image(values, np.diag([4.0, 4.0, 8.0, 1.0]))
            nib.save(image, folder / "data_unilateral" / uid / f"{sequence}.nii.gz")
    tables = {
        "annotation": ["UID,PatientID,Age,Lesion", *(f"{uid},{uid[:3]},18000,0" for uid in uids)],
        "split": ["UID,Fold,Split", *(f"{uid},0,test" for uid in uids)],
        "findings": ["UID,Zyste,Karzinom", *(f"{uid},{row % 2},0" for row, uid in enumerate(uids))],
    }
    (folder / "metadata_unilateral").mkdir()
    for name, lines in tables.items():
        (folder / "metadata_unilateral" / f"{name}.csv").write_text("\n".join(lines) + "\n", "utf-8")


def one_line(found: tuple[int, str, str], code: int) -> str:
    assert found[:2] == (code, "")
    assert found[2].count("\n") == 1
    return found[2].rstrip("\n")


def test_the_table_names_each_finding_with_its_exams(finished: Finished, command: Command) -> None:
    code, out, err = finished.call(command)
    assert (code, err) == (0, "")
    head, table, decisions = (part.splitlines() for part in out.strip().split("\n\n"))
    assert head == [f"{NUM_PATIENTS} exams of CLINIC, split test"]
    (cyst,) = [line.split() for line in table if line.startswith("Zyste")]
    assert 0.0 <= float(cyst[1]) <= 1.0
    assert cyst[-2:] == ["3", "3"]
    (carcinoma,) = [line.split() for line in table if line.startswith("Karzinom")]
    assert carcinoma == ["Karzinom", "undefined", "0", "6"]
    (mean,) = [line.split() for line in table if line.startswith("mean of the defined")]
    assert mean[4] == cyst[1]
    assert table[-1] == "undefined, without positive or negative exams: Karzinom"
    assert decisions[0] == "no validation exams beside the reported ones: no thresholds"
    (cyst,) = [line.split() for line in decisions if line.startswith("Zyste")]
    assert all(0.0 <= float(number) <= 1.0 for number in cyst[1:3])
    assert cyst[3:] == ["-", "-", "-"]
    assert decisions[-1] == "Research use, not a medical device."


def test_thresholds_are_told_with_the_exams_that_chose_them(finished: Finished, command: Command) -> None:
    split = finished.data / "metadata_unilateral" / "split.csv"
    rows = split.read_text("utf-8").splitlines()
    split.write_text("\n".join(rows[:3] + [row.replace("test", "val") for row in rows[3:]]) + "\n", "utf-8")
    code, out, _ = finished.call(command)
    assert code == 0
    assert out.startswith("2 exams of CLINIC, split test\n")
    assert (
        "thresholds: the smallest of specificity 0.90 on 4 validation exams; "
        "what they do to the reported exams:\n" in out
    )


def test_it_leaves_no_tokens_and_opens_no_reports(finished: Finished, command: Command) -> None:
    before = {path for path in finished.run.rglob("*")} | {path for path in finished.data.rglob("*")}
    assert not (finished.data / "metadata_unilateral" / "reports.csv").exists()
    assert finished.call(command)[0] == 0
    assert {path for path in finished.run.rglob("*")} | {path for path in finished.data.rglob("*")} == before


def test_an_unfinished_run_is_refused(finished: Finished, command: Command) -> None:
    file = finished.run / "shared.safetensors"
    file.unlink()
    line = one_line(finished.call(command), 1)
    assert line == f"climb-server: {file} is missing: a run writes it when it has finished"


def test_a_damaged_file_is_refused(finished: Finished, command: Command) -> None:
    file = finished.run / "shared.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert one_line(finished.call(command), 1) == f"climb-server: {file} is damaged or no safetensors file"


def test_settings_changed_after_training_are_refused(finished: Finished, command: Command) -> None:
    config = finished.run / "config.yaml"
    config.write_text(config.read_text("utf-8").replace("seed: 0\n", "seed: 1\n"), "utf-8")
    then, now = (settings_hash(load_settings("debug", [*OVERRIDES, f"seed={seed}"])) for seed in (0, 1))
    assert one_line(finished.call(command), 1) == (
        f"climb-server: {finished.run / 'shared.safetensors'} was trained with settings {then}, "
        f"{config} holds settings {now}"
    )


@pytest.mark.parametrize("part", ["vision", "text", "tokenizer", "preprocessing"])
def test_other_frozen_parts_are_refused_by_name(part: str, finished: Finished, command: Command) -> None:
    here = FrozenEncoders.load(load_settings("debug", OVERRIDES), None).fingerprint
    run = RunFolder.open(finished.run)
    run.write_shared(load_file(run.path / "shared.safetensors"), 2, {**here, part: "0" * 64})
    assert one_line(finished.call(command), 1) == (
        f"climb-server: the run was trained with other frozen parts "
        f"({part}: 000000000000 then, {here[part][:12]} here)"
    )


def test_weights_that_do_not_say_their_encoders_are_refused(finished: Finished, command: Command) -> None:
    file = finished.run / "shared.safetensors"
    digest = settings_hash(load_settings("debug", OVERRIDES))
    told = {"round": "2", "config_hash": digest, "fingerprint": json.dumps([1])}
    save_file(load_file(file), file, told)
    line = one_line(finished.call(command), 1)
    assert line == f"climb-server: {file} does not say which frozen encoders it was trained with"


def test_a_tensor_of_another_shape_is_refused(finished: Finished, command: Command) -> None:
    run = RunFolder.open(finished.run)
    tensors = load_file(run.path / "shared.safetensors")
    tensors["slice_positions.weight"] = tensors["slice_positions.weight"][:3].contiguous()
    run.write_shared(tensors, 2, FrozenEncoders.load(run.settings, None).fingerprint)
    line = one_line(finished.call(command), 1)
    assert line.endswith("'slice_positions.weight' with shape (3, 64), expected (192, 64)")


def test_exams_without_findings_are_refused(finished: Finished, command: Command) -> None:
    (finished.data / "metadata_unilateral" / "findings.csv").unlink()
    assert "findings.csv" in one_line(finished.call(command), 1)


@pytest.mark.parametrize("wrong", ["run", "data", "weights"])
def test_a_missing_folder_is_wrong_usage(
    wrong: str, finished: Finished, command: Command, tmp_path: Path
) -> None:
    run = tmp_path / "no" if wrong == "run" else finished.run
    data = tmp_path / "no" if wrong == "data" else finished.data
    more = ["--weights", tmp_path / "no"] if wrong == "weights" else []
    named = "RUN" if wrong == "run" else f"--{wrong}"
    line = one_line(command(main, "evaluate", run, "--data", data, *more), 2)
    assert line == f"climb-server: {named} must be a folder, got {tmp_path / 'no'}, where there is nothing"
