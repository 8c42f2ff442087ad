"""The lean DINOv2 gives the class tokens of transformers' module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from climb_model.model.lean_vision import LeanDino, can_be_lean
from climb_model.model.vision import DinoEncoder
from configs.load import load_settings

CLOSE = 1e-5
"""Relative, float32."""


def make_model(**changes: Any) -> Any:
    """A small Dinov2Model whose norms and scales are no ones."""
    from transformers import Dinov2Config, Dinov2Model

    values = {
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 70,
        "patch_size": 14,
        **changes,
    }
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**values)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for value in model.parameters():
        value += 0.2 * torch.randn(value.shape, generator=generator)
    return model


def by_library(model: Any, slices: Tensor) -> Tensor:
    return model(slices[:, None].expand(-1, 3, -1, -1)).last_hidden_state[:, 0]


def slices_of(rows: int, columns: int) -> Tensor:
    return torch.randn(11, rows, columns, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("rows", "columns"), [(70, 70), (56, 84), (14, 14)])
def test_class_tokens_are_the_librarys(rows: int, columns: int) -> None:
    model, slices = make_model(), slices_of(rows, columns)
    found, wanted = LeanDino(model, torch.float32)(slices), by_library(model, slices)
    assert found.dtype == torch.float32
    assert (found - wanted).norm() <= CLOSE * wanted.norm()


def test_a_slice_does_not_see_its_neighbours() -> None:
    lean, slices = LeanDino(make_model(), torch.float32), slices_of(56, 56)
    torch.testing.assert_close(lean(slices)[3:4], lean(slices[3:4]), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_as_near_as_the_librarys_own() -> None:
    model, slices = make_model(), slices_of(56, 56)
    exact = by_library(model, slices)
    lean = LeanDino(model, torch.bfloat16)(slices)
    library = by_library(model.to(torch.bfloat16), slices.to(torch.bfloat16)).float()
    assert (lean - exact).norm() <= 1.2 * (library - exact).norm()
    assert (lean - exact).norm() <= 0.03 * exact.norm()


@pytest.mark.parametrize("changes", [{"use_swiglu_ffn": True}, {"hidden_act": "relu"}, {"qkv_bias": False}])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_other_forms_are_left_to_the_library(changes: dict[str, Any], precision: str, tmp_path: Path) -> None:
    model = make_model(**changes)
    assert not can_be_lean(model.config)
    model.save_pretrained(tmp_path / "other")
    settings = load_settings(
        "debug",
        [
            "model.vision.weights=other",
            "model.vision.width=48",
            "model.fusion.width=48",
            f"model.vision.precision={precision}",
        ],
    )
    encoder = DinoEncoder(settings.model.vision, tmp_path)
    slices = slices_of(28, 28)
    wanted = by_library(model, slices)
    assert encoder.lean is None
    assert (encoder(slices) - wanted).norm() <= (CLOSE if precision == "float32" else 0.03) * wanted.norm()


def test_the_precision_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path / "small")
    base = ["model.vision.weights=small", "model.vision.width=48", "model.fusion.width=48"]
    one, two = (
        DinoEncoder(load_settings("debug", [*base, f"model.vision.precision={kind}"]).model.vision, tmp_path)
        for kind in ("float32", "bfloat16")
    )
    assert one.fingerprint != two.fingerprint
    assert one.lean is not None
    slices = slices_of(28, 28)
    torch.testing.assert_close(one(slices), one.by_library(slices), rtol=1e-4, atol=1e-5)
    assert not torch.equal(one(slices), two(slices))
