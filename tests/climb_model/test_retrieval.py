"""Retrieval against a plain loop over all orders of tied answers, by hand, and at chance."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from climb_model.evaluation import ranks
from climb_model.evaluation import retrieval as module
from climb_model.evaluation.retrieval import (
    CUTOFFS,
    Direction,
    Retrieval,
    measure_retrieval,
    retrieval,
    to_json,
)
from climb_model.model.climb import ClimbModel, build_model
from climb_model.model.text import ReportEncoder, load_text
from climb_model.prepare import ExamSet, Sentences
from climb_model.results import retrieval_lines
from configs.load import load_settings
from configs.schema import Settings

MakeExams = Callable[..., ExamSet]
Laws = limits(deadline=None, derandomize=True, max_examples=60)


def found(
    images: torch.Tensor, reports: torch.Tensor, report_of: list[int], *, draws: int = 0, seed: int = 0
) -> Retrieval:
    patients = [f"p{exam // 2}" for exam in range(len(images))]
    return retrieval(
        images, reports, torch.tensor(report_of, dtype=torch.long), patients, draws=draws, seed=seed
    )


def values(direction: Direction) -> list[float]:
    return [*(direction.recall[k].value for k in CUTOFFS), direction.median_rank.value]


def chances(direction: Direction) -> list[float]:
    return [*(direction.recall[k].chance for k in CUTOFFS), direction.median_rank.chance]


def plain(cosines: np.ndarray, correct: np.ndarray) -> list[float]:
    """Recalls and median rank by shuffling the answers of each cosine in every possible order.

    Args:
        cosines, correct: (question, answer).
    """
    num_questions, num_answers = cosines.shape
    reached = np.zeros(num_answers)
    for question in range(num_questions):
        orders = [
            order
            for order in itertools.permutations(range(num_answers))
            if all(cosines[question, a] >= cosines[question, b] for a, b in itertools.pairwise(order))
        ]
        for order in orders:
            rank = next(place for place, answer in enumerate(order) if correct[question, answer])
            reached[rank:] += 1 / len(orders) / num_questions
    recalls = [reached[min(k, num_answers) - 1] for k in CUTOFFS]
    low = next(rank for rank in range(num_answers) if reached[rank] > 0.5 - 1e-9)
    high = next(rank for rank in range(num_answers) if reached[rank] > 0.5 + 1e-9)
    return [*recalls, (low + high) / 2 + 1]


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Up to 6 exams with some reports in common, on 4 possible directions: many ties."""
    rng = np.random.default_rng(seed)
    num_exams = int(rng.integers(1, 7))
    names = rng.integers(0, num_exams, num_exams)
    report_of = np.unique(names, return_inverse=True)[1].tolist()
    directions = F.normalize(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-0.8, 0.6]]), dim=1)
    images = directions[rng.integers(0, 4, num_exams)]
    return images, directions[rng.integers(0, 4, max(report_of) + 1)], report_of


@Laws
@given(st.integers(0, 100_000))
def test_figures_are_the_mean_over_all_orders_of_tied_answers(seed: int) -> None:
    images, reports, report_of = drawn(seed)
    cosines = np.round((images @ reports.T).double().numpy(), 4)
    correct = np.array(report_of)[:, None] == np.arange(len(reports))[None]
    both = found(images, reports, report_of)
    assert values(both.image_to_report) == pytest.approx(plain(cosines, correct), abs=1e-9)
    assert values(both.report_to_image) == pytest.approx(
        plain(cosines.T[report_of], correct.T[report_of]), abs=1e-9
    )
    level = np.zeros_like(cosines)
    assert chances(both.image_to_report) == pytest.approx(plain(level, correct), abs=1e-9)
    assert chances(both.report_to_image) == pytest.approx(
        plain(level.T[report_of], correct.T[report_of]), abs=1e-9
    )


@Laws
@given(st.integers(0, 100_000))
def test_without_ties_and_repeats_they_are_the_usual_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num = int(rng.integers(2, 40))
    images, reports = (
        F.normalize(torch.from_numpy(rng.standard_normal((num, 8))).float(), dim=1) for _ in range(2)
    )
    cosines = (images @ reports.T).double().numpy()
    both = found(images, reports, list(range(num)))
    for direction, table in ((both.image_to_report, cosines), (both.report_to_image, cosines.T)):
        places = np.array([1 + (row > row[place]).sum() for place, row in enumerate(table)])
        assert values(direction) == pytest.approx(
            [*((places <= k).mean() for k in CUTOFFS), np.median(places)], abs=1e-9
        )
        assert chances(direction) == pytest.approx(
            [*(min(k / num, 1.0) for k in CUTOFFS), (num + 1) / 2], abs=1e-9
        )


