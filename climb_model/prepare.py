"""From a site's folder to what training takes: kept slice tokens, tokenized sentences, labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from climb_model.data.exam import DataError, ExamRecord, SiteData, Volume
from climb_model.data.folders import NO_REPORT, read_site
from climb_model.data.made_reports import is_made
from climb_model.data.prepared import FOLDER, prepared_volume
from climb_model.data.sentences import split_sentences
from climb_model.data.store import KeptTokens, build_store, open_store, store_key
from climb_model.data.views import make_view
from climb_model.data.volume import read_volume
from climb_model.model.climb import ImageTokens
from climb_model.model.frozen import FrozenEncoders
from climb_model.model.text import ReportEncoder
from climb_model.notices import (
    CUT_AT_SENTENCE,
    CUT_INSIDE,
    LACK_SEQUENCE,
    MADE_REPORTS,
    NO_REPORT_LEFT_OUT,
    ONE_REPORT,
    ROWS_LEFT_OUT,
    UNKNOWN_TOKENS,
    VOLUMES_LEFT_OUT,
    WORDLESS_LEFT_OUT,
    notice,
)
from climb_model.progress import observer
from configs.schema import Settings

Pieces = tuple[int, ...]
"""A text as piece numbers."""

Sentences = tuple[Pieces, ...]
"""A report as piece numbers, sentence by sentence."""

NO_WORD = "no word in its report"
"""Reason of `ExamSet.left_out`."""


def joined(text: Sentences) -> Pieces:
    """The piece numbers of a text without its sentence borders."""
    return tuple(piece for sentence in text for piece in sentence)


@dataclass(frozen=True)
class ExamSet:
    """The usable exams of one split, ready for training or evaluation."""

    site: str
    uids: tuple[str, ...] = field(repr=False)
    patients: tuple[str, ...] = field(repr=False)
    kept: KeptTokens = field(repr=False)
    rows: np.ndarray = field(repr=False)
    """Row of each exam in the store."""

    reports: tuple[Sentences, ...] = field(repr=False)
    """Empty for exams without a report."""

    labels: np.ndarray = field(repr=False)
    """(exam, finding) 1, 0 or NaN for unknown."""

    notices: tuple[str, ...]
    """Facts worth telling, in counts only."""

    left_out: dict[str, str] = field(repr=False)
    """UID to reason, for the site's own screen."""

    @property
    def num_exams(self) -> int:
        """Exams that take part."""
        return len(self.uids)

    def images(self, exams: np.ndarray, views: np.ndarray | None = None) -> ImageTokens:
        """Slice tokens of some exams, float32; view 0 unless told otherwise."""
        views = np.zeros_like(exams) if views is None else views
        rows = self.rows[exams]
        tokens = torch.from_numpy(self.kept.tokens[rows, views].astype(np.float32))
        return ImageTokens(tokens, torch.from_numpy(self.kept.present[rows]))


def read_exams(
    folder: Path, settings: Settings, name: str | None = None, *, need_reports: bool, need_findings: bool
) -> SiteData:
    """`read_site` with the sequences and findings of the settings.

    Raises:
        DataError: as `read_site`.
    """
    return read_site(
        folder,
        name,
        need_reports=need_reports,
        need_findings=need_findings,
        sequences=settings.data.sequences,
        findings=settings.evaluation.findings,
    )


def prepare(
    site: SiteData,
    split: str,
    frozen: FrozenEncoders,
    settings: Settings,
    scratch: Path,
    *,
    on_exam: Callable[[int, int], None] | None = None,
) -> ExamSet:
    """Read, preprocess and encode a split once; later calls open what is kept.

    Args:
        scratch: private folder of this site for derived data.
        on_exam: called with (done, all) while tokens are made.

    Raises:
        DataError: if no exam is usable or too many report tokens are unknown.
    """
    exams = site.of_split(split)
    kept = keep_tokens(site.name, split, exams, frozen, settings, scratch, on_exam)
    row_of = {uid: row for row, uid in enumerate(kept.index.uids)}
    readable = [exam for exam in exams if exam.uid in row_of]
    texts, notices = tokenize_reports(site.name, readable, frozen.text, settings)
    report_of = {
        exam.uid: text for exam, text in zip(readable, texts, strict=True) if text or exam.report is None
    }
    usable = [exam for exam in readable if exam.uid in report_of]
    if not usable:
        raise DataError(
            f"site '{site.name}': none of {len(exams)} exams of split '{split}' can be used",
            f"site '{site.name}' has no usable exam in split '{split}'",
        )
    wordless = {exam.uid: NO_WORD for exam in readable if exam.uid not in report_of}
    reports, rows = tuple(report_of.values()), np.array([row_of[exam.uid] for exam in usable])
    notices = [
        *left_out_notices(site, len(kept.index.left_out), len(wordless)),
        *set_notices(kept.present[rows], reports, settings),
        *notices,
    ]
    findings = settings.evaluation.findings
    labels = [[exam.findings.get(finding) for finding in findings] for exam in usable]
    return ExamSet(
        site=site.name,
        uids=tuple(exam.uid for exam in usable),
        patients=tuple(exam.patient for exam in usable),
        kept=kept,
        rows=rows,
        reports=reports,
        labels=np.array(labels, dtype=np.float64).reshape(len(usable), len(findings)),
        notices=tuple(notices),
        left_out={**site.left_out, **kept.index.left_out, **wordless},
    )


