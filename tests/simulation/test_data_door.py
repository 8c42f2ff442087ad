"""From a PACS export to a trained federation: drawn hospitals, exported as DICOM, imported, checked, run."""

from __future__ import annotations

import csv
import gzip
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from client.cli import main as climb_site
from climb_model.data.synthetic import CENTRAL, make_hospitals
from climb_model.data.synthetic_dicom.export import make_dicom
from climb_model.intake.pseudonym import exam_id, site_key
from climb_model.intake.study import Study
from simulation.cli import main as climb_sim
from simulation.demo import CENTRAL_EXAMS, EXAMS, NUM_SITES

Entry = dict[str, Any]
NEEDED_BYTES = 30e9
"""Free on the disk, for the demo's hospitals as DICOM and as imported volumes."""

SITES = ("SITE_A", "SITE_B")
HOSPITALS = (*SITES, CENTRAL)
SIDES = ("left", "right")
REASONS: Mapping[str, str] = {
    "missing slice": "missing or damaged|could not be read",
    "truncated file": "truncated",
    "no post": "no dynamic series",
}
"""Kind of a broken study to what the report of the import says of it."""


@dataclass(frozen=True)
class Door:
    """Three hospitals, before and behind the import."""

    drawn: Path
    exported: Path
    sites: Path
    truth: dict[str, list[Entry]]

    def studies(self, hospital: str, expected: str = "imported") -> dict[str, Entry]:
        """Pseudonym of the exam to what is true of it."""
        key = site_key(self.sites / hospital)
        return {
            exam_id(as_study(entry), key): entry
            for entry in self.truth[hospital]
            if entry["expected"] == expected
        }

    def drawn_studies(self, hospital: str) -> dict[str, Entry]:
        """The same for the studies that are drawn exams, not changed by any mess."""
        return {exam: entry for exam, entry in self.studies(hospital).items() if entry["kind"] == "drawn"}

    def drawn_volume(
        self, hospital: str, entry: Entry, side: str, sequence: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Voxels as drawn, and the affine to RAS+ mm of the exported patient. `Post_1` is Pre + Sub."""
        folder = self.drawn / hospital / "data_unilateral" / entry["exams"][side]
        parts = ("Pre", "Sub") if sequence == "Post_1" else (sequence,)
        images = [nib.load(next(folder.glob(f"{part}*.nii.gz"))) for part in parts]
        affine = images[0].affine.copy()
        affine[:3, 3] += entry["shift_mm"][side]
        return sum(np.asarray(image.dataobj).astype(int) for image in images), affine


def as_study(entry: Entry) -> Study:
    return Study(
        uid=entry["study_uid"],
        accession=entry["accession"],
        patient=entry["patient"],
        date=entry["date"],
        age_days=entry["age_days"],
        names=frozenset(),
        vendor="other",
        field_strength_t=None,
        series=(),
    )


def pass_the_door(
    root: Path, *, sites: int, exams: int, central_exams: int, workers: int, most: int | None = None
) -> Door:
    """Draw, export and import hospitals; CENTRAL's findings go under the new names, as labels need people.

    Args:
        most: patients of a split that are kept, for a short test; without it only what trains is kept.
    """
    drawn, exported, imported = root / "drawn", root / "exported", root / "sites"
    make_hospitals(drawn, num_sites=sites, exams=exams, central_exams=central_exams, seed=0, workers=2)
    if most is not None:
        for hospital in drawn.glob("*/"):
            keep_few(hospital, most)
    make_dicom(drawn, exported, seed=0, workers=workers)
    content = json.loads((exported / "truth.json").read_text("utf-8"))["hospitals"]
    truth = {hospital: entries["studies"] for hospital, entries in content.items()}
    for hospital in truth:
        folder = exported / hospital
        reports = next(folder.glob("reports.*"))
        files = ["--reports", str(reports), "--mapping", str(folder / "mapping.yaml")]
        arguments = [str(folder / "dicom"), str(imported / hospital), *files, "--workers", str(workers)]
        assert climb_site(["import", *arguments]) == 0
        if most is None:  # tens of gigabytes, and what trains needs none of it
            shutil.rmtree(folder / "dicom")
            shutil.rmtree(imported / hospital / "data")
            for path in (imported / hospital / "data_unilateral").glob("*/Post_*"):
                path.unlink()
    door = Door(drawn=drawn, exported=exported, sites=imported, truth=truth)
    label_central(door)
    return door


def keep_few(hospital: Path, most: int) -> None:
    """Take all but some patients of each split out of a drawn hospital."""
    patients = by_uid(hospital, "annotation", "PatientID")
    of_split: dict[str, list[str]] = {}
    for uid, split in sorted(by_uid(hospital, "split", "Split").items()):
        if patients[uid] not in of_split.setdefault(split, []):
            of_split[split].append(patients[uid])
    kept = {patient for listed in of_split.values() for patient in listed[:most]}
    gone = {uid for uid, patient in patients.items() if patient not in kept}
    for uid in gone:
        shutil.rmtree(hospital / "data_unilateral" / uid)
    for path in (hospital / "metadata_unilateral").iterdir():
        head, *rows = table(hospital, path.stem)
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([head, *(row for row in rows if row[0] not in gone)])


def label_central(door: Door) -> None:
    """Write CENTRAL's findings.csv under the names that the import gave."""
    head, *rows = table(door.drawn / CENTRAL, "findings")
    of_drawn = {row[0]: row[1:] for row in rows}
    new = {
        f"{exam}_{side}": of_drawn[entry["exams"][side]]
        for exam, entry in door.drawn_studies(CENTRAL).items()
        for side in SIDES
    }
    path = door.sites / CENTRAL / "metadata_unilateral" / "findings.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *([uid, *values] for uid, values in new.items())])


def table(site: Path, name: str) -> list[list[str]]:
    with (site / "metadata_unilateral" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def by_uid(site: Path, name: str, column: str) -> dict[str, str]:
    head, *rows = table(site, name)
    return {row[0]: row[head.index(column)] for row in rows}


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Door:
    return pass_the_door(
        tmp_path_factory.mktemp("door"), sites=2, exams=20, central_exams=20, workers=1, most=2
    )


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_every_study_has_the_outcome_that_is_true_of_it(hospital: str, door: Door) -> None:
    site = door.sites / hospital
    wanted = set(door.studies(hospital))
    # two patients of each split (CENTRAL has no training exams), and one of them a year before
    assert len(wanted) == (4 if hospital == CENTRAL else 5) + 1
    assert {folder.name for folder in (site / "data").iterdir()} == wanted
    breasts = {f"{exam}_{side}" for exam in wanted for side in SIDES}
    assert {folder.name for folder in (site / "data_unilateral").iterdir()} == breasts
    for name in ("annotation", "split"):
        assert set(by_uid(site, name, "UID")) == breasts
    with (site / "import-report.csv").open(encoding="utf-8", newline="") as file:
        left_out = list(csv.DictReader(file))
    for kind, reason in REASONS.items():
        (exam,) = door.studies(hospital, kind)
        told = {row["what"]: row["reason"] for row in left_out if row["exam"] == exam}
        assert "exam" in told
        assert any(re.search(reason, words) for words in told.values())


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_native_volumes_are_the_drawn_integers(hospital: str, door: Door) -> None:
    for exam, entry in door.drawn_studies(hospital).items():
        folder = door.sites / hospital / "data" / exam
        posts = [f"Post_{number}" for number in range(1, entry["phases"])]
        assert {path.name for path in folder.glob("*.nii.gz")} == {
            f"{sequence}.nii.gz" for sequence in ("Pre", *posts, "T2")
        }
        for sequence in ("Pre", "Post_1", *(["T2"] if entry["t2"] == "exact" else [])):
            image = nib.load(folder / f"{sequence}.nii.gz")
            voxels = np.asarray(image.dataobj)
            for side in SIDES:
                drawn, affine = door.drawn_volume(hospital, entry, side, sequence)
                index = places(np.linalg.inv(image.affine) @ affine, drawn.shape)
                nearest = [np.round(axis).astype(int) for axis in index]
                np.testing.assert_allclose(np.concatenate(index), np.concatenate(nearest), atol=2e-3)
                assert np.array_equal(voxels[np.ix_(*nearest)], drawn)


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_unilateral_volumes_are_the_drawn_ones_at_the_same_place(hospital: str, door: Door) -> None:
    for exam, entry in door.drawn_studies(hospital).items():
        for side in SIDES:
            folder = door.sites / hospital / "data_unilateral" / f"{exam}_{side}"
            for sequence in ("Pre", "Post_1", "Sub_1", "T2"):
                image = nib.load(folder / f"{sequence}.nii.gz")
                assert image.shape == (256, 256, 32)
                np.testing.assert_allclose(image.header.get_zooms(), (0.7, 0.7, 3.0), atol=1e-4)
                name = "Sub" if sequence == "Sub_1" else sequence
                drawn, affine = door.drawn_volume(hospital, entry, side, name)
                wanted, inside = resampled(drawn, places(np.linalg.inv(affine) @ image.affine, image.shape))
                found = np.asarray(image.dataobj)[inside]
                if sequence == "T2" and entry["t2"] == "interpolated":
                    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.95
                else:
                    assert np.abs(found - wanted).max() <= 1.5  # whole numbers, rounded once or twice


def places(to_index: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Where the points of a grid lie along each axis of another one with the same axes, in its voxels."""
    steps = np.diag(to_index)[:3]
    assert np.abs(to_index[:3, :3] - np.diag(steps)).max() < 1e-6
    return [
        np.arange(size) * step + offset
        for size, step, offset in zip(shape, steps, to_index[:3, 3], strict=True)
    ]


def resampled(drawn: np.ndarray, where: list[np.ndarray]) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Linear interpolation at those places that lie within the volume, and which places these are.

    Fails where they do not reach its ends, the tenth before the nipple and three columns at the midline
    excepted: the breast would be cut.
    """
    values, inside = drawn.astype(float), list[slice]()
    for axis, (place, size) in enumerate(zip(where, drawn.shape, strict=True)):
        assert place.min() < (3, 0.1 * size, 1)[axis]
        assert place.max() > size - 1 - (3, 1, 1)[axis]
        within = np.flatnonzero((place >= 0) & (place <= size - 1))
        inside.append(slice(within[0], within[-1] + 1))
        weights = np.maximum(0, 1 - np.abs(place[within][:, None] - np.arange(size)))
        values = np.moveaxis(np.tensordot(weights, values, axes=(1, axis)), 0, axis)
    return values, tuple(inside)


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_each_report_reaches_its_breast_and_each_split_its_patient(hospital: str, door: Door) -> None:
    drawn, site = door.drawn / hospital, door.sites / hospital
    written = by_uid(drawn, "reports", "Report")
    reports, splits = by_uid(site, "reports", "Report"), by_uid(site, "split", "Split")
    ages, lesions = by_uid(site, "annotation", "Age"), by_uid(site, "annotation", "Lesion")
    drawn_lesions = by_uid(drawn, "annotation", "Lesion")
    for exam, entry in door.studies(hospital).items():
        for side, other in (SIDES, SIDES[::-1]):
            uid = f"{exam}_{side}"
            assert splits[uid] == entry["split"]
            assert int(ages[uid]) == entry["age_days"]
            if not entry["report"]:
                assert reports.get(uid, "") == ""
                continue
            assert lesions[uid] == drawn_lesions[entry["exams"][side]]
            text, own, not_own = (
                " ".join(words.split())
                for words in (reports[uid], written[entry["exams"][side]], written[entry["exams"][other]])
            )
            assert own in text
            assert not_own not in text


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_nothing_that_names_a_patient_is_in_the_site_s_folder(hospital: str, door: Door) -> None:
    planted = {word for entry in door.truth[hospital] for word in entry["planted"]}
    secret = re.compile("|".join(map(re.escape, sorted(planted))))
    assert len(planted) > 40
    num_files = 0
    for path in (door.sites / hospital).rglob("*"):
        assert not secret.search(path.relative_to(door.sites).as_posix())
        if path.is_file():
            num_files += 1
            content = head_of_gzip(path) if path.suffix == ".gz" else path.read_bytes()
            for encoding in ("utf-8", "latin-1", "utf-16-le"):
                found = secret.search(content.decode(encoding, errors="replace"))
                assert not found, f"{path.name}: {found}"
    assert num_files > len(door.studies(hospital)) * 12


def head_of_gzip(path: Path) -> bytes:
    """Where a NIfTI file's header and its extensions lie."""
    with gzip.open(path) as file:
        return file.read(4096)


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_the_check_finds_too_few_exams_and_no_other_fault(
    hospital: str, door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--preset", "debug", "--workers", "1", "--json"]
    options += ["--server-exams"] if hospital == CENTRAL else []
    capsys.readouterr()
    code = climb_site(["check", str(door.sites / hospital), *options])
    result = json.loads(capsys.readouterr().out)
    faults = [] if hospital == CENTRAL else ["exams.privacy_minimum"]  # few breasts to train on
    assert [fault["code"] for fault in result["errors"]] == faults
    assert code == len(faults)


def test_a_federation_trains_on_what_was_imported(
    door: Door, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    run = tmp_path / "run"
    code, _, err = command(climb_sim, "run", "--preset", "debug", "--data", door.sites, "--out", run)
    assert (code, err) == (0, "")
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    train = {site: sum(e["split"] == "train" and e["report"] for e in door.truth[site]) for site in SITES}
    assert summary["exams"] == {site: 2 * count for site, count in train.items()}
    assert 0 <= summary["mean_auc"] <= 1


@pytest.mark.long
def test_the_demo_s_auc_from_imported_dicom_lies_within_its_interval(tmp_path: Path) -> None:
    """The demo's hospitals, once as drawn and once through DICOM and the import."""
    assert shutil.disk_usage(tmp_path).free > NEEDED_BYTES, "too little free disk space for this test"
    door = pass_the_door(tmp_path, sites=NUM_SITES, exams=EXAMS, central_exams=CENTRAL_EXAMS, workers=2)
    summaries: dict[str, dict[str, Any]] = {}
    for name, root in (("drawn", door.drawn), ("imported", door.sites)):
        out = tmp_path / f"run-{name}"
        code = climb_sim(["run", "--preset", "demo", "--data", str(root), "--out", str(out)])
        assert code == 0
        summaries[name] = json.loads((out / "summary.json").read_text("utf-8"))
    drawn, imported = summaries["drawn"], summaries["imported"]
    assert drawn["mean_auc_ci_low"] <= imported["mean_auc"] <= drawn["mean_auc_ci_high"]
    assert imported["exams"] == drawn["exams"]
    assert imported["central_exams"] == drawn["central_exams"]