@pytest.mark.parametrize("noise", [0.0, 1e-8])
@pytest.mark.parametrize("length", [0.0, 1.0])
@Laws
@given(st.integers(0, 1000))
def test_equal_vectors_are_at_chance_in_every_figure(length: float, noise: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    num = int(rng.integers(1, 60))
    report_of = np.unique(rng.integers(0, num, num), return_inverse=True)[1].tolist()
    one = F.normalize(torch.from_numpy(rng.standard_normal(8)).float(), dim=0) * length
    images = one.repeat(num, 1) + noise * length * torch.from_numpy(rng.standard_normal((num, 8))).float()
    both = found(images, one.repeat(max(report_of) + 1, 1), report_of)
    for direction in (both.image_to_report, both.report_to_image):
        assert values(direction) == pytest.approx(chances(direction), abs=1e-12)


def test_random_vectors_are_at_chance_with_reports_in_common() -> None:
    """The mean over many drawn embeddings: neither repeats nor several correct answers favour anyone."""
    rng = np.random.default_rng(0)
    report_of = [0] * 10 + [1] * 4 + [*range(2, 18)]
    sums = np.zeros((2, 3))
    trials = 400
    for _ in range(trials):
        images = F.normalize(torch.from_numpy(rng.standard_normal((30, 16))), dim=1).float()
        reports = F.normalize(torch.from_numpy(rng.standard_normal((18, 16))), dim=1).float()
        both = found(images, reports, report_of)
        sums += [values(both.image_to_report)[:3], values(both.report_to_image)[:3]]
    expected = [chances(both.image_to_report)[:3], chances(both.report_to_image)[:3]]
    assert sums / trials == pytest.approx(np.array(expected), abs=0.02)


def test_chance_by_hand() -> None:
    """Four exams, three with the normal report: a drawn image is right in 3 of 4 cases for these."""
    one = torch.tensor([[1.0, 0.0]])
    both = found(one.repeat(4, 1), one.repeat(2, 1), [0, 0, 0, 1])
    assert (both.exams, both.reports) == (4, 2)
    assert (both.image_to_report.answers, both.report_to_image.answers) == (2, 4)
    assert chances(both.image_to_report) == [0.5, 1.0, 1.0, 1.5]
    assert chances(both.report_to_image) == [(3 * 0.75 + 0.25) / 4, 1.0, 1.0, 1.0]


def test_an_image_of_an_identical_report_is_correct_by_hand() -> None:
    """Exams 0 and 1 share a report that lies at exam 1's image; exam 2's own image lies last."""
    images = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
    reports = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    both = found(images, reports, [0, 0, 1])
    assert values(both.report_to_image) == pytest.approx([2 / 3, 1.0, 1.0, 1.0])
    # image 0 (0 and 0.8) and image 2 (-1 and -0.6): image 0 finds the other report first, image 2 its own
    assert values(both.image_to_report) == pytest.approx([2 / 3, 1.0, 1.0, 1.0])


def test_a_tie_for_the_first_place_is_half_a_hit() -> None:
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    both = found(images, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), [0, 1])
    assert both.report_to_image.recall[1].value == 0.5
    assert both.image_to_report.recall[1].value == 0.5  # image 0 right, image 1 wrong, no tie
    assert both.report_to_image.median_rank.value == 1.5


def test_one_exam_and_one_report_are_no_test() -> None:
    """Whatever is asked is right, and chance says so."""
    for report_of in ([0], [0, 0, 0]):
        images = F.normalize(
            torch.randn(len(report_of), 4, generator=torch.Generator().manual_seed(0)), dim=1
        )
        both = found(images, torch.tensor([[1.0, 0.0, 0.0, 0.0]]), report_of)
        for direction in (both.image_to_report, both.report_to_image):
            assert values(direction) == chances(direction) == [1.0, 1.0, 1.0, 1.0]


