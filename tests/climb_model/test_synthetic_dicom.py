"""The exported DICOM trees, read back with pydicom alone."""

from __future__ import annotations

import csv
import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from openpyxl import load_workbook
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

from climb_model.data.exam import DataError
from climb_model.data.synthetic_dicom.export import EXTRA, Exported, make_dicom
from climb_model.data.synthetic_dicom.habits import CENTRAL, habits_of
from climb_model.intake.mapping import load_mapping

# random voxels hardly get smaller
pytestmark = pytest.mark.filterwarnings("ignore:The number of bytes of compressed pixel data:UserWarning")

HOSPITALS = ["CENTRAL", "SITE_A", "SITE_B", "SITE_C", "SITE_D"]
SIDES = ("right", "left")
SHAPE = (20, 24, 6)
SPACING = (1.75, 1.5, 4.0)
HABITS = habits_of(HOSPITALS)
Entry = dict[str, Any]


def write_exam(
    folder: Path, rng: np.random.Generator, affine: np.ndarray, sequences: tuple[str, ...]
) -> None:
    folder.mkdir(parents=True)
    for sequence in sequences:
        voxels = rng.normal(200, 150, SHAPE).astype(np.int16)  # some below 0, as make-data's air
        nib.save(nib.Nifti1Image(voxels, affine), folder / f"{sequence}.nii.gz")


def draw(root: Path, hospitals: list[str]) -> Path:
    """Hospitals in make-data's layout: three whole patients each, SITE_A's fourth has a right breast only.

    SITE_C's first patient lacks T2 on the left, its second on both sides.
    """
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    affine[:3, 3] = [17.5, 18.0, 0.0]
    for hospital in hospitals:
        rng = np.random.default_rng([*hospital.encode()])
        rows: dict[str, list[list[object]]] = {
            "annotation": [["UID", "PatientID", "Age", "Lesion"]],
            "split": [["UID", "Split", "Fold"]],
            "reports": [["UID", "Report"]],
        }
        for patient in range(4 if hospital == "SITE_A" else 3):
            for side in SIDES[: 1 if patient == 3 else 2]:
                uid = f"000{patient}{hospital}_{side}"
                lacks = hospital == "SITE_C" and (patient == 1 or (patient == 0 and side == "left"))
                sub = "Sub" if hospital == "SITE_B" else "Sub_1"
                sequences = ("Pre", sub) if lacks else ("Pre", sub, "T2")
                write_exam(root / hospital / "data_unilateral" / uid, rng, affine, sequences)
                rows["annotation"].append([uid, f"000{patient}", 20_000 + patient, patient % 3])
                rows["split"].append([uid, ("train", "val", "test", "train")[patient], 0])
                rows["reports"].append([uid, f"Größere Zyste {side} Nr. {patient} in {hospital}, 8 mm."])
        tables = root / hospital / "metadata_unilateral"
        tables.mkdir()
        for name, table in rows.items():
            with (tables / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(table)
    return root


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("drawn"), HOSPITALS)


