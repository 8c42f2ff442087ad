"""What travels between hospital and server, and how what came is checked."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from climb_model.model.climb import ClimbModel, build_model
from climb_model.sharing import (
    SharingError,
    after_reply,
    check_shared,
    is_shared,
    load_shared,
    outgoing,
    private_state,
    reply_of,
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


CHANGE = st.floats(-65504.0, 65504.0, width=32)
WEIGHT = st.floats(-1024.0, 1024.0, width=32)
PAIRS = st.lists(st.tuples(WEIGHT, CHANGE), min_size=1, max_size=8)


@given(PAIRS)
def test_float16_is_off_by_at_most_2_to_the_minus_11_of_what_a_round_changed(
    pairs: list[tuple[float, float]],
) -> None:
    """The bound that `reply_of` states, and how far the server's tensor is from what the site made of it.

    The site trains from the rounded weights; the server has the unrounded ones plus the same change.
    Subtraction and addition in float32 bring their own rounding, 2^-24 of what they give.
    """
    start = torch.tensor([weight for weight, _ in pairs])
    begin = outgoing({"w": start}, "float16", sender="the server")["w"]
    assert begin.dtype == torch.float16
    end = begin.float() + torch.tensor([change for _, change in pairs])
    change = end.double() - begin.double()
    assume(bool((change.abs() < 65504.0).all()))
    [sent] = reply_of({"w": end}, {"w": begin}, "float16", sender="site 'A'").values()
    bound = change.abs() * 2.0**-11 * (1 + 2.0**-12) + 2.0**-25
    assert ((sent.double() - change).abs() <= bound).all()
    after = after_reply(start, sent, "float16")
    assert after.dtype == torch.float32
    wanted = start.double() + change
    assert ((after.double() - wanted).abs() <= bound + after.abs().double() * 2.0**-24 + 2.0**-149).all()


@given(PAIRS)
def test_float32_travels_as_it_is(pairs: list[tuple[float, float]]) -> None:
    start, end = (torch.tensor([pair[place] for pair in pairs]) for place in (0, 1))
    assert torch.equal(outgoing({"w": start}, "float32", sender="x")["w"], start)
    sent = reply_of({"w": end}, {"w": start}, "float32", sender="x")["w"]
    assert torch.equal(after_reply(start, sent, "float32"), end)


@pytest.mark.parametrize("change", [65520.0, -1e6, math.inf, math.nan])
def test_a_change_that_float16_cannot_hold_is_refused_in_one_line(change: float) -> None:
    begin = {"w": torch.zeros(2, dtype=torch.float16)}
    with pytest.raises(SharingError) as raised:
        reply_of({"w": torch.tensor([0.0, change])}, begin, "float16", sender="site 'A'")
    assert str(raised.value) == (
        "site 'A': 'w' changed by values beyond 65504 or not finite, which float16 cannot hold; wanted: "
        "federation.payload=float32"
    )


def test_tensors_of_the_other_type_are_refused() -> None:
    model = build_model(DEBUG)
    half = {name: value.half() for name, value in shared_state(model).items()}
    load_shared(model, half, sender="the server", payload="float16")
    with pytest.raises(SharingError, match=r"as torch\.float16, expected torch\.float32"):
        load_shared(model, half, sender="the server")
    with pytest.raises(SharingError, match=r"as torch\.float32, expected torch\.float16"):
        load_shared(model, shared_state(model), sender="the server", payload="float16")