def prepare_watched(
    site: SiteData, split: str, frozen: FrozenEncoders, settings: Settings, scratch: Path
) -> ExamSet:
    """`prepare` under the eyes of whoever watches the run.

    Raises:
        DataError: as `prepare`.
    """
    watcher = observer()
    return prepare(
        site,
        split,
        frozen,
        settings,
        scratch,
        on_exam=lambda done, total: watcher.preparing(site.name, done, total),
    )


def left_out_notices(site: SiteData, num_volumes: int, num_wordless: int) -> list[str]:
    """What is left out and why, in counts."""
    num_without_report = list(site.left_out.values()).count(NO_REPORT)
    counts = {
        ROWS_LEFT_OUT: len(site.left_out) - num_without_report,
        NO_REPORT_LEFT_OUT: num_without_report,
        VOLUMES_LEFT_OUT: num_volumes,
        WORDLESS_LEFT_OUT: num_wordless,
    }
    return [notice(form, count) for form, count in counts.items() if count]


def set_notices(present: np.ndarray, reports: tuple[Sentences, ...], settings: Settings) -> list[str]:
    """What the exams that take part lack.

    Args:
        present: (exam, slice token).
        reports: empty ones of exams that are used without.
    """
    notices: list[str] = []
    sequences = present.reshape(len(present), len(settings.data.sequences), -1).any(axis=-1)
    num_lacking = int((~sequences).any(axis=-1).sum())
    if num_lacking:
        notices.append(notice(LACK_SEQUENCE, num_lacking))
    if len(reports) > 1 and all(report and report == reports[0] for report in reports):
        notices.append(notice(ONE_REPORT, len(reports)))
    return notices


def keep_tokens(
    site: str,
    split: str,
    exams: tuple[ExamRecord, ...],
    frozen: FrozenEncoders,
    settings: Settings,
    scratch: Path,
    on_exam: Callable[[int, int], None] | None,
) -> KeptTokens:
    """Open the store of a split, or build it. Only training exams have augmented views."""
    num_views = settings.data.num_views if split == "train" else 1
    parts = [frozen.fingerprint["vision"], frozen.fingerprint["preprocessing"]]
    if settings.data.keep_prepared:
        parts.append("crops rounded to float16")
    key = store_key(parts, num_views, exams)
    base = scratch / f"tokens-{split}"
    kept = open_store(base, site, key)
    if kept is not None:
        return kept

    def encode(exam: ExamRecord) -> tuple[np.ndarray, np.ndarray]:
        if settings.data.keep_prepared:
            volume = prepared_volume(exam, settings.data, scratch / FOLDER)
        else:
            volume = read_volume(exam, settings.data)
        views = [make_view(volume, exam.uid, view) for view in range(num_views)]
        return np.stack([encode_volume(view, frozen) for view in views]), volume.present.reshape(-1)

    return build_store(base, site, key, exams, num_views, encode, on_exam)


def encode_volume(volume: Volume, frozen: FrozenEncoders) -> np.ndarray:
    """Slice tokens (slice token, dim) float16; zeros where a slice is not present."""
    present = volume.present.reshape(-1)
    slices = volume.values.reshape(-1, *volume.values.shape[2:])
    encoded = frozen.vision(torch.from_numpy(np.ascontiguousarray(slices[present])))
    tokens = np.zeros((len(present), encoded.shape[1]), np.float16)
    tokens[present] = encoded.numpy().astype(np.float16)
    return tokens


def tokenize_reports(
    site: str, exams: list[ExamRecord], encoder: ReportEncoder, settings: Settings
) -> tuple[tuple[Sentences, ...], list[str]]:
    """Piece numbers of all reports, and what a person should know about them.

    A report longer than `max_tokens` ends before the first sentence that does not fit: a shorter one
    behind it would stand beside what it never followed. Only a first sentence is cut inside.
    """
    reports: list[Sentences] = []
    num_pieces = num_unknown = num_cut = num_cut_inside = 0
    for exam in exams:
        sentences = [encoder.tokenize(sentence) for sentence in split_sentences(exam.report or "")]
        num_pieces += sum(len(sentence.pieces) for sentence in sentences)
        num_unknown += sum(sentence.num_unknown for sentence in sentences)
        sentences = [sentence for sentence in sentences if sentence.pieces]
        ends = accumulate(len(sentence.pieces) + sentence.num_cut for sentence in sentences)
        num_fitting = sum(end <= encoder.max_tokens for end in ends)
        num_cut += num_fitting < len(sentences)
        num_cut_inside += bool(sentences) and not num_fitting
        reports.append(tuple(sentence.pieces for sentence in sentences[: max(num_fitting, 1)]))
    share = num_unknown / max(num_pieces, 1)
    if share > settings.evaluation.max_unknown_share:
        fact = (
            f"{share:.1%} of {num_pieces} report tokens are unknown to the tokenizer of "
            f"'{settings.model.text.weights}', at most {settings.evaluation.max_unknown_share:.1%} wanted"
        )
        raise DataError(f"site '{site}': {fact}", f"site '{site}': {fact}")
    notices = [notice(UNKNOWN_TOKENS, num_unknown, num_pieces)] if num_unknown else []
    if num_cut:
        notices.append(notice(CUT_AT_SENTENCE, num_cut, encoder.max_tokens))
    if num_cut_inside:
        notices.append(notice(CUT_INSIDE, num_cut_inside))
    num_made = sum(is_made(exam.report or "") for exam in exams)
    if num_made:
        notices.append(notice(MADE_REPORTS, num_made))
    return tuple(reports), notices
