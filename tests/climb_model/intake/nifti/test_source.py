"""Exams that come as NIfTI files: which file is which sequence, what is left out, what is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from climb_model.data.exam import DataError
from climb_model.data.folders import read_site
from climb_model.data.nifti import read_nifti
from climb_model.intake.importer import ImportOptions, import_site
from climb_model.intake.mapping import SeriesMapping
from climb_model.intake.nifti.names import VolumeName, name_files
from climb_model.intake.nifti.source import NiftiSource, as_study, files_digest, find_exams, write_native_copy
from climb_model.intake.study import SeriesError

AFFINE = np.array([[-0.7, 0, 0, 60], [0, -0.7, 0, 70], [0, 0, 3, -40], [0, 0, 0, 1.0]])
RULES = SeriesMapping()


def save(
    path: Path, *, shape: tuple[int, ...] = (6, 5, 4), affine: np.ndarray = AFFINE, seed: int = 0
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).integers(0, 900, shape, np.int16)
    image = nib.Nifti1Image(voxels, affine)
    image.header["descrip"] = b"PLANTED^NAME"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"PLANTED^NAME born 1970"))
    nib.save(image, path)
    return path


def odelia(root: Path, ids: Sequence[str] = ("0042",)) -> Path:
    for exam in ids:
        for number, name in enumerate(("Pre", "Post_1", "Post_2", "Sub_1", "T2")):
            save(root / "data" / exam / f"{name}.nii.gz", seed=number)
    return root


def reasons(source: NiftiSource) -> list[tuple[str, str]]:
    return sorted((each.path.name if each.path else "", each.reason) for each in source.left_out)


def named(*stems: str, mapping: SeriesMapping = RULES) -> dict[str, str]:
    found = name_files([VolumeName(stem, 1) for stem in stems], mapping)
    return {name: stem for name, (stem, _) in found.sequences.items()}


# Names


@pytest.mark.parametrize(
    ("stems", "wanted"),
    [
        (("Pre", "Post_1", "Post_2", "T2"), ("Pre", "Post_1", "Post_2", "T2")),
        (("pre", "post1", "post2"), ("pre", "post1", "post2")),
        (("T1_pre", "T1_post_02", "T1_post_01"), ("T1_pre", "T1_post_01", "T1_post_02")),
        (("dyn_nativ", "dyn_postKM", "t2w_tse"), ("dyn_nativ", "dyn_postKM", "", "t2w_tse")),
        (("12_T1-precontrast", "13_T1-postcontrast"), ("12_T1-precontrast", "13_T1-postcontrast")),
        (("Pre", "Pre_fs", "Post_1", "T2", "t2_stir"), ("Pre", "Post_1", "", "T2")),
    ],
)
def test_sequences_are_told_by_name(stems: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    names = ("Pre", "Post_1", "Post_2", "T2")
    assert named(*stems) == {name: stem for name, stem in zip(names, wanted, strict=False) if stem}


@pytest.mark.parametrize(
    ("stems", "reason"),
    [
        (("Post_1", "T2"), "no file is Pre by its name"),
        (("Pre", "T2"), "no file is a post-contrast phase by its name"),
        (("T1_pre", "T1_fs_pre", "post_1"), "2 files are Pre by their names"),
        (("Pre", "Post_1", "t2_tse", "t2_stir"), "2 files are T2 by their names"),
        (("Pre", "Post_1", "Post_3"), "the order of 2 post-contrast files cannot be told"),
        (("Pre", "Post_2"), "the order of 1 post-contrast files cannot be told"),
        (("Pre", "Post_1", "T1_post_1"), "the order of 2 post-contrast files cannot be told"),
        (("Pre", "Post_a", "Post_b"), "the order of 2 post-contrast files cannot be told"),
    ],
)
def test_what_names_do_not_tell_is_refused(stems: tuple[str, ...], reason: str) -> None:
    with pytest.raises(SeriesError, match=reason):
        named(*stems)


def test_a_mapping_names_what_rules_do_not_know() -> None:
    mapping = SeriesMapping(Pre=("*_0000",), Post=("*_000[1-9]",), T2=("*wet*",), ignore=("*_0009",))
    stems = ("duke_001_0000", "duke_001_0001", "duke_001_0002", "duke_001_0009", "wet", "T2")
    assert named(*stems, mapping=mapping) == {
        "Pre": "duke_001_0000",
        "Post_1": "duke_001_0001",
        "Post_2": "duke_001_0002",
        "T2": "wet",
    }


def test_a_mapping_replaces_the_rule_of_its_sequence() -> None:
    found = name_files(
        [VolumeName(stem, 1) for stem in ("pre", "first", "post_1")], SeriesMapping(Pre=("first",))
    )
    assert found.sequences == {"Pre": ("first", None), "Post_1": ("post_1", None)}
    assert found.how == {"Pre": "mapping", "Post_1": "file name"}
    assert found.left_out == {"pre": "not what the mapping file names as Pre"}


def test_masks_and_subtractions_are_left_out_with_their_reason() -> None:
    stems = ("Pre", "Post_1", "Pre_mask", "Sub_1", "T2_map", "localizer")
    found = name_files([VolumeName(stem, 1) for stem in stems], RULES)
    assert set(found.sequences) == {"Pre", "Post_1"}
    assert found.left_out == {
        "Pre_mask": "by its name a mask, a map or another kind of image",
        "T2_map": "by its name a mask, a map or another kind of image",
        "Sub_1": "a subtraction: made anew from Post_1 and Pre",
        "localizer": "its name tells no sequence",
    }


def test_a_time_axis_is_the_dynamic_series() -> None:
    files = [VolumeName("dce", 5), VolumeName("t2", 1)]
    found = name_files(files, SeriesMapping(pre_phases=2))
    assert found.sequences == {
        "Pre": ("dce", 1),
        "Post_1": ("dce", 2),
        "Post_2": ("dce", 3),
        "Post_3": ("dce", 4),
        "T2": ("t2", None),
    }
    assert name_files([VolumeName("scan", 3)], RULES).sequences["Post_2"] == ("scan", 2)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ((VolumeName("dce", 2),), "2 time points, 2 of them before contrast"),
        ((VolumeName("dce", 5), VolumeName("dyn", 5)), "2 files have a time axis"),
        ((VolumeName("diffusion", 5), VolumeName("t2", 1)), "no file is Pre by its name"),
    ],
)
def test_a_time_axis_that_is_no_dynamic_series_is_refused(files: tuple[VolumeName, ...], reason: str) -> None:
    with pytest.raises(SeriesError, match=reason):
        name_files(files, SeriesMapping(pre_phases=2))


# Folders


def test_odelias_folder_with_both_breasts_and_its_tables(tmp_path: Path) -> None:
    odelia(tmp_path, ("0042", "0043"))
    tables = tmp_path / "metadata"
    tables.mkdir()
    annotation = "UID,PatientID,Age,Lesion_Left,Lesion_Right\n0042,007,20000,0,2\n0099,1,,1,1\n"
    (tables / "annotation.csv").write_text(annotation)
    folds = "".join(f"0042,test,{fold}\n0099,train,{fold}\n" for fold in range(5))
    (tables / "split.csv").write_text("UID,Split,Fold\n" + folds)
    source = find_exams(tmp_path, RULES)
    first, second = source.exams
    assert (first.raw_id, first.patient, first.split, first.age_days) == ("0042", "007", "test", 20000)
    assert first.lesions == {"left": 0, "right": 2}
    assert list(first.files) == ["Pre", "Post_1", "Post_2", "T2"]
    assert (second.patient, second.split, second.lesions) == ("", "", {})
    assert reasons(source) == [
        ("", "1 exams without a row in the tables"),
        ("", "1 rows of the tables without an exam"),
        ("Sub_1.nii.gz", "a subtraction: made anew from Post_1 and Pre"),
        ("Sub_1.nii.gz", "a subtraction: made anew from Post_1 and Pre"),
    ]
    assert "0042" not in repr(first)
    study = as_study(first)
    assert (study.accession, study.patient, study.age_days) == ("0042", "007", 20000)


@pytest.mark.parametrize("cells", ["007,20000,3,0", "007,old,0,0", "007,20000,yes,0"])
def test_an_unreadable_annotation_is_refused_without_naming_the_exam(tmp_path: Path, cells: str) -> None:
    odelia(tmp_path)
    (tmp_path / "metadata").mkdir()
    annotation = f"UID,PatientID,Age,Lesion_Left,Lesion_Right\n0042,{cells}\n"
    (tmp_path / "metadata" / "annotation.csv").write_text(annotation)
    with pytest.raises(DataError, match=r"a lesion that is not 0, 1 or 2.*0042") as caught:
        find_exams(tmp_path, RULES)
    assert "0042" not in caught.value.public


def test_plain_exam_folders(tmp_path: Path) -> None:
    for name in ("T1_pre", "T1_post_1", "T2w"):
        save(tmp_path / "A1" / f"{name}.nii")
    save(tmp_path / "A2" / "T1_pre.nii.gz")
    save(tmp_path / "A3_left" / "Pre.nii.gz")
    (tmp_path / "empty").mkdir()
    source = find_exams(tmp_path, RULES)
    assert [exam.raw_id for exam in source.exams] == ["A1"]
    assert [volume.how for volume in source.exams[0].files.values()] == ["file name"] * 3
    assert reasons(source) == [
        ("A2", "no file is a post-contrast phase by its name; name it in the mapping file: --mapping"),
        ("A3_left", "one breast already: it needs no import"),
    ]


def test_a_folder_of_single_breasts_needs_no_import(tmp_path: Path) -> None:
    save(tmp_path / "one" / "data_unilateral" / "1_left" / "Pre.nii.gz")
    save(tmp_path / "two" / "1_left" / "Pre.nii.gz")
    for name in ("one", "two"):
        with pytest.raises(DataError, match="one breast a folder already: it needs no import"):
            find_exams(tmp_path / name, RULES)


def test_folders_without_exams_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        find_exams(tmp_path / "nowhere", RULES)
    with pytest.raises(DataError, match="no NIfTI file in a folder of its own exam"):
        find_exams(tmp_path, RULES)
    save(tmp_path / "Pre.nii.gz")
    with pytest.raises(DataError, match="NIfTI files beside the exam folders"):
        find_exams(tmp_path, RULES)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    away = save(tmp_path / "away" / "B" / "Pre.nii.gz")
    save(away.with_name("Post_1.nii.gz"))
    site = odelia(tmp_path / "site")
    exam = site / "data" / "0042"
    (exam / "T2.nii.gz").unlink()
    (exam / "T2.nii.gz").symlink_to(away)
    (exam / "circle.nii.gz").symlink_to(exam / "circle.nii.gz")
    (exam / "within.nii.gz").symlink_to(exam / "Pre.nii.gz")
    (site / "data" / "linked").symlink_to(away.parent)
    source = find_exams(site, RULES)
    assert [list(each.files) for each in source.exams] == [["Pre", "Post_1", "Post_2"]]
    outside = [name for name, reason in reasons(source) if reason == "a link that leads out of the folder"]
    assert outside == ["T2.nii.gz", "circle.nii.gz", "linked"]
    assert ("within.nii.gz", "its name tells no sequence") in reasons(source)


@pytest.mark.parametrize("link", ["metadata", "metadata/annotation.csv", "metadata/split.csv"])
def test_a_table_outside_the_folder_is_refused(tmp_path: Path, link: str) -> None:
    site, away = odelia(tmp_path / "site"), tmp_path / "away"
    away.mkdir()
    (away / "annotation.csv").write_text("UID,PatientID,Age\n0042,P1,20000\n")
    (away / "split.csv").write_text("UID,Split,Fold\n0042,train,0\n")
    (site / link).parent.mkdir(exist_ok=True)
    (site / link).symlink_to(away if link == "metadata" else away / Path(link).name)
    with pytest.raises(DataError, match="a link that leads out of the folder; put a copy") as caught:
        find_exams(site, RULES)
    assert str(tmp_path) not in caught.value.public


def test_a_link_to_a_table_within_the_folder_is_followed(tmp_path: Path) -> None:
    site = odelia(tmp_path / "site")
    (site / "metadata").mkdir()
    (site / "tables.csv").write_text("UID,PatientID\n0042,P1\n")
    (site / "metadata" / "annotation.csv").symlink_to(site / "tables.csv")
    assert [exam.patient for exam in find_exams(site, RULES).exams] == ["P1"]


def test_files_below_an_exams_folder_and_hidden_ones_are_not_taken(tmp_path: Path) -> None:
    site = odelia(tmp_path)
    save(site / "data" / "0042" / "old" / "Pre.nii.gz")
    (site / "data" / "0042" / "._Pre.nii.gz").write_bytes(b"a Mac's note")
    save(site / "data" / "0042" / "T2.nii")
    source = find_exams(site, RULES)
    assert len(source.exams) == 1
    assert ("Pre.nii.gz", "below an exam's own folder; wanted one folder an exam") in reasons(source)
    assert ("T2.nii.gz", "the same name with and without .gz") in reasons(source)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"affine": np.eye(4)}, "Post_1: its position is not told: the affine is the identity"),
        ({"shape": (6, 5, 1)}, "Post_1: wanted a volume, got 6x5x1 voxels"),
        ({"shape": (6, 5, 4, 3)}, "the order of 1 post-contrast files cannot be told, or one is missing"),
    ],
)
def test_an_exam_with_an_unusable_sequence_is_left_out(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    site = odelia(tmp_path)
    save(site / "data" / "0042" / "Post_1.nii.gz", **change)
    source = find_exams(site, RULES)
    assert not source.exams
    assert reason in reasons(source)[0][1]


def test_a_damaged_header_leaves_its_exam_out(tmp_path: Path) -> None:
    site = odelia(tmp_path)
    (site / "data" / "0042" / "Pre.nii.gz").write_bytes(b"no image")
    assert reasons(find_exams(site, RULES)) == [("0042", "Pre: no NIfTI header")]


def test_the_real_dynamic_series_is_refused_for_want_of_a_position(assets: Path, tmp_path: Path) -> None:
    content = (assets / "data" / "breast_dce_invivo_192x192x1x25.nii.gz").read_bytes()
    (tmp_path / "exam").mkdir()
    (tmp_path / "exam" / "dce.nii.gz").write_bytes(content)
    (reason,) = reasons(find_exams(tmp_path, RULES))
    assert reason[1].startswith("Pre: its position is not told: the affine is the identity")


# Written


def test_native_copies_hold_voxels_and_place_and_no_word_of_the_header(tmp_path: Path) -> None:
    (exam,) = find_exams(odelia(tmp_path / "site"), RULES).exams
    out = tmp_path / "out"
    provenance = write_native_copy(exam, out)
    assert sorted(path.name for path in out.iterdir()) == [f"{name}.nii.gz" for name in sorted(exam.files)]
    for name, volume in exam.files.items():
        copy, source = read_nifti(out / f"{name}.nii.gz"), read_nifti(volume.path)
        np.testing.assert_array_equal(copy.voxels, source.voxels)
        np.testing.assert_allclose(copy.affine, source.affine, atol=1e-5)
        raw = nib.load(out / f"{name}.nii.gz").to_bytes()
        assert b"PLANTED" not in raw
        assert b"PLANTED" in nib.load(volume.path).to_bytes()
    assert "0042" not in str(provenance)
    assert provenance["files"]["Pre"]["recognised"] == "file name"
    before = (out / "Pre.nii.gz").read_bytes()
    write_native_copy(exam, out)
    assert (out / "Pre.nii.gz").read_bytes() == before


def test_phases_of_one_file_are_written_one_by_one(tmp_path: Path) -> None:
    path = save(tmp_path / "site" / "7" / "dce.nii.gz", shape=(6, 5, 4, 3))
    (exam,) = find_exams(tmp_path / "site", RULES).exams
    provenance = write_native_copy(exam, tmp_path / "out")
    voxels = np.asarray(nib.load(path).dataobj)
    for number, name in enumerate(("Pre", "Post_1", "Post_2")):
        np.testing.assert_array_equal(
            read_nifti(tmp_path / "out" / f"{name}.nii.gz").voxels, voxels[..., number]
        )
        assert provenance["files"][name]["phase"] == number + 1


def test_a_scaled_or_byte_swapped_image_keeps_its_values(tmp_path: Path) -> None:
    site = odelia(tmp_path / "site")
    image = nib.Nifti1Image(
        np.arange(120, dtype=np.int16).reshape(6, 5, 4), AFFINE, nib.Nifti1Header(endianness=">")
    )
    image.set_data_dtype(">i2")
    image.header.set_slope_inter(0.25, 100)
    nib.save(image, site / "data" / "0042" / "Pre.nii.gz")
    (exam,) = find_exams(site, RULES).exams
    write_native_copy(exam, tmp_path / "out")
    copy = read_nifti(tmp_path / "out" / "Pre.nii.gz")
    wanted = nib.load(exam.files["Pre"].path).get_fdata()
    assert (copy.slope, copy.voxels.dtype) == (1.0, np.float32)
    np.testing.assert_array_equal(copy.voxels, wanted)


def test_a_damaged_file_is_the_exams_fault(tmp_path: Path) -> None:
    (exam,) = find_exams(odelia(tmp_path / "site"), RULES).exams
    path = exam.files["Post_1"].path
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SeriesError, match="Post_1: truncated or damaged gzip stream"):
        write_native_copy(exam, tmp_path / "out")


def test_a_later_phase_or_t2_that_cannot_be_read_costs_itself_alone(tmp_path: Path) -> None:
    site = odelia(tmp_path / "site")
    (site / "data" / "0042" / "T2.nii.gz").write_bytes(b"no image")
    (exam,) = find_exams(site, RULES).exams
    assert exam.without == {"T2": "no NIfTI header"}
    path = exam.files["Post_2"].path
    path.write_bytes(path.read_bytes()[:-9])
    provenance = write_native_copy(exam, tmp_path / "out")
    assert set(provenance["files"]) == {"Pre", "Post_1"}
    assert set(provenance["without"]) == {"T2", "Post_2"}
    assert "truncated or damaged gzip stream" in provenance["without"]["Post_2"]
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["Post_1.nii.gz", "Pre.nii.gz"]


def test_a_file_that_vanishes_is_told_and_no_traceback(tmp_path: Path) -> None:
    (exam,) = find_exams(odelia(tmp_path / "site"), RULES).exams
    whole = files_digest(exam, bytes(32))
    exam.files["T2"].path.unlink()
    assert files_digest(exam, bytes(32)) != whole
    assert "No such file" in write_native_copy(exam, tmp_path / "out")["without"]["T2"]
    exam.files["Pre"].path.unlink()
    with pytest.raises(SeriesError, match="Pre: unreadable file: No such file"):
        write_native_copy(exam, tmp_path / "out")


def test_a_file_that_lost_time_points_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "site" / "7" / "dyn.nii.gz", shape=(6, 5, 4, 4))
    (exam,) = find_exams(tmp_path / "site", RULES).exams
    save(path, shape=(6, 5, 4, 3))
    assert write_native_copy(exam, tmp_path / "out")["without"] == {
        "Post_3": "3 time points now, there were more"
    }


def test_an_exam_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = odelia(tmp_path / "site", ("0042", "0043"))
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("0042"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    source = find_exams(site, RULES)
    assert [exam.raw_id for exam in source.exams] == ["0043"]
    assert ("0042", "a folder that cannot be read") in reasons(source)


def test_a_source_that_cannot_be_listed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = odelia(tmp_path / "site")

    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match="the folder cannot be read: Permission denied") as caught:
        find_exams(site, RULES)
    assert str(tmp_path) not in caught.value.public


def test_the_digest_follows_contents_and_naming_not_time_or_place(tmp_path: Path) -> None:
    key = bytes(32)
    (one,) = find_exams(odelia(tmp_path / "one"), RULES).exams
    (two,) = find_exams(odelia(tmp_path / "two"), RULES).exams
    assert files_digest(one, key) == files_digest(two, key)
    assert files_digest(one, key) != files_digest(one, bytes([1] * 32))
    swapped = {**two.files, "Post_1": two.files["Post_2"], "Post_2": two.files["Post_1"]}
    assert files_digest(type(two)(raw_id="0042", patient="", files=swapped), key) != files_digest(one, key)
    save(two.files["Pre"].path, seed=9)
    assert files_digest(one, key) != files_digest(two, key)


def test_a_folder_of_nifti_exams_becomes_a_site(draw_exam: Callable[..., Any], tmp_path: Path) -> None:
    drawn = draw_exam(3)
    for name, voxels in drawn.images.items():
        path = tmp_path / "export" / "data" / "Q0042Q" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(voxels.astype(np.int16), drawn.affine), path)
    (tmp_path / "export" / "metadata").mkdir()
    annotation = "UID,PatientID,Age,Lesion_Left,Lesion_Right\nQ0042Q,Q007Q,20000,0,2\n"
    (tmp_path / "export" / "metadata" / "annotation.csv").write_text(annotation)
    (tmp_path / "export" / "metadata" / "split.csv").write_text("UID,Split\nQ0042Q,val\n")
    result = import_site(tmp_path / "export", tmp_path / "A", ImportOptions(), nifti=True)
    assert (result.num_imported, result.num_breasts) == (1, 2)
    wanted = {
        "need_reports": False,
        "need_findings": False,
        "sequences": ("Pre", "Sub", "T2"),
        "findings": (),
    }
    exams = read_site(tmp_path / "A", **wanted).exams
    assert [(each.split, each.lesion, each.age_days) for each in exams] == [
        ("val", 0, 20000),
        ("val", 2, 20000),
    ]
    assert all(set(each.files) >= {"Pre", "Post_1", "Sub", "T2"} for each in exams)
    texts = [path.read_text() for path in (tmp_path / "A").rglob("*") if path.suffix in (".csv", ".json")]
    assert not any("Q0042Q" in text or "Q007Q" in text for text in texts)
    again = import_site(tmp_path / "export", tmp_path / "A", ImportOptions(), nifti=True)
    assert (again.num_imported, again.num_present, again.num_breasts) == (0, 1, 2)
