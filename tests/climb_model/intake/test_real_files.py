"""`climb-site import` of files that others made: each is imported, or refused with a reason that is true."""

from __future__ import annotations

import csv
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom.data import get_testdata_file

from client.cli import main

HEAD = "one hump in front, not two: one breast or none in the field of view, no side told"
ANGIOGRAM = "1.3.6.1.4.1.5962.1.1.0.0.0.1196533885.18148.0.118"
NIBABEL = Path(nib.__file__).parent / "tests" / "data"

Command = Callable[..., tuple[int, str, str]]


def reasons(site: Path) -> set[tuple[str, str, int]]:
    """What, why and how many files of `import-report.csv`, without notices."""
    with (site / "import-report.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["what"] != "notice"]
    return {(row["what"], row["reason"], int(row["num_files"])) for row in rows}


def volumes(site: Path) -> list[Path]:
    return [path for path in site.rglob("*.nii.gz") if path.is_file()]


def exam(folder: Path, **files: Path) -> Path:
    """A folder with one exam of these files."""
    (folder / "E1").mkdir(parents=True)
    for name, path in files.items():
        shutil.copy(path, folder / "E1" / f"{name}{''.join(path.suffixes[-2:])}")
    return folder


@pytest.fixture(scope="module")
def dicomdirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pydicom's DICOMDIR trees: heads and an angiogram in CT, CR and MR."""
    examples = Path(str(get_testdata_file("MR_small.dcm"))).parent / "dicomdirtests"
    return Path(shutil.copytree(examples, tmp_path_factory.mktemp("real") / "in"))


@pytest.fixture(scope="module")
def template() -> Path:
    """The MNI152 T1 template: a head without a patient."""
    nilearn = pytest.importorskip("nilearn")
    folder = Path(nilearn.__file__).parent / "datasets" / "data"
    path = next(folder.glob("mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"), None)
    if path is None:
        pytest.skip("this nilearn ships no MNI152 template")
    return path


def test_all_of_the_dicomdir_trees_is_left_out_for_true_reasons(
    dicomdirs: Path, tmp_path: Path, command: Command
) -> None:
    code, out, err = command(main, "import", dicomdirs, tmp_path / "site", "--workers", "1")
    assert (code, err) == (1, "")
    assert "0 exams imported, 0 were there already, 3 left out" in out
    unnamed = "no T1 volume in this study; name Pre and Post, or dynamic, in the mapping file: --mapping"
    localizer = "slices of three or more orientations: a localizer"
    derived = "derived by the scanner or a workstation (subtraction, projection, reformatted)"
    assert reasons(tmp_path / "site") == {
        *(("exam", unnamed, number) for number in (2, 4, 11)),
        ("series", localizer, 3),
        *(("series", "a localizer", number) for number in (1, 2)),
        ("series", derived, 7),
        ("series", "modality is CT, only MR is imported", 61),
        ("series", "modality is CR, only MR is imported", 3),
        ("file", "DICOM directory file", 8),
        ("file", "not a DICOM file", 2),
    }
    assert volumes(tmp_path / "site") == []


def test_no_series_of_the_dicomdir_trees_is_taken_by_guess(
    dicomdirs: Path, tmp_path: Path, command: Command
) -> None:
    code, _, err = command(main, "import", dicomdirs, tmp_path / "a", "--series", "Pre")
    assert code == 1
    assert err.startswith("climb-site: 7 series to choose from, name one by description or UID: ")
    code, _, err = command(main, "import", dicomdirs, tmp_path / "b", "--series", "Pre=T/S/C RF FAST PILOT")
    assert code == 1
    assert err.startswith("climb-site: 2 series of that description, name one by its UID: ")
    assert volumes(tmp_path) == []
    code, _, err = command(main, "import", dicomdirs, tmp_path / "c", "--series", f"Pre={ANGIOGRAM}")
    assert code == 1
    assert "(7 files): 7 volumes in one series (phases, echoes or orientations), wanted one" in err
    assert volumes(tmp_path) == []


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("Pre", "Post_1"), HEAD),
        (("T1_pre",), "no file is a post-contrast phase by its name; name it in the mapping file: --mapping"),
    ],
)
def test_a_template_of_the_head_is_no_breast_exam(
    names: tuple[str, ...], reason: str, template: Path, tmp_path: Path, command: Command
) -> None:
    source = exam(tmp_path / "in", **dict.fromkeys(names, template))
    code, out, err = command(main, "import", source, tmp_path / "site", "--nifti", "--workers", "1")
    assert code == 1
    assert reason in out + err
    if not err:
        assert reasons(tmp_path / "site") == {("exam", reason, len(names))}
    assert volumes(tmp_path / "site") == []


@pytest.mark.parametrize("mapping", ["", "series: {dynamic: ['example*']}\n"])
def test_nibabels_images_over_time_are_a_dynamic_series_of_a_head(
    mapping: str, tmp_path: Path, command: Command
) -> None:
    name = "example4d" if mapping else "dynamic"
    source = exam(tmp_path / "in", **{name: NIBABEL / "example4d.nii.gz"})
    (tmp_path / "mapping.yaml").write_text(mapping)
    options = ("--nifti", "--workers", "1", "--mapping", tmp_path / "mapping.yaml")
    code, _, err = command(main, "import", source, tmp_path / "site", *options)
    assert (code, err) == (1, "")
    assert reasons(tmp_path / "site") == {("exam", HEAD, 1)}
    assert volumes(tmp_path / "site") == []


def test_a_nifti_file_is_no_dicom_series(tmp_path: Path, command: Command) -> None:
    source = exam(tmp_path / "in", Pre=NIBABEL / "example4d.nii.gz")
    code, _, err = command(main, "import", source, tmp_path / "site", "--series", "Pre")
    assert (code, err) == (1, "climb-site: no DICOM series found: 1 x not a DICOM file\n")


# The real series


def test_the_real_series_is_imported_as_one_and_left_out_as_an_exam(
    assets: Path, tmp_path: Path, command: Command
) -> None:
    with zipfile.ZipFile(assets / "data" / "t1_dicom_series_64of384.zip") as archive:
        archive.extractall(tmp_path / "in")
    code, out, err = command(
        main, "import", tmp_path / "in", tmp_path / "one", "--series", "Pre", "--id", "x"
    )
    assert (code, err) == (0, "")
    assert "64 files, slices x rows x columns 64x384x274, 0.667 x 0.667 x 0.700 mm" in out
    image: Any = nib.load(tmp_path / "one" / "data" / "x" / "Pre.nii.gz")
    np.testing.assert_allclose(sorted(image.header.get_zooms()), (0.6667, 0.6667, 0.7), atol=1e-3)
    code, _, _ = command(main, "import", tmp_path / "in", tmp_path / "all", "--workers", "1")
    assert code == 1
    told = "derived by the scanner or a workstation (subtraction, projection, reformatted)"  # its ImageType
    assert ("series", told, 64) in reasons(tmp_path / "all")
    assert volumes(tmp_path / "all") == []


def test_a_dynamic_series_without_a_position_is_refused(
    assets: Path, tmp_path: Path, command: Command
) -> None:
    source = exam(tmp_path / "in", dynamic=assets / "data" / "breast_dce_invivo_192x192x1x25.nii.gz")
    code, _, err = command(main, "import", source, tmp_path / "site", "--nifti", "--workers", "1")
    assert code == 1
    assert "1 x Pre: its position is not told: the affine is the identity" in err
    assert volumes(tmp_path) == [*(tmp_path / "in").rglob("*.nii.gz")]
