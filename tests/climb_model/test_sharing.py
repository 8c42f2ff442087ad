"""What travels between hospital and server, and how what came is checked."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from climb_model.model.climb import ClimbModel, build_model
from climb_model.sharing import (
    SharingError,
    check_shared,
    is_shared,
    load_shared,
    private_state,
    shared_spec,
    shared_state,
)
from configs.load import load_settings

DEBUG = load_settings("debug")
POSITIONS = "slice_positions.weight"
Tensors = dict[str, Tensor]


class WithGenerator(ClimbModel):
    """A model with a part that must stay at the site."""

    def __init__(self) -> None:
        super().__init__(DEBUG)
        self.generator = nn.Linear(4, 4)


def test_every_parameter_of_the_contrastive_model_is_shared() -> None:
    model = build_model(DEBUG)
    assert set(shared_spec(model)) == {name for name, _ in model.named_parameters()}
    assert list(shared_spec(model)) == sorted(shared_spec(model))
    assert list(shared_state(model)) == list(shared_spec(model))
    assert private_state(model) == {}


def test_a_parameter_that_is_not_listed_stays_at_the_site() -> None:
    model = WithGenerator()
    private = {"generator.weight", "generator.bias"}
    assert not private & set(shared_spec(model))
    assert not private & set(shared_state(model))
    assert set(private_state(model)) == private
    assert not any(is_shared(name) for name in (*private, "my.fusion.weight", "fusions.weight", ""))
    arrived = {name: value + 1 for name, value in shared_state(model).items()}
    before = {name: value.clone() for name, value in private_state(model).items()}
    load_shared(model, arrived, sender="the server")
    assert all(torch.equal(before[name], value) for name, value in private_state(model).items())
    with pytest.raises(SharingError, match=r"sent 'generator\.bias', which is not shared"):
        load_shared(model, {**arrived, "generator.bias": torch.zeros(4)}, sender="the server")


def test_what_is_sent_arrives_to_the_last_bit() -> None:
    sender, receiver = build_model(DEBUG), build_model(load_settings("debug", ["seed=1"]))
    sent = shared_state(sender)
    load_shared(receiver, sent, sender="site 'A'")
    assert all(torch.equal(value, shared_state(receiver)[name]) for name, value in sent.items())
    assert {value.dtype for value in sent.values()} == {torch.float32}


def test_sent_tensors_are_copies() -> None:
    model = build_model(DEBUG)
    sent = shared_state(model)
    sent[POSITIONS].zero_()
    assert shared_state(model)[POSITIONS].any()
    assert not any(value.requires_grad for value in sent.values())


def without(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if name != POSITIONS}


def changed(value: Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, POSITIONS: value}


def spoilt(number: float) -> Tensor:
    value = torch.zeros(192, 64)
    value[7, 3] = number
    return value


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without, f"site 'B' did not send '{POSITIONS}', which is shared"),
        (lambda tensors: {**tensors, "more": torch.zeros(1)}, "site 'B' sent 'more', which is not shared"),
        (
            changed(torch.zeros(64, 192)),
            f"site 'B' sent '{POSITIONS}' with shape (64, 192), expected (192, 64)",
        ),
        (
            changed(torch.zeros(192, 64).half()),
            f"site 'B' sent '{POSITIONS}' as torch.float16, expected torch.float32",
        ),
        (
            changed(torch.zeros(192, 64).double()),
            f"site 'B' sent '{POSITIONS}' as torch.float64, expected torch.float32",
        ),
        (changed(spoilt(math.nan)), f"site 'B' sent '{POSITIONS}' with values that are not finite"),
        (changed(spoilt(-math.inf)), f"site 'B' sent '{POSITIONS}' with values that are not finite"),
    ],
)
def test_a_reply_that_is_not_what_was_agreed_is_refused_in_one_line(
    spoil: Callable[[Tensors], Tensors], message: str
) -> None:
    model = build_model(DEBUG)
    before = shared_state(model)
    arrived = spoil({name: value + 1 for name, value in before.items()})
    with pytest.raises(SharingError) as caught:
        load_shared(model, arrived, sender="site 'B'")
    assert str(caught.value) == message
    assert all(
        torch.equal(value, shared_state(model)[name]) for name, value in before.items()
    )  # nothing was loaded


def test_agreed_tensors_pass() -> None:
    model = build_model(DEBUG)
    check_shared(shared_state(model), shared_spec(model), sender="site 'A'")
