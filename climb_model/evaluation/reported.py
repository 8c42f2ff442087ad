"""A site's own exams and their reports as the measure of retrieval; what has no reports does without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from climb_model.data.exam import DataError
from climb_model.evaluation.retrieval import measure_retrieval, to_json
from climb_model.model.climb import ClimbModel
from climb_model.model.frozen import FrozenEncoders
from climb_model.model.text import ReportEncoder
from climb_model.prepare import ExamSet, prepare_watched, read_exams, tokenize_reports
from configs.schema import Settings


def open_reported(
    data: Path, settings: Settings, frozen: FrozenEncoders, scratch: Path, *, name: str | None, split: str
) -> ExamSet:
    """The exams of a split that have a report, with or without labels.

    Args:
        data: the site's folder.
        scratch: private folder of this site for derived data.
        name: the site's; None: the folder's.

    Raises:
        DataError: if there are no reports, or the exams cannot be used.
    """
    site = read_exams(data, settings, name, need_reports=True, need_findings=False)
    return prepare_watched(site, split, frozen, settings, scratch)


def add_reports(
    exams: ExamSet, data: Path, encoder: ReportEncoder, settings: Settings, *, name: str | None
) -> tuple[ExamSet, tuple[str, ...]]:
    """The same exams with the reports of those that have one, and what a person should know of these.

    Raises:
        DataError: if there is no table of reports, or too many of their tokens are unknown.
    """
    site = read_exams(data, settings, name, need_reports=True, need_findings=False)
    wanted = [exam for exam in site.exams if exam.uid in set(exams.uids)]
    texts, notices = tokenize_reports(site.name, wanted, encoder, settings)
    report_of = {exam.uid: text for exam, text in zip(wanted, texts, strict=True)}
    return replace(exams, reports=tuple(report_of.get(uid, ()) for uid in exams.uids)), tuple(notices)


def retrieval_of(
    model: ClimbModel,
    exams: ExamSet,
    data: Path,
    encoder: ReportEncoder,
    settings: Settings,
    *,
    name: str | None,
) -> dict[str, object]:
    """The keys `retrieval` and `retrieval_notices` of an evaluation's summary.

    `retrieval` is None where the site has no usable reports; the notices say why, without identifiers.
    """
    try:
        exams, notices = add_reports(exams, data, encoder, settings, name=name)
    except DataError as error:
        return _keys(None, [f"no retrieval: {error.public}"])
    found = measure_retrieval(model, exams, encoder, settings)
    if found is None:
        return _keys(None, ["no retrieval: none of these exams has a report"])
    return _keys(to_json(found), notices)


def _keys(found: dict[str, object] | None, notices: Sequence[str]) -> dict[str, object]:
    return {"retrieval": found, "retrieval_notices": list(notices)}