@pytest.fixture(scope="module")
def made(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    out = tmp_path_factory.mktemp("exported") / "dicom"
    return out, make_dicom(drawn, out, seed=3, workers=1)


@pytest.fixture(scope="module")
def truth(made: tuple[Path, Exported]) -> dict[str, list[Entry]]:
    hospitals = json.loads((made[0] / "truth.json").read_text("utf-8"))["hospitals"]
    return {name: content["studies"] for name, content in hospitals.items()}


@pytest.fixture(scope="module")
def objects(made: tuple[Path, Exported]) -> dict[str, dict[str, list[FileDataset]]]:
    """Hospital and StudyInstanceUID to its objects, copies of a file once."""
    found: dict[str, dict[str, dict[str, FileDataset]]] = {}
    for hospital in HOSPITALS:
        for path in (made[0] / hospital / "dicom").rglob("*"):
            if path.is_dir():
                continue
            try:
                tags = read(path)
            except InvalidDicomError:
                continue
            if "StudyInstanceUID" in tags:
                study = found.setdefault(hospital, {}).setdefault(tags.StudyInstanceUID, {})
                study[tags.SOPInstanceUID] = tags
    return {
        name: {uid: list(each.values()) for uid, each in studies.items()} for name, studies in found.items()
    }


def read(path: Path) -> FileDataset:
    """The whole object; where pydicom gives up all for cut pixels, what comes before them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tags = dcmread(path)
        return tags if "StudyInstanceUID" in tags else dcmread(path, stop_before_pixels=True)


def frames_of(tags: FileDataset) -> Iterator[tuple[Dataset, np.ndarray, int]]:
    """Place, values (row, column) and temporal position of each slice of a file."""
    pixels = tags.pixel_array
    if tags.SOPClassUID != EnhancedMRImageStorage:
        values = pixels * float(tags.RescaleSlope) + float(tags.RescaleIntercept)
        yield tags, values, int(tags.get("TemporalPositionIdentifier", 0))
        return
    shared = tags.SharedFunctionalGroupsSequence[0]
    scale = shared.PixelValueTransformationSequence[0]
    for frame, values in zip(tags.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        place = Dataset()
        place.ImagePositionPatient = frame.PlanePositionSequence[0].ImagePositionPatient
        place.ImageOrientationPatient = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        place.PixelSpacing = shared.PixelMeasuresSequence[0].PixelSpacing
        rescaled = values * float(scale.RescaleSlope) + float(scale.RescaleIntercept)
        yield place, rescaled, int(frame.FrameContentSequence[0].TemporalPositionIndex)


def points(place: Dataset, values: np.ndarray) -> dict[tuple[float, float, float], float]:
    """Millimetres (LPS, rounded) of each pixel to its value (PS3.3, C.7.6.2.1.1)."""
    along_row, along_column = np.array(place.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = (float(step) for step in place.PixelSpacing)
    rows, columns = np.indices(values.shape)
    corner = np.array(place.ImagePositionPatient, float)
    mm = (
        corner
        + columns[..., None] * along_row * between_columns
        + rows[..., None] * along_column * between_rows
    )
    keys = [tuple(point) for point in np.round(mm.reshape(-1, 3), 3).tolist()]
    return dict(zip(keys, values.ravel().tolist(), strict=True))


def volumes(files: list[FileDataset], description: str) -> list[dict[tuple[float, float, float], float]]:
    """The phases of the series whose descriptions begin so, in the order that tags tell."""
    found: dict[tuple[int, str], dict[tuple[float, float, float], float]] = {}
    for tags in files:
        named = str(tags.get("SeriesDescription", "")).startswith(description)
        if not named or "ORIGINAL" not in tags.get("ImageType", []):
            continue
        for place, values, position in frames_of(tags):
            time = "" if position else str(tags.AcquisitionTime)
            found.setdefault((position, time), {}).update(points(place, values))
    return [found[key] for key in sorted(found)]


def dynamic(files: list[FileDataset], hospital: str) -> list[dict[tuple[float, float, float], float]]:
    prefixes = {name.partition("{")[0] for name in HABITS[hospital].names}
    found = [volume for prefix in sorted(prefixes, reverse=True) for volume in volumes(files, prefix)]
    return found


def drawn_points(
    drawn: Path, hospital: str, entry: Entry, side: str, sequences: tuple[str, ...]
) -> dict[tuple[float, float, float], float]:
    """Millimetres (LPS) of the exported patient to the sum of drawn sequences."""
    folder = drawn / hospital / "data_unilateral" / entry["exams"][side]
    images = [nib.load(next(folder.glob(f"{sequence}*.nii.gz"))) for sequence in sequences]
    voxels = sum(np.asarray(image.dataobj).astype(int) for image in images)
    index = np.indices(voxels.shape).reshape(3, -1)
    ras = (images[0].affine @ np.vstack([index, np.ones(index.shape[1])]))[:3].T + entry["shift_mm"][side]
    keys = [tuple(point) for point in np.round(ras * [-1, -1, 1], 3).tolist()]
    return dict(zip(keys, voxels.ravel().tolist(), strict=True))


def of_kind(truth: dict[str, list[Entry]], hospital: str, kind: str) -> list[Entry]:
    return [entry for entry in truth[hospital] if entry["kind"] == kind]


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_pre_and_post_1_are_the_drawn_integers_at_their_place(hospital, drawn, truth, objects) -> None:
    for entry in of_kind(truth, hospital, "drawn"):
        phases = dynamic(objects[hospital][entry["study_uid"]], hospital)
        assert len(phases) == entry["phases"] == HABITS[hospital].num_posts + 1
        for phase, sequences in zip(phases, (("Pre",), ("Pre", "Sub")), strict=False):
            wanted: dict[tuple[float, float, float], float] = {}
            for side in SIDES:
                wanted |= drawn_points(drawn, hospital, entry, side, sequences)
            assert len(wanted) == 2 * np.prod(SHAPE)
            assert phase == wanted


@pytest.mark.parametrize("hospital", ["CENTRAL", "SITE_A", "SITE_C"])
def test_t2_is_the_drawn_one_where_truth_says_exact(hospital, drawn, truth, objects) -> None:
    for entry in of_kind(truth, hospital, "drawn"):
        found = volumes(objects[hospital][entry["study_uid"]], HABITS[hospital].t2_name)
        lacks = [side for side in SIDES if not has_t2(drawn, hospital, entry, side)]
        assert (entry["t2"] == "none") == (len(lacks) == 2)
        if entry["t2"] == "none":
            assert found == []
            continue
        for side in SIDES:
            sequence = "Pre" if side in lacks else "T2"
            wanted = drawn_points(drawn, hospital, entry, side, (sequence,))
            half = {point: found[0][point] for point in wanted}
            assert half == (dict.fromkeys(wanted, 0) if side in lacks else wanted)


def has_t2(drawn: Path, hospital: str, entry: Entry, side: str) -> bool:
    return (drawn / hospital / "data_unilateral" / entry["exams"][side] / "T2.nii.gz").exists()


def test_a_breast_and_both_breasts_may_lack_t2(truth) -> None:
    assert [entry["t2"] for entry in of_kind(truth, "SITE_C", "drawn")] == ["exact", "none", "exact"]


@pytest.mark.parametrize(("hospital", "finer"), [("SITE_B", True), ("SITE_D", False)])
def test_t2_of_another_grid_has_another_pixel_spacing(hospital, finer, truth, objects) -> None:
    entry = of_kind(truth, hospital, "drawn")[0]
    files = objects[hospital][entry["study_uid"]]
    spacing = {
        name: next(float(f.PixelSpacing[0]) for f in files if f.get("SeriesDescription", "").startswith(name))
        for name in (HABITS[hospital].t2_name, HABITS[hospital].names[0])
    }
    t2, t1 = spacing.values()
    assert (t2 < t1) == finer
    assert t1 == SPACING[1]


def test_the_right_breast_lies_at_the_patient_s_right(drawn, truth) -> None:
    entry = of_kind(truth, "SITE_A", "drawn")[0]
    right, left = (drawn_points(drawn, "SITE_A", entry, side, ("Pre",)) for side in SIDES)
    assert max(x for x, _, _ in right) < min(x for x, _, _ in left)  # DICOM's x grows to the left


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_the_images_are_compressed_as_the_hospital_does(hospital, truth, objects) -> None:
    habit = HABITS[hospital]
    entry = of_kind(truth, hospital, "drawn")[0]
    for series, name in (("dynamic", habit.names[0]), ("t2", habit.t2_name)):
        images = [
            tags
            for tags in objects[hospital][entry["study_uid"]]
            if str(tags.get("SeriesDescription", "")).startswith(name) and "ORIGINAL" in tags.ImageType
        ]
        wanted = habit.syntax if series in habit.compressed else ""
        assert {str(tags.file_meta.TransferSyntaxUID) for tags in images} == {wanted or "1.2.840.10008.1.2.1"}
        kind = EnhancedMRImageStorage if (hospital, series) == (CENTRAL, "dynamic") else MRImageStorage
        assert {tags.SOPClassUID for tags in images} == {kind}


def test_five_ways_of_compression_or_none() -> None:
    assert len({habit.syntax for habit in HABITS.values()}) == 5


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_every_kind_of_fault_is_there_once_and_listed(hospital, truth) -> None:
    kinds = [entry["kind"] for entry in truth[hospital]]
    assert sorted(kinds) == sorted([*EXTRA, *["drawn"] * 3])
    for entry in truth[hospital]:
        imported = entry["kind"] in ("drawn", "prior")
        assert entry["expected"] == ("imported" if imported else entry["kind"])
        assert entry["report"] == (entry["kind"] == "drawn")


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_a_slice_is_missing_where_truth_says_so(hospital, truth, objects) -> None:
    (entry,) = of_kind(truth, hospital, "missing slice")
    sizes = [len(phase) for phase in dynamic(objects[hospital][entry["study_uid"]], hospital)]
    whole = 2 * int(np.prod(SHAPE))
    assert sizes == [whole * (SHAPE[2] - 1) // SHAPE[2], *[whole] * HABITS[hospital].num_posts]


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_one_file_s_pixels_are_cut_where_truth_says_so(hospital, truth, objects) -> None:
    (entry,) = of_kind(truth, hospital, "truncated file")
    broken = 0
    for tags in objects[hospital][entry["study_uid"]]:
        if "PixelData" in tags or "Rows" in tags:
            try:
                assert tags.pixel_array.size
            except (AttributeError, RuntimeError, ValueError, EOFError):
                broken += 1
    assert broken == 1


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_a_study_without_contrast_and_one_of_another_machine(hospital, truth, objects) -> None:
    (without,) = of_kind(truth, hospital, "no post")
    assert len(dynamic(objects[hospital][without["study_uid"]], hospital)) == 1
    (other,) = of_kind(truth, hospital, "other modality")
    assert {tags.Modality for tags in objects[hospital][other["study_uid"]]} <= {"CT", "MG"}


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_the_prior_study_is_the_same_patient_earlier_with_other_pixels(hospital, truth, objects) -> None:
    (prior,) = of_kind(truth, hospital, "prior")
    (now,) = (entry for entry in of_kind(truth, hospital, "drawn") if entry["patient"] == prior["patient"])
    assert prior["date"] < now["date"]
    assert prior["accession"] == ""
    values = [
        sorted(dynamic(objects[hospital][entry["study_uid"]], hospital)[0].values()) for entry in (prior, now)
    ]
    assert values[0] != values[1]


def test_what_no_import_wants_lies_in_every_tree(made, truth, objects) -> None:
    series: set[str] = set()
    modalities: set[str] = set()
    for hospital in HOSPITALS:
        root = made[0] / hospital / "dicom"
        assert {"DICOMDIR", "README.txt", "Thumbs.db", "IM_99999"} <= {path.name for path in root.iterdir()}
        series |= {name for entry in truth[hospital] for name in entry["series"]}
        modalities |= {tags.Modality for study in objects[hospital].values() for tags in study}
    assert {"scout", "subtraction", "projection", "diffusion", "screenshot", "document"} <= series
    assert modalities & {"SR", "KO", "PR"}
    assert {"MR", "OT"} < modalities
    scouts = [
        tuple(tags.ImageOrientationPatient)
        for study in objects["SITE_A"].values()
        for tags in study
        if tags.get("SeriesDescription", "").startswith("localizer")
    ]
    assert len(set(scouts)) == 3


def test_duplicates_are_the_same_bytes_under_another_name(made, truth) -> None:
    marked = {
        entry["study_uid"]: entry["num_duplicates"]
        for entries in truth.values()
        for entry in entries
        if "duplicate files" in entry["mess"]
    }
    num_twice: dict[str, int] = {}
    seen: set[str] = set()
    for path in sorted(path for name in HOSPITALS for path in (made[0] / name / "dicom").rglob("*")):
        if path.is_file() and path.parent.name != "dicom":
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if digest in seen:
                uid = str(read(path).StudyInstanceUID)
                num_twice[uid] = num_twice.get(uid, 0) + 1
            seen.add(digest)
    assert num_twice == marked
    assert max(marked.values()) == 3


def test_file_names_tell_nothing_and_come_in_no_order(made) -> None:
    names = [path.name for path in (made[0] / "SITE_B" / "dicom").rglob("*") if path.is_file()]
    assert sum(len(name) == 8 and set(name) <= set("0123456789ABCDEF") for name in names) >= len(names) - 4
    folder = next((made[0] / "SITE_A" / "dicom").glob("20*/*/*/*"))
    order = [int(read(path).get("InstanceNumber", 0)) for path in sorted(folder.glob("IM_*"))]
    assert order != sorted(order)


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_names_and_birth_dates_are_planted_in_every_text_tag(hospital, truth, objects) -> None:
    entry = of_kind(truth, hospital, "drawn")[0]
    surname, given = entry["planted"][:2]
    tags = next(t for t in objects[hospital][entry["study_uid"]] if t.SOPClassUID == MRImageStorage)
    assert str(tags.PatientName) == f"{surname}^{given}"
    assert tags.PatientBirthDate in entry["planted"]
    texts = [element for element in tags.iterall() if element.VR in ("LO", "LT", "PN", "SH", "ST", "UT")]
    named = {
        element.keyword for element in texts if any(word in str(element.value) for word in entry["planted"])
    }
    assert {
        "PatientName", "PatientBirthName", "OtherPatientNames", "PatientAddress", "PatientID",
        "StudyDescription", "ReferringPhysicianName", "OperatorsName", "InstitutionName", "PatientComments",
        "ImageComments", "AdditionalPatientHistory", "RequestedProcedureDescription",
        "ReasonForTheRequestedProcedure",
    } <= named  # fmt: skip
    assert any(element.tag.is_private and surname in str(element.value) for element in texts)


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_the_age_at_the_study_is_the_drawn_one(hospital, truth, objects) -> None:
    for entry in of_kind(truth, hospital, "drawn"):
        tags = objects[hospital][entry["study_uid"]][0]
        days = np.datetime64(date(tags.StudyDate)) - np.datetime64(date(tags.PatientBirthDate))
        assert days.astype(int) == entry["age_days"]
        assert entry["age_days"] == 20_000 + int(entry["exams"]["left"][3])


def date(text: str) -> str:
    return f"{text[:4]}-{text[4:6]}-{text[6:]}"


def report_rows(folder: Path) -> list[dict[str, str]]:
    if (folder / "reports.xlsx").exists():
        head, *rows = load_workbook(folder / "reports.xlsx").worksheets[0].values
        return [dict(zip(head, row, strict=True)) for row in rows]
    encoding = load_mapping(folder / "mapping.yaml").reports.encoding
    delimiter = ";" if encoding == "cp1252" else ","
    with (folder / "reports.csv").open(encoding=encoding, newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_each_report_is_under_its_study_and_breast(hospital, made, truth) -> None:
    mapping = load_mapping(made[0] / hospital / "mapping.yaml").reports
    rows = report_rows(made[0] / hospital)
    number = mapping.accession or mapping.patient
    by_number: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_number.setdefault(row[number], []).append(row)
    studies = of_kind(truth, hospital, "drawn")
    assert len(by_number) == len(studies)
    for entry in studies:
        found = by_number[entry["accession" if mapping.accession else "patient"]]
        patient = int(entry["exams"]["left"][3])
        assert {row[mapping.split] for row in found} == {entry["split"]}
        for side in SIDES:
            text = f"Größere Zyste {side} Nr. {patient} in {hospital}, 8 mm."
            other = text.replace(side, "left" if side == "right" else "right")
            if mapping.side:
                (row,) = (row for row in found if row[mapping.side] == side[0].upper())
                assert row[mapping.lesion] == str(patient % 3)
                assert text in row[mapping.text]
                assert other not in row[mapping.text]
            elif mapping.text:
                assert text in found[0][mapping.text]
                assert other in found[0][mapping.text]
            else:
                column = mapping.left if side == "left" else mapping.right
                assert text in found[0][column]
                assert other not in found[0][column]


def test_reports_come_in_all_forms(made) -> None:
    reports = {name: load_mapping(made[0] / name / "mapping.yaml").reports for name in HOSPITALS}
    assert {name for name in HOSPITALS if (made[0] / name / "reports.xlsx").exists()} == {"SITE_B", "SITE_D"}
    assert reports["SITE_A"].encoding == "cp1252"
    assert "Größere".encode("cp1252") in (made[0] / "SITE_A" / "reports.csv").read_bytes()
    assert reports["SITE_A"].left
    assert reports["SITE_B"].side
    assert reports["SITE_C"].text
    assert not reports["SITE_C"].side
    assert reports["CENTRAL"].patient
    assert not reports["CENTRAL"].accession


def test_one_hospital_needs_a_series_section_and_others_do_not(made) -> None:
    sections = {name: load_mapping(made[0] / name / "mapping.yaml").series.dynamic for name in HOSPITALS}
    assert [name for name in HOSPITALS if sections[name]] == ["SITE_B"]


def test_a_patient_with_one_breast_is_left_out_and_counted(made, truth) -> None:
    assert made[1].num_left_out == 1
    assert made[1].num_hospitals == 5
    assert made[1].num_studies == sum(map(len, truth.values())) == 5 * (3 + len(EXTRA))
    assert not any("0003SITE_A" in uid for entry in truth["SITE_A"] for uid in entry["exams"].values())


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", ["CENTRAL", "SITE_B"])
    for name, seed, workers in (("one", 1, 1), ("two", 1, 2), ("other", 2, 1)):
        make_dicom(data, tmp_path / name, seed=seed, workers=workers)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert set(digests(tmp_path / "one").values()).isdisjoint(
        digest for path, digest in digests(tmp_path / "other").items() if "mapping" not in path
    )


def test_a_folder_that_is_not_empty_is_refused(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(DataError, match="is not empty"):
        make_dicom(drawn, tmp_path / "out")


def test_volumes_with_other_axes_or_grids_are_refused(tmp_path: Path) -> None:
    root = draw(tmp_path / "data", ["SITE_A"])
    pre = next(root.rglob("Pre.nii.gz"))
    image = nib.load(pre)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[1:], image.affine), pre)
    with pytest.raises(DataError, match="different grids"):
        make_dicom(root, tmp_path / "out", workers=1)
    for path in root.rglob("*.nii.gz"):
        nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.diag([2.0, -2.0, 4.0, 1.0])), path)
    with pytest.raises(DataError, match="axes run to the left"):
        make_dicom(root, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
