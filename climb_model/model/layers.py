"""The transformer stacks of CLIMB, as x-transformers builds them from the fusion's settings."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from x_transformers import Decoder, Encoder
from x_transformers.x_transformers import AttentionLayers

from climb_model.model.lean_layers import run_lean
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


def run_layers(
    layers: AttentionLayers,
    config: FusionConfig,
    tokens: Float[Tensor, "exam token dim"],
    present: Bool[Tensor, "exam token"],
    index: Int[Tensor, "exam token"],
    *,
    context: Float[Tensor, "exam state dim"] | None = None,
    context_present: Bool[Tensor, "exam state"] | None = None,
    last_only: bool = False,
) -> Float[Tensor, "exam row dim"]:
    """States of the present tokens; the others are hidden from them, and their own rows mean nothing.

    On a CPU without dropout in the leaner order of `lean_layers`, else by the library's own pass.

    Args:
        layers: as `make_layers` gave them.
        tokens: finite, also where not present.
        index: rotary position of each token.
        context: what layers that cross-attend attend to.
        context_present: True where a state of the context may be seen.
        last_only: give the last token's state alone.
    """
    if tokens.device.type == "cpu" and not config.dropout:
        mixed = torch.is_autocast_enabled("cpu")
        run = partial(run_lean, dtype=torch.get_autocast_dtype("cpu") if mixed else tokens.dtype)
    else:
        run = run_library
    return run(
        layers,
        config,
        tokens,
        present,
        index,
        context=context,
        context_present=context_present,
        last_only=last_only,
    )


def run_library(
    layers: AttentionLayers,
    config: FusionConfig,
    tokens: Float[Tensor, "exam token dim"],
    present: Bool[Tensor, "exam token"],
    index: Int[Tensor, "exam token"],
    *,
    context: Float[Tensor, "exam state dim"] | None = None,
    context_present: Bool[Tensor, "exam state"] | None = None,
    last_only: bool = False,
) -> Float[Tensor, "exam row dim"]:
    """`run_layers` by the library's own forward pass."""
    del config
    extra = {} if context is None else {"context": context, "context_mask": context_present}
    states = layers(tokens, mask=present, pos=index, **extra)
    return states[:, -1:] if last_only else states
