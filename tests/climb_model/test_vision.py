"""Slice tokens by DINOv2: the library's class token, in the precision that the settings name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from climb_model.model.vision import DinoEncoder
from configs.load import load_settings


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random Dinov2Model named `small`."""
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=70, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder / "small")
    return folder


def encoder(weights: Path, precision: str) -> DinoEncoder:
    names = ["model.vision.weights=small", "model.vision.width=48", "model.fusion.width=48"]
    settings = load_settings("debug", [*names, f"model.vision.precision={precision}"])
    return DinoEncoder(settings.model.vision, weights)


def slices_of(rows: int, columns: int) -> Tensor:
    return torch.randn(11, rows, columns, generator=torch.Generator().manual_seed(2))


def test_tokens_are_the_class_tokens_of_grey_in_three_channels(weights: Path) -> None:
    found = encoder(weights, "float32")
    slices = slices_of(56, 84)
    with torch.no_grad():
        wanted = found.model(slices[:, None].expand(-1, 3, -1, -1)).last_hidden_state[:, 0]
    torch.testing.assert_close(found(slices), wanted, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_near_float32_and_given_as_float32(weights: Path) -> None:
    slices = slices_of(56, 56)
    exact, low = encoder(weights, "float32")(slices), encoder(weights, "bfloat16")(slices)
    assert low.dtype == torch.float32
    assert 0 < (low - exact).norm() <= 0.03 * exact.norm()


def test_the_precision_is_part_of_the_fingerprint(weights: Path) -> None:
    assert encoder(weights, "float32").fingerprint != encoder(weights, "bfloat16").fingerprint
