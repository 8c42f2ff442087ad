"""Gradients in parts are the gradients of the whole batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from climb_model.model.climb import ClimbModel, ImageTokens, build_model
from climb_model.model.text import ReportEncoder, load_text
from climb_model.prepare import ExamSet
from climb_model.sharing import shared_state
from climb_model.training.gradient_cache import cached_backward
from climb_model.training.trainer import clip_backward, train_round
from configs.load import load_settings
from configs.schema import Settings

RELATIVE = 1e-5
TEXTS = (
    "Karzinom oben außen, 12 mm.",
    "Kein Karzinom.",
    "Unauffälliger Befund der Mamma, keine Zyste, kein Fibroadenom.",
    "Zyste.",
    "Kein Karzinom.",
    "Fibroadenom innen, glatt begrenzt.",
    "Keine Zyste abgrenzbar.",
)
PATIENTS = ["P1", "P1", "P2", "P3", "P4", "P5", "P6"]


def debug(*overrides: str) -> Settings:
    return load_settings("debug", ["training.num_threads=1", *overrides])


@pytest.fixture(scope="module")
def reports() -> ReportEncoder:
    return load_text(debug().model.text, None)


def gradients(reports: ReportEncoder, *overrides: str) -> tuple[float, dict[str, Tensor]]:
    settings = debug(*overrides)
    model: ClimbModel = build_model(settings)
    generator = torch.Generator().manual_seed(3)
    shape = (len(TEXTS), model.num_slice_tokens, settings.model.fusion.width)
    present = torch.rand(shape[:2], generator=generator) < 0.8
    present[:, 0] = True
    image = ImageTokens(torch.randn(shape, generator=generator), present)
    whole = [(reports.tokenize(text).pieces,) for text in TEXTS]
    texts = tuple(dict.fromkeys(whole))
    loss = clip_backward(model, image, reports, texts, whole, PATIENTS, settings.training)
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert found.keys() == dict(model.named_parameters()).keys()
    return loss.item(), found


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_gradients_in_chunks_are_those_of_one_pass(size: int, reports: ReportEncoder) -> None:
    loss, one = gradients(reports)
    chunked, parts = gradients(reports, f"training.chunk_size={size}")
    assert chunked == pytest.approx(loss, rel=RELATIVE)
    for name, gradient in one.items():
        # the temperature's is a small difference of terms of order 1: its error is measured by those
        size_of_terms = 1.0 if name == "log_scale" else gradient.norm()
        assert (parts[name] - gradient).norm() <= RELATIVE * size_of_terms, name
    assert one["log_scale"].abs() > 0


def test_a_round_in_chunks_ends_with_the_same_weights(
    make_exams: Callable[..., ExamSet], reports: ReportEncoder
) -> None:
    ends: list[dict[str, Tensor]] = []
    for size in (0, 3):
        settings = debug(
            f"training.chunk_size={size}", "training.steps_per_round=4", "training.warmup_steps=0"
        )
        model = build_model(settings)
        train_round(model, None, make_exams(8), reports, settings, round=1, global_step=0)
        ends.append(shared_state(model))
    moved = shared_state(build_model(debug()))
    for name, value in ends[0].items():
        step = (value - moved[name]).norm()
        assert (ends[1][name] - value).norm() <= 0.01 * step + 1e-7, name


def test_chance_inside_a_part_is_the_same_in_both_passes() -> None:
    weight = torch.ones(6, requires_grad=True)
    seen: list[Tensor] = []

    def part() -> Tensor:
        rows = F.dropout(weight.expand(2, 6), 0.5)
        seen.append(rows.detach().clone())
        return rows

    torch.manual_seed(0)
    cached_backward([part, part], lambda rows: (rows**2).sum() / 2)
    first, second, again, once_more = seen
    assert torch.equal(first, again)
    assert torch.equal(second, once_more)
    assert not torch.equal(first, second)
    # d/dw of sum (m w)^2 / 2 with w = 1 is the sum of the squared masks
    assert weight.grad is not None
    assert torch.equal(weight.grad, (first**2 + second**2).sum(dim=0))
    drawn = torch.rand(3)
    torch.manual_seed(0)
    for _ in range(2):
        F.dropout(torch.ones(2, 6), 0.5)
    assert torch.equal(drawn, torch.rand(3))  # the second passes cost no random numbers
