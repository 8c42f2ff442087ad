"""From a site's folder to what training takes: kept slice tokens, tokenized sentences, labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from climb_model.data.exam import DataError, ExamRecord, SiteData, Volume
from climb_model.data.folders import read_site
from climb_model.data.sentences import split_sentences
from climb_model.data.store import KeptTokens, build_store, open_store, store_key
from climb_model.data.views import make_view
from climb_model.data.volume import read_volume
from climb_model.model.climb import ImageTokens
from climb_model.model.frozen import FrozenEncoders
from climb_model.model.text import ReportEncoder
from configs.schema import Settings

Sentences = tuple[tuple[int, ...], ...]
"""A report as piece numbers, sentence by sentence."""


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
    usable = [exam for exam in exams if exam.uid in row_of]
    if not usable:
        raise DataError(
            f"site '{site.name}': none of {len(exams)} exams of split '{split}' can be used",
            f"site '{site.name}' has no usable exam in split '{split}'",
        )
    reports, notices = tokenize_reports(site.name, usable, frozen.text, settings)
    if kept.index.left_out:
        notices.insert(0, f"{len(kept.index.left_out)} exams with unusable volumes left out")
    if site.left_out:
        notices.insert(0, f"{len(site.left_out)} rows or folders left out")
    findings = settings.evaluation.findings
    labels = [[exam.findings.get(finding) for finding in findings] for exam in usable]
    return ExamSet(
        site=site.name,
        uids=tuple(exam.uid for exam in usable),
        patients=tuple(exam.patient for exam in usable),
        kept=kept,
        rows=np.array([row_of[exam.uid] for exam in usable]),
        reports=reports,
        labels=np.array(labels, dtype=np.float64).reshape(len(usable), len(findings)),
        notices=tuple(notices),
        left_out={**site.left_out, **kept.index.left_out},
    )


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
    key = store_key([frozen.fingerprint["vision"], frozen.fingerprint["preprocessing"]], num_views, exams)
    base = scratch / f"tokens-{split}"
    kept = open_store(base, site, key)
    if kept is not None:
        return kept

    def encode(exam: ExamRecord) -> tuple[np.ndarray, np.ndarray]:
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
    """Piece numbers of all reports, and what a person should know about them."""
    reports: list[Sentences] = []
    num_pieces = num_unknown = num_cut = 0
    for exam in exams:
        sentences = [encoder.tokenize(sentence) for sentence in split_sentences(exam.report or "")]
        num_pieces += sum(len(sentence.pieces) for sentence in sentences)
        num_unknown += sum(sentence.num_unknown for sentence in sentences)
        kept: list[tuple[int, ...]] = []
        room = encoder.max_tokens
        for sentence in sentences:
            if not sentence.pieces or len(sentence.pieces) > room:
                continue
            kept.append(sentence.pieces)
            room -= len(sentence.pieces)
        num_cut += len(kept) < sum(bool(sentence.pieces) for sentence in sentences)
        reports.append(tuple(kept))
    share = num_unknown / max(num_pieces, 1)
    if share > settings.evaluation.max_unknown_share:
        fact = (
            f"{share:.1%} of {num_pieces} report tokens are unknown to the tokenizer of "
            f"'{settings.model.text.weights}', at most {settings.evaluation.max_unknown_share:.1%} wanted"
        )
        raise DataError(f"site '{site}': {fact}", f"site '{site}': {fact}")
    notices = [f"{num_unknown} of {num_pieces} report tokens unknown"] if num_unknown else []
    if num_cut:
        notices.append(f"{num_cut} reports longer than {encoder.max_tokens} tokens cut at a sentence")
    return tuple(reports), notices
