"""The contrastive objective against plain loops, and the pairs that reports and patients forbid."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from climb_model.model.losses import contrastive_loss, pair_masks

LOG_SCALE = torch.tensor(math.log(1 / 0.07))


def unit(num_exams: int, seed: int, dim: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(num_exams, dim, generator=generator, dtype=torch.float64), dim=-1)


def by_hand(image: Tensor, text: Tensor, scale: float, positive: Tensor, allowed: Tensor) -> float:
    """Both directions with scalar arithmetic: for each row the mean over its positives of -log p."""
    total = 0.0
    for direction in ("image to text", "text to image"):
        rows, columns = (len(image), len(text)) if direction == "image to text" else (len(text), len(image))
        for row in range(rows):

            def pair(column: int, row: int = row, direction: str = direction) -> tuple[int, int]:
                return (row, column) if direction == "image to text" else (column, row)

            logit = {}
            for column in range(columns):
                i, t = pair(column)
                if allowed[i, t]:
                    logit[column] = scale * sum(
                        a * b for a, b in zip(image[i].tolist(), text[t].tolist(), strict=True)
                    )
            whole = math.log(sum(math.exp(value) for value in logit.values()))
            wanted = [column for column in range(columns) if positive[pair(column)]]
            total += sum(whole - logit[column] for column in wanted) / len(wanted) / rows
    return total / 2


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(2, 7), st.integers(1, 9), st.integers(0, 10_000))
def test_loss_is_a_plain_loop_for_any_positives_and_excluded_pairs(
    num_exams: int, num_texts: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    exams, texts = torch.arange(num_exams)[:, None], torch.arange(num_texts)[None, :]
    own = (exams % num_texts == texts) | (texts % num_exams == exams)  # one in every row and column
    positive = own | (torch.rand(num_exams, num_texts, generator=generator) < 0.3)  # not symmetric
    allowed = positive | (torch.rand(num_exams, num_texts, generator=generator) < 0.6)
    image, text = unit(num_exams, seed), unit(num_texts, seed + 1)
    loss = contrastive_loss(image, text, LOG_SCALE.double(), positive, allowed)
    assert loss.item() == pytest.approx(by_hand(image, text, 1 / 0.07, positive, allowed), rel=1e-6)


def test_positives_of_the_two_directions_are_read_along_rows_and_columns() -> None:
    image, text = unit(3, 0), unit(3, 1)
    positive = torch.eye(3, dtype=torch.bool)
    positive[0, 2] = True  # text 2 also describes image 0; text 0 does not describe image 2
    everywhere = torch.ones(3, 3, dtype=torch.bool)
    forward = contrastive_loss(image, text, LOG_SCALE.double(), positive, everywhere)
    assert forward.item() == pytest.approx(by_hand(image, text, 1 / 0.07, positive, everywhere), rel=1e-6)
    swapped = contrastive_loss(image, text, LOG_SCALE.double(), positive.T, everywhere)
    assert swapped.item() != pytest.approx(forward.item(), rel=1e-3)


def test_nothing_learned_costs_the_log_of_the_number_of_exams() -> None:
    same = F.normalize(torch.ones(7, 5), dim=-1)
    loss = contrastive_loss(
        same, same, LOG_SCALE, torch.eye(7, dtype=torch.bool), torch.ones(7, 7, dtype=torch.bool)
    )
    assert loss.item() == pytest.approx(math.log(7), abs=1e-5)


def test_a_perfect_match_costs_nothing_at_a_low_temperature() -> None:
    vectors = torch.eye(4)
    loss = contrastive_loss(
        vectors,
        vectors,
        torch.tensor(math.log(100.0)),
        torch.eye(4, dtype=torch.bool),
        torch.ones(4, 4).bool(),
    )
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_an_excluded_pair_takes_no_part() -> None:
    """Text 1 is the perfect match of image 0, but of the same patient: the pair costs nothing."""
    image, text = torch.eye(4)[:3], torch.eye(4)[[0, 0, 2]]
    positive, everywhere = torch.eye(3, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool)
    allowed = everywhere.clone()
    allowed[0, 1] = False
    with_pair = contrastive_loss(image, text, LOG_SCALE, positive, everywhere).item()
    without = contrastive_loss(image, text, LOG_SCALE, positive, allowed).item()
    # a row of image 0 loses the rival at the same height; so does column 1, whose own pair is weak
    scale = 1 / 0.07
    rival, low = math.log(2 + math.exp(-scale)), math.log(1 + math.exp(-scale))
    column, column_alone = scale + math.log(1 + 2 * math.exp(-scale)), math.log(2.0)
    assert with_pair - without == pytest.approx((rival - low + column - column_alone) / 6, rel=1e-4)


@pytest.mark.parametrize("log_scale", [0.0, math.log(100.0)])
def test_gradients_are_finite_where_all_pairs_but_the_own_one_are_excluded(log_scale: float) -> None:
    image = unit(4, 0).float().requires_grad_(True)
    text = unit(4, 1).float().requires_grad_(True)
    scale = torch.tensor(log_scale, requires_grad=True)
    positive = torch.eye(4, dtype=torch.bool)
    allowed = torch.ones(4, 4, dtype=torch.bool)
    allowed[2] = positive[2]  # image 2 may be compared with its own text only
    loss = contrastive_loss(image, text, scale, positive, allowed)
    loss.backward()
    for gradient in (image.grad, text.grad, scale.grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize("log_scale", [0.0, math.log(100.0)])
def test_a_batch_of_one_text_has_only_positives_and_draws_the_images_to_it_evenly(log_scale: float) -> None:
    image = unit(5, 1).requires_grad_()
    text = unit(1, 2).requires_grad_()
    scale = torch.tensor(log_scale, requires_grad=True)
    every = torch.ones(5, 1, dtype=torch.bool)
    loss = contrastive_loss(image, text, scale, every, every)
    assert loss.item() > math.log(5) / 2  # image to text costs nothing, text to image at least log(5)
    loss.backward()
    for value in (image, text, scale):
        assert value.grad is not None
        assert torch.isfinite(value.grad).all()
    alike = image.detach()[:1].expand(5, -1)
    assert contrastive_loss(alike, text, scale, every, every).item() == pytest.approx(math.log(5) / 2)


@pytest.mark.parametrize("num_exams", [0, 1])
def test_fewer_than_two_exams_are_refused(num_exams: int) -> None:
    vectors = torch.ones(num_exams, 3)
    pairs = torch.ones(num_exams, num_exams, dtype=torch.bool)
    with pytest.raises(ValueError, match=f"needs >= 2 exams in a batch, got {num_exams}"):
        contrastive_loss(vectors, vectors, LOG_SCALE, pairs, pairs)


def test_a_whole_report_is_a_positive_of_every_exam_with_the_same_one() -> None:
    reports = [("a", "b"), ("c",), ("b", "a")]
    positive, allowed = pair_masks(reports[:2], reports, ["P1", "P2", "P3"], drawn=False)
    assert positive.tolist() == [[True, False], [False, True], [True, False]]
    assert allowed.all()


def test_a_whole_report_within_a_longer_one_is_no_positive() -> None:
    reports = [("a",), ("a", "b")]
    positive, _ = pair_masks(reports, reports, ["P1", "P2"], drawn=False)
    assert positive.tolist() == [[True, False], [False, True]]


def test_a_drawn_text_is_a_positive_of_every_report_that_holds_its_sentences() -> None:
    reports = [("a", "b"), ("a", "c"), ("b", "c")]
    texts = [("a",), ("c",), ("b", "c"), ("b",)]
    positive, _ = pair_masks(texts, reports, ["P1", "P2", "P3"], drawn=True)
    # rows are images with their reports, columns are the drawn texts
    assert positive.tolist() == [
        [True, False, False, True],
        [True, True, False, False],
        [False, True, True, True],
    ]


def test_texts_of_one_patient_are_left_out_and_never_negatives() -> None:
    reports = [("a",), ("b",), ("c",)]
    positive, allowed = pair_masks(reports, reports, ["P1", "P2", "P1"], drawn=False)
    assert positive.tolist() == torch.eye(3, dtype=torch.bool).tolist()
    assert allowed.tolist() == [[True, True, False], [True, True, True], [False, True, True]]


def test_a_text_that_describes_two_patients_is_left_out_for_the_other_breasts_of_both() -> None:
    reports = [("a",), ("b",), ("a",), ("c",), ("d",)]
    _, allowed = pair_masks([("a",)], reports, ["P1", "P1", "P2", "P2", "P3"], drawn=False)
    assert allowed[:, 0].tolist() == [True, False, True, False, True]


def test_the_same_text_of_one_patient_is_still_a_positive() -> None:
    reports = [("a",), ("a",)]
    positive, allowed = pair_masks([("a",)], reports, ["P1", "P1"], drawn=False)
    assert positive.all()
    assert allowed.all()
