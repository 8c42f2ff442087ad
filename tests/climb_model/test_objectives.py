"""The three objectives against a plain reading of them: one exam at a time, nothing padded or masked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from climb_model.model.climb import ClimbModel
from climb_model.model.text import ReportEncoder, load_text
from climb_model.training.step import Batch, Losses, Objectives
from configs.load import load_settings

RELATIVE = 1e-4
SEPARATE = ("objectives.coca=1", "objectives.inverse_coca=1")
REUSED = (*SEPARATE, "model.fusion.causal=true", "model.generators.kind=reused")
VARIANTS = [
    SEPARATE,
    (*SEPARATE, "objectives.image_loss=soft_cross_entropy"),
    (*SEPARATE, "model.fusion.causal=true", "objectives.coca=0.3"),
    REUSED,
    (*REUSED, "objectives.image_loss=soft_cross_entropy", "objectives.inverse_coca=2"),
    ("objectives.coca=1",),
    ("objectives.inverse_coca=1",),
    (*REUSED, "objectives.inverse_coca=0"),
    (),
]


@pytest.fixture(scope="module")
def reports() -> ReportEncoder:
    return load_text(load_settings("debug").model.text, None)


def ours(reports: ReportEncoder, case: Any) -> tuple[Losses, dict[str, Tensor]]:
    case.model.zero_grad()
    losses = Objectives(case.model, reports, case.settings).backward(case.batch)
    return losses, {
        name: value.grad.clone() for name, value in case.model.named_parameters() if value.grad is not None
    }


# ---- the plain reading


def run_layers(layers: Any, tokens: Tensor, index: Tensor, context: Tensor | None = None) -> Tensor:
    """x-transformers' layers on one exam of real tokens only."""
    extra = {} if context is None else {"context": context[None]}
    return layers(tokens[None], pos=index[None], **extra)[0]


def plain_losses(reports: ReportEncoder, case: Any) -> dict[str, Tensor]:
    model, settings, batch = case.model, case.settings, case.batch
    images, texts, image_states, text_states = [], [], [], []
    for exam, report in enumerate(batch.reports):
        real = batch.image.present[exam].nonzero()[:, 0]
        tokens = batch.image.tokens[exam, real] + model.slice_positions.weight[real]
        end = torch.tensor([model.num_slice_tokens])
        states = run_layers(
            model.fusion.layers, torch.cat([tokens, model.fusion.class_token[None]]), torch.cat([real, end])
        )
        image_states.append(states)
        images.append(F.normalize(states[-1] @ model.fusion.projection.weight.T, dim=0))
        tokens = reports.vectors(report[0]) @ model.text_projection.weight.T
        states = run_layers(
            model.fusion.layers,
            torch.cat([tokens, model.fusion.class_token[None]]),
            torch.arange(len(tokens) + 1),
        )
        text_states.append(states)
        texts.append(F.normalize(states[-1] @ model.fusion.projection.weight.T, dim=0))
    found = {"clip": plain_contrast(model, images, texts, batch)}
    generated = [
        plain_generators(reports, case, exam, image_states[exam], text_states[exam])
        for exam in range(len(images))
    ]
    for name in ("coca", "inverse_coca"):
        terms = torch.cat([terms[name] for terms in generated])
        found[name] = terms.mean() if len(terms) else torch.zeros(())
    weights = settings.objectives
    found["total"] = (
        weights.clip * found["clip"]
        + weights.coca * found["coca"]
        + weights.inverse_coca * found["inverse_coca"]
    )
    return found


def plain_contrast(model: ClimbModel, images: list[Tensor], texts: list[Tensor], batch: Batch) -> Tensor:
    """Columns are different reports; another breast of a described patient is left out of a column."""
    first = {report: row for row, report in reversed(list(enumerate(batch.reports)))}
    columns = sorted(first.values())
    logits = torch.full((len(images), len(columns)), float("-inf"))
    truth = torch.zeros_like(logits, dtype=torch.bool)
    for row, image in enumerate(images):
        for column, exam in enumerate(columns):
            same = batch.reports[row] == batch.reports[exam]
            described = {
                batch.patients[other]
                for other in range(len(images))
                if batch.reports[other] == batch.reports[exam]
            }
            truth[row, column] = same
            if same or batch.patients[row] not in described:
                logits[row, column] = model.log_scale.exp() * (image @ texts[exam])
    rows = [-logits[row].log_softmax(0)[truth[row]].mean() for row in range(len(images))]
    cols = [-logits[:, col].log_softmax(0)[truth[:, col]].mean() for col in range(len(columns))]
    return (torch.stack(rows).mean() + torch.stack(cols).mean()) / 2


