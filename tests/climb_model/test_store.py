"""Kept slice tokens: encoded once, rebuilt when anything that made them changed, never a stranger's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from climb_model.data.exam import DataError, SiteData, Volume
from climb_model.data.store import remove_store, store_holds
from climb_model.data.views import MAX_GAIN, MAX_OFFSET, make_view
from climb_model.data.volume import read_volume
from climb_model.model.frozen import FrozenEncoders
from climb_model.prepare import ExamSet, prepare, read_exams
from configs.load import load_settings
from configs.schema import Settings

SETTINGS = load_settings(
    "debug", ["evaluation.findings=[Zyste, Karzinom]", "evaluation.max_unknown_share=0.9"]
)
VIEWS = replace(SETTINGS, data=replace(SETTINGS.data, num_views=3))


@pytest.fixture(scope="module")
def frozen() -> FrozenEncoders:
    return FrozenEncoders.load(SETTINGS)


@pytest.fixture
def folder(make_site: Callable[..., Path], tmp_path: Path) -> Path:
    return make_site(tmp_path, "A", exams=8)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


def read(folder: Path) -> SiteData:
    return read_exams(folder, SETTINGS, need_reports=True, need_findings=True)


def opened(
    folder: Path, frozen: FrozenEncoders, scratch: Path, settings: Settings = SETTINGS, split: str = "train"
) -> tuple[ExamSet, list[tuple[int, int]]]:
    """The exam set, and the progress of encoding: empty when the kept tokens were opened."""
    told: list[tuple[int, int]] = []
    exams = prepare(
        read(folder), split, frozen, settings, scratch, on_exam=lambda done, all_: told.append((done, all_))
    )
    return exams, told


def same(first: ExamSet, second: ExamSet) -> bool:
    return (
        first.uids == second.uids
        and np.array_equal(first.kept.tokens, second.kept.tokens)
        and np.array_equal(first.kept.present, second.kept.present)
    )


def volume_file(folder: Path, number: int, sequence: str = "Pre") -> Path:
    """A volume of the number-th training exam."""
    return read(folder).of_split("train")[number].files[sequence]


def test_kept_tokens_are_those_of_the_encoder(folder: Path, frozen: FrozenEncoders, scratch: Path) -> None:
    exams, told = opened(folder, frozen, scratch, VIEWS)
    assert told == [(number, 6) for number in range(1, 7)]
    assert exams.kept.tokens.shape == (6, 3, 12, 64)
    for row, record in enumerate(read(folder).of_split("train")):
        volume = read_volume(record, VIEWS.data)
        present = volume.present.reshape(-1)
        assert np.array_equal(exams.kept.present[row], present)
        for view in range(3):
            pixels = make_view(volume, record.uid, view).values.reshape(12, 32, 32)
            tokens = np.zeros((12, 64), np.float32)
            tokens[present] = frozen.vision(torch.from_numpy(pixels[present])).numpy()
            assert np.allclose(exams.kept.tokens[row, view], tokens, atol=5e-3, rtol=2e-3)  # kept as float16
            assert not exams.kept.tokens[row, view][~present].any()
    batch = exams.images(np.array([4, 1]), np.array([2, 0]))
    assert batch.tokens.dtype == torch.float32
    assert np.array_equal(batch.tokens[0].numpy(), exams.kept.tokens[4, 2].astype(np.float32))
    assert np.array_equal(batch.tokens[1].numpy(), exams.kept.tokens[1, 0].astype(np.float32))


def test_only_training_exams_have_views(folder: Path, frozen: FrozenEncoders, scratch: Path) -> None:
    exams, _ = opened(folder, frozen, scratch, VIEWS, split="test")
    assert exams.kept.tokens.shape[:2] == (2, 1)


def test_a_second_call_encodes_nothing(folder: Path, frozen: FrozenEncoders, scratch: Path) -> None:
    first, told = opened(folder, frozen, scratch)
    assert len(told) == 6
    second, told = opened(folder, frozen, scratch)
    assert told == []
    assert same(first, second)
    assert isinstance(second.kept.tokens, np.memmap)
    assert not second.kept.tokens.flags.writeable
    assert sorted(path.name for path in scratch.iterdir()) == ["tokens-train.f16", "tokens-train.json"]


def test_a_changed_volume_is_encoded_anew(folder: Path, frozen: FrozenEncoders, scratch: Path) -> None:
    before, _ = opened(folder, frozen, scratch)
    old = np.array(before.kept.tokens)
    changed = volume_file(folder, 2)
    changed.write_bytes(volume_file(folder, 3).read_bytes())
    stat = changed.stat()
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    after, told = opened(folder, frozen, scratch)
    assert len(told) == 6
    unlike = [row for row in range(6) if not np.array_equal(after.kept.tokens[row], old[row])]
    assert unlike == [2]


def test_another_fingerprint_is_encoded_anew(folder: Path, frozen: FrozenEncoders, scratch: Path) -> None:
    opened(folder, frozen, scratch)
    other = FrozenEncoders(frozen.vision, frozen.text, {**frozen.fingerprint, "vision": "0" * 64})
    assert len(opened(folder, other, scratch)[1]) == 6
    assert opened(folder, other, scratch)[1] == []
    again = FrozenEncoders(frozen.vision, frozen.text, {**frozen.fingerprint, "preprocessing": "1" * 64})
    assert len(opened(folder, again, scratch)[1]) == 6
    words = FrozenEncoders(frozen.vision, frozen.text, {**again.fingerprint, "text": "2" * 64})
    assert opened(folder, words, scratch)[1] == []  # slice tokens do not depend on the language


def test_another_number_of_views_is_encoded_anew(folder: Path, frozen: FrozenEncoders, scratch: Path) -> None:
    opened(folder, frozen, scratch)
    exams, told = opened(folder, frozen, scratch, VIEWS)
    assert len(told) == 6
    assert exams.kept.index.num_views == 3


@pytest.mark.parametrize("num_bytes", [0, 1000, -1])
def test_a_truncated_store_is_built_again(
    folder: Path, frozen: FrozenEncoders, scratch: Path, num_bytes: int
) -> None:
    before, _ = opened(folder, frozen, scratch)
    old = np.array(before.kept.tokens)
    data = scratch / "tokens-train.f16"
    whole = data.read_bytes()
    data.unlink()
    data.write_bytes(whole[:num_bytes])
    after, told = opened(folder, frozen, scratch)
    assert len(told) == 6
    assert np.array_equal(after.kept.tokens, old)


def test_a_build_that_was_killed_is_begun_again(
    folder: Path, frozen: FrozenEncoders, scratch: Path, tmp_path: Path
) -> None:
    whole, _ = opened(folder, frozen, tmp_path / "other")

    class Killed(BaseException):
        pass

    def kill(done: int, _: int) -> None:
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        prepare(read(folder), "train", frozen, SETTINGS, scratch, on_exam=kill)
    assert not (scratch / "tokens-train.json").exists()
    exams, told = opened(folder, frozen, scratch)
    assert len(told) == 6
    assert same(exams, whole)


def test_a_kill_between_data_and_index_is_no_finished_store(
    folder: Path, frozen: FrozenEncoders, scratch: Path
) -> None:
    opened(folder, frozen, scratch)
    (scratch / "tokens-train.json").unlink()
    assert len(opened(folder, frozen, scratch)[1]) == 6


def test_a_store_of_another_site_is_refused(
    folder: Path, frozen: FrozenEncoders, scratch: Path, make_site: Callable[..., Path], tmp_path: Path
) -> None:
    opened(folder, frozen, scratch)
    other = make_site(tmp_path, "B", exams=8)
    with pytest.raises(DataError, match=r"belongs to site 'A'.*wanted site 'B'") as caught:
        opened(other, frozen, scratch)
    assert "\n" not in str(caught.value)
    assert caught.value.public == "the token store belongs to another site"


@pytest.mark.parametrize("content", ["", "{}", "[1, 2]", '{"magic": 1}', "null"])
def test_an_index_of_another_program_is_refused(
    folder: Path, frozen: FrozenEncoders, scratch: Path, content: str
) -> None:
    scratch.mkdir()
    index = scratch / "tokens-train.json"
    index.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="is not an index of this program") as caught:
        opened(folder, frozen, scratch)
    assert str(scratch) not in caught.value.public
    assert index.read_text(encoding="utf-8") == content  # left as it was


def test_an_index_of_another_format_is_refused(folder: Path, frozen: FrozenEncoders, scratch: Path) -> None:
    opened(folder, frozen, scratch)
    index = scratch / "tokens-train.json"
    told = json.loads(index.read_text(encoding="utf-8"))
    index.write_text(json.dumps({**told, "magic": "CLIMB slice tokens 99"}), encoding="utf-8")
    with pytest.raises(DataError, match="CLIMB slice tokens 99"):
        opened(folder, frozen, scratch)


def test_an_unreadable_exam_is_left_out_and_the_rest_kept(
    folder: Path, frozen: FrozenEncoders, scratch: Path
) -> None:
    records = read(folder).of_split("train")
    spoilt = records[1]
    spoilt.files["T2"].write_bytes(spoilt.files["T2"].read_bytes()[:200])
    exams, told = opened(folder, frozen, scratch)
    assert [done for done, _ in told] == [1, 2, 3, 4, 5, 6]
    assert exams.uids == tuple(record.uid for record in records if record.uid != spoilt.uid)
    assert list(exams.left_out) == [spoilt.uid]
    assert "T2" in exams.left_out[spoilt.uid]
    assert exams.notices[0] == "1 exams with unusable volumes left out"
    for row, uid in enumerate(exams.uids):
        record = next(record for record in records if record.uid == uid)
        fresh = read_volume(record, SETTINGS.data)
        tokens = frozen.vision(torch.from_numpy(fresh.values.reshape(12, 32, 32)[fresh.present.reshape(-1)]))
        assert np.allclose(
            exams.images(np.array([row])).tokens[0][fresh.present.reshape(-1)], tokens, atol=5e-3
        )
    assert opened(folder, frozen, scratch)[1] == []  # the reason is kept too
    assert opened(folder, frozen, scratch)[0].left_out == exams.left_out


# ---- views


@pytest.fixture
def volume() -> Volume:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3, 4, 40, 40)).astype(np.float32)
    present = np.ones((3, 4), bool)
    present[1, 3] = present[2, 0] = False
    values[~present] = 0.0
    return Volume(values=values, present=present, spacing_mm=(8.0, 4.0, 4.0))


def test_view_0_is_the_exam(volume: Volume) -> None:
    assert make_view(volume, "uid", 0) is volume


def test_a_view_is_the_same_for_the_same_uid_and_number(volume: Volume) -> None:
    first = make_view(volume, "uid", 1)
    assert np.array_equal(first.values, make_view(volume, "uid", 1).values)
    assert not np.array_equal(first.values, make_view(volume, "uid", 2).values)
    assert not np.array_equal(first.values, make_view(volume, "other", 1).values)
    assert np.array_equal(first.present, volume.present)


def test_a_view_is_the_exam_shifted_and_never_mirrored(volume: Volume) -> None:
    """Some small shift makes exam and view agree up to gain and offset; no mirror image has one."""
    shift = 3  # 8 % of 40 pixels
    for view in range(1, 13):
        made = make_view(volume, "uid", view).values
        best: dict[str, float] = {}
        for name, source in (
            ("upright", volume.values),
            ("left-right", volume.values[..., ::-1]),
            ("up-down", volume.values[..., ::-1, :]),
            ("transposed", volume.values.swapaxes(2, 3)),
        ):
            correlations = []
            for down in range(-shift, shift + 1):
                for right in range(-shift, shift + 1):
                    moved = np.roll(source, (down, right), (2, 3))[..., shift:-shift, shift:-shift]
                    seen = made[..., shift:-shift, shift:-shift]
                    correlations.append(np.corrcoef(moved[0, 1].ravel(), seen[0, 1].ravel())[0, 1])
            best[name] = max(correlations)
        assert best["upright"] > 0.999
        assert max(value for name, value in best.items() if name != "upright") < 0.3


def test_a_view_changes_contrast_within_its_bounds_and_the_same_in_all_slices(volume: Volume) -> None:
    for view in range(1, 13):
        made = make_view(volume, "uid", view)
        for sequence in range(3):
            inner = made.values[sequence][volume.present[sequence]][:, 5:-5, 5:-5]
            spread = inner.std(axis=(1, 2)) / volume.values[sequence][volume.present[sequence]].std(
                axis=(1, 2)
            )
            assert np.all(np.abs(spread - 1) < MAX_GAIN + 0.08)
            assert np.all(np.abs(inner.mean(axis=(1, 2))) < MAX_OFFSET + 0.12)
        assert not made.values[~volume.present].any()


def test_a_store_tells_whether_it_holds_an_exam_and_goes_as_a_whole(
    folder: Path, frozen: FrozenEncoders, scratch: Path
) -> None:
    exams, _ = opened(folder, frozen, scratch)
    base = scratch / "tokens-train"
    assert store_holds(base, ["nobody", exams.uids[0]])
    assert not store_holds(base, ["nobody"])
    assert not store_holds(scratch / "tokens-val", [exams.uids[0]])
    remove_store(base)
    assert list(scratch.glob("tokens*")) == []


@pytest.mark.parametrize(
    "left", ["tokens-train.f16", "tokens-train.12.partial", "tokens-train.12.json.partial"]
)
def test_what_a_killed_build_left_may_hold_any_exam(left: str, tmp_path: Path) -> None:
    (tmp_path / left).touch()
    assert store_holds(tmp_path / "tokens-train", ["A"])
    remove_store(tmp_path / "tokens-train")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("index", "holds"),
    [
        ("{", True),
        ("[]", True),
        ('{"magic": "another program", "uids": ["A"], "left_out": {}}', False),
        ('{"magic": "CLIMB slice tokens 1", "uids": ["B"], "left_out": {"A": "truncated"}}', True),
        ('{"magic": "CLIMB slice tokens 1", "uids": ["B"], "left_out": {}}', False),
    ],
)
def test_an_index_that_cannot_be_read_may_hold_any_exam(index: str, holds: bool, tmp_path: Path) -> None:
    (tmp_path / "tokens-train.json").write_text(index)
    assert store_holds(tmp_path / "tokens-train", ["A"]) is holds
