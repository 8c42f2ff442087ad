"""Kept crops: the same bits kept or made, and never an old or a damaged one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from climb_model.data import prepared
from climb_model.data.exam import DataError, ExamRecord
from climb_model.data.folders import read_site
from climb_model.data.prepared import prepared_file, prepared_volume
from climb_model.data.volume import read_volume
from climb_model.model.frozen import FrozenEncoders
from climb_model.prepare import keep_tokens
from configs.load import load_settings
from configs.schema import DataConfig, Settings

SMALL = DataConfig(slices=4, rows=32, columns=32, spacing_mm=(8.0, 4.0, 4.0))


@pytest.fixture
def exam(make_site: Callable[..., Path], tmp_path: Path) -> ExamRecord:
    return exams_of(make_site(tmp_path, "A", exams=2))[0]


def exams_of(site: Path) -> tuple[ExamRecord, ...]:
    data = read_site(site, need_reports=False, need_findings=False, sequences=SMALL.sequences, findings=())
    return data.exams


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """UIDs of the exams that were prepared from their files."""
    uids: list[str] = []

    def counted(exam: ExamRecord, data: DataConfig) -> object:
        uids.append(exam.uid)
        return read_volume(exam, data)

    monkeypatch.setattr(prepared, "read_volume", counted)
    return uids


def test_kept_and_made_are_the_same_to_the_bit(exam: ExamRecord, tmp_path: Path, made: list[str]) -> None:
    del exam.files["T2"]
    first = prepared_volume(exam, SMALL, tmp_path / "prepared")
    second = prepared_volume(exam, SMALL, tmp_path / "prepared")
    assert made == [exam.uid]
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.present, second.present)
    assert first.present.any(axis=1).tolist() == [True, True, False]
    assert first.values.dtype == second.values.dtype == np.float32
    assert first.spacing_mm == second.spacing_mm == SMALL.spacing_mm


def test_values_are_those_of_preparing_rounded_to_float16(exam: ExamRecord, tmp_path: Path) -> None:
    whole = read_volume(exam, SMALL).values
    kept = prepared_volume(exam, SMALL, tmp_path / "prepared").values
    np.testing.assert_array_equal(kept, whole.astype(np.float16))
    assert not np.array_equal(kept, whole)


def test_an_exam_takes_two_bytes_a_voxel_in_one_file_of_its_name(exam: ExamRecord, tmp_path: Path) -> None:
    prepared_volume(exam, SMALL, tmp_path / "prepared")
    assert [path.name for path in (tmp_path / "prepared").iterdir()] == [f"{exam.uid}.f16"]
    assert 0 <= prepared_file(exam.uid, tmp_path / "prepared").stat().st_size - 2 * 3 * 4 * 32 * 32 < 100


def later(exam: ExamRecord) -> None:
    state = exam.files["Sub"].stat()
    os.utime(exam.files["Sub"], ns=(state.st_atime_ns, state.st_mtime_ns + 1))


def without_t2(exam: ExamRecord) -> None:
    del exam.files["T2"]


@pytest.mark.parametrize("change", [later, without_t2])
def test_changed_files_are_prepared_again(
    exam: ExamRecord, tmp_path: Path, made: list[str], change: Callable[[ExamRecord], None]
) -> None:
    prepared_volume(exam, SMALL, tmp_path)
    change(exam)
    prepared_volume(exam, SMALL, tmp_path)
    assert made == [exam.uid] * 2


def test_other_preprocessing_is_prepared_again(
    exam: ExamRecord, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"slices": 4, "rows": 32, "columns": 32, "spacing_mm": (8.0, 4.0, 4.0)}
    for change in ({}, {"clip_percentiles": (1.0, 99.0)}, {"rows": 16, "columns": 64}):
        data = DataConfig(**(settings | change))
        again = prepared_volume(exam, data, tmp_path).values
        np.testing.assert_array_equal(again, read_volume(exam, data).values.astype(np.float16))
    monkeypatch.setattr(prepared, "PREPROCESSING_VERSION", prepared.PREPROCESSING_VERSION + 1)
    prepared_volume(exam, data, tmp_path)
    assert len(made) == 4
    prepared_volume(exam, DataConfig(**(settings | change), num_views=3, keep_prepared=True), tmp_path)
    assert len(made) == 4


def test_another_exam_s_crop_is_not_taken(
    make_site: Callable[..., Path], tmp_path: Path, made: list[str]
) -> None:
    one, two = exams_of(make_site(tmp_path, "A", exams=2))
    prepared_volume(one, SMALL, tmp_path)
    prepared_file(one.uid, tmp_path).replace(prepared_file(two.uid, tmp_path))
    kept = prepared_volume(two, SMALL, tmp_path)
    assert made == [one.uid, two.uid]
    np.testing.assert_array_equal(kept.values, read_volume(two, SMALL).values.astype(np.float16))


@pytest.mark.parametrize("place", [0, 20, 50, 60, 5000, -1])
@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_a_damaged_crop_is_made_anew(
    exam: ExamRecord, tmp_path: Path, made: list[str], place: int, how: str
) -> None:
    sound = prepared_volume(exam, SMALL, tmp_path / "prepared")
    path = prepared_file(exam.uid, tmp_path / "prepared")
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content if how == "flipped" else content[:place])
    again = prepared_volume(exam, SMALL, tmp_path / "prepared")
    assert made == [exam.uid] * 2
    np.testing.assert_array_equal(again.values, sound.values)
    prepared_volume(exam, SMALL, tmp_path / "prepared")
    assert len(made) == 2


def test_an_exam_that_cannot_be_read_keeps_nothing(exam: ExamRecord, tmp_path: Path) -> None:
    exam.files["Sub"].write_bytes(b"no image")
    with pytest.raises(DataError, match="no NIfTI header"):
        prepared_volume(exam, SMALL, tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


# Wired into the tokens


@pytest.fixture(scope="module")
def frozen() -> FrozenEncoders:
    return FrozenEncoders.load(load_settings("debug"))


def tokens(site: Path, settings: Settings, frozen: FrozenEncoders, scratch: Path) -> np.ndarray:
    kept = keep_tokens("A", "train", exams_of(site), frozen, settings, scratch, None)
    return np.array(kept.tokens)


def test_crops_are_kept_only_if_wanted_and_change_nothing_beyond_rounding(
    make_site: Callable[..., Path], tmp_path: Path, frozen: FrozenEncoders, made: list[str]
) -> None:
    site, scratch = make_site(tmp_path, "A", exams=2), tmp_path / "private"
    plain = tokens(site, load_settings("debug"), frozen, scratch)
    assert not (scratch / "prepared").exists()
    settings = load_settings("debug", ["data.keep_prepared=true"])
    kept = tokens(site, settings, frozen, scratch)
    assert len(list((scratch / "prepared").iterdir())) == len(made) == 2
    np.testing.assert_allclose(kept, plain, atol=0.05)
    other = FrozenEncoders(frozen.vision, frozen.text, {**frozen.fingerprint, "vision": "another encoder"})
    np.testing.assert_array_equal(tokens(site, settings, other, scratch), kept)
    assert len(made) == 2
    np.testing.assert_array_equal(tokens(site, load_settings("debug"), frozen, scratch), plain)


def test_sites_that_keep_crops_and_sites_that_do_not_are_partners(frozen: FrozenEncoders) -> None:
    keeping = FrozenEncoders.load(load_settings("debug", ["data.keep_prepared=true"]))
    assert keeping.fingerprint == frozen.fingerprint
