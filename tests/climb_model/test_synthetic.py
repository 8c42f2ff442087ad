"""Virtual hospitals: the layout they are written in, what they share, and that a seed decides every byte."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from climb_model.data.exam import DataError
from climb_model.data.folders import list_sites, read_site
from climb_model.data.lesions import PAINTERS, plant, quadrant
from climb_model.data.phantom import Canvas, ImageStyle, draw_breast, random_place
from climb_model.data.planted import clock_hours
from climb_model.data.synthetic import (
    BASE_STYLES,
    CENTRAL,
    CENTRAL_NUMBER,
    FINDINGS,
    MALIGNANT,
    DrawJob,
    draw_exam,
    hospital,
    make_hospitals,
    plan_exams,
)
from climb_model.data.tissue import TissueBank

STYLE = ImageStyle(shape=(20, 64, 64), spacing_mm=(4.5, 2.2, 2.2))


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "metadata_unilateral" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hospitals of 20 breasts and CENTRAL."""
    out = tmp_path_factory.mktemp("synthetic") / "data"
    make_hospitals(out, num_sites=2, exams=20, central_exams=20, seed=3, workers=1)
    return out


# ---- what lies on disk


def test_layout_and_tables_are_odelias(made: Path) -> None:
    assert sorted(path.name for path in made.iterdir()) == [CENTRAL, "SITE_A", "SITE_B", "made.json"]
    for name, path in list_sites(made).items():
        columns = {
            "annotation": ["UID", "PatientID", "Age", "Lesion"],
            "split": ["UID", "Split", "Fold"],
            "reports": ["UID", "Report"],
            "findings": ["UID", *FINDINGS],
        }
        uids = [row["UID"] for row in table(path, "annotation")]
        for part, head in columns.items():
            rows = table(path, part)
            assert list(rows[0]) == head
            assert [row["UID"] for row in rows] == uids
        folders = sorted(folder.name for folder in (path / "data_unilateral").iterdir())
        assert folders == sorted(uids)
        subtraction = "Sub_1.nii.gz" if name == "SITE_A" else "Sub.nii.gz"
        for uid in uids:
            files = {file.name for file in (path / "data_unilateral" / uid).iterdir()}
            assert files == {"Pre.nii.gz", "T2.nii.gz", subtraction}


def test_hospitals_are_read_through_the_same_door_as_real_data(made: Path) -> None:
    for path in list_sites(made).values():
        site = read_site(
            path, need_reports=True, need_findings=True, sequences=("Pre", "Sub", "T2"), findings=FINDINGS
        )
        assert site.left_out == {}
        assert len(site.exams) == 20
        truth = {row["UID"]: row for row in table(path, "findings")}
        for exam in site.exams:
            assert set(exam.files) == {"Pre", "Sub", "T2"}
            assert exam.report
            assert {f: str(value) for f, value in exam.findings.items()} == {
                f: truth[exam.uid][f] for f in FINDINGS
            }


def test_every_patient_has_both_breasts_in_one_split(made: Path) -> None:
    for path in list_sites(made).values():
        rows = table(path, "annotation")
        assert Counter(Counter(row["PatientID"] for row in rows).values()) == {2: 10}
        split = {row["UID"]: row["Split"] for row in table(path, "split")}
        for row in rows:
            patient, side = row["UID"].rsplit("_", 1)
            assert patient == row["PatientID"]
            assert len(patient) == 10
            assert side in ("left", "right")
            assert split[f"{patient}_left"] == split[f"{patient}_right"]


def test_lesion_is_malignant_for_carcinoma_and_dcis_only(made: Path) -> None:
    for path in list_sites(made).values():
        lesion = {row["UID"]: int(row["Lesion"]) for row in table(path, "annotation")}
        for row in table(path, "findings"):
            found = {finding for finding in FINDINGS if row[finding] == "1"}
            expected = 0 if not found else 2 if found & set(MALIGNANT) else 1
            assert lesion[row["UID"]] == expected


