"""Retrieval: does an exam's image find its report among all reports, and the report its image?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from climb_model.evaluation.ranks import at_chance, median_rank, places_of, rank_shares, recall_at
from climb_model.evaluation.statistics import FloatArray, patient_weights, percentile_interval
from climb_model.evaluation.zero_shot import image_vectors
from climb_model.model.climb import ClimbModel
from climb_model.model.embedding import by_length, embed_texts, rows_of
from climb_model.model.text import ReportEncoder
from climb_model.prepare import ExamSet, joined
from configs.schema import Settings

CUTOFFS = (1, 5, 10)
"""How many of the nearest answers are looked at: R@1, R@5, R@10."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of retrieval beside what it is at chance."""

    value: float
    chance: float
    """Of answers in random order, which is also what a constant embedding reaches."""

    ci_low: float | None
    ci_high: float | None
    """95 % interval over patients; None without draws."""


@dataclass(frozen=True, kw_only=True)
class Direction:
    """Images that look for reports, or reports that look for images."""

    recall: dict[int, Figure]
    """Cutoff to the share of exams with a correct answer among so many nearest; the higher, the better."""

    median_rank: Figure
    """Of the nearest correct answer, from 1; the lower, the better."""

    answers: int
    """How many there were to choose from."""


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Retrieval in both directions; every exam asks once in each."""

    image_to_report: Direction
    report_to_image: Direction
    exams: int
    reports: int
    """Different ones."""

    without_report: int
    """Exams left out of all figures."""


@torch.inference_mode()
def measure_retrieval(
    model: ClimbModel, exams: ExamSet, encoder: ReportEncoder, settings: Settings
) -> Retrieval | None:
    """Embed each exam and each different whole report once, and let them look for each other.

    Reports are equal if the model reads the same pieces of them. Only their first `max_tokens` are read.

    Returns:
        None if no exam has a report.
    """
    model.eval()
    whole = [joined(report) for report in exams.reports]
    reported = [row for row, text in enumerate(whole) if text]
    if not reported:
        return None
    different = by_length([whole[row] for row in reported])
    return retrieval(
        image_vectors(model, exams)[reported],
        embed_texts(model, encoder, different),
        rows_of([whole[row] for row in reported], different),
        [exams.patients[row] for row in reported],
        draws=settings.evaluation.bootstrap,
        seed=settings.seed,
        without_report=exams.num_exams - len(reported),
    )


def retrieval(
    images: Float[Tensor, "exam dim"],
    reports: Float[Tensor, "report dim"],
    report_of: Int[Tensor, " exam"],
    patients: Sequence[str],
    *,
    draws: int,
    seed: int,
    without_report: int = 0,
) -> Retrieval:
    """Recall and median rank of retrieval in both directions, by cosine.

    An image chooses among the different reports, and one is correct. A report chooses among all
    images, and those of every exam with this report are correct: the nearest of them counts. A
    patient's other breast is an answer like any other. Each exam asks once, so a report of five exams
    counts five times as a question, and once as an answer.

    Answers of equal cosine (`ranks.TOLERANCE`) stand in random order: R@k is the expected share of exams
    with a correct answer among the first k. R@k over all k is the distribution of the rank, and the
    median rank is its median, halfway where two ranks share it. So equal vectors give chance in every
    figure, and without ties the figures are the usual ones. With fewer than k answers R@k is 1, at
    chance too.

    Intervals are over patients, drawn with replacement as those who ask; the answers stay.

    Args:
        images: unit vectors; zero vectors are allowed and tie with everything.
        reports: unit vectors of the different reports.
        report_of: row of each exam's report. Every report belongs to an exam.
        patients: (exam,) whom each exam belongs to.
        draws: bootstrap draws; 0 leaves every interval None.
        seed: of the draws.
        without_report: exams that are not among these, to be told.

    Raises:
        ValueError: without an exam, with a report of no exam or an exam of no report, or with a vector that
            is not finite or not of length 1.
    """
    _check(images, reports, report_of, patients)
    number = torch.arange(len(reports))
    weights = patient_weights(patients, draws=draws, seed=seed)
    of_images = places_of(images, report_of, reports, number)
    of_reports = places_of(reports, number, images, report_of)[report_of.numpy()]  # each exam asks
    return Retrieval(
        image_to_report=_direction(of_images, len(reports), weights),
        report_to_image=_direction(of_reports, len(images), weights),
        exams=len(images),
        reports=len(reports),
        without_report=without_report,
    )


def to_json(found: Retrieval) -> dict[str, object]:
    """The figures as JSON's types: `r1`, `r5`, `r10`, `median_rank`, with `chance` and `interval` of each."""
    return {
        "image_to_report": _direction_json(found.image_to_report),
        "report_to_image": _direction_json(found.report_to_image),
        "exams": found.exams,
        "reports": found.reports,
        "without_report": found.without_report,
    }


def _direction(places: Int[np.ndarray, "question 4"], num_answers: int, weights: FloatArray) -> Direction:
    once = np.ones((1, len(places)))
    shares = (
        rank_shares(places[:, :3], num_answers, once),
        rank_shares(at_chance(places, num_answers), num_answers, once),
        rank_shares(places[:, :3], num_answers, weights),
    )
    return Direction(
        recall={cutoff: _figure(*(recall_at(share, cutoff) for share in shares)) for cutoff in CUTOFFS},
        median_rank=_figure(*(median_rank(share) for share in shares)),
        answers=num_answers,
    )


def _figure(value: FloatArray, chance: FloatArray, drawn: FloatArray) -> Figure:
    low, high = percentile_interval(drawn)
    return Figure(value=float(value[0]), chance=float(chance[0]), ci_low=low, ci_high=high)


def _named(direction: Direction) -> dict[str, Figure]:
    recall = {f"r{cutoff}": figure for cutoff, figure in direction.recall.items()}
    return {**recall, "median_rank": direction.median_rank}


def _direction_json(direction: Direction) -> dict[str, object]:
    figures = _named(direction)
    return {
        **{name: figure.value for name, figure in figures.items()},
        "chance": {name: figure.chance for name, figure in figures.items()},
        "interval": {name: [figure.ci_low, figure.ci_high] for name, figure in figures.items()},
        "answers": direction.answers,
    }


def _check(images: Tensor, reports: Tensor, report_of: Tensor, patients: Sequence[str]) -> None:
    if not len(images) or len(patients) != len(images):
        raise ValueError(
            f"retrieval needs exams and a patient for each, got {len(images)} exams, {len(patients)} patients"
        )
    if report_of.unique().tolist() != list(range(len(reports))):
        raise ValueError(
            f"each of {len(reports)} reports must belong to an exam, and each exam to one of them"
        )
    for name, vectors in (("image", images), ("report", reports)):
        lengths = vectors.double().norm(dim=1)
        wrong = ~(((lengths - 1).abs() < 1e-3) | (lengths == 0))  # NaN is wrong too
        if wrong.any():
            raise ValueError(
                f"retrieval needs unit vectors, got {int(wrong.sum())} {name} vectors of another length, "
                f"first {float(lengths[wrong][0]):.3g}"
            )