def plain_generators(
    reports: ReportEncoder, case: Any, exam: int, image_states: Tensor, text_states: Tensor
) -> dict[str, Tensor]:
    """Loss of each report token, and of each present slice."""
    model, weights = case.model, case.settings.objectives
    pieces = case.batch.reports[exam][0]
    real = case.batch.image.present[exam].nonzero()[:, 0]
    none = torch.zeros(0)
    found = {"coca": none, "inverse_coca": none}
    table = reports.words / reports.words.square().sum(dim=1).mean().sqrt()
    targets = torch.tensor([*pieces, reports.end])
    if weights.coca and model.reuses_fusion:
        index = torch.cat([real, model.num_slice_tokens + torch.arange(len(pieces))])
        states = run_layers(model.fusion.layers, torch.cat([image_states[:-1], text_states[:-1]]), index)
        last = states[len(real) - 1 :]
        found["coca"] = F.cross_entropy(
            last @ model.text_projection.weight @ table.T, targets, reduction="none"
        )
    elif weights.coca:
        generator = model.report_generator
        inputs = torch.cat([generator.start[None], generator.embed(reports.vectors(pieces))])
        states = run_layers(generator.layers, inputs, torch.arange(len(inputs)), image_states)
        found["coca"] = F.cross_entropy(generator.head(states) @ table.T, targets, reduction="none")
    if weights.inverse_coca:
        truth = case.batch.clean.tokens[exam, real]
        found["inverse_coca"] = plain_slices(case, exam, real, truth, image_states, text_states)
    return found


def plain_slices(
    case: Any, exam: int, real: Tensor, truth: Tensor, image_states: Tensor, text_states: Tensor
) -> Tensor:
    """Each present slice from all before it; an absent one is a zero."""
    model = case.model
    source = image_states[:-1] if model.reuses_fusion else case.batch.image.tokens[exam, real]
    image = torch.zeros(model.num_slice_tokens, image_states.shape[1]).index_copy(0, real, source)
    if model.reuses_fusion:
        inputs = torch.cat([text_states[:-1], model.start_token[None], image[:-1]])
        states = run_layers(model.fusion.layers, inputs, torch.arange(len(inputs)))
        predicted = states[len(text_states) - 1 :] @ model.image_head.weight.T
    else:
        generator, positions = model.slice_generator, model.slice_positions.weight
        inputs = torch.cat([generator.start[None], image[:-1]]) + positions[: len(image)]
        states = run_layers(generator.layers, inputs, torch.arange(len(inputs)), text_states)
        predicted = generator.head(states)
    guess = predicted[real]
    if case.settings.objectives.image_loss == "soft_cross_entropy":
        return -(truth.softmax(1) * guess.log_softmax(1)).sum(dim=1)
    centred = truth - truth.mean(dim=1, keepdim=True)
    gap = (guess - centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()).abs()
    return torch.where(gap < 1, gap**2 / 2, gap - 0.5).mean(dim=1)


@pytest.mark.parametrize("overrides", VARIANTS, ids=lambda overrides: " ".join(overrides) or "clip alone")
def test_losses_and_gradients_equal_the_plain_reading(
    overrides: tuple[str, ...], reports: ReportEncoder, make_case: Any
) -> None:
    case = make_case(*overrides)
    losses, gradients = ours(reports, case)
    case.model.zero_grad()
    expected = plain_losses(reports, case)
    expected["total"].backward()
    for name in ("total", "clip", "coca", "inverse_coca"):
        assert getattr(losses, name).item() == pytest.approx(expected[name].item(), rel=RELATIVE), name
    for name, value in case.model.named_parameters():
        assert value.grad is not None, name
        size_of_terms = 1.0 if name == "log_scale" else value.grad.norm()
        assert (gradients[name] - value.grad).norm() <= RELATIVE * size_of_terms, name
        assert value.grad.norm() > 0, name


class Mixer(torch.nn.Module):
    """A text encoder that tells every token of all others, as a BERT does."""

    def forward(self, input_ids: Tensor) -> Any:
        mixed = input_ids.float().mean().expand(1, input_ids.shape[1], 64)
        return type("Output", (), {"last_hidden_state": mixed})()


def test_a_report_is_not_written_from_vectors_that_hold_its_later_words(
    make_case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = load_text(load_settings("debug").model.text, None)
    reports.bert = Mixer()
    case = make_case("objectives.coca=1")
    seen: list[Any] = []
    original = ClimbModel.predict_report

    def spy(self: ClimbModel, image: Any, fused: Any, report: Any, fused_report: Any) -> Tensor:
        seen.append(report)
        return original(self, image, fused, report, fused_report)

    monkeypatch.setattr(ClimbModel, "predict_report", spy)
    Objectives(case.model, reports, case.settings).backward(case.batch)
    pieces = {report[0] for report in case.batch.reports}
    own = {tuple(reports.word_vectors(text)[0].tolist()) for text in pieces}
    assert seen
    for report in seen:
        for row in report.tokens:
            assert tuple(row[0].tolist()) in own