@Laws
@given(st.integers(0, 1000))
def test_neither_order_nor_chunks_change_a_figure(seed: int) -> None:
    images, reports, report_of = drawn(seed)
    before = found(images, reports, report_of)
    rng = np.random.default_rng(seed)
    exams, texts = rng.permutation(len(images)), rng.permutation(len(reports))
    place = np.argsort(texts)
    moved = found(images[exams], reports[texts], [int(place[report_of[exam]]) for exam in exams])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "CHUNK", 2)
        chunked = found(images, reports, report_of)
    for other in (moved, chunked):
        for name in ("image_to_report", "report_to_image"):
            assert values(getattr(other, name)) == pytest.approx(values(getattr(before, name)), abs=1e-12)


def test_intervals_are_a_plain_bootstrap_over_patients() -> None:
    rng = np.random.default_rng(3)
    num, draws = 21, 200
    images = F.normalize(torch.from_numpy(rng.standard_normal((num, 4))), dim=1).float()
    reports = F.normalize(images[:18] + 0.5 * torch.from_numpy(rng.standard_normal((18, 4))).float(), dim=1)
    report_of = [*range(18), 0, 0, 1]
    both = found(images, reports, report_of, draws=draws, seed=5)
    cosines = (images @ reports.T).numpy()
    places = np.array([1 + (row > row[report_of[exam]]).sum() for exam, row in enumerate(cosines)])
    names = sorted({f"p{exam // 2}" for exam in range(num)})
    counts = np.random.default_rng(5).multinomial(len(names), [1 / len(names)] * len(names), size=draws)
    recalls, medians = [], []
    for count in counts:
        asked = [
            rank for exam, rank in enumerate(places) for _ in range(int(count[names.index(f"p{exam // 2}")]))
        ]
        recalls.append(np.mean(np.array(asked) <= 5))
        medians.append(np.median(asked))
    figure = both.image_to_report.recall[5]
    assert (figure.ci_low, figure.ci_high) == pytest.approx(tuple(np.percentile(recalls, [2.5, 97.5])))
    figure = both.image_to_report.median_rank
    assert (figure.ci_low, figure.ci_high) == pytest.approx(tuple(np.percentile(medians, [2.5, 97.5])))
    assert found(images, reports, report_of).image_to_report.median_rank.ci_low is None


def test_a_tied_interval_lies_at_chance() -> None:
    one = torch.tensor([[1.0, 0.0]])
    figure = found(one.repeat(8, 1), one.repeat(8, 1), list(range(8)), draws=50).report_to_image.recall[5]
    assert (figure.value, figure.ci_low, figure.ci_high) == pytest.approx((0.625, 0.625, 0.625))


