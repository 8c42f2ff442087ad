"""The exams of a site that trained weights find most like one of them: for the site's own screen only."""

from __future__ import annotations

import difflib
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from climb_model.data.exam import SPLITS, ExamRecord, SiteData
from climb_model.evaluation.zero_shot import image_vectors
from climb_model.model.climb import ClimbModel
from climb_model.model.frozen import FrozenEncoders
from climb_model.prepare import prepare_watched, read_exams
from climb_model.results import NOT_A_DEVICE, printable
from climb_model.trained import check_fingerprint, read_trained
from climb_model.training.devices import AUTO, parse_devices
from configs.errors import UserError
from configs.schema import Settings

KEPT = "similar"
"""Folder of the slice tokens below `--scratch`. Training's own are another exam list: never replaced."""

REPORT_WIDTH = 100
"""Characters in a line of a shown report."""


class ExamError(UserError):
    """An exam that is not there or cannot be used; for the site's own screen, since the line names exams."""


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """An exam beside the asked one."""

    uid: str
    split: str
    cosine: float
    """Of the two image embeddings, -1 to 1."""

    same_patient: bool
    """The asked patient's other breast or another examination: likeness says little."""


@dataclass(frozen=True, kw_only=True)
class Similar:
    """The nearest exams of one."""

    site: str
    exam: ExamRecord = field(repr=False)
    round: int
    """After which the weights were written."""

    compared: int
    """Exams that could have been listed."""

    left_out: int
    """Rows, folders and volumes of the site that cannot be used."""

    neighbours: tuple[Neighbour, ...] = field(repr=False)
    """The nearest first; of equal cosine, by UID."""

    reports: Mapping[str, str] | None = field(repr=False)
    """UID to report; None: reports were not opened."""


def similar(
    uid: str,
    data: Path,
    shared: Path,
    weights: Path | None,
    *,
    top: int,
    splits: Sequence[str] = SPLITS,
    scratch: Path | None = None,
    show_reports: bool = False,
) -> Similar:
    """Compare one exam's image embedding with those of the same site's other exams.

    Args:
        uid: the exam; in any split.
        data: the site's folder. Findings are not opened, reports only to show them.
        shared: a run's `shared.safetensors`, with `config.yaml` beside it.
        weights: folder of the frozen encoders' model folders; None takes the hub or what is built in.
        top: most exams to list.
        splits: whose exams are listed.
        scratch: private folder for slice tokens, used again the next time; None: nothing is kept.
        show_reports: give the reports too.

    Raises:
        ExamError: if the site has no such exam, naming the nearest, or it cannot be used.
        UserError: if the weights, the settings or one of the frozen encoders do not belong together.
        DataError: if the site, or all exams of one of the splits, cannot be used.
    """
    trained = read_trained(shared)
    settings = trained.settings
    site = read_exams(data, settings, need_reports=False, need_findings=False)
    asked = find_exam(site, uid)
    reports = None
    if show_reports:
        told = read_exams(data, settings, need_reports=True, need_findings=False)
        reports = {exam.uid: exam.report or "" for exam in told.exams}
    torch.set_num_threads(settings.training.num_threads)
    frozen = FrozenEncoders.load(settings, weights, parse_devices(AUTO)[0])
    check_fingerprint(trained.fingerprint, frozen.fingerprint)
    needed = [split for split in SPLITS if split in splits or split == asked.split]
    with tempfile.TemporaryDirectory(prefix="climb-similar-") as passing:
        folder = _private(scratch) if scratch is not None else Path(passing)
        model = trained.model(frozen.language_model)
        vectors, left_out = site_vectors(model, site, needed, frozen, settings, folder)
    if uid not in vectors:
        raise ExamError(f"exam '{uid}' of site '{site.name}' cannot be used: {left_out[uid]}")
    others = [exam for exam in site.exams if exam.uid in vectors and exam.split in splits and exam.uid != uid]
    return Similar(
        site=site.name,
        exam=asked,
        round=trained.round,
        compared=len(others),
        left_out=len(left_out),
        neighbours=nearest(asked, others, vectors)[:top],
        reports=reports,
    )


