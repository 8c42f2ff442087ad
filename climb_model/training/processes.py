"""The processes that share a batch, one a GPU: what they tell each other in a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """This process among those that train one model; alone by default."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of_group(cls) -> Processes:
        """This process in torch's default process group, which must exist."""
        return cls(dist.get_rank(), dist.get_world_size())

    def gather(
        self, rows: Mapping[int, Float[Tensor, "row dim"]], first_rows: Sequence[int], num_rows: int
    ) -> Float[Tensor, "all_rows dim"]:
        """All rows, from all processes, in the order of the parts.

        Args:
            rows: this process's parts.
            first_rows: where each part begins.
            num_rows: of all parts.
        """
        if self.size == 1:
            return torch.cat([rows[part] for part in sorted(rows)])
        assert rows, "each process has at least one part"
        some = next(iter(rows.values()))
        whole = some.new_zeros(num_rows, some.shape[1])
        for part, values in rows.items():
            whole[first_rows[part] : first_rows[part] + len(values)] = values
        dist.all_reduce(whole)
        return whole

    def add(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def add_gradients(self, model: nn.Module, *, same_everywhere: Iterable[nn.Parameter]) -> None:
        """Sum each parameter's gradient over the processes, in one message.

        Args:
            same_everywhere: parameters whose gradient every process has whole already.
        """
        if self.size == 1:
            return
        whole = {id(parameter) for parameter in same_everywhere}
        parameters = [value for value in model.parameters() if id(value) not in whole]
        for value in parameters:
            if value.grad is None:  # no part of this process used it; another's may have
                value.grad = torch.zeros_like(value)
        gradients = [value.grad for value in parameters if value.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, values in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(values.view_as(gradient))


ALONE = Processes()
