"""The public ODELIA challenge data: each way of storing an image, what is refused, what a repeat changes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from climb_model.data.exam import DataError
from climb_model.data.folders import read_site
from climb_model.data.made_reports import MADE
from climb_model.data.nifti import read_nifti
from climb_model.intake.forgotten import SITE_LOCK
from climb_model.intake.parquet import challenge
from climb_model.intake.parquet import rows as parquet_rows
from climb_model.intake.parquet.challenge import import_parquet
from climb_model.intake.parquet.made_marker import MARKER
from climb_model.lock import LockedError, only_process

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

AFFINE = np.array([[-0.7, 0, 0, 60], [0, -0.7, 0, 70], [0, 0, 3, -40], [0, 0, 0, 1.0]])
SEQUENCES = ("Pre", "Post_1", "Sub_1", "T2")
NESTED = pa.list_(pa.list_(pa.list_(pa.int16())))


def voxels(seed: int, shape: tuple[int, int, int] = (6, 5, 4)) -> np.ndarray:
    return np.random.default_rng(seed).integers(-50, 900, shape, np.int16)


def table(num: int = 3, **columns: list[Any]) -> dict[str, Any]:
    """Columns of the challenge's file with `num` breasts; each may be replaced, None takes it out."""
    content: dict[str, Any] = {
        "UID": [f"00{number // 2}_{('left', 'right')[number % 2]}" for number in range(num)],
        "Institution": ["UKA"] * num,
        "PatientID": [f"00{number // 2}" for number in range(num)],
        "Age": [20000 + number // 2 for number in range(num)],
        "Split": ["train"] * num,
        "Fold": [0] * num,
        "Lesion": [number % 3 for number in range(num)],
    }
    for place, name in enumerate(SEQUENCES):
        content[f"Image_{name}"] = [voxels(10 * number + place).tolist() for number in range(num)]
        content[f"Affine_{name}"] = [AFFINE.tolist()] * num
    return {name: cells for name, cells in (content | columns).items() if cells is not None}


def store(path: Path, content: dict[str, Any], kinds: dict[str, Any] | None = None, **how: Any) -> Path:
    """Write a file in the folder `public` beside the sites."""
    path = path.parent / "public" / path.name
    path.parent.mkdir(exist_ok=True)
    columns = {name: pa.array(cells, (kinds or {}).get(name)) for name, cells in content.items()}
    pq.write_table(pa.table(columns), path, **how)
    return path


def run(path: Path, site: Path, **how: Any) -> Any:
    return import_parquet(path.parent, site, **{"make_reports": False, **how})


def rows(site: Path, name: str) -> list[dict[str, str]]:
    with (site / "metadata_unilateral" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def image(site: Path, uid: str, sequence: str) -> Any:
    return read_nifti(site / "data_unilateral" / uid / f"{sequence}.nii.gz")


def test_rows_become_a_site_that_can_be_read(tmp_path: Path) -> None:
    result = run(store(tmp_path / "a.parquet", table()), tmp_path / "UKA", make_reports=True)
    assert (result.num_imported, result.num_present, result.num_breasts, result.num_reports) == (3, 0, 3, 3)
    assert result.entries == ()
    site = read_site(
        tmp_path / "UKA", need_reports=True, need_findings=False, sequences=("Pre", "Sub", "T2"), findings=()
    )
    assert [exam.uid for exam in site.exams] == ["000_left", "000_right", "001_left"]
    assert site.exams[1].lesion == 1
    assert site.exams[1].patient == "000"
    assert set(site.exams[0].files) == {"Pre", "Post_1", "Sub", "T2"}
    for number, exam in enumerate(site.exams):
        for place, name in enumerate(SEQUENCES):
            found = image(tmp_path / "UKA", exam.uid, name)
            np.testing.assert_array_equal(found.voxels, voxels(10 * number + place))
            np.testing.assert_allclose(found.affine, AFFINE, atol=1e-5)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def nifti(array: np.ndarray) -> bytes:
    return nib.Nifti1Image(array, AFFINE).to_bytes()


STORED: dict[str, tuple[Callable[[np.ndarray], Any], Any]] = {
    "nested lists": (np.ndarray.tolist, NESTED),
    "large lists": (np.ndarray.tolist, pa.large_list(pa.large_list(pa.large_list(pa.float32())))),
    "fixed sizes": (np.ndarray.tolist, pa.list_(pa.list_(pa.list_(pa.int32(), 4), 5), 6)),
    "with a channel": (lambda array: [array.tolist()], pa.list_(NESTED)),
    "npy": (npy, pa.binary()),
    "nifti": (nifti, pa.large_binary()),
    "nifti of datasets": (
        lambda array: {"bytes": nifti(array), "path": "Pre.nii"},
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    ),
}


@pytest.mark.parametrize("how", STORED)
def test_every_way_of_storing_an_image_gives_the_same_voxels(tmp_path: Path, how: str) -> None:
    stored, kind = STORED[how]
    content = table(1, Image_Pre=[stored(voxels(7))])
    result = run(store(tmp_path / "a.parquet", content, {"Image_Pre": kind}), tmp_path / "UKA")
    assert result.entries == ()
    found = image(tmp_path / "UKA", "000_left", "Pre")
    np.testing.assert_array_equal(found.voxels, voxels(7))
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-5)


@pytest.mark.parametrize("affine", [AFFINE.tolist(), AFFINE.ravel().tolist(), npy(AFFINE)])
def test_every_way_of_storing_an_affine(tmp_path: Path, affine: Any) -> None:
    run(store(tmp_path / "a.parquet", table(1, Affine_T2=[affine])), tmp_path / "UKA")
    np.testing.assert_allclose(image(tmp_path / "UKA", "000_left", "T2").affine, AFFINE, atol=1e-5)


def test_an_index_axis_of_the_image_is_a_column_of_the_affine(tmp_path: Path) -> None:
    """The third index is the slice: 3 mm along the third column."""
    run(store(tmp_path / "a.parquet", table(1)), tmp_path / "UKA")
    found = image(tmp_path / "UKA", "000_left", "Pre")
    assert found.voxels.shape == (6, 5, 4)
    step = found.affine @ [0, 0, 1, 1] - found.affine @ [0, 0, 0, 1]
    assert step[:3].tolist() == pytest.approx([0, 0, 3])


BROKEN = {
    "lists of unequal lengths": {"Image_T2": [[[[1, 2], [3]]]]},
    "missing values among the numbers": {"Image_T2": [[[[1, None], [3, 4]]]]},
    "wanted a 3-D image, got 2-D 2x2": {"Image_T2": [[[1, 2], [3, 4]]]},
    "values that are no real numbers": {"Image_T2": [[[["a"]]]]},
    "voxels that are not finite": {"Image_T2": [[[[1.0, float("nan")]]]]},
    "no NIfTI header": {"Image_T2": [b"neither npy nor nifti"]},
    "truncated": {"Image_T2": [nifti(voxels(0))[:-5]]},
    "bytes that are no .npy array": {"Image_T2": [npy(voxels(0))[:-5]]},
    "no affine": {"Affine_T2": [None]},
    "wanted an affine of 4 x 4 numbers, got 3": {"Affine_T2": [[1.0, 2.0, 3.0]]},
    "an affine whose last row": {"Affine_T2": [(AFFINE + 1).tolist()]},
    "an impossible affine": {"Affine_T2": [np.diag([0.0, 1, 1, 1]).tolist()]},
    "sheared image": {"Affine_T2": [(AFFINE + np.diag([0.5, 0.5], 2)).tolist()]},
    "its axes are not in the order of its affine's columns": {
        "Image_T2": [voxels(0, (4, 6, 256)).tolist()],
    },
    "contradicts the affine in its file": {
        "Image_T2": [nifti(voxels(0))],
        "Affine_T2": [np.diag([-0.7, -0.7, 3, 1]).tolist()],
    },
}


@pytest.mark.parametrize("reason", BROKEN)
def test_an_unusable_image_leaves_its_breast_out(tmp_path: Path, reason: str) -> None:
    content = table(1, **BROKEN[reason])
    result = run(store(tmp_path / "a.parquet", content), tmp_path / "UKA")
    (entry,) = result.entries
    assert entry.reason.startswith("T2: ")
    assert reason in entry.reason
    assert entry.study == "000_left"
    assert list((tmp_path / "UKA" / "data_unilateral").iterdir()) == []
    assert rows(tmp_path / "UKA", "annotation") == []


def test_a_sequence_without_an_image_is_absent_and_other_columns_are_no_sequence(tmp_path: Path) -> None:
    mask = {"Image_Mask": [voxels(0).tolist()] * 2, "Image_../../away": [voxels(0).tolist()] * 2}
    content = table(2, Image_T2=[None, voxels(1).tolist()], **mask)
    run(store(tmp_path / "a.parquet", content, {"Image_T2": NESTED}), tmp_path / "UKA")
    names = [path.name for path in sorted((tmp_path / "UKA" / "data_unilateral" / "000_left").iterdir())]
    assert names == ["Post_1.nii.gz", "Pre.nii.gz", "Sub_1.nii.gz", "provenance.json"]
    assert not (tmp_path / "away.nii.gz").exists()


@pytest.mark.parametrize("uid", ["../../0001_left", "/tmp/0001_left", "0001", "", ".hidden_left", "a/b_left"])
def test_a_uid_that_is_no_name_of_a_breast_is_left_out(tmp_path: Path, uid: str) -> None:
    result = run(store(tmp_path / "a.parquet", table(1, UID=[uid])), tmp_path / "UKA")
    assert [entry.reason for entry in result.entries] == ["a UID that is no <ID>_left or <ID>_right"]
    assert {path.name for path in tmp_path.iterdir()} == {"public", "UKA"}


def test_rows_that_contradict_each_other_are_left_out(tmp_path: Path) -> None:
    content = table(3, UID=["1_left", "1_left", "2_left"], Split=["train", "train", "Probe"])
    result = run(store(tmp_path / "a.parquet", content), tmp_path / "UKA")
    found = sorted(entry.reason for entry in result.entries)
    assert found == ["a Split that is not train, val or test", *["a UID in several rows"] * 2]


def test_a_cell_that_is_no_number_is_told_and_left_empty(tmp_path: Path) -> None:
    content = table(2, Age=["fifty", "20000"], Lesion=[3, 1])
    result = run(store(tmp_path / "a.parquet", content), tmp_path / "UKA", make_reports=True)
    assert sorted(entry.reason for entry in result.entries) == [
        "Age is no whole number",
        "Lesion is not 0, 1 or 2",
    ]
    assert [(row["Age"], row["Lesion"]) for row in rows(tmp_path / "UKA", "annotation")] == [
        ("", ""),
        ("20000", "1"),
    ]
    assert [row["UID"] for row in rows(tmp_path / "UKA", "reports")] == ["000_right"]


def test_without_a_split_patients_are_divided_by_the_sites_key(tmp_path: Path) -> None:
    run(store(tmp_path / "a.parquet", table(8, Split=None, Fold=None)), tmp_path / "UKA")
    split = {row["UID"]: row["Split"] for row in rows(tmp_path / "UKA", "split")}
    assert len(split) == 8
    assert all(split[f"00{patient}_left"] == split[f"00{patient}_right"] for patient in range(4))


# Institutions


def test_several_institutions_are_named_and_one_is_chosen(tmp_path: Path) -> None:
    path = store(tmp_path / "a.parquet", table(3, Institution=["UKA", "RUMC", "RUMC"]))
    with pytest.raises(DataError, match=r"2 institutions.*choose with --institution: RUMC, UKA") as caught:
        run(path, tmp_path / "site")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no row of institution 'UMCU'; there are: RUMC, UKA"):
        run(path, tmp_path / "site", institution="UMCU")
    assert not (tmp_path / "site").exists()
    assert run(path, tmp_path / "site", institution="rumc").num_imported == 2
    assert [row["UID"] for row in rows(tmp_path / "site", "split")] == ["000_right", "001_left"]


# Reports


def test_made_reports_are_marked_and_written_ones_stay(tmp_path: Path) -> None:
    path, site = store(tmp_path / "a.parquet", table()), tmp_path / "UKA"
    assert run(path, site).num_reports == 0
    assert not (site / "metadata_unilateral" / MARKER).exists()
    (site / "metadata_unilateral" / "reports.csv").write_text("UID,Report\n000_left,Vom Arzt.\n", "utf-8")
    result = run(path, site, make_reports=True)
    assert result.num_reports == 3
    assert "2 reports are made from Lesion; nobody wrote them" in result.notices
    assert [row["Report"] for row in rows(site, "reports")] == ["Vom Arzt.", MADE[1], MADE[2]]
    marker = json.loads((site / "metadata_unilateral" / "reports-made.json").read_text("utf-8"))
    assert marker == {"kind": "made from Lesion", "count": 2}
    assert json.loads((site / "metadata_unilateral" / MARKER).read_text())["count"] == 2
    run(path, site)  # without the wish, the texts that are there stay, and so does their mark
    assert json.loads((site / "metadata_unilateral" / MARKER).read_text())["count"] == 2


# Again, and interrupted


def test_a_repeated_import_makes_no_image_and_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, site = store(tmp_path / "a.parquet", table()), tmp_path / "UKA"
    run(path, site)
    before = {each: each.read_bytes() for each in site.rglob("*") if each.is_file()}
    monkeypatch.setattr(challenge, "write_volume", None)
    result = run(path, site)
    assert (result.num_imported, result.num_present) == (0, 3)
    assert {each: each.read_bytes() for each in site.rglob("*") if each.is_file()} == before


def test_an_interrupted_import_goes_on(tmp_path: Path) -> None:
    path, site = store(tmp_path / "a.parquet", table()), tmp_path / "UKA"
    seen: list[tuple[int, int]] = []

    def interrupt(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(path, site, on_exam=interrupt)
    torn = site / "data_unilateral" / "001_left"
    torn.mkdir()
    (torn / "Pre.nii.gz").write_bytes(b"half")
    result = run(path, site, on_exam=lambda done, total: seen.append((done, total)))
    assert (result.num_imported, result.num_present) == (1, 2)
    assert seen == [(1, 3), (2, 3), (1, 1)]
    assert len(list(torn.iterdir())) == 5


def test_row_groups_and_files_are_read_one_after_the_other(tmp_path: Path) -> None:
    store(tmp_path / "a.parquet", table(4), row_group_size=2)
    other = table(1, UID=["b_left"], PatientID=["b"], Image_Pre=[voxels(77).tolist()])
    store(tmp_path / "b.parquet", other)
    site = tmp_path / "UKA"
    assert import_parquet(tmp_path / "public", site, make_reports=False).num_imported == 5
    np.testing.assert_array_equal(image(site, "001_right", "Pre").voxels, voxels(30))
    np.testing.assert_array_equal(image(site, "b_left", "Pre").voxels, voxels(77))


def test_other_images_change_nothing_unless_they_are_to_replace(tmp_path: Path) -> None:
    path, site = store(tmp_path / "a.parquet", table()), tmp_path / "UKA"
    run(path, site)
    before = {each: each.read_bytes() for each in site.rglob("*") if each.is_file()}
    images = [voxels(number).tolist() for number in (0, 99, 20)]
    other = table(Image_Pre=images, Lesion=[0, 2, 2])
    result = run(store(path.parent.parent / "a.parquet", other), site, make_reports=False)
    assert [(entry.study, entry.reason) for entry in result.entries] == [("000_right", challenge.CHANGED)]
    assert (result.num_imported, result.num_present, result.num_left_out) == (0, 3, 0)
    del before[site / "import-report.csv"]
    assert {each: each.read_bytes() for each in before} == before
    result = run(path, site, replace=True)
    assert (result.num_imported, result.entries) == (3, ())
    np.testing.assert_array_equal(image(site, "000_right", "Pre").voxels, voxels(99))
    assert [row["Lesion"] for row in rows(site, "annotation")] == ["0", "2", "2"]
    assert len(list((site / "data_unilateral").iterdir())) == 3


def test_another_affine_is_another_image_and_another_way_of_storing_is_not(tmp_path: Path) -> None:
    site = tmp_path / "UKA"
    run(store(tmp_path / "a.parquet", table(1)), site)
    stored = table(1, Image_Pre=[npy(voxels(0))], Affine_Pre=[AFFINE.ravel().tolist()])
    assert run(store(tmp_path / "a.parquet", stored), site).entries == ()
    moved = table(1, Affine_Pre=[(AFFINE + np.diag([0, 0, 0.5, 0])).tolist()])
    (entry,) = run(store(tmp_path / "a.parquet", moved), site).entries
    assert entry.reason == challenge.CHANGED


def test_a_site_holds_one_institution(tmp_path: Path) -> None:
    site = tmp_path / "UKA"
    run(store(tmp_path / "a.parquet", table(1)), site)
    other = store(tmp_path / "a.parquet", table(1, UID=["9_left"], Institution=["RUMC"]))
    with pytest.raises(DataError, match="holds another institution, 'UKA'") as caught:
        run(other, site)
    assert "UKA" not in caught.value.public
    assert [row["UID"] for row in rows(site, "split")] == ["000_left"]


def test_nothing_is_written_or_read_beyond_the_folders(tmp_path: Path) -> None:
    path = store(tmp_path / "a.parquet", table(1))
    site, away = tmp_path / "UKA", tmp_path / "away"
    site.mkdir()
    away.mkdir()
    (site / "data_unilateral").symlink_to(away)
    with pytest.raises(DataError, match="is a symbolic link"):
        run(path, site)
    with pytest.raises(DataError, match="one inside the other"):
        run(path, path.parent / "site")
    assert list(away.iterdir()) == []
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "out.parquet").symlink_to(path)
    store(tmp_path / "b.parquet", table(1, UID=["b_left"])).rename(linked / "b.parquet")
    (linked / "in.parquet").symlink_to("nowhere.parquet")
    result = import_parquet(linked, tmp_path / "site", make_reports=False)
    assert [(each.path, each.reason) for each in result.entries] == [
        (linked / "out.parquet", "a link that leads out of the folder")
    ]
    assert [row["UID"] for row in rows(tmp_path / "site", "split")] == ["b_left"]


def test_one_import_at_a_time(tmp_path: Path) -> None:
    path = store(tmp_path / "a.parquet", table(1))
    with only_process(tmp_path / "UKA" / SITE_LOCK, what="imports"), pytest.raises(LockedError):
        run(path, tmp_path / "UKA")


# Files that cannot be used


def test_unusable_files_get_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public = tmp_path / "public"
    public.mkdir()
    with pytest.raises(DataError, match=r"no \.parquet file in the folder"):
        import_parquet(public, tmp_path / "UKA", make_reports=False)
    (public / "text.parquet").write_bytes(b"UID;Institution\n" * 100)
    with pytest.raises(DataError, match="a file is no parquet, or damaged"):
        run(public / "text.parquet", tmp_path / "UKA")
    (public / "text.parquet").unlink()
    light = store(tmp_path / "light.parquet", {"UID": ["1_left"]})
    with pytest.raises(DataError, match="wanted the columns UID and Image_<sequence>"):
        run(light, tmp_path / "UKA")
    monkeypatch.setattr(parquet_rows, "find_spec", lambda _: None)
    with pytest.raises(
        DataError, match=r"pyarrow is not installed; pip install 'climb-federated\[parquet\]'"
    ):
        run(light, tmp_path / "UKA")


def test_a_damaged_page_is_refused(tmp_path: Path) -> None:
    path = store(tmp_path / "a.parquet", table(2), compression="gzip", write_page_checksum=True)
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        run(path, tmp_path / "UKA")
