"""From reports to pieces: cut at sentences, unknown tokens counted or refused, never quoted."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from climb_model.data.exam import DataError, ExamRecord, SiteData
from climb_model.data.folders import NO_REPORT, read_site
from climb_model.data.made_reports import MADE
from climb_model.data.sentences import split_sentences
from climb_model.model.frozen import FrozenEncoders
from climb_model.model.text import ReportEncoder
from climb_model.notices import is_known
from climb_model.prepare import left_out_notices, prepare, read_exams, set_notices, tokenize_reports
from configs.load import load_settings
from configs.schema import Settings

FINDINGS = "evaluation.findings=[Zyste, Karzinom]"
SECRET = "Geheimwort"
KNOWN = "Zyste links oben außen. Kein Karzinom."


def debug(*overrides: str) -> Settings:
    return load_settings("debug", [FINDINGS, *overrides])


@pytest.fixture(scope="module")
def frozen() -> FrozenEncoders:
    return FrozenEncoders.load(debug())


def exams(*texts: str | None) -> list[ExamRecord]:
    return [
        ExamRecord(uid=f"{number}_left", patient=str(number), split="train", files={}, report=text)
        for number, text in enumerate(texts)
    ]


def tokenized(
    encoder: ReportEncoder, *texts: str | None, share: float = 0.02
) -> tuple[tuple[tuple[tuple[int, ...], ...], ...], list[str]]:
    return tokenize_reports("A", exams(*texts), encoder, debug(f"evaluation.max_unknown_share={share}"))


def encoder_of(frozen: FrozenEncoders, max_tokens: int) -> ReportEncoder:
    whole = frozen.text
    short = ReportEncoder(whole.config, whole.tokenizer, whole.words, whole.positions, None, "short")
    short.max_tokens = max_tokens
    return short


def test_a_report_is_its_sentences_pieces(frozen: FrozenEncoders) -> None:
    (report,), notices = tokenized(frozen.text, KNOWN)
    assert report == tuple(frozen.text.tokenize(sentence).pieces for sentence in split_sentences(KNOWN))
    assert len(report) == 2
    assert notices == []


def test_a_long_report_is_cut_at_a_sentence(frozen: FrozenEncoders) -> None:
    text = " ".join(["Kein Nachweis eines Karzinoms."] * 20)
    one = len(frozen.text.tokenize("Kein Nachweis eines Karzinoms.").pieces)
    encoder = encoder_of(frozen, 3 * one + one // 2)
    (long, short), notices = tokenized(encoder, text, KNOWN)
    assert len(long) == 3
    assert set(map(len, long)) == {one}
    assert short == tokenized(frozen.text, KNOWN)[0][0]
    assert notices == [f"1 reports longer than {3 * one + one // 2} tokens cut at a sentence"]


def test_no_sentence_is_kept_behind_the_first_that_does_not_fit(frozen: FrozenEncoders) -> None:
    """A short sentence after it would fit, and would leave a hole in the middle of the report."""
    text = "Keine Zyste. Kein Nachweis eines Karzinoms der linken Mamma. Keine Zyste."
    short, long, _ = (frozen.text.tokenize(sentence).pieces for sentence in split_sentences(text))
    room = 2 * len(short) + 1
    assert len(long) > len(short) + 1
    (report,), notices = tokenized(encoder_of(frozen, room), text)
    assert report == (short,)
    assert notices == [f"1 reports longer than {room} tokens cut at a sentence"]


def test_a_first_sentence_longer_than_the_limit_is_cut_inside_and_told(frozen: FrozenEncoders) -> None:
    ((whole, _),), _ = tokenized(frozen.text, KNOWN)
    (report, other), notices = tokenized(encoder_of(frozen, len(whole) - 1), KNOWN, "Zyste.")
    assert report == (whole[:-1],)
    assert len(other) == 1
    assert notices == [
        f"1 reports longer than {len(whole) - 1} tokens cut at a sentence",
        "1 of these cut inside their first sentence",
    ]


def test_what_was_left_out_is_told_by_its_kind_without_a_name(
    make_site: Callable[..., Path], tmp_path: Path, frozen: FrozenEncoders
) -> None:
    folder = make_site(tmp_path, "PAT", exams=8)
    table = folder / "metadata_unilateral" / "reports.csv"
    lines = table.read_text("utf-8").splitlines()
    table.write_text("\n".join([lines[0], *lines[3:]]), "utf-8")  # the first patient has no reports
    (folder / "data_unilateral" / "STRAY_left").mkdir()
    exam_set = prepare(site(folder), "train", frozen, debug(), tmp_path / "scratch")
    assert exam_set.num_exams == 4
    assert exam_set.notices == ("1 rows or folders left out", "2 exams without a report left out")


def test_a_report_that_just_fits_is_not_cut(frozen: FrozenEncoders) -> None:
    (whole,), _ = tokenized(frozen.text, KNOWN)
    (report,), notices = tokenized(encoder_of(frozen, sum(map(len, whole))), KNOWN)
    assert report == whole
    assert notices == []


def test_an_exam_without_a_report_has_no_sentence(frozen: FrozenEncoders) -> None:
    found, notices = tokenized(frozen.text, None, "", "  \n ", KNOWN)
    assert [len(report) for report in found] == [0, 0, 0, 2]
    assert notices == []


def pieces(frozen: FrozenEncoders, text: str) -> tuple[int, int]:
    found = [frozen.text.tokenize(sentence) for sentence in split_sentences(text)]
    return sum(len(text.pieces) for text in found), sum(text.num_unknown for text in found)


def test_reports_made_from_a_class_are_told(frozen: FrozenEncoders) -> None:
    encoder = frozen.text
    _, notices = tokenize_reports(
        "A", exams(MADE[0], MADE[2], "Zyste."), encoder, debug("evaluation.max_unknown_share=0.9")
    )
    assert "2 reports are made from the lesion class; nobody wrote them" in notices


def test_few_unknown_tokens_are_counted_and_told(frozen: FrozenEncoders) -> None:
    texts = [KNOWN] * 60 + ["Zyste Ωλξ links."]
    num_pieces, num_unknown = (
        sum(counts) for counts in zip(*(pieces(frozen, text) for text in texts), strict=True)
    )
    assert 0 < num_unknown / num_pieces < 0.02
    _, notices = tokenized(frozen.text, *texts)
    assert notices == [f"{num_unknown} of {num_pieces} report tokens unknown"]


def test_many_unknown_tokens_are_refused_without_a_word_of_the_text(frozen: FrozenEncoders) -> None:
    text = f"Zyste {SECRET} Ωλξ {SECRET} Ωλξ."
    num_pieces, num_unknown = pieces(frozen, text)
    with pytest.raises(DataError) as caught:
        tokenized(frozen.text, text)
    fact = (
        f"site 'A': {num_unknown / num_pieces:.1%} of {num_pieces} report tokens are unknown to the "
        "tokenizer of 'builtin:german', at most 2.0% wanted"
    )
    assert str(caught.value) == caught.value.public == fact
    assert SECRET not in fact


def test_exactly_the_allowed_share_is_accepted(frozen: FrozenEncoders) -> None:
    text = "Zyste Ωλξ links."
    num_pieces, num_unknown = pieces(frozen, text)
    share = num_unknown / num_pieces
    tokenized(frozen.text, text, share=share)
    with pytest.raises(DataError, match="unknown"):
        tokenized(frozen.text, text, share=share - 1e-6)


# ---- whole sites


def site(folder: Path) -> SiteData:
    return read_exams(folder, debug(), need_reports=True, need_findings=False)


def test_notices_hold_counts_and_never_text(
    make_site: Callable[..., Path], tmp_path: Path, frozen: FrozenEncoders
) -> None:
    folder = make_site(tmp_path, "PAT", exams=8)
    table = folder / "metadata_unilateral" / "reports.csv"
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    rows[1][1] += f" {SECRET} Ωλξ."
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    spoilt = folder / "data_unilateral" / rows[3][0] / "Pre.nii.gz"
    spoilt.write_bytes(spoilt.read_bytes()[:100])
    exam_set = prepare(
        site(folder), "train", frozen, debug("evaluation.max_unknown_share=0.9"), tmp_path / "scratch"
    )
    assert exam_set.num_exams == 5
    assert exam_set.notices[0] == "1 exams with unusable volumes left out"
    assert "report tokens unknown" in exam_set.notices[1]
    told = " ".join(exam_set.notices) + repr(exam_set)
    for secret in (SECRET, "PAT0", str(tmp_path), "Zyste"):
        assert secret not in told
    assert list(exam_set.left_out) == [rows[3][0]]


def test_a_split_without_a_usable_exam_is_refused(
    make_site: Callable[..., Path], tmp_path: Path, frozen: FrozenEncoders
) -> None:
    folder = make_site(tmp_path, "A", exams=4)
    for file in folder.rglob("*.nii.gz"):
        file.write_bytes(b"no volume")
    with pytest.raises(DataError, match="site 'A': none of 4 exams of split 'train' can be used") as caught:
        prepare(site(folder), "train", frozen, debug(), tmp_path / "scratch")
    assert caught.value.public == "site 'A' has no usable exam in split 'train'"


def test_an_empty_split_is_refused(
    make_site: Callable[..., Path], tmp_path: Path, frozen: FrozenEncoders
) -> None:
    with pytest.raises(DataError, match="none of 0 exams of split 'val' can be used"):
        prepare(site(make_site(tmp_path, "A", exams=8)), "val", frozen, debug(), tmp_path / "scratch")


def test_labels_are_in_the_order_of_the_findings_and_unknown_without_a_table(
    make_site: Callable[..., Path], tmp_path: Path, frozen: FrozenEncoders
) -> None:
    folder = make_site(tmp_path, "A", exams=8)
    data = read_site(
        folder,
        need_reports=False,
        need_findings=True,
        sequences=("Pre", "Sub", "T2"),
        findings=("Karzinom", "Zyste"),
    )
    settings = load_settings("debug", ["evaluation.findings=[Karzinom, Zyste]"])
    known = prepare(data, "train", frozen, settings, tmp_path / "scratch")
    for uid, row in zip(known.uids, known.labels, strict=True):
        number = 2 * int(uid[1:5]) + (uid.endswith("_right"))
        assert row.tolist() == [number // 2 % 2, number % 2]  # Karzinom, Zyste: as the site was written
    assert known.reports == ((),) * known.num_exams
    unknown = prepare(site(folder), "train", frozen, debug(), tmp_path / "scratch")
    assert not (unknown.labels >= 0).any()


def test_all_notices_are_sentences_that_may_be_quoted() -> None:
    site = SiteData(name="A", exams=(), left_out={"one": "broken", "two": NO_REPORT})
    told = left_out_notices(site, 2, 3)
    present = np.array([[True] * 4 + [False] * 8] * 2)
    told += set_notices(present, (((5, 6),), ((5, 6),)), debug())
    assert len(told) == 6
    assert all(is_known(notice) for notice in told), told