UNIT = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("images", "reports", "report_of", "words"),
    [
        (UNIT * torch.tensor([1.0, math.nan]), UNIT, [0, 1], "got 2 image vectors of another length"),
        (UNIT, UNIT * torch.tensor([[1.0], [math.inf]]), [0, 1], "got 1 report vectors of another length"),
        (UNIT * 2, UNIT, [0, 1], "first 2"),
        (UNIT[:0], UNIT, [], "needs exams"),
        (UNIT, UNIT, [0, 0], "each of 2 reports must belong to an exam"),
        (UNIT, UNIT, [0, 2], "each of 2 reports must belong to an exam"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    images: torch.Tensor, reports: torch.Tensor, report_of: list[int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        found(images, reports, report_of)


def test_each_exam_needs_its_patient() -> None:
    with pytest.raises(ValueError, match="got 2 exams, 1 patients"):
        retrieval(UNIT, UNIT, torch.tensor([0, 1]), ["p"], draws=0, seed=0)


def debug(*overrides: str) -> Settings:
    return load_settings("debug", ["evaluation.findings=[Zyste, Karzinom]", *overrides])


@pytest.fixture(scope="module")
def encoder() -> ReportEncoder:
    return load_text(debug().model.text, None)


@pytest.fixture(scope="module")
def model() -> ClimbModel:
    return build_model(debug())


A: Sentences = ((11, 12), (13,))
SAME_AS_A: Sentences = ((11,), (12, 13))
B: Sentences = ((21, 22, 23),)


def test_a_model_is_asked_with_whole_reports_and_without_the_exams_that_have_none(
    model: ClimbModel, encoder: ReportEncoder, make_exams: MakeExams
) -> None:
    exams = make_exams(5, reports=(A, (), B, SAME_AS_A, ()))
    both = measure_retrieval(model, exams, encoder, debug())
    assert both is not None
    assert (both.exams, both.reports, both.without_report) == (3, 2, 2)
    with torch.no_grad():
        images = model.embed_image(exams.images(np.array([0, 2, 3]))).vectors
        reports = model.embed_report(encoder.batch([(11, 12, 13), (21, 22, 23)])).vectors
    by_hand = retrieval(
        images, reports, torch.tensor([0, 1, 0]), ["patient0", "patient1", "patient1"], draws=50, seed=0
    )
    assert both == replace(by_hand, without_report=2)


def test_a_model_whose_images_lie_at_their_reports_finds_all(
    model: ClimbModel, encoder: ReportEncoder, make_exams: MakeExams, monkeypatch: pytest.MonkeyPatch
) -> None:
    exams = make_exams(12)
    pieces = [tuple(piece for sentence in report for piece in sentence) for report in exams.reports]
    with torch.no_grad():
        vectors = model.embed_report(encoder.batch(pieces)).vectors
    monkeypatch.setattr(module, "image_vectors", lambda *_: vectors)
    both = measure_retrieval(model, exams, encoder, debug())
    assert both is not None
    assert values(both.image_to_report) == values(both.report_to_image) == [1.0, 1.0, 1.0, 1.0]
    monkeypatch.setattr(module, "image_vectors", lambda *_: vectors.roll(1, dims=0))
    other = measure_retrieval(model, exams, encoder, debug())
    assert other is not None
    assert other.image_to_report.recall[1].value == other.report_to_image.recall[1].value == 0.0


def test_exams_without_any_report_have_no_retrieval(
    model: ClimbModel, encoder: ReportEncoder, make_exams: MakeExams
) -> None:
    assert measure_retrieval(model, make_exams(3, reports=((), (), ())), encoder, debug()) is None


def test_dropout_is_off(encoder: ReportEncoder, make_exams: MakeExams) -> None:
    settings = debug("model.fusion.dropout=0.5")
    model = build_model(settings).train()
    exams = make_exams(8)
    first, second = (measure_retrieval(model, exams, encoder, settings) for _ in range(2))
    assert first == second


def test_the_figures_as_json_and_as_lines() -> None:
    one = torch.tensor([[1.0, 0.0]])
    both = found(one.repeat(4, 1), one.repeat(4, 1), [0, 1, 2, 3], draws=10)
    told = json.loads(json.dumps(to_json(replace(both, without_report=3))))
    assert (told["exams"], told["reports"], told["without_report"]) == (4, 4, 3)
    for name in ("image_to_report", "report_to_image"):
        assert {key: told[name][key] for key in ("r1", "r5", "r10", "median_rank", "answers")} == {
            "r1": 0.25,
            "r5": 1.0,
            "r10": 1.0,
            "median_rank": 2.5,
            "answers": 4,
        }
        assert told[name]["chance"] == {"r1": 0.25, "r5": 1.0, "r10": 1.0, "median_rank": 2.5}
        assert told[name]["interval"]["r1"] == [0.25, 0.25]
    assert retrieval_lines({}) == []
    lines = retrieval_lines({"retrieval": told, "retrieval_notices": ["1 of 9 report tokens unknown"]})
    assert lines[0] == "retrieval: 4 exams, 4 different reports, 3 exams without a report left out"
    assert lines[1] == "1 of 9 report tokens unknown"
    assert lines[4].split() == ["image", "to", "report", "R@1", "0.250", "[0.250,", "0.250]", "0.250"]
    assert lines[8].split() == ["report", "to", "image", "R@1", "0.250", "[0.250,", "0.250]", "0.250"]
    assert lines[-1].split() == ["median", "rank", "2.5", "[2.5,", "2.5]", "2.5"]
    told = to_json(found(one.repeat(4, 1), one.repeat(4, 1), [0, 1, 2, 3]))
    lines = retrieval_lines({"retrieval": told, "retrieval_notices": []})
    assert lines[0] == "retrieval: 4 exams, 4 different reports"
    assert lines[-1].split() == ["median", "rank", "2.5", "2.5"]
    assert retrieval_lines({"retrieval": None, "retrieval_notices": ["none"]}) == ["none"]
