"""The shared transformer that turns slice tokens or report tokens into one unit vector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from climb_model.model.layers import make_layers, run_layers
from configs.schema import FusionConfig


class Fusion(nn.Module):
    """x-transformers' layers with a class token right behind the last real token.

    Bidirectional or causal, rotary positions given explicitly. The class token stands behind the last
    *real* token and padding is masked, so neither padding nor the other exams of a batch change an
    exam's result.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.layers = make_layers(config, causal=config.causal)
        # As large as a token: with a small one the untrained network scatters its embeddings at random,
        # and the first steps do nothing but draw them together again (figures in docs/log.md).
        self.class_token = nn.Parameter(torch.empty(config.width).normal_())
        self.projection = nn.Linear(config.width, config.width, bias=False)

    def forward(
        self,
        tokens: Float[Tensor, "exam token dim"],
        present: Bool[Tensor, "exam token"],
        index: Int[Tensor, "exam token"],
        class_index: Int[Tensor, " exam"],
        *,
        all_states: bool = True,
    ) -> tuple[Float[Tensor, "exam dim"], Float[Tensor, "exam state dim"]]:
        """Fuse one modality's tokens.

        Args:
            tokens: token values; those not present are ignored.
            present: True where a token is real.
            index: rotary position of each token, unchanged by masking.
            class_index: rotary position of the class token.
            all_states: False gives the class token's state alone, for less work.

        Returns:
            Unit-length embeddings, and the states of all tokens with the class token last.
        """
        num_exams = tokens.shape[0]
        class_token = self.class_token.to(tokens.dtype).expand(num_exams, 1, self.width)
        states = self.encode(
            torch.cat([tokens, class_token], dim=1),
            torch.cat([present, present.new_ones(num_exams, 1)], dim=1),
            torch.cat([index, class_index[:, None]], dim=1),
            last_only=not all_states,
        )
        return F.normalize(self.projection(states[:, -1]).float(), dim=-1), states

    def encode(
        self,
        tokens: Float[Tensor, "exam token dim"],
        present: Bool[Tensor, "exam token"],
        index: Int[Tensor, "exam token"],
        *,
        last_only: bool = False,
    ) -> Float[Tensor, "exam row dim"]:
        """States of all tokens, or of the last one; tokens not present are hidden from the others.

        Args:
            tokens, present, index: as in `forward`.
        """
        tokens = tokens.masked_fill(~present[..., None], 0.0)
        return run_layers(self.layers, self.config, tokens, present, index, last_only=last_only)
