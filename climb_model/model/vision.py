"""Frozen slice encoders: one grey slice in, one token out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from climb_model.data.exam import DataError
from climb_model.model.filters import FilterBank
from climb_model.model.weights import fingerprint, load_failure, show_loading_bars, weights_source
from configs.schema import BUILTIN_FILTERS, DataConfig, VisionConfig

DINO_FILES = ("config.json", "model.safetensors")
CHUNK = 8
"""Slices encoded at once on a CPU; small chunks stay in the cache."""
GPU_CHUNK = 96
"""Slices encoded at once on a GPU: one exam."""


@runtime_checkable
class SliceEncoder(Protocol):
    """A frozen encoder. Each slice is encoded for itself."""

    fingerprint: str

    def __call__(self, slices: Float[Tensor, "slice row column"]) -> Float[Tensor, "slice dim"]:
        """Tokens of z-scored grey slices, float32."""
        ...


class DinoEncoder:
    """DINOv2's class token (Oquab et al. 2023) of grey copied to three channels, no ImageNet statistics."""

    def __init__(
        self, config: VisionConfig, weights: Path | None, device: torch.device | None = None
    ) -> None:
        from transformers import Dinov2Model  # takes seconds to import; the demo does without

        source = weights_source(config.weights, weights, DINO_FILES)
        show_loading_bars(shown=weights is None)
        try:
            # eager loading in float32: transformers keeps a stored float16, slow and coarse on a CPU
            loaded: Any = Dinov2Model.from_pretrained(
                source, dtype=torch.float32, local_files_only=weights is not None, output_loading_info=True
            )
            model, loading = loaded
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise load_failure(config.weights, error) from None
        lost = sorted(loading["missing_keys"])
        if lost:
            raise DataError(
                f"weights: '{config.weights}' lacks {len(lost)} tensors, first '{lost[0]}'",
                f"weights of '{config.weights}' are incomplete",
            )
        if model.config.hidden_size != config.width:
            raise DataError(
                f"weights: '{config.weights}' gives tokens of width {model.config.hidden_size}, "
                f"model.vision.width is {config.width}",
                f"weights of '{config.weights}' have another width",
            )
        self.model = model.eval().requires_grad_(False)
        self.patch = int(model.config.patch_size)
        self.fingerprint = fingerprint(
            self.model.state_dict(), {"encoder": "dinov2", "channels": 3, "compute": config.precision}
        )
        self.device = device or torch.device("cpu")
        dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
        self.model.to(self.device, dtype)

    @torch.inference_mode()
    def __call__(self, slices: Float[Tensor, "slice row column"]) -> Float[Tensor, "slice dim"]:
        if slices.shape[1] % self.patch or slices.shape[2] % self.patch:
            raise ValueError(
                f"DINOv2 wants rows and columns that are multiples of {self.patch}, "
                f"got {tuple(slices.shape[1:])}"
            )
        tokens: list[Tensor] = []
        for chunk in slices.split(CHUNK if self.device.type == "cpu" else GPU_CHUNK):
            pixels = chunk.to(self.device, self.model.dtype)[:, None].expand(-1, 3, -1, -1)
            tokens.append(self.model(pixels).last_hidden_state[:, 0])
        return torch.cat(tokens).float().cpu()


class FilterEncoder:
    """The demo's encoder: a fixed bank of blob, ridge and texture filters, pooled. Nothing is learned."""

    def __init__(self, config: VisionConfig, data: DataConfig) -> None:
        self.bank = FilterBank(width=config.width, pixel_mm=data.spacing_mm[1])
        self.fingerprint = fingerprint(self.bank.state_dict(), {"encoder": BUILTIN_FILTERS})

    @torch.inference_mode()
    def __call__(self, slices: Float[Tensor, "slice row column"]) -> Float[Tensor, "slice dim"]:
        return self.bank(slices)


def load_vision(
    config: VisionConfig, data: DataConfig, weights: Path | None, device: torch.device | None = None
) -> SliceEncoder:
    """The encoder that the settings name; there is no fallback to another one.

    Args:
        device: where DINOv2 runs; None is the CPU, where the filters run in any case.
    """
    if config.weights == BUILTIN_FILTERS:
        return FilterEncoder(config, data)
    return DinoEncoder(config, weights, device)
