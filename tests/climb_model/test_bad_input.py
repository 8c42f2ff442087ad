"""From folders with bad exams in them, through preparation, to a trained round: counted, told, and finite."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from climb_model.data.exam import DataError
from climb_model.model.climb import ClimbModel, build_model
from climb_model.model.frozen import FrozenEncoders
from climb_model.prepare import NO_WORD, ExamSet, prepare, read_exams
from climb_model.training.trainer import TrainReport, train_round
from configs.load import load_settings
from configs.schema import Settings

MakeSite = Callable[..., Path]
SEQUENCES = ("Pre", "Sub", "T2")
MAX_TOKENS = 40
GENERATORS = ("objectives.coca=1", "objectives.inverse_coca=1", "model.generators.depth=1")
VARIANTS = {
    "the contrast alone": (),
    "all objectives": GENERATORS,
    "the released code's form": (*GENERATORS, "model.fusion.causal=true", "model.generators.kind=reused"),
    "drawn sentences": (*GENERATORS, "training.report_sentences=1"),
}


def debug(*overrides: str) -> Settings:
    common = ("training.num_threads=1", "evaluation.findings=[Zyste, Karzinom]")
    return load_settings("debug", [*common, f"model.text.max_tokens={MAX_TOKENS}", *overrides])


@pytest.fixture(scope="module")
def frozen() -> FrozenEncoders:
    return FrozenEncoders.load(debug())


# ---- how a site is spoilt


def training_uids(site: Path) -> list[str]:
    with (site / "metadata_unilateral" / "split.csv").open(encoding="utf-8", newline="") as file:
        return sorted(row["UID"] for row in csv.DictReader(file) if row["Split"] == "train")


def write_reports(site: Path, texts: dict[str, str]) -> None:
    table = site / "metadata_unilateral" / "reports.csv"
    with table.open(encoding="utf-8", newline="") as file:
        rows = [[uid, texts.get(uid, text)] for uid, text in csv.reader(file)]
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def write_volumes(site: Path, uid: str, num_slices: int) -> None:
    rng = np.random.default_rng(num_slices)
    for sequence in SEQUENCES:
        voxels = rng.gamma(2.0, 100.0, size=(32, 32, num_slices)).astype(np.float32)
        image = nib.Nifti1Image(voxels, np.diag([4.0, 4.0, 8.0, 1.0]))
        nib.save(image, site / "data_unilateral" / uid / f"{sequence}.nii.gz")


def remove(site: Path, uid: str, *sequences: str) -> None:
    for sequence in sequences:
        (site / "data_unilateral" / uid / f"{sequence}.nii.gz").unlink()


def make_constant(site: Path, uid: str) -> None:
    for sequence in SEQUENCES:
        image = nib.Nifti1Image(np.full((32, 32, 4), 7.0, np.float32), np.diag([4.0, 4.0, 8.0, 1.0]))
        nib.save(image, site / "data_unilateral" / uid / f"{sequence}.nii.gz")


def prepared(site: Path, frozen: FrozenEncoders, scratch: Path) -> ExamSet:
    data = read_exams(site, debug(), need_reports=True, need_findings=False)
    return prepare(data, "train", frozen, debug(), scratch)


def trained(
    exams: ExamSet, frozen: FrozenEncoders, *overrides: str
) -> tuple[ClimbModel, ClimbModel, TrainReport]:
    """The model before and after a round, and what was told of it."""
    settings = debug(*overrides)
    model = build_model(settings)
    report, _ = train_round(model, None, exams, frozen.text, settings, round=1, global_step=1000)
    return build_model(settings), model, report


def assert_learned(before: ClimbModel, after: ClimbModel, report: TrainReport) -> None:
    assert all(math.isfinite(loss) and loss >= 0 for loss in (report.loss, *report.losses.values()))
    start = dict(before.named_parameters())
    for name, value in after.named_parameters():
        assert torch.isfinite(value).all(), name
        assert not torch.equal(value, start[name]), f"{name} was not trained"


# ---- a site with every kind of bad exam


KINDS: tuple[str, ...] = (
    "empty report",
    "report without a word",
    "long report",
    "long sentence",
    "one slice",
    "300 slices",
    "only T2",
    "no Pre",
    "constant",
    "no file",
)


@pytest.fixture(scope="module")
def zoo(
    make_site: MakeSite, frozen: FrozenEncoders, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, str], ExamSet]:
    """The exam of each kind, and what preparation made of the site."""
    root = tmp_path_factory.mktemp("zoo")
    site = make_site(root, "Z", exams=24)
    uid = dict(zip(KINDS, training_uids(site), strict=False))
    texts = {
        "empty report": " \n",
        "report without a word": "\u200b",
        "long report": "Kein Nachweis eines Karzinoms. " * 50,
        "long sentence": "Zyste " * 300 + "links. Kein Karzinom.",
    }
    write_reports(site, {uid[kind]: text for kind, text in texts.items()})
    write_volumes(site, uid["one slice"], 1)
    write_volumes(site, uid["300 slices"], 300)
    remove(site, uid["only T2"], "Pre", "Sub")
    remove(site, uid["no Pre"], "Pre")
    make_constant(site, uid["constant"])
    remove(site, uid["no file"], *SEQUENCES)
    return uid, prepared(site, frozen, root / "scratch")


def present(exams: ExamSet, uid: str) -> list[list[int]]:
    """The slices that each sequence has."""
    row = exams.kept.present[exams.rows[exams.uids.index(uid)]].reshape(len(SEQUENCES), -1)
    return [np.flatnonzero(slices).tolist() for slices in row]


def test_what_cannot_be_trained_on_is_left_out_and_everything_is_told_in_counts(zoo: Any) -> None:
    uid, exams = zoo
    left_out = {uid[kind] for kind in ("empty report", "report without a word", "constant", "no file")}
    assert set(exams.left_out) == left_out
    assert exams.left_out[uid["report without a word"]] == NO_WORD
    assert exams.num_exams == 18 - len(left_out) == len(exams.reports)
    assert all(exams.reports)
    assert exams.notices == (
        "1 rows or folders left out",  # no sequence file
        "1 exams without a report left out",
        "1 exams with unusable volumes left out",
        "1 exams without a word in their report left out",
        "2 exams lack a sequence",
        f"2 reports longer than {MAX_TOKENS} tokens cut at a sentence",
        "1 of these cut inside their first sentence",
    )


def test_a_long_report_ends_with_a_whole_sentence_and_a_long_first_sentence_at_the_limit(
    zoo: Any, frozen: FrozenEncoders
) -> None:
    uid, exams = zoo
    sentence = frozen.text.tokenize("Kein Nachweis eines Karzinoms.").pieces
    cut = exams.reports[exams.uids.index(uid["long report"])]
    assert cut == (sentence,) * (MAX_TOKENS // len(sentence))
    (inside,) = exams.reports[exams.uids.index(uid["long sentence"])]
    assert len(inside) == MAX_TOKENS


def test_slices_and_sequences_that_are_not_there_are_masked(zoo: Any) -> None:
    uid, exams = zoo
    assert present(exams, uid["one slice"]) == [[2], [2], [2]]
    assert present(exams, uid["300 slices"]) == [[0, 1, 2, 3]] * 3
    assert present(exams, uid["only T2"]) == [[], [], [0, 1, 2, 3]]
    assert present(exams, uid["no Pre"]) == [[], [0, 1, 2, 3], [0, 1, 2, 3]]


@pytest.mark.parametrize("chunk_size", [0, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_round_on_all_of_them_stays_finite_and_counts_the_exams_it_can_use(
    zoo: Any, frozen: FrozenEncoders, variant: str, chunk_size: int
) -> None:
    _, exams = zoo
    before, after, report = trained(
        exams,
        frozen,
        *VARIANTS[variant],
        f"training.chunk_size={chunk_size}",
        "training.batch_size=14",
        "training.steps_per_round=3",
    )
    assert_learned(before, after, report)
    assert report.num_exams == exams.num_exams == 14


@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("kind", ["one slice", "only T2", "no Pre"])
def test_absent_first_slices_poison_neither_the_exam_nor_its_batch_under_causal_attention(
    zoo: Any, kind: str, flash: bool
) -> None:
    uid, exams = zoo
    settings = debug(
        "model.fusion.causal=true", "model.fusion.depth=2", f"model.fusion.flash={str(flash).lower()}"
    )
    model = build_model(settings)
    row = exams.uids.index(uid[kind])
    vectors = model.embed_image(exams.images(np.arange(exams.num_exams))).vectors
    alone = model.embed_image(exams.images(np.array([row]))).vectors
    assert torch.isfinite(vectors).all()
    torch.testing.assert_close(vectors[row], alone[0], rtol=0, atol=1e-5)
    vectors.sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)


# ---- reports that are all alike


@pytest.mark.parametrize("chunk_size", [0, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_site_whose_reports_are_all_alike_is_told_so_and_trains_on_positives_alone(
    make_site: MakeSite, frozen: FrozenEncoders, tmp_path: Path, variant: str, chunk_size: int
) -> None:
    site = make_site(tmp_path, "S", exams=12)
    write_reports(site, dict.fromkeys(training_uids(site), "Unauffällige Mamma."))
    exams = prepared(site, frozen, tmp_path / "scratch")
    assert exams.notices == (f"{exams.num_exams} exams have one and the same report and nothing to contrast",)
    before, after, report = trained(
        exams,
        frozen,
        *VARIANTS[variant],
        f"training.chunk_size={chunk_size}",
        "training.batch_size=8",
    )
    assert_learned(before, after, report)
    # image to text has one text to choose and costs nothing; text to image at least log(8)
    assert report.losses["clip"] == pytest.approx(math.log(8) / 2, abs=0.02)
    assert report.losses["clip"] >= math.log(8) / 2 - 1e-6


def test_two_reports_are_enough_for_no_notice(
    make_site: MakeSite, frozen: FrozenEncoders, tmp_path: Path
) -> None:
    site = make_site(tmp_path, "S", exams=12)
    uids = training_uids(site)
    write_reports(site, {**dict.fromkeys(uids, "Unauffällige Mamma."), uids[0]: "Zyste."})
    assert prepared(site, frozen, tmp_path / "scratch").notices == ()


# ---- nothing left


def test_a_site_whose_reports_hold_no_word_is_refused(
    make_site: MakeSite, frozen: FrozenEncoders, tmp_path: Path
) -> None:
    site = make_site(tmp_path, "S", exams=8)
    write_reports(site, dict.fromkeys(training_uids(site), "\u200b"))
    with pytest.raises(DataError, match="site 'S': none of 6 exams of split 'train' can be used") as caught:
        prepared(site, frozen, tmp_path / "scratch")
    assert caught.value.public == "site 'S' has no usable exam in split 'train'"


def test_the_weight_of_a_reply_counts_no_exam_without_a_report(zoo: Any, frozen: FrozenEncoders) -> None:
    _, exams = zoo
    some = replace(exams, reports=((), (), *exams.reports[2:]))
    _, _, report = trained(some, frozen)
    assert report.num_exams == exams.num_exams - 2