def find_exam(site: SiteData, uid: str) -> ExamRecord:
    """The exam of this UID.

    Raises:
        ExamError: if there is none, naming the nearest, or it was left out, with the reason.
    """
    exams = {exam.uid: exam for exam in site.exams}
    if uid in exams:
        return exams[uid]
    if uid in site.left_out:
        raise ExamError(f"exam '{uid}' of site '{site.name}' cannot be used: {site.left_out[uid]}")
    close = difflib.get_close_matches(uid, sorted(exams), n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"it has {len(exams)} exams"
    raise ExamError(f"site '{site.name}' has no exam '{uid}'; {hint}")


@torch.inference_mode()
def site_vectors(
    model: ClimbModel,
    site: SiteData,
    splits: Sequence[str],
    frozen: FrozenEncoders,
    settings: Settings,
    scratch: Path,
) -> tuple[dict[str, Float[Tensor, " dim"]], dict[str, str]]:
    """UID to image embedding of a site's usable exams, and UID to reason of the others.

    Training exams are seen as they are: their augmented views are not made.
    """
    model.eval()
    one_view = replace(settings, data=replace(settings.data, num_views=1))
    vectors: dict[str, Tensor] = {}
    left_out = dict(site.left_out)
    for split in splits:
        if not site.of_split(split):
            continue
        exams = prepare_watched(site, split, frozen, one_view, scratch)
        vectors |= dict(zip(exams.uids, image_vectors(model, exams), strict=True))
        left_out |= exams.left_out
    return vectors, left_out


def nearest(
    asked: ExamRecord, others: Sequence[ExamRecord], vectors: Mapping[str, Float[Tensor, " dim"]]
) -> tuple[Neighbour, ...]:
    """The other exams with their cosines, the nearest first; of equal cosine, by UID.

    Args:
        vectors: UID to unit vector.
    """
    question = vectors[asked.uid].double()
    found = [
        Neighbour(
            uid=exam.uid,
            split=exam.split,
            cosine=float(question @ vectors[exam.uid].double()),
            same_patient=exam.patient == asked.patient,
        )
        for exam in others
    ]
    return tuple(sorted(found, key=lambda exam: (-exam.cosine, exam.uid)))


def to_lines(found: Similar) -> list[str]:
    """A row for each exam, and below it the report if reports were asked for."""
    asked = found.exam
    lines = [
        f"exam {printable(asked.uid)} ({asked.split}) of site {printable(found.site)}: the nearest "
        f"{len(found.neighbours)} of {found.compared} by image embedding, weights of round {found.round}"
    ]
    if found.left_out:
        lines.append(f"{found.left_out} exams of the site cannot be used")
    lines += _report(asked.uid, found.reports)
    width = max([len("exam"), *(len(printable(exam.uid)) for exam in found.neighbours)])
    lines += ["", f"{'':>4}  {'exam':<{width}}  {'split':<5}  {'cosine':>7}"]
    for number, exam in enumerate(found.neighbours, start=1):
        same = "  same patient" if exam.same_patient else ""
        lines.append(
            f"{number:>4}  {printable(exam.uid):<{width}}  {exam.split:<5}  {exam.cosine:>7.4f}{same}"
        )
        lines += _report(exam.uid, found.reports)
    return [*lines, NOT_A_DEVICE]


def _report(uid: str, reports: Mapping[str, str] | None) -> list[str]:
    if reports is None:
        return []
    text = printable(reports.get(uid, "")) or "no report"
    return textwrap.wrap(text, REPORT_WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _private(scratch: Path) -> Path:
    """The folder of the slice tokens, which only its owner can read."""
    folder = scratch / KEPT
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
