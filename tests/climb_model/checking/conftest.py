"""A small sound site that tests break, file by file and cell by cell."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

PATIENTS = 24
TRAIN_PATIENTS = 18
SEQUENCES = ("Pre", "Sub_1", "T2")
SHAPE = (10, 10, 6)
SPACING = (4.0, 4.0, 8.0)


class Site:
    """A site's folder, and what it takes to break it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "data_unilateral"
        self.tables = folder / "metadata_unilateral"

    def image(self, uid: str, sequence: str) -> Path:
        return self.images / uid / f"{sequence}.nii.gz"

    def rows(self, table: str) -> list[list[str]]:
        """All lines of a table, the header first."""
        with (self.tables / f"{table}.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.reader(file))

    def write(self, table: str, rows: list[list[object]]) -> None:
        with (self.tables / f"{table}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)

    def edit(self, table: str, uid: str, column: str, value: object) -> None:
        """Change one cell; column `UID` renames the row."""
        rows = self.rows(table)
        row = next(row for row in rows if row[0] == uid)
        row[rows[0].index(column)] = str(value)
        self.write(table, [*rows])

    def drop(self, table: str, uid: str) -> None:
        self.write(table, [row for row in self.rows(table) if row[0] != uid])

    @staticmethod
    def affine(side: str, spacing: tuple[float, float, float] = SPACING) -> np.ndarray:
        """Axes to the left, back and head; the left breast's middle 75 mm left of the scanner's."""
        affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
        middle = -75.0 if side == "left" else 75.0
        affine[0, 3] = middle + spacing[0] * (SHAPE[0] - 1) / 2
        return affine

    @staticmethod
    def voxels(seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(-50, 900, SHAPE).astype(np.int16)

    @staticmethod
    def save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
        image = nib.Nifti1Image(voxels, affine)
        image.header.set_xyzt_units("mm")
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)

    def place(self, uid: str, affine: np.ndarray) -> None:
        """Give all images of an exam another affine."""
        for path in sorted((self.images / uid).glob("*.nii.gz")):
            self.save(path, np.asanyarray(nib.Nifti1Image.from_filename(path).dataobj), affine)


def write_sound_site(folder: Path) -> None:
    site = Site(folder)
    rows: dict[str, list[list[object]]] = {
        "annotation": [["UID", "PatientID", "Age", "Lesion"]],
        "split": [["UID", "Split", "Fold"]],
        "reports": [["UID", "Report"]],
        "findings": [["UID", "Zyste", "Karzinom"]],
    }
    for number in range(2 * PATIENTS):
        patient, side = number // 2, ("left", "right")[number % 2]
        uid = f"{patient:05d}_{side}"
        for place, sequence in enumerate(SEQUENCES):
            site.save(site.image(uid, sequence), site.voxels(3 * number + place), site.affine(side))
        words = "links" if side == "left" else "rechts"
        rows["annotation"].append([uid, f"P{patient:05d}", 20_000 + number, number % 3])
        rows["split"].append([uid, "train" if patient < TRAIN_PATIENTS else "test", 0])
        rows["reports"].append([uid, f"Mamma {words}: Zyste von {5 + number} mm, kein Karzinom."])
        rows["findings"].append([uid, number % 2, number // 2 % 2])
    site.tables.mkdir()
    for table, lines in rows.items():
        site.write(table, lines)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o750 if path.is_dir() else 0o640)


@pytest.fixture(scope="session")
def sound_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both breasts of 24 patients: 36 exams to train on and 12 to test. Not to be changed."""
    folder = tmp_path_factory.mktemp("sound") / "S"
    write_sound_site(folder)
    return folder


@pytest.fixture
def site(sound_site: Path, tmp_path: Path) -> Site:
    """A copy of the sound site that a test may break."""
    return Site(Path(shutil.copytree(sound_site, tmp_path / "S")))
