"""The lean order of operations gives the library's results and gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from climb_model.model.layers import make_layers, run_layers
from climb_model.model.lean_layers import run_lean
from configs.load import load_settings
from configs.schema import FusionConfig

CLOSE = 1e-5
"""Relative, float32."""

CONFIGS = {
    "published": replace(load_settings("climb").model.fusion, depth=2),
    "debug": load_settings("debug").model.fusion,
    "all dimensions turned": FusionConfig(width=32, depth=1, heads=2, head_width=16, rotary_width=16),
    "wide feed-forward": FusionConfig(width=32, depth=2, heads=3, head_width=16, rotary_width=8, ff_mult=4),
}


@dataclass(frozen=True)
class Case:
    config: FusionConfig
    layers: Any
    tokens: Tensor
    present: Tensor
    index: Tensor
    context: dict[str, Tensor]

    def lean(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, dict[str, Tensor]]:
        return self._gradients(
            lambda tokens: run_lean(
                self.layers, self.config, tokens, self.present, self.index, dtype=dtype, **self.context
            )
        )

    def library(self) -> tuple[Tensor, dict[str, Tensor]]:
        names = {"context": "context", "context_present": "context_mask"}
        extra = {names[name]: value for name, value in self.context.items()}
        return self._gradients(lambda tokens: self.layers(tokens, mask=self.present, pos=self.index, **extra))

    def _gradients(self, run: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """States of rows that see a key, and the gradients of a loss on them."""
        self.layers.zero_grad()
        inputs = {"tokens": self.tokens.clone().requires_grad_()}
        if self.context:
            self.context["context"].requires_grad_()
            self.context["context"].grad = None
            inputs["context"] = self.context["context"]
        states = run(inputs["tokens"])
        weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
        (states * weights * self.present[..., None]).sum().backward()
        found = {name: value.grad.clone() for name, value in self.layers.named_parameters()}
        found |= {name: value.grad.clone() for name, value in inputs.items()}
        return (states * self.present[..., None]).detach(), found


def make_case(name: str, *, causal: bool, cross: bool, whole: bool = False) -> Case:
    config = CONFIGS[name]
    torch.manual_seed(4)
    layers = make_layers(config, causal=causal, cross_attend=cross)
    with torch.no_grad():
        for key, value in layers.named_parameters():
            if key.endswith("gamma"):
                value.uniform_(-0.3, 0.3)
    present = torch.rand(3, 13) < 0.7
    present[0] = True
    present[1, :3] = False  # causal: nothing to see for the first rows
    present[:, 5] = True
    if whole:
        present[:] = True
    index = torch.arange(13).expand(3, -1) + torch.tensor([[0], [7], [90]])
    seen = torch.rand(3, 9) < 0.7
    seen[:, 2] = True
    context = {"context": torch.randn(3, 9, config.width), "context_present": seen} if cross else {}
    return Case(config, layers, torch.randn(3, 13, config.width), present, index, context)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
def test_states_and_gradients_are_the_librarys(name: str, causal: bool, cross: bool) -> None:
    case = make_case(name, causal=causal, cross=cross)
    states, gradients = case.lean()
    wanted_states, wanted = case.library()
    assert relative(states, wanted_states) < CLOSE
    assert gradients.keys() == wanted.keys()
    for key, value in wanted.items():
        assert value.norm() > 0, key
        assert relative(gradients[key], value) < CLOSE, key


@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
def test_without_absent_tokens_it_is_the_librarys_too(causal: bool) -> None:
    case = make_case("debug", causal=causal, cross=False, whole=True)
    assert relative(case.lean()[0], case.library()[0]) < CLOSE


@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
def test_the_last_state_alone_is_the_last_of_all_with_the_same_gradients(causal: bool) -> None:
    case = make_case("published", causal=causal, cross=False)
    case.present[:, -1] = True
    found = []
    for last_only in (False, True):
        case.layers.zero_grad()
        inputs = case.tokens.clone().requires_grad_()
        states = run_layers(case.layers, case.config, inputs, case.present, case.index, last_only=last_only)
        assert states.shape[1] == (1 if last_only else case.tokens.shape[1])
        (states[:, -1] ** 3).sum().backward()
        gradients = {name: value.grad.clone() for name, value in case.layers.named_parameters()}
        found.append((states[:, -1].detach(), {**gradients, "tokens": inputs.grad}))
    assert relative(found[1][0], found[0][0]) < CLOSE
    for name, value in found[0][1].items():
        assert relative(found[1][1][name], value) < CLOSE, name


def test_bfloat16_is_near_float32_in_states_and_gradients() -> None:
    case = make_case("published", causal=False, cross=True)
    states, gradients = case.lean(torch.bfloat16)
    wanted_states, wanted = case.lean()
    assert states.dtype == torch.float32
    assert relative(states, wanted_states) < 0.01
    for key, value in wanted.items():
        assert gradients[key].dtype == torch.float32, key
        assert relative(gradients[key], value) < 0.03, key


def test_a_row_that_sees_nothing_is_finite_and_so_are_all_gradients() -> None:
    case = make_case("debug", causal=True, cross=False)
    inputs = case.tokens.clone().requires_grad_()
    states = run_layers(case.layers, case.config, inputs, case.present, case.index)
    assert torch.isfinite(states).all()
    states.square().sum().backward()
    assert inputs.grad is not None
    assert torch.isfinite(inputs.grad).all()


def test_dropout_is_left_to_the_library() -> None:
    config = replace(CONFIGS["debug"], dropout=0.5)
    layers = make_layers(config, causal=False)
    tokens, present = torch.randn(2, 4, config.width), torch.ones(2, 4, dtype=torch.bool)
    index = torch.arange(4).expand(2, -1)
    first, second = (run_layers(layers, config, tokens, present, index) for _ in range(2))
    assert not torch.equal(first, second)
