"""The gradient of a loss over a whole batch, with the activations of only a part of it in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Part = Callable[[], Float[Tensor, "row dim"]]
"""Embeds one part of a batch; calling it again gives the same values."""


def cached_backward(
    parts: Sequence[Part], loss_of: Callable[[Float[Tensor, "all_rows dim"]], Float[Tensor, ""]]
) -> Float[Tensor, ""]:
    """Add the gradients of `loss_of(all rows)` to the parameters, one part at a time.

    GradCache (Gao et al. 2021, section 3): embed every part without keeping activations, take the
    loss's gradient with respect to the embeddings, then embed each part again and pass its share on.
    Gradients equal those of one pass, for a second forward pass of each part as the price. Random
    numbers drawn inside a part (dropout) are the same both times.

    Args:
        parts: in the order of the rows.
        loss_of: takes all rows; parameters that it uses itself, as the temperature, get their
            gradient too.

    Returns:
        The loss, detached.
    """
    states: list[Tensor] = []
    rows: list[Tensor] = []
    with torch.no_grad():
        for part in parts:
            states.append(torch.get_rng_state())
            rows.append(part())
    leaf = torch.cat(rows).requires_grad_()
    loss = loss_of(leaf)
    loss.backward()
    assert leaf.grad is not None
    after = torch.get_rng_state()
    for part, state, share in zip(parts, states, leaf.grad.split([len(r) for r in rows]), strict=True):
        torch.set_rng_state(state)
        part().backward(share)
    torch.set_rng_state(after)
    return loss.detach()
