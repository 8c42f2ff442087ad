"""What is kept of pixels between two checks."""

from __future__ import annotations

import json
import os
import shutil
import stat
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from climb_model.checking import pixels
from climb_model.checking.layout import look_around
from climb_model.checking.pixels import CACHE, VERSION, Pixels, look_at, pixel_findings, read_pixels
from climb_model.data.exam import DataError
from climb_model.intake import processes

WANTED = ("Pre", "Sub", "T2")


class Counted:
    """`look_at`, counting its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[Path] = []
        self._true = pixels.look_at
        monkeypatch.setattr(pixels, "look_at", self)

    def __call__(self, path: Path) -> Pixels:
        self.paths.append(path)
        return self._true(path)


def check(site: Any, cache: Path | None, workers: int = 1) -> dict[str, dict[str, Pixels]]:
    files = look_around(site.folder, WANTED).files
    return read_pixels(files, site.folder, cache, workers=workers)


def test_a_second_check_reads_nothing_and_says_the_same(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    first = check(site, tmp_path / "private" / CACHE)
    assert len(counted.paths) == 144
    counted.paths.clear()
    assert check(site, tmp_path / "private" / CACHE) == first
    assert counted.paths == []


def test_only_a_changed_file_is_read_again(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / CACHE
    first = check(site, cache)
    counted = Counted(monkeypatch)
    changed, touched = site.image("00001_left", "Pre"), site.image("00002_left", "T2")
    site.save(changed, site.voxels(999), site.affine("left"))
    state = touched.stat()
    os.utime(touched, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    second = check(site, cache)
    assert sorted(counted.paths) == sorted([changed, touched])
    assert second["00001_left"]["Pre"].digest != first["00001_left"]["Pre"].digest
    assert second["00002_left"] == first["00002_left"]


def test_an_exam_that_is_gone_is_forgotten(site: Any, tmp_path: Path) -> None:
    cache = tmp_path / CACHE
    check(site, cache)
    assert "00001_left" in cache.read_text("utf-8")
    shutil.rmtree(site.images / "00001_left")
    check(site, cache)
    assert "00001_left" not in cache.read_text("utf-8")


def test_what_is_kept_can_be_read_by_its_owner_alone(site: Any, tmp_path: Path) -> None:
    cache = tmp_path / "private" / CACHE
    check(site, cache)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "null", f'{{"version": {VERSION}}}', f'{{"version": {VERSION}, "files": [1]}}'),
        f'{{"version": {VERSION - 1}, "files": {{}}}}',
    ],
)
def test_a_damaged_cache_is_made_again(content: str, site: Any, tmp_path: Path) -> None:
    cache = tmp_path / CACHE
    cache.write_text(content, "utf-8")
    assert check(site, cache) == check(site, None)
    assert len(json.loads(cache.read_text("utf-8"))["files"]) == 144


def test_an_interrupted_check_goes_on(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)

    def interrupt(done: int, total: int) -> None:
        if done == 100 < total:
            raise KeyboardInterrupt

    files = look_around(site.folder, WANTED).files
    with pytest.raises(KeyboardInterrupt):
        read_pixels(files, site.folder, tmp_path / CACHE, workers=1, on_file=interrupt)
    counted.paths.clear()
    check(site, tmp_path / CACHE)
    assert len(counted.paths) == 44


def test_several_processes_see_what_one_sees(site: Any) -> None:
    site.save(site.image("00001_left", "Pre"), site.voxels(1) * 0, site.affine("left"))
    assert check(site, None, workers=2) == check(site, None)


def test_a_lost_worker_is_told_in_one_line(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_start_worker", partial(os._exit, 3))
    with pytest.raises(DataError, match=r"check: a worker process died, .* with fewer --workers$"):
        check(site, None, workers=2)


@pytest.mark.parametrize("kind", ["<i2", ">i2", "<i4", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, -3.0)])
def test_a_copy_in_another_number_type_is_the_same_pixels(
    kind: str, slope: float, intercept: float, site: Any, tmp_path: Path
) -> None:
    stored = site.voxels(1)
    stored[0, 0, 0] = 0
    affine = site.affine("left")
    image = nib.Nifti1Image(stored.astype(kind), affine)
    image.header.set_slope_inter(slope, intercept)
    nib.save(image, tmp_path / "first.nii.gz")
    values = nib.load(tmp_path / "first.nii.gz").get_fdata()
    values[values == 0] = -0.0
    nib.save(nib.Nifti1Image(values.astype(np.float32), affine), tmp_path / "copy.nii.gz")
    values[3, 3, 3] += 1
    nib.save(nib.Nifti1Image(values.astype(np.float32), affine), tmp_path / "other.nii.gz")
    first, copy, other = (look_at(tmp_path / f"{name}.nii.gz") for name in ("first", "copy", "other"))
    assert first == copy
    assert first.digest != other.digest
    [found] = pixel_findings({"A_left": {"Pre": first}, "B_left": {"Pre": copy}, "C_left": {"Pre": other}})
    assert (found.code, found.who) == ("files.same_pixels", ("A_left", "B_left"))


def test_a_large_image_is_hashed_in_blocks_that_do_not_show(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.save(tmp_path / "a.nii.gz", site.voxels(1), site.affine("left"))
    whole = look_at(tmp_path / "a.nii.gz")
    monkeypatch.setattr(pixels, "_BLOCK", 7)
    assert look_at(tmp_path / "a.nii.gz") == whole