def test_volumes_are_whole_numbers_in_the_style_of_the_hospital(made: Path) -> None:
    shapes = {"SITE_A": (80, 80, 20), "SITE_B": (88, 88, 22), CENTRAL: (82, 82, 19)}
    spacing = {"SITE_A": (1.8, 1.8, 4.0), "SITE_B": (1.6, 1.6, 3.6), CENTRAL: (1.75, 1.75, 4.2)}
    for name, path in list_sites(made).items():
        file = next((path / "data_unilateral").rglob("Pre.nii.gz"))
        image = nib.load(file)
        assert image.shape == shapes[name]
        assert image.get_data_dtype() == np.int16
        assert image.header.get_zooms() == pytest.approx(spacing[name])
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")


def test_record_says_how_it_was_made(made: Path) -> None:
    record = json.loads((made / "made.json").read_text(encoding="utf-8"))
    assert "no patient" in record["kind"]
    assert {
        key: record[key] for key in ("sites", "exams", "central_exams", "seed", "difficulty", "tissue")
    } == {
        "sites": 2,
        "exams": 20,
        "central_exams": 20,
        "seed": 3,
        "difficulty": 1.0,
        "tissue": None,
    }


# ---- the seed


def test_the_same_seed_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    make_hospitals(tmp_path / "again", num_sites=1, exams=20, central_exams=20, seed=3, workers=2)
    for name in ("SITE_A", CENTRAL):
        assert digests(tmp_path / "again" / name) == digests(made / name)


def test_another_seed_gives_other_patients_images_and_reports(made: Path, tmp_path: Path) -> None:
    other = plan_exams(hospital(0, 4), 20, 4, (0.7, 0.1, 0.2))
    assert not {exam.patient for exam in other} & {
        row["PatientID"] for row in table(made / "SITE_A", "annotation")
    }
    same_exam = plan_exams(hospital(0, 3), 20, 3, (0.7, 0.1, 0.2))[0]
    job = DrawJob(folder=tmp_path, place=hospital(0, 4), exam=same_exam, seed=4, difficulty=1.0, tissue=None)
    draw_exam(job)
    old = made / "SITE_A" / "data_unilateral" / same_exam.uid / "Pre.nii.gz"
    new = tmp_path / "data_unilateral" / same_exam.uid / "Pre.nii.gz"
    assert old.read_bytes() != new.read_bytes()


# ---- the plan


@pytest.mark.parametrize("num_exams", [20, 21, 200])
def test_splits_are_70_10_20_by_patient(num_exams: int) -> None:
    planned = plan_exams(hospital(1, 0), num_exams, 0, (0.7, 0.1, 0.2))
    assert len(planned) == num_exams
    split_of = {exam.patient: exam.split for exam in planned}
    num_patients = (num_exams + 1) // 2
    counts = Counter(split_of.values())
    assert counts["train"] == round(0.7 * num_patients)
    assert counts["train"] + counts["val"] == round(0.8 * num_patients)
    assert sum(counts.values()) == num_patients
    assert all(exam.split == split_of[exam.patient] for exam in planned)
    assert len({exam.uid for exam in planned}) == num_exams
    sides = Counter(exam.patient for exam in planned)
    assert Counter(sides.values()) == (
        {2: num_patients} if num_exams % 2 == 0 else {2: num_patients - 1, 1: 1}
    )


def test_central_has_no_patient_style_or_name_of_a_hospital(made: Path) -> None:
    places = [hospital(number, 3) for number in range(8)]
    central = hospital(CENTRAL_NUMBER, 3)
    assert central.name == CENTRAL
    assert central.name not in {place.name for place in places}
    assert len({place.name for place in places}) == 8
    assert len({place.style for place in places}) == 8
    for place in places:
        assert (place.style.shape, place.style.spacing_mm) != (central.style.shape, central.style.spacing_mm)
    patients = {
        name: {row["PatientID"] for row in table(path, "annotation")}
        for name, path in list_sites(made).items()
    }
    assert not patients[CENTRAL] & (patients["SITE_A"] | patients["SITE_B"])
    assert not patients["SITE_A"] & patients["SITE_B"]
    assert {row["Split"] for row in table(made / CENTRAL, "split")} == {"val", "test"}


def test_no_report_of_central_occurs_at_a_hospital(made: Path) -> None:
    reports = {
        name: {row["Report"] for row in table(path, "reports")} for name, path in list_sites(made).items()
    }
    assert not reports[CENTRAL] & (reports["SITE_A"] | reports["SITE_B"])
    assert not reports["SITE_A"] & reports["SITE_B"]


