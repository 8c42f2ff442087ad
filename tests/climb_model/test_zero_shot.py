"""Zero-shot scores by hand, and that they belong to the exam alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from climb_model.evaluation import zero_shot as module
from climb_model.evaluation.zero_shot import prompt_vectors, zero_shot
from climb_model.model.climb import ClimbModel, build_model
from climb_model.model.text import ReportEncoder, load_text
from climb_model.prepare import ExamSet
from configs.load import load_settings
from configs.schema import Settings

MakeExams = Callable[..., ExamSet]


def debug(*overrides: str) -> Settings:
    return load_settings("debug", ["evaluation.findings=[Zyste, Karzinom]", *overrides])


@pytest.fixture(scope="module")
def reports() -> ReportEncoder:
    return load_text(debug().model.text, None)


@pytest.fixture(scope="module")
def model() -> ClimbModel:
    return build_model(debug())


def vector(model: ClimbModel, reports: ReportEncoder, text: str) -> np.ndarray:
    """One text's unit vector, embedded alone."""
    with torch.no_grad():
        batch = reports.batch([reports.tokenize(text).pieces])
        return model.embed_report(batch).vectors[0].double().numpy()


def image_vector(model: ClimbModel, exams: ExamSet, row: int) -> np.ndarray:
    with torch.no_grad():
        return model.embed_image(exams.images(np.array([row]))).vectors[0].double().numpy()


def test_score_is_the_softmax_over_the_two_prompts(
    model: ClimbModel, reports: ReportEncoder, make_exams: MakeExams
) -> None:
    exams = make_exams(5)
    found = zero_shot(model, exams, reports, debug())
    assert found.findings == ("Zyste", "Karzinom")
    assert found.scores.shape == (5, 2)
    scale = float(model.log_scale.exp().item())
    for row in range(5):
        image = image_vector(model, exams, row)
        for column, finding in enumerate(found.findings):
            yes, no = (
                scale * image @ vector(model, reports, text) for text in (f"{finding}.", f"Kein {finding}.")
            )
            by_hand = np.exp(yes) / (np.exp(yes) + np.exp(no))
            assert found.scores[row, column] == pytest.approx(by_hand, abs=1e-5)
    assert found.scores.std(axis=0).min() > 0


def test_an_image_at_the_positive_prompt_scores_high(
    model: ClimbModel, reports: ReportEncoder, make_exams: MakeExams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The direction: nearer to 'Zyste.' means a higher score for Zyste."""
    positive, negative = prompt_vectors(model, reports, debug())
    images = torch.stack([positive[0], negative[0], positive[1], negative[1]])
    monkeypatch.setattr(
        ClimbModel, "embed_image", lambda *_, **__: type("Found", (), {"vectors": images})(), raising=True
    )
    scores = zero_shot(model, make_exams(4), reports, debug()).scores
    assert scores[0, 0] > 0.5 > scores[1, 0]
    assert scores[2, 1] > 0.5 > scores[3, 1]


def test_several_wordings_are_averaged_as_unit_vectors(model: ClimbModel, reports: ReportEncoder) -> None:
    settings = debug(
        'evaluation.negative_prompts=["Kein {finding}.", "Ohne {finding}.", "{finding} nicht vorhanden."]'
    )
    with torch.no_grad():
        positive, negative = prompt_vectors(model, reports, settings)
    assert np.allclose(positive[0].numpy(), vector(model, reports, "Zyste."), atol=1e-5)
    mean = np.mean(
        [vector(model, reports, text) for text in ("Kein Zyste.", "Ohne Zyste.", "Zyste nicht vorhanden.")],
        axis=0,
    )
    assert np.allclose(negative[0].numpy(), mean / np.linalg.norm(mean), atol=1e-5)
    assert negative.norm(dim=-1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_a_findings_own_grammar_is_averaged_with_its_prompts_and_touches_no_other_finding(
    model: ClimbModel, reports: ReportEncoder
) -> None:
    plain, settings = debug(), debug('evaluation.negative_variants=["Zyste: Keine Zyste."]')
    with torch.no_grad():
        found, wanted = prompt_vectors(model, reports, settings), prompt_vectors(model, reports, plain)
    both = [vector(model, reports, text) for text in ("Kein Zyste.", "Keine Zyste.")]
    mean = np.mean(both, axis=0)
    assert np.allclose(found[1][0].numpy(), mean / np.linalg.norm(mean), atol=1e-5)
    assert np.allclose(found[1][1].numpy(), wanted[1][1].numpy(), atol=1e-5)
    assert np.allclose(found[0].numpy(), wanted[0].numpy(), atol=1e-5)


def test_neither_order_nor_chunks_nor_other_exams_change_a_score(
    model: ClimbModel, reports: ReportEncoder, make_exams: MakeExams, monkeypatch: pytest.MonkeyPatch
) -> None:
    exams = make_exams(9)
    together = zero_shot(model, exams, reports, debug()).scores
    monkeypatch.setattr(module, "CHUNK", 2)
    assert np.allclose(zero_shot(model, exams, reports, debug()).scores, together, atol=1e-5)
    order = np.array([8, 3, 5, 0])
    fewer = replace(
        exams,
        uids=tuple(exams.uids[row] for row in order),
        patients=tuple(exams.patients[row] for row in order),
        rows=exams.rows[order],
        reports=tuple(exams.reports[row] for row in order),
        labels=exams.labels[order],
    )
    found = zero_shot(model, fewer, reports, debug())
    assert np.allclose(found.scores, together[order], atol=1e-5)
    assert found.uids == fewer.uids


def test_the_exams_own_reports_and_labels_play_no_part(
    model: ClimbModel, reports: ReportEncoder, make_exams: MakeExams
) -> None:
    exams = make_exams(4)
    labels = np.array([[1.0, 0.0], [0.0, np.nan], [1.0, 1.0], [0.0, 0.0]])
    other = replace(exams, reports=((),) * 4, labels=labels)
    first, second = (zero_shot(model, found, reports, debug()) for found in (exams, other))
    assert np.array_equal(first.scores, second.scores)
    assert np.array_equal(second.labels, labels, equal_nan=True)


def test_evaluation_turns_dropout_off(reports: ReportEncoder, make_exams: MakeExams) -> None:
    settings = debug("model.fusion.dropout=0.5")
    model = build_model(settings).train()
    exams = make_exams(4)
    first, second = (zero_shot(model, exams, reports, settings).scores for _ in range(2))
    assert np.array_equal(first, second)
