"""Gradients in parts, and in several processes, are the gradients of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor

from climb_model.model.climb import build_model
from climb_model.model.text import ReportEncoder, load_text
from climb_model.prepare import ExamSet
from climb_model.sharing import shared_state
from climb_model.training.processes import Processes
from climb_model.training.split_backward import Embedded, split_backward
from climb_model.training.step import Batch, Objectives, spans
from climb_model.training.trainer import train_round
from configs.load import load_settings
from configs.schema import Settings

RELATIVE = 1e-5
ALL = ("objectives.coca=1", "objectives.inverse_coca=1")
REUSED = (*ALL, "model.fusion.causal=true", "model.generators.kind=reused")


def debug(*overrides: str) -> Settings:
    return load_settings("debug", ["training.num_threads=1", *overrides])


@pytest.fixture(scope="module")
def reports() -> ReportEncoder:
    return load_text(debug().model.text, None)


def gradients(reports: ReportEncoder, case: Any) -> tuple[float, dict[str, Tensor]]:
    losses = Objectives(case.model, reports, case.settings).backward(case.batch)
    found = {name: value.grad for name, value in case.model.named_parameters() if value.grad is not None}
    assert found.keys() == dict(case.model.named_parameters()).keys()
    return losses.total.item(), found


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        # the temperature's is a small difference of terms of order 1: its error is measured by those
        size_of_terms = 1.0 if name == "log_scale" else gradient.norm()
        assert (found[name] - gradient).norm() <= RELATIVE * size_of_terms, name
    assert wanted["log_scale"].abs() > 0


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("drawn", [False, True], ids=["whole", "drawn"])
@pytest.mark.parametrize("objectives", [(), ALL, REUSED], ids=["clip", "separate", "reused"])
def test_gradients_in_chunks_are_those_of_one_pass(
    size: int, drawn: bool, objectives: tuple[str, ...], reports: ReportEncoder, make_case: Any
) -> None:
    settings = (*objectives, f"training.report_sentences={int(drawn)}")
    loss, one = gradients(reports, make_case(*settings, drawn=drawn))
    chunked, parts = gradients(reports, make_case(*settings, f"training.chunk_size={size}", drawn=drawn))
    assert chunked == pytest.approx(loss, rel=RELATIVE)
    assert_same(parts, one)


@pytest.mark.parametrize("objectives", [(), ALL, REUSED], ids=["clip", "separate", "reused"])
def test_chunks_in_bfloat16_lose_no_gradient(
    objectives: tuple[str, ...], reports: ReportEncoder, make_case: Any
) -> None:
    """Weights are cast once for all parts: a cast made without gradients must not be used again."""
    low = (*objectives, "training.precision=bfloat16")
    _, exact = gradients(reports, make_case(*objectives))
    for chunk in (0, 2):
        _, found = gradients(reports, make_case(*low, f"training.chunk_size={chunk}"))
        for name, gradient in exact.items():
            assert (found[name] - gradient).norm() <= 0.1 * max(float(gradient.norm()), 0.1), name


def _one_process(
    rank: int, folder: str, overrides: tuple[str, ...], batch: Batch, num_processes: int
) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=num_processes
    )
    settings = debug(*overrides)
    model = build_model(settings)
    model.load_state_dict(torch.load(f"{folder}/model.pt"))
    encoder = load_text(settings.model.text, None)
    losses = Objectives(model, encoder, settings, Processes.of_group()).backward(batch)
    found = {name: value.grad for name, value in model.named_parameters()}
    torch.save((losses.total.item(), found), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("objectives", [(), ALL, REUSED], ids=["clip", "separate", "reused"])
@pytest.mark.parametrize("chunk", [0, 2])
def test_two_processes_have_the_loss_and_gradients_of_one_with_the_whole_batch(
    objectives: tuple[str, ...], chunk: int, reports: ReportEncoder, make_case: Any, tmp_path: Path
) -> None:
    case = make_case(*objectives)
    loss, one = gradients(reports, case)
    torch.save(case.model.state_dict(), tmp_path / "model.pt")
    overrides = (*objectives, f"training.chunk_size={chunk}")
    mp.start_processes(_one_process, (str(tmp_path), overrides, case.batch, 2), nprocs=2, start_method="fork")
    for rank in (0, 1):
        told, found = torch.load(tmp_path / f"{rank}.pt")
        assert told == pytest.approx(loss, rel=RELATIVE)
        assert_same(found, one)


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


def no_autocast(_: bool) -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def test_chance_inside_a_part_is_the_same_in_both_passes() -> None:
    weight = torch.ones(6, requires_grad=True)
    seen: list[Tensor] = []

    def part() -> Embedded:
        rows = F.dropout(weight.expand(2, 6), 0.5)
        seen.append(rows.detach().clone())
        return Embedded(rows, lambda: None)

    torch.manual_seed(0)
    split_backward([part, part], [2, 2], lambda rows: (rows**2).sum() / 2, keep=False, autocast=no_autocast)
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


@pytest.mark.parametrize(
    ("number", "at_once", "processes", "sizes"),
    [
        (7, 32, 1, [7]),
        (7, 3, 1, [2, 2, 3]),
        (7, 32, 2, [3, 4]),
        (7, 2, 4, [1, 2, 2, 2]),
        (1, 32, 2, [1]),
        (4, 1, 1, [1, 1, 1, 1]),
    ],
)
def test_parts_are_even_and_every_process_has_one(
    number: int, at_once: int, processes: int, sizes: list[int]
) -> None:
    found = spans(number, at_once, processes)
    assert [len(span) for span in found] == sizes
    assert [place for span in found for place in span] == list(range(number))
