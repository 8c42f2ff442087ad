"""The gradient of a loss over a whole batch, with only a part of it in memory or in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from climb_model.training.processes import ALONE, Processes


@dataclass(frozen=True)
class Embedded:
    """One part of a batch, embedded."""

    vectors: Float[Tensor, "row dim"]
    own_loss: Callable[[], Float[Tensor, ""] | None]
    """What this part adds to the loss by itself, without the other parts; None: nothing."""


Part = Callable[[], Embedded]
"""Embeds one part of a batch; calling it again gives the same values."""


def split_backward(
    parts: Sequence[Part],
    num_rows: Sequence[int],
    loss_of: Callable[[Float[Tensor, "all_rows dim"]], Float[Tensor, ""]],
    *,
    keep: bool,
    autocast: Callable[[bool], torch.autocast],
    processes: Processes = ALONE,
) -> Float[Tensor, ""]:
    """Add the gradients of `loss_of(all rows)` and of the parts' own losses to the parameters.

    GradCache (Gao et al. 2021, section 3): embed every part, take the loss's gradient with respect to
    the embeddings alone, then pass each part its share. With `keep` the parts' activations stay in
    memory between; without it each part is embedded a second time, with the same random numbers
    (dropout), and only one part's activations exist at once. With several processes each embeds its own
    parts and all see all rows, so the negatives stay those of the whole batch. The gradients equal
    those of one pass in one process.

    Args:
        parts: in the order of the rows; process r computes parts r, r + n, r + 2n, ...
        num_rows: rows of each part.
        loss_of: takes all rows; parameters that it uses itself, as the temperature, get their
            gradient too, the same in every process.
        autocast: the mixed precision of the parts, on or off.

    Returns:
        `loss_of(all rows)`, detached; the parts' own losses are theirs to remember.
    """
    own = range(processes.rank, len(parts), processes.size)
    first_rows = [sum(num_rows[:part]) for part in range(len(parts))]
    kept: dict[int, Embedded] = {}
    before: dict[int, RandomState] = {}
    rows: dict[int, Tensor] = {}
    # two contexts: a weight cast without gradients may not be remembered for the second pass
    with torch.set_grad_enabled(keep), autocast(True):
        for part in own:
            before[part] = RandomState()
            embedded = parts[part]()
            rows[part] = embedded.vectors.detach().float()
            if keep:
                kept[part] = embedded
    leaf = processes.gather(rows, first_rows, sum(num_rows)).requires_grad_()
    loss = loss_of(leaf)
    loss.backward()
    assert leaf.grad is not None
    after = RandomState()
    with autocast(True):  # one context for all parts: weights are cast once
        for part in own:
            if not keep:
                before[part].restore()
            embedded = kept.pop(part) if keep else parts[part]()
            own_loss = embedded.own_loss()
            share = leaf.grad[first_rows[part] : first_rows[part] + num_rows[part]]
            with autocast(False):
                if own_loss is None:
                    embedded.vectors.backward(share.to(embedded.vectors.dtype))
                else:
                    torch.autograd.backward(
                        [embedded.vectors, own_loss], [share.to(embedded.vectors.dtype), None]
                    )
    if not keep:
        after.restore()
    return loss.detach()


class RandomState:
    """Torch's random numbers of this process, on the CPU and on its GPU, to go back to."""

    def __init__(self) -> None:
        self.cpu = torch.get_rng_state()
        self.gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None

    def restore(self) -> None:
        """Draw from here on what was drawn after the state was taken."""
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu)
