"""The transformer stacks of CLIMB, as x-transformers builds them from the fusion's settings."""

from __future__ import annotations

from x_transformers import Decoder, Encoder
from x_transformers.x_transformers import AttentionLayers

from configs.schema import FusionConfig


def make_layers(
    config: FusionConfig, *, causal: bool, depth: int | None = None, cross_attend: bool = False
) -> AttentionLayers:
    """Pre-norm layers with rotary positions and no bias in the feed-forward.

    Args:
        causal: each token sees only itself and those before it.
        depth: number of layers; None takes the fusion's.
        cross_attend: each layer also attends to a context.
    """
    stack = Decoder if causal else Encoder
    return stack(
        dim=config.width,
        depth=config.depth if depth is None else depth,
        heads=config.heads,
        cross_attend=cross_attend,
        attn_dim_head=config.head_width,
        ff_mult=config.ff_mult,
        ff_no_bias=True,
        rotary_pos_emb=True,
        rotary_emb_dim=config.rotary_width,
        attn_flash=config.flash,
        attn_dropout=config.dropout,
        ff_dropout=config.dropout,
    )