def test_many_breasts_are_normal_and_findings_come_together() -> None:
    planned = plan_exams(hospital(CENTRAL_NUMBER, 0), 2000, 0, (0.0, 0.25, 0.75))
    counts = Counter(len(exam.findings) for exam in planned)
    assert counts[0] / 2000 > 0.2
    assert sum(number for findings, number in counts.items() if findings >= 2) / 2000 > 0.2
    for finding in FINDINGS:
        assert 0.10 < sum(finding in exam.findings for exam in planned) / 2000 < 0.17


def test_the_servers_400_breasts_have_enough_of_every_finding() -> None:
    """What the demo's table is measured on: at least 200 test breasts and 20 positives a finding."""
    planned = [
        exam
        for exam in plan_exams(hospital(CENTRAL_NUMBER, 0), 400, 0, (0.0, 0.25, 0.75))
        if exam.split == "test"
    ]
    assert len(planned) >= 200
    assert min(sum(finding in exam.findings for exam in planned) for finding in FINDINGS) >= 20


def test_hospitals_differ_in_look_and_case_mix() -> None:
    places = [hospital(number, 0) for number in range(5)]
    assert len({(place.style.shape, place.style.gain) for place in places}) == 5
    assert any(style.t2_missing > 0 for style in BASE_STYLES)
    first, second = places[0].prevalence, places[1].prevalence
    assert first != second
    assert all(0.7 <= factor <= 1.3 for place in places for factor in place.prevalence.values())


# ---- impossible arguments


@pytest.mark.parametrize(
    "wrong",
    [{"num_sites": 0}, {"exams": 19}, {"central_exams": 0}, {"difficulty": 0.0}, {"difficulty": -1.0}],
)
def test_impossible_numbers_are_refused_in_one_line(tmp_path: Path, wrong: dict[str, float]) -> None:
    arguments = {"num_sites": 1, "exams": 20, "central_exams": 20, "seed": 0, **wrong}
    with pytest.raises(DataError, match="wanted >= 1 site, >= 20 exams") as caught:
        make_hospitals(tmp_path / "data", **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert str(next(iter(wrong.values()))) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(DataError, match="is not empty; name a new folder"):
        make_hospitals(tmp_path, num_sites=1, exams=20, central_exams=20, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# ---- real tissue as background


def write_tissue(folder: Path, values: np.ndarray, name: str = "mr.nii.gz") -> Path:
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.diag([2.0, 2.0, 4.0, 1.0])), folder / name)
    return folder / name


def test_tissue_is_recorded_with_its_hash_and_share_of_real_voxels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file = write_tissue(tmp_path / "tissue", rng.gamma(2.0, 100.0, (40, 44, 20)))
    record = make_hospitals(
        tmp_path / "data",
        num_sites=1,
        exams=20,
        central_exams=20,
        seed=0,
        tissue=tmp_path / "tissue",
        workers=1,
    )
    assert record == json.loads((tmp_path / "data" / "made.json").read_text(encoding="utf-8"))
    tissue = record["tissue"]
    assert isinstance(tissue, dict)
    assert tissue["volumes"] == [
        {"name": "mr.nii.gz", "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    ]
    assert 0.8 < tissue["real_voxel_share"] < 1.0  # findings were planted into it


def test_the_background_is_the_volumes_own_voxels(tmp_path: Path) -> None:
    """A breast without findings shows the volume, up to the scanner's scale, shading and noise."""
    slope = np.broadcast_to(np.linspace(1.0, 2.0, 120)[:, None, None], (120, 120, 60))
    write_tissue(tmp_path / "tissue", slope)
    bank = TissueBank.load(tmp_path / "tissue")
    place = replace(hospital(0, 0), style=replace(STYLE, noise=0.0, bias=0.0))
    planned = next(exam for exam in plan_exams(place, 200, 0, (0.7, 0.1, 0.2)) if not exam.findings)
    job = DrawJob(folder=tmp_path / "out", place=place, exam=planned, seed=0, difficulty=1.0, tissue=bank)
    report, share = draw_exam(job)
    assert report
    assert share == 1.0
    drawn = np.asarray(nib.load(tmp_path / "out" / "data_unilateral" / planned.uid / "Pre.nii.gz").dataobj)
    profile = drawn.mean(axis=(1, 2))
    assert drawn.std(axis=(1, 2)).max() < 0.02 * profile.mean()
    steps = np.diff(profile)
    assert np.all(steps > 0) or np.all(steps < 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "no .nii or .nii.gz below"),
        (np.ones((20, 20, 20, 2)), r"has shape \(20, 20, 20, 2\), wanted 3 dimensions"),
        (np.ones((20, 20, 3)), r"wanted 3 dimensions of at least 16 voxels"),
        (np.zeros((20, 20, 20)), "no positive voxel"),
    ],
)
def test_tissue_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, values: np.ndarray | None, message: str
) -> None:
    (tmp_path / "tissue").mkdir()
    if values is not None:
        write_tissue(tmp_path / "tissue", values)
    with pytest.raises(DataError, match=message) as caught:
        TissueBank.load(tmp_path / "tissue")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in caught.value.public


