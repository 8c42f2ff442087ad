"""DINOv2 in fewer operations, for the slice tokens of grey images: only its class token is wanted.

The same arithmetic as transformers' `Dinov2Model` on a grey slice copied to three channels: the three
channels' patch weights are added once, queries, keys and values are one product, norm gains and layer
scales are folded into the weights beside them, and in the last block only the class token's row is
computed. A test holds it equal to the library's module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CHUNK = 8
"""Slices at once: small enough for a CPU's cache."""


def can_be_lean(config: Any) -> bool:
    """Whether a Dinov2 configuration is of the form that is rewritten here."""
    return config.hidden_act == "gelu" and not config.use_swiglu_ffn and bool(config.qkv_bias)


@dataclass(frozen=True)
class Linear:
    """Weight and bias of a product."""

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"]

    def __call__(self, values: Tensor) -> Tensor:
        return F.linear(values, self.weight, self.bias)


@dataclass(frozen=True)
class Block:
    """One transformer block's four products."""

    qkv: Linear
    out: Linear
    first: Linear
    second: Linear


class LeanDino:
    """A frozen Dinov2Model's class token of grey slices.

    Args:
        model: transformers' `Dinov2Model`, float32; not changed.
        dtype: of everything but the last norm, as in the library's model of that type.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        config = model.config
        self.heads = int(config.num_attention_heads)
        self.patch = int(config.patch_size)
        self.epsilon = float(config.layer_norm_eps)
        self.dtype = dtype
        self.embeddings = model.embeddings
        patches = model.embeddings.patch_embeddings.projection
        self.patches = Linear(
            patches.weight.detach().sum(dim=1).flatten(1).to(dtype), patches.bias.detach().to(dtype)
        )
        self.blocks = [fold(layer, dtype) for layer in model.encoder.layer]
        self.final = model.layernorm

    @torch.inference_mode()
    def __call__(self, slices: Float[Tensor, "slice row column"]) -> Float[Tensor, "slice dim"]:
        """Class tokens of z-scored grey slices, float32."""
        start, places = self.positions(*slices.shape[1:])
        tokens = [self.class_tokens(chunk, start, places) for chunk in slices.split(CHUNK)]
        return torch.cat(tokens)

    def positions(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """The class token with its position, and each patch's position, for a size of slice."""
        num_patches = rows // self.patch * (columns // self.patch)
        grid = torch.zeros(1, 1 + num_patches, self.embeddings.cls_token.shape[2])
        positions = self.embeddings.interpolate_pos_encoding(grid, rows, columns)[0]
        start = self.embeddings.cls_token[0] + positions[:1]
        return start.to(self.dtype), positions[1:].to(self.dtype)

    def class_tokens(self, slices: Tensor, start: Tensor, places: Tensor) -> Tensor:
        """The whole transformer on a few slices."""
        num_slices, rows, columns = slices.shape
        side = self.patch
        patches = slices.view(num_slices, rows // side, side, columns // side, side).transpose(2, 3)
        embedded = self.patches(patches.reshape(num_slices, -1, side * side).to(self.dtype)) + places
        states = torch.cat([start.expand(num_slices, 1, -1), embedded], dim=1)
        for number, block in enumerate(self.blocks, start=1):
            normed = self.normed(states)
            last = number == len(self.blocks)
            if last:
                states = states[:, :1]
            states = states + self.attention(block, normed, only_first=last)
            states = states + block.second(F.gelu(block.first(self.normed(states))))
        return self.final(states[:, 0].float())

    def attention(self, block: Block, normed: Tensor, *, only_first: bool) -> Tensor:
        """Attention of all tokens, or of the class token only, before the residual."""
        heads = block.qkv(normed).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query = heads[0][:, :, :1] if only_first else heads[0]
        mixed = F.scaled_dot_product_attention(query, heads[1], heads[2])
        return block.out(mixed.transpose(1, 2).flatten(2))

    def normed(self, states: Tensor) -> Tensor:
        """Layer norm without its gain, which the next product holds."""
        return F.layer_norm(states, states.shape[-1:], eps=self.epsilon)


def fold(layer: Any, dtype: torch.dtype) -> Block:
    """A block's products with the norms before and the scales behind them inside."""
    attention = layer.attention
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    qkv = Linear(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))
    out = Linear(attention.o_proj.weight, attention.o_proj.bias)
    first = Linear(layer.mlp.fc1.weight, layer.mlp.fc1.bias)
    second = Linear(layer.mlp.fc2.weight, layer.mlp.fc2.bias)
    return Block(
        qkv=behind_norm(qkv, layer.norm1, dtype),
        out=before_scale(out, layer.layer_scale1.lambda1, dtype),
        first=behind_norm(first, layer.norm2, dtype),
        second=before_scale(second, layer.layer_scale2.lambda1, dtype),
    )


def behind_norm(linear: Linear, norm: Any, dtype: torch.dtype) -> Linear:
    """A product that takes values normed without gain and offset."""
    bias = linear.bias + linear.weight @ norm.bias
    return Linear((linear.weight * norm.weight).detach().to(dtype), bias.detach().to(dtype))


def before_scale(linear: Linear, scale: Tensor, dtype: torch.dtype) -> Linear:
    """A product whose result is scaled already."""
    return Linear(
        (linear.weight * scale[:, None]).detach().to(dtype), (linear.bias * scale).detach().to(dtype)
    )
