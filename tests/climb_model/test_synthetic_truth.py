"""Synthetic exams can be learned only by looking: no short cut, no hidden label, no chance gain."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from climb_model import prepare as preparing
from climb_model.data.exam import ExamRecord, Volume
from climb_model.data.folders import read_site
from climb_model.data.synthetic import (
    CENTRAL,
    FINDINGS,
    DrawJob,
    draw_exam,
    hospital,
    make_hospitals,
    plan_exams,
)
from climb_model.data.volume import read_volume
from climb_model.evaluation.statistics import auc
from climb_model.evaluation.zero_shot import zero_shot
from climb_model.model.climb import build_model
from climb_model.model.frozen import FrozenEncoders
from climb_model.prepare import ExamSet, prepare, read_exams
from climb_model.training.trainer import OptimizerState, train_round
from configs.load import load_settings
from configs.schema import DataConfig, Settings
from simulation.engine import run

# ---- trivial statistics


def trivial_statistics(folder: Path, job: DrawJob, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Mean and maximum of each raw volume, number of slices, and whether T2 is missing."""
    volumes: dict[str, np.ndarray] = {}

    def keep(image: nib.Nifti1Image, path: Path) -> None:
        volumes[path.name.split(".")[0].removesuffix("_1")] = np.asarray(image.dataobj)

    monkeypatch.setattr(nib, "save", keep)
    draw_exam(replace(job, folder=folder))
    numbers: list[float] = []
    for sequence in ("Pre", "Sub", "T2"):
        volume = volumes.get(sequence)
        numbers += [0.0, 0.0] if volume is None else [float(volume.mean()), float(volume.max())]
    return [*numbers, float(volumes["Pre"].shape[2]), float("T2" not in volumes)]


@pytest.mark.long
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_trivial_statistics_tell_no_finding_within_a_hospital(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cross-validated by patient over 1,000 exams; a minute a hospital."""
    place = hospital(number, 0)
    planned = plan_exams(place, 1000, 0, (0.7, 0.1, 0.2))
    jobs = [
        DrawJob(folder=tmp_path, place=place, exam=exam, seed=0, difficulty=1.0, tissue=None)
        for exam in planned
    ]
    x = np.array([trivial_statistics(tmp_path, job, monkeypatch) for job in jobs])
    y = np.array([[finding in exam.findings for finding in FINDINGS] for exam in planned])
    patients = [exam.patient for exam in planned]
    found: dict[str, float | None] = {}
    for column, finding in enumerate(FINDINGS):
        scores = cross_val_predict(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            x,
            y[:, column],
            groups=patients,
            cv=GroupKFold(5),
            method="predict_proba",
        )[:, 1]
        found[finding] = auc(scores, y[:, column].astype(float))
    sys.stdout.write(
        f"{place.name} { {finding: round(value or 0.0, 3) for finding, value in found.items()} }\n"
    )
    assert all(value is not None and value < 0.65 for value in found.values()), found


# ---- labels play no part


def test_deleting_the_labels_at_the_hospitals_changes_no_bit(
    make_site: Callable[..., Path], tmp_path: Path
) -> None:
    settings = load_settings(
        "debug",
        ["training.num_threads=1", "evaluation.findings=[Zyste, Karzinom]", "evaluation.bootstrap=20"],
    )
    central = make_site(tmp_path / "data", CENTRAL, exams=16)
    sites = {name: make_site(tmp_path / "data", name, exams=8) for name in ("A", "B")}
    run(settings, sites=sites, central=central, out=tmp_path / "with")
    for folder in sites.values():
        (folder / "metadata_unilateral" / "findings.csv").unlink()
    run(settings, sites=sites, central=central, out=tmp_path / "without")
    first, second = (load_file(tmp_path / name / "shared.safetensors") for name in ("with", "without"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    scores = [(tmp_path / name / "predictions.csv").read_bytes() for name in ("with", "without")]
    assert scores[0] == scores[1]


# ---- pairs that say nothing


NUM_ROUNDS = 8


@dataclass(frozen=True)
class Trial:
    """One hospital and the server's exams, on the demo's settings."""

    root: Path
    settings: Settings
    frozen: FrozenEncoders
    central: ExamSet

    def hospital(self, scratch: str) -> ExamSet:
        data = self.settings.data
        site = read_site(
            self.root / "SITE_A",
            need_reports=True,
            need_findings=False,
            sequences=data.sequences,
            findings=(),
        )
        return prepare(site, "train", self.frozen, self.settings, self.root / scratch)

    def learned(self, exams: ExamSet) -> float:
        """Mean zero-shot AUC on the server's exams after training on these."""
        model = build_model(self.settings)
        optimizer: OptimizerState | None = None
        step = 0
        for number in range(1, NUM_ROUNDS + 1):
            report, optimizer = train_round(
                model, optimizer, exams, self.frozen.text, self.settings, round=number, global_step=step
            )
            step += report.num_steps
        found = zero_shot(model, self.central, self.frozen.text, self.settings)
        aucs = [auc(found.scores[:, k], found.labels[:, k]) for k in range(len(found.findings))]
        assert None not in aucs
        mean = float(np.mean([value for value in aucs if value is not None]))
        sys.stdout.write(f"mean zero-shot AUC {mean:.3f}\n")
        return mean


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    root = tmp_path_factory.mktemp("truth") / "data"
    make_hospitals(root, num_sites=1, exams=400, central_exams=400, seed=7)
    settings = load_settings("demo", ["training.num_threads=1"])
    frozen = FrozenEncoders.load(settings)
    server = read_exams(root / CENTRAL, settings, need_reports=False, need_findings=True)
    return Trial(root, settings, frozen, prepare(server, "test", frozen, settings, root / "central"))


@pytest.mark.long
def test_true_pairs_teach_something_in_the_same_time(trial: Trial) -> None:
    """Without this, the two tests below would pass with a trainer that does nothing."""
    assert trial.learned(trial.hospital("true")) > 0.58


@pytest.mark.long
def test_reports_shuffled_between_exams_teach_nothing(trial: Trial) -> None:
    exams = trial.hospital("true")
    order = np.random.default_rng(0).permutation(exams.num_exams)
    shuffled = replace(exams, reports=tuple(exams.reports[row] for row in order))
    assert trial.learned(shuffled) == pytest.approx(0.5, abs=0.06)


@pytest.mark.long
def test_noise_in_place_of_images_teaches_nothing(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each training volume's voxels in random order: the same values and presence, no picture."""

    def noise(exam: ExamRecord, data: DataConfig) -> Volume:
        volume = read_volume(exam, data)
        rng = np.random.default_rng(list(exam.uid.encode()))
        values = volume.values.copy()
        for sequence, present in zip(values, volume.present, strict=True):
            sequence[present] = rng.permutation(sequence[present].ravel()).reshape(sequence[present].shape)
        return Volume(values=values, present=volume.present, spacing_mm=volume.spacing_mm)

    shutil.rmtree(trial.root / "noise", ignore_errors=True)
    monkeypatch.setattr(preparing, "read_volume", noise)
    exams = trial.hospital("noise")
    assert trial.learned(exams) == pytest.approx(0.5, abs=0.06)