def test_a_damaged_tissue_file_is_refused_in_one_line(tmp_path: Path) -> None:
    file = write_tissue(tmp_path / "tissue", np.ones((20, 20, 20)))
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError, match="cannot be read"):
        TissueBank.load(tmp_path / "tissue")


# ---- appearances


def canvas_of(seed: int, side: int = 1) -> Canvas:
    return draw_breast(np.random.default_rng(seed), STYLE, side, density=0.0, bpe=0.12)


def painted(finding: str, seed: int, contrast: float = 1.0) -> dict[str, np.ndarray]:
    """Change of signal per sequence that a finding makes."""
    canvas = canvas_of(seed)
    before = {"Pre": canvas.pre.copy(), "Sub": canvas.enhancement.copy(), "T2": canvas.t2.copy()}
    plant(np.random.default_rng(seed + 100), canvas, finding, contrast)
    after = {"Pre": canvas.pre, "Sub": canvas.enhancement, "T2": canvas.t2}
    return {name: after[name] - before[name] for name in after}


LOOKS = {
    # finding: strongest change of signal it must make per sequence (None: must leave the sequence alone)
    "Fibroadenom": {"Pre": -0.2, "Sub": 0.4, "T2": 0.2},
    "Adenose": {"Pre": None, "Sub": 0.25, "T2": 0.15},
    "Lymphknoten": {"Pre": -0.3, "Sub": 0.4, "T2": 0.3},
    "Zyste": {"Pre": -0.4, "Sub": 0.0, "T2": 0.6},
    "Fettgewebsnekrose": {"Pre": 0.3, "Sub": 0.1, "T2": -0.2},
    "Duktektasie": {"Pre": 0.1, "Sub": 0.0, "T2": 0.4},
    "Radiäre Narbe": {"Pre": -0.4, "Sub": 0.05, "T2": -0.3},
    "Duktales Karzinom in situ": {"Pre": None, "Sub": 0.4, "T2": None},
    "Karzinom": {"Pre": -0.4, "Sub": 0.7, "T2": -0.2},
}


def test_every_finding_has_a_painter_and_a_look() -> None:
    assert set(LOOKS) == set(PAINTERS) == set(FINDINGS)


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_changes_the_sequences_it_should(finding: str) -> None:
    """Median over ten breasts, so that one placed in like tissue does not decide."""
    changes = [painted(finding, seed) for seed in range(10)]
    for sequence, wanted in LOOKS[finding].items():
        if wanted is None:
            assert all(not change[sequence].any() for change in changes)
        elif wanted > 0:
            assert np.median([change[sequence].max() for change in changes]) > wanted
        elif wanted < 0:
            assert np.median([change[sequence].min() for change in changes]) < wanted
        else:  # it may only take enhancement away
            assert all(change[sequence].max() <= 1e-6 for change in changes)


def test_no_two_findings_change_the_sequences_alike() -> None:
    """Profile of a finding: signed change of each sequence, where it changes anything."""
    profiles = []
    for finding in FINDINGS:
        rows = []
        for seed in range(6):
            change = painted(finding, seed)
            touched = np.any([np.abs(value) > 0.05 for value in change.values()], axis=0)
            row = [float(value[touched].mean()) for value in change.values()]
            rows.append([*row, np.log10(touched.sum()) / 4])
        profiles.append(np.mean(rows, axis=0))
    for first in range(len(FINDINGS)):
        for second in range(first):
            distance = np.linalg.norm(profiles[first] - profiles[second])
            assert distance > 0.08, (FINDINGS[first], FINDINGS[second], distance)


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_harder_setting_fades_a_finding(finding: str) -> None:
    strong, weak = painted(finding, 1), painted(finding, 1, contrast=0.3)
    for sequence in strong:
        assert np.abs(weak[sequence]).sum() <= np.abs(strong[sequence]).sum() + 1e-4
    total = sum(np.abs(value).sum() for value in strong.values())
    assert sum(np.abs(value).sum() for value in weak.values()) < 0.6 * total


