"""x-transformers' layers in fewer and larger operations, for training and evaluation on a CPU.

The weights stay in the library's modules; here is only another order of the same arithmetic: queries, keys
and values in one product, one additive mask a pass, rotary pairs side by side, and a gradient of attention
that keeps one matrix. Tests hold results and gradients equal to the library's own forward pass, and
`make bench` says what it gains.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from x_transformers.x_transformers import AttentionLayers

from configs.schema import FusionConfig

HIDDEN = -1e30
"""Added to the score of a key that may not be seen. Finite: a row that sees nothing stays a number."""


def run_lean(
    layers: AttentionLayers,
    config: FusionConfig,
    tokens: Float[Tensor, "exam token dim"],
    present: Bool[Tensor, "exam token"],
    index: Int[Tensor, "exam token"],
    *,
    dtype: torch.dtype,
    context: Float[Tensor, "exam state dim"] | None = None,
    context_present: Bool[Tensor, "exam state"] | None = None,
    last_only: bool = False,
) -> Float[Tensor, "exam row dim"]:
    """`layers(tokens, mask=present, pos=index, context=context, context_mask=context_present)`.

    Equal wherever a token is present; the rows of the others are only finite.

    Args:
        dtype: of the matrix products; residuals, norms and softmax are float32 in any case.
        last_only: give the last token's state alone; the last layer then computes nothing for the others.

    Returns:
        The states, float32.
    """
    order = rotary_order(config, tokens.device)
    rotary: Any = layers.rotary_pos_emb
    angles = index[:, None, :, None] * rotary.inv_freq  # (exam, 1, token, pair)
    turn = (angles.cos().to(dtype), angles.sin().to(dtype))
    own_mask = additive_mask(present, dtype, causal=bool(layers.causal))
    context_mask = None if context_present is None else additive_mask(context_present, dtype, causal=False)
    if context is not None:
        context = context.to(dtype)
    states = tokens.float()
    kinds: Any = layers.layer_types
    modules: Any = layers.layers
    last_layer = len(kinds) - kinds[::-1].index("a") - 1
    for number, (kind, (norms, block, _)) in enumerate(zip(kinds, modules, strict=True)):
        gain = norms[0].gamma + 1.0
        normed = F.layer_norm(states, states.shape[-1:], gain).to(dtype)
        if last_only and number == last_layer:
            states = states[:, -1:]
            mixed = last_attention(block, config, order, normed, turn, own_mask)
        elif kind == "a":
            mixed = self_attention(block, config, order, normed, turn, own_mask)
        elif kind == "c":
            assert context is not None
            mixed = cross_attention(block, config, normed, context, context_mask)
        else:
            first, second = block.ff[0][0].weight.to(dtype), block.ff[2].weight.to(dtype)
            mixed = F.linear(F.gelu(F.linear(normed, first)), second)
        states = states + mixed
    final: Any = layers.final_norm
    return F.layer_norm(states, states.shape[-1:], final.gamma + 1.0)


def rotary_order(config: FusionConfig, device: torch.device) -> Int[Tensor, " heads_width"]:
    """Rows of the query and key weights with the two halves of each rotary pair side by side.

    The library turns dimensions (0, 1), (2, 3), ... of each head; a product of queries and keys does not
    see in which order they lie.
    """
    pairs = torch.arange(config.rotary_width, device=device).view(-1, 2).T.flatten()
    head = torch.cat([pairs, torch.arange(config.rotary_width, config.head_width, device=device)])
    return (torch.arange(config.heads, device=device)[:, None] * config.head_width + head).flatten()


def additive_mask(
    present: Bool[Tensor, "exam key"], dtype: torch.dtype, *, causal: bool
) -> Float[Tensor, "exam 1 query key"] | None:
    """What is added to scores so that only present keys, and with `causal` none behind, are seen."""
    num_keys = present.shape[1]
    if not causal and bool(present.all()):
        return None
    seen = present[:, None, None, :]
    if causal:
        seen = seen & torch.ones(num_keys, num_keys, dtype=torch.bool, device=present.device).tril()
    return torch.zeros(seen.shape, dtype=dtype, device=present.device).masked_fill_(~seen, HIDDEN)


def self_attention(
    block: Any,
    config: FusionConfig,
    order: Int[Tensor, " heads_width"],
    normed: Float[Tensor, "exam token dim"],
    turn: tuple[Tensor, Tensor],
    mask: Tensor | None,
) -> Float[Tensor, "exam token dim"]:
    """One self-attention block, after its norm and before its residual."""
    dtype = normed.dtype
    weight = _FusedWeight.apply(block.to_q.weight, block.to_k.weight, block.to_v.weight, order, dtype)
    heads = F.linear(normed, weight).unflatten(-1, (3, config.heads, config.head_width))
    mixed = _SelfAttention.apply(heads, *turn, mask)
    return F.linear(mixed.flatten(2), block.to_out.weight.to(dtype))


def last_attention(
    block: Any,
    config: FusionConfig,
    order: Int[Tensor, " heads_width"],
    normed: Float[Tensor, "exam token dim"],
    turn: tuple[Tensor, Tensor],
    mask: Tensor | None,
) -> Float[Tensor, "exam 1 dim"]:
    """`self_attention` of the last token only."""
    dtype, shape = normed.dtype, (config.heads, config.head_width)
    cos, sin = (wave.transpose(1, 2) for wave in turn)  # (exam, token, 1, pair)
    query = F.linear(normed[:, -1:], block.to_q.weight[order].to(dtype)).unflatten(-1, shape)
    both = torch.cat([block.to_k.weight[order], block.to_v.weight]).to(dtype)
    key, value = F.linear(normed, both).unflatten(-1, (2, *shape)).unbind(2)
    turned = torch.stack([rotate(key, cos, sin), value], dim=2)
    mask = None if mask is None else mask[:, :, -1:]
    mixed = _CrossAttention.apply(rotate(query, cos[:, -1:], sin[:, -1:]), turned, mask)
    return F.linear(mixed.flatten(2), block.to_out.weight.to(dtype))


def cross_attention(
    block: Any,
    config: FusionConfig,
    normed: Float[Tensor, "exam token dim"],
    context: Float[Tensor, "exam state dim"],
    mask: Tensor | None,
) -> Float[Tensor, "exam token dim"]:
    """One cross-attention block; neither queries nor keys are turned."""
    dtype, shape = normed.dtype, (config.heads, config.head_width)
    query = F.linear(normed, block.to_q.weight.to(dtype)).unflatten(-1, shape)
    both = torch.cat([block.to_k.weight, block.to_v.weight]).to(dtype)
    mixed = _CrossAttention.apply(query, F.linear(context, both).unflatten(-1, (2, *shape)), mask)
    return F.linear(mixed.flatten(2), block.to_out.weight.to(dtype))


class _FusedWeight(torch.autograd.Function):
    """The weights of queries, keys and values in one matrix, in `order` and in the type of the products."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, order: Tensor, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(order.argsort())
        ctx.rows = [len(query), len(key), len(value)]
        return torch.cat([query.to(dtype)[order], key.to(dtype)[order], value.to(dtype)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (back,) = ctx.saved_tensors
        query, key, value = gradients[0].float().split(ctx.rows)
        return query[back], key[back], value, None, None


class _SelfAttention(torch.autograd.Function):
    """Rotary positions (Su et al. 2021, equation 34), then attention; queries, keys and values at once."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        queries_keys, value = heads.permute(2, 0, 3, 1, 4).split([2, 1])
        query, key = rotate(queries_keys, cos, sin).unbind()
        value = value[0].contiguous()
        mixed, shares = attend(query, key, value, mask)
        ctx.save_for_backward(query, key, value, shares, cos, sin)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        query, key, value, shares, cos, sin = ctx.saved_tensors
        for_query, for_key, for_value = attend_backward(gradients[0], query, key, value, shares)
        turned = torch.cat([rotate(torch.stack([for_query, for_key]), cos, -sin), for_value[None]])
        return turned.permute(1, 3, 0, 2, 4), None, None, None


class _CrossAttention(torch.autograd.Function):
    """Attention of one sequence's queries to another's keys and values."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys_values: Tensor, mask: Tensor | None) -> Tensor:
        query = query.transpose(1, 2).contiguous()
        key, value = keys_values.permute(2, 0, 3, 1, 4).contiguous().unbind()
        mixed, shares = attend(query, key, value, mask)
        ctx.save_for_backward(query, key, value, shares)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        query, key, value, shares = ctx.saved_tensors
        for_query, for_key, for_value = attend_backward(gradients[0], query, key, value, shares)
        return for_query.transpose(1, 2), torch.stack([for_key, for_value]).permute(1, 3, 0, 2, 4), None


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + half) of each head by the angle of its position."""
    half = cos.shape[-1]
    first, second, rest = heads.split([half, half, heads.shape[-1] - 2 * half], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mixed values (exam, token, head, width) and the shares they were mixed with."""
    scores = query @ key.transpose(2, 3)
    scores = scores.mul_(query.shape[-1] ** -0.5)
    if mask is not None:
        scores += mask
    # float32: in bfloat16 a softmax over rows of odd length is slower on a CPU, and coarser
    shares = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return (shares @ value).transpose(1, 2), shares


def attend_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, shares: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from that of the mixed values."""
    gradient = gradient.transpose(1, 2)
    for_shares = gradient @ value.transpose(2, 3)
    for_scores = torch.ops.aten._softmax_backward_data(for_shares, shares, -1, shares.dtype)
    for_scores = for_scores.mul_(query.shape[-1] ** -0.5)
    return for_scores @ key, for_scores.transpose(2, 3) @ query, shares.transpose(2, 3) @ gradient
