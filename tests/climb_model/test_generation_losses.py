"""Losses of the generators: sums over real tokens, equal to the textbook's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from climb_model.model import generation_losses
from climb_model.model.generation_losses import next_token_targets, output_table, report_loss, slice_loss

CLOSE = 1e-5


def test_targets_are_each_reports_tokens_and_then_its_end_in_the_rows_of_that_report() -> None:
    places, pieces = next_token_targets([(5, 6), (), (7, 8, 9)], end=3, num_rows=4)
    assert places.tolist() == [0, 1, 2, 4, 8, 9, 10, 11]
    assert pieces.tolist() == [5, 6, 3, 3, 7, 8, 9, 3]


def test_the_output_table_has_rows_of_mean_square_length_one_whatever_the_tables_scale() -> None:
    words = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    table = output_table(words, torch.float32)
    assert table.square().sum(dim=1).mean().item() == pytest.approx(1.0, rel=1e-6)
    torch.testing.assert_close(table, output_table(37.0 * words, torch.float32))
    assert output_table(words, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("rows", [1, 4, 7, 1000])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_report_loss_and_gradient_are_those_of_cross_entropy_over_all_logits(
    rows: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_losses, "ROWS", rows)
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(40, 6, generator=generator)
    values = scale * torch.randn(11, 6, generator=generator)
    targets = torch.randint(40, (11,), generator=generator)
    ours, plain = values.clone().requires_grad_(), values.clone().requires_grad_()
    loss = report_loss(ours, targets, table)
    wanted = F.cross_entropy(plain @ table.T, targets, reduction="sum")
    (3 * loss).backward()
    (3 * wanted).backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=CLOSE)
    assert ours.grad is not None
    assert plain.grad is not None
    assert (ours.grad - plain.grad).norm() <= CLOSE * plain.grad.norm()


def test_report_loss_in_bfloat16_is_near_float32_and_its_gradient_has_the_type_of_the_prediction() -> None:
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(40, 16, generator=generator) / 4
    values, targets = torch.randn(11, 16, generator=generator), torch.arange(11)
    low = values.to(torch.bfloat16).requires_grad_()
    loss = report_loss(low, targets, table.to(torch.bfloat16))
    loss.backward()
    assert loss.dtype == torch.float32
    assert low.grad is not None
    assert low.grad.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(report_loss(values, targets, table).item(), rel=0.01)


def test_without_gradients_the_report_loss_keeps_nothing() -> None:
    with torch.no_grad():
        loss = report_loss(torch.randn(3, 4), torch.tensor([0, 1, 2]), torch.randn(5, 4))
    assert not loss.requires_grad


def test_smooth_l1_is_zero_at_the_layer_normed_token_and_half_a_square_near_it() -> None:
    tokens = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(2))
    present = torch.tensor([[True, False, True], [True, True, False]])
    normed = F.layer_norm(tokens, (8,))
    assert slice_loss(normed, tokens, present, "smooth_l1").item() == 0
    off = slice_loss(normed + 0.1, tokens, present, "smooth_l1").item()
    assert off == pytest.approx(4 * 0.1**2 / 2, rel=1e-4)  # 4 present slices, by hand


def test_soft_cross_entropy_is_least_where_the_prediction_is_the_token() -> None:
    tokens = torch.randn(1, 2, 8, generator=torch.Generator().manual_seed(3))
    present = torch.ones(1, 2, dtype=torch.bool)
    entropy = -(tokens.softmax(-1) * tokens.log_softmax(-1)).sum().item()
    assert slice_loss(tokens, tokens, present, "soft_cross_entropy").item() == pytest.approx(
        entropy, rel=1e-5
    )
    assert slice_loss(tokens.flip(-1), tokens, present, "soft_cross_entropy").item() > entropy


@pytest.mark.parametrize("kind", ["smooth_l1", "soft_cross_entropy"])
def test_absent_slices_count_neither_in_the_loss_nor_in_its_gradient(kind: str) -> None:
    tokens = torch.zeros(1, 3, 8)
    guess = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(4)).requires_grad_()
    present = torch.tensor([[True, False, True]])
    slice_loss(guess, tokens, present, kind).backward()
    assert guess.grad is not None
    assert not guess.grad[0, 1].any()
    assert guess.grad[0, 0].any()