def test_difficulty_scales_noise_and_contrast(tmp_path: Path) -> None:
    place = hospital(0, 0)
    planned = next(exam for exam in plan_exams(place, 60, 0, (0.7, 0.1, 0.2)) if not exam.findings)
    spread = {}
    for difficulty in (0.5, 1.0, 3.0):
        draw_exam(
            DrawJob(
                folder=tmp_path / str(difficulty),
                place=place,
                exam=planned,
                seed=0,
                difficulty=difficulty,
                tissue=None,
            )
        )
        file = tmp_path / str(difficulty) / "data_unilateral" / planned.uid / "Pre.nii.gz"
        air = np.asarray(nib.load(file).dataobj)[:, :8].astype(float)  # in front of the nipple
        spread[difficulty] = np.median(np.abs(np.diff(air, axis=0)))
    assert spread[0.5] < spread[1.0] < spread[3.0]
    assert spread[3.0] / spread[1.0] == pytest.approx(3.0, rel=0.2)


# ---- where a finding is said to be


@pytest.mark.parametrize(("side", "sign"), [("left", 1), ("right", -1)])
def test_quadrant_and_clock_agree_for_both_sides(side: str, sign: int) -> None:
    seen: set[str] = set()
    for seed in range(40):
        canvas = canvas_of(seed % 2, sign)
        for finding in FINDINGS:
            planted = plant(np.random.default_rng(seed), canvas, finding, 1.0)
            assert planted.clock in clock_hours(planted.quadrant, side)
            seen.add(planted.quadrant)
    assert len(seen) == 5


@pytest.mark.parametrize(("side", "lateral"), [(1, 30.0), (-1, -30.0)])
def test_lateral_is_towards_the_arm(side: int, lateral: float) -> None:
    """Larger x is the patient's left: the left breast's outside, the right breast's inside."""
    canvas = canvas_of(0, side)
    assert quadrant(canvas, (20.0, 0.0, lateral)) == "oben außen"
    assert quadrant(canvas, (20.0, 0.0, -lateral)) == "oben innen"
    assert quadrant(canvas, (-20.0, 0.0, lateral)) == "unten außen"
    assert quadrant(canvas, (3.0, 0.0, 2.0)) == "retromamillär"


def test_a_node_lies_high_and_outside_where_nodes_are() -> None:
    for side in (1, -1):
        for seed in range(10):
            canvas = canvas_of(0, side)
            planted = plant(np.random.default_rng(seed), canvas, "Lymphknoten", 1.0)
            assert planted.quadrant == "oben außen"


def test_a_finding_lies_within_the_breast() -> None:
    canvas = canvas_of(5)
    rng = np.random.default_rng(0)
    for _ in range(200):
        z, y, x = random_place(rng, canvas, 0.9)
        assert canvas.nipple_y < y < canvas.chest_y
        assert (z / canvas.radius[1]) ** 2 + (x / canvas.radius[0]) ** 2 < 1


@pytest.mark.parametrize("finding", FINDINGS)
def test_the_size_told_is_that_of_what_is_seen(finding: str) -> None:
    """The told size is within the change's extent; several of a kind reach further."""
    for seed in range(6):
        canvas = canvas_of(seed)
        before = canvas.pre + canvas.enhancement + canvas.t2
        planted = plant(np.random.default_rng(seed), canvas, finding, 1.0)
        moved = np.abs(canvas.pre + canvas.enhancement + canvas.t2 - before) > 0.02
        extent = [
            (np.flatnonzero(moved.any(axis=other))[[0, -1]] @ [-1, 1] + 1) * mm
            for other, mm in (((1, 2), 4.5), ((0, 2), 2.2), ((0, 1), 2.2))
        ]
        assert 0.3 * planted.size_mm < float(np.linalg.norm(extent))
        if planted.num == 1:
            assert max(extent) < 2.2 * planted.size_mm + 12
