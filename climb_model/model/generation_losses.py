"""The losses of the generators: sums over real tokens, so that parts of a batch add up to the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

ROWS = 512
"""Tokens whose logits are in memory at once."""


def output_table(
    words: Float[Tensor, "piece text_dim"], dtype: torch.dtype
) -> Float[Tensor, "piece text_dim"]:
    """The frozen word table as an output head: rows of mean square length 1.

    The table is tied to the input as in the reference. A table's scale is its maker's choice (BERT's
    rows are short, others long), and logits should start near 0 whatever it is.
    """
    return (words / words.square().sum(dim=1).mean().sqrt()).to(dtype)


def next_token_targets(
    reports: Sequence[tuple[int, ...]], end: int, num_rows: int
) -> tuple[Int[Tensor, " target"], Int[Tensor, " target"]]:
    """What `ClimbModel.predict_report` should say: each token in its row, then the end.

    Args:
        reports: piece numbers, without special pieces.
        end: the piece that ends a report.
        num_rows: predicted rows of each report, padding included.

    Returns:
        The places of the real rows among all rows of all reports, and their pieces.
    """
    places = [exam * num_rows + row for exam, pieces in enumerate(reports) for row in range(len(pieces) + 1)]
    pieces = [piece for report in reports for piece in (*report, end)]
    return torch.tensor(places), torch.tensor(pieces)


def report_loss(
    predicted: Float[Tensor, "target text_dim"],
    targets: Int[Tensor, " target"],
    table: Float[Tensor, "piece text_dim"],
) -> Float[Tensor, ""]:
    """Cross-entropy of the next piece, summed over real tokens, in nats.

    Args:
        predicted: rows of `ClimbModel.predict_report` at real tokens.
        targets: the piece of each.
        table: as `output_table` gives it; never trained. Its type is the type of the products.
    """
    return _FrozenTableCrossEntropy.apply(predicted, targets, table)  # type: ignore[no-any-return]


def slice_loss(
    predicted: Float[Tensor, "exam slice_token dim"],
    tokens: Float[Tensor, "exam slice_token dim"],
    present: Bool[Tensor, "exam slice_token"],
    kind: str,
) -> Float[Tensor, ""]:
    """Distance of predicted slice tokens from the frozen encoder's, summed over present slices.

    Args:
        kind: `smooth_l1` against the layer-normed token, mean over its dimensions; `soft_cross_entropy`
            of softmax(predicted) against softmax(token), in nats (the reference's).
    """
    guess, truth = predicted[present].float(), tokens[present].float()
    if kind == "smooth_l1":
        return (
            F.smooth_l1_loss(guess, F.layer_norm(truth, truth.shape[-1:]), reduction="sum") / truth.shape[-1]
        )
    assert kind == "soft_cross_entropy"
    return -(truth.softmax(dim=-1) * guess.log_softmax(dim=-1)).sum()


class _FrozenTableCrossEntropy(torch.autograd.Function):
    """Cross-entropy over a frozen table, some rows at a time; the gradient is made on the way.

    Logits of all tokens at once would be the largest tensor of a step: 2,400 x 30,000 of them at the
    published size, four times over. The table needs no gradient, so each part's share of the gradient
    is known as soon as its logits are.
    """

    @staticmethod
    def forward(ctx: Any, predicted: Tensor, targets: Tensor, table: Tensor) -> Tensor:
        needed = ctx.needs_input_grad[0]
        gradients: list[Tensor] = []
        loss = predicted.new_zeros((), dtype=torch.float32)
        with torch.autocast(predicted.device.type, enabled=False):
            for rows, wanted in zip(predicted.split(ROWS), targets.split(ROWS), strict=True):
                logits = (rows.to(table.dtype) @ table.T).float()
                shares = logits.softmax(dim=1)
                wanted = wanted[:, None]
                # log of the sum of exponentials, from the largest logit and its share: never log(0)
                normalizer = logits.amax(dim=1, keepdim=True) - shares.amax(dim=1, keepdim=True).log()
                loss += (normalizer - logits.gather(1, wanted)).sum()
                if needed:
                    shares.scatter_add_(1, wanted, shares.new_full((1, 1), -1.0).expand_as(wanted))
                    gradients.append((shares.to(table.dtype) @ table).to(predicted.dtype))
        if needed:
            ctx.save_for_backward(torch.cat(gradients))
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None
