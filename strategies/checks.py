"""What a hospital's reply must be before any strategy sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from climb_model.npy import values_of
from climb_model.sharing import (
    REFUSAL,
    TRAIN_METRICS,
    SharingError,
    after_reply,
    check_shared,
)
from configs.errors import UserError

ARRAYS, METRICS, CONFIG, REFUSED = "arrays", "metrics", "config", REFUSAL
"""Names of the records of a message. A reply has the first two, or only the last."""

MAX_STEPS = 1_000_000
"""Most local steps a reply may claim; the global step, and so the learning rate, follows them."""

MAX_LINE = 300


@dataclass(frozen=True)
class Limits:
    """What a reply may claim; from the `federation` section of the settings."""

    max_exams: int
    max_update_norm: float
    """Euclidean, over all shared tensors, from the round's start."""

    payload: str = "float32"
    """As `federation.payload`: what a reply's tensors are."""


@dataclass(frozen=True)
class Rejected:
    """A reply that no strategy gets to see, and why, in one line without identifiers."""

    site: str
    reason: str


@dataclass(frozen=True)
class TrainFacts:
    """The numbers of a sound training reply."""

    exams: int
    steps: int
    loss: float
    seconds: float


class WorkerDied(UserError):
    """A simulation that has lost a worker."""


class UnsoundReply(ValueError):
    """A reply that is not what was agreed; one line."""


def check_train_reply(
    message: Message, *, site: str, start: Mapping[str, Tensor], limits: Limits
) -> TrainFacts | Rejected:
    """Judge one reply against the state its round began with.

    A sound reply carries exactly the shared tensors (names, shapes, the agreed type, finite, not further
    from the start than the limit) and exactly the agreed numbers (exams in 1..limit, steps, a
    finite loss, seconds); nothing else.

    Args:
        start: the server's shared tensors, float32, that the round began with.

    Raises:
        WorkerDied: see `failure`.
    """
    if message.has_error():
        return Rejected(site, f"site '{site}' failed ({failure(message)})")
    try:
        content = message.content
        refusal = refusal_line(content)
        if refusal is not None:
            return Rejected(site, refusal)
        foreign = sorted(set(content) - {ARRAYS, METRICS})
        if foreign:
            raise UnsoundReply(f"site '{site}' sent a record {clean(foreign[0])!r} that is not agreed")
        arrays, metrics = content.get(ARRAYS), content.get(METRICS)
        if not isinstance(arrays, ArrayRecord) or not isinstance(metrics, MetricRecord):
            raise UnsoundReply(f"site '{site}' did not send both shared tensors and training numbers")
        facts = _facts(metrics, site, limits)
        _check_update(arrays, site, start, limits)
    except (UnsoundReply, SharingError) as error:
        return Rejected(site, str(error))
    return facts


def refusal_line(content: RecordDict) -> str | None:
    """The line of a site that says it cannot take part, or None if this is no refusal."""
    if set(content) != {REFUSED}:
        return None
    line = content[REFUSED].get(REFUSAL)
    return clean(line) if isinstance(line, str) and line else "the site refused without a reason"


def failure(message: Message) -> str:
    """What kind of failure an error reply reports; never its text, which may quote a hospital's paths.

    Raises:
        WorkerDied: if Flower's simulation lost the worker; everything sent to it from now on would fail.
    """
    if "ActorDiedError" in (message.error.reason or ""):
        raise WorkerDied(
            "a worker process of Flower's simulation died (crash or out of memory) and is not replaced; "
            "go on with --resume"
        )
    return f"Flower error {message.error.code}"


def clean(text: str) -> str:
    """A peer's text on one short line without control characters."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 3]}..."


def restored(arrays: ArrayRecord, start: Mapping[str, Tensor], payload: str, *, sender: str) -> ArrayRecord:
    """The float32 tensors that a sound reply stands for: what every strategy of Flower expects."""
    if payload == "float32":
        return arrays
    tensors = {
        name: decode(arrays[name], name=name, shape=tuple(before.shape), sender=sender, payload=payload)
        for name, before in start.items()
    }
    return ArrayRecord(
        {name: Array(after_reply(start[name], value, payload).numpy()) for name, value in tensors.items()}
    )


def decode(
    array: Array, *, name: str, shape: tuple[int, ...], sender: str, payload: str = "float32"
) -> Tensor:
    """A tensor of the payload's type from a peer's bytes, which are believed in nothing.

    The announced shape and type, the size of the bytes and their header are compared with what is wanted;
    nothing is parsed.

    Raises:
        SharingError: if it is not a tensor of that type and shape.
    """
    if array.dtype != payload or array.stype != "numpy.ndarray":
        raise SharingError(f"{sender} sent '{name}' as {clean(str(array.dtype))}, expected {payload}")
    if tuple(array.shape) != shape:
        raise SharingError(
            f"{sender} sent '{name}' with shape {clean(str(tuple(array.shape)))}, expected {shape}"
        )
    value = values_of(array.data, payload, shape)
    if value is None:
        raise SharingError(
            f"{sender} sent '{name}' in {len(array.data)} bytes that are not NumPy's of a {payload} array of "
            f"shape {shape}"
        )
    return torch.from_numpy(np.array(value, order="C"))


def _facts(metrics: MetricRecord, site: str, limits: Limits) -> TrainFacts:
    sent, agreed = set(metrics), set(TRAIN_METRICS)
    if sent - agreed:
        raise UnsoundReply(
            f"site '{site}' sent the number '{clean(min(sent - agreed))}', which is not agreed"
        )
    if agreed - sent:
        raise UnsoundReply(f"site '{site}' did not send the number '{min(agreed - sent)}'")
    exams = _whole(metrics["num-examples"], "num-examples", site, limits.max_exams)
    steps = _whole(metrics["num-steps"], "num-steps", site, MAX_STEPS)
    loss, seconds = metrics["loss"], metrics["seconds"]
    if not isinstance(loss, float) or not math.isfinite(loss):
        raise UnsoundReply(f"site '{site}' sent loss {clean(repr(loss))}, expected a finite number")
    if not isinstance(seconds, float) or not (math.isfinite(seconds) and seconds >= 0):
        raise UnsoundReply(f"site '{site}' sent seconds {clean(repr(seconds))}, expected a number >= 0")
    return TrainFacts(exams, steps, loss, seconds)


def _whole(value: object, name: str, site: str, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise UnsoundReply(
            f"site '{site}' sent {name} {clean(repr(value))}, expected a whole number from 1 to {most}"
        )
    return value


def _check_update(arrays: ArrayRecord, site: str, start: Mapping[str, Tensor], limits: Limits) -> None:
    """One tensor at a time, so that checking costs no second copy of the model."""
    sender = f"site '{site}'"
    for name in arrays:
        if name not in start:
            raise SharingError(f"{sender} sent '{clean(name)}', which is not shared")
    squares = 0.0
    for name, before in start.items():
        if name not in arrays:
            raise SharingError(f"{sender} did not send '{name}', which is shared")
        shape = tuple(before.shape)
        value = decode(arrays[name], name=name, shape=shape, sender=sender, payload=limits.payload)
        check_shared({name: value}, {name: shape}, sender=sender, payload=limits.payload)
        after = after_reply(before.double(), value.double(), limits.payload)
        squares += float((after - before.double()).square().sum())
    norm = math.sqrt(squares)
    if norm > limits.max_update_norm:
        raise UnsoundReply(
            f"{sender} sent an update of norm {norm:.4g}, expected at most {limits.max_update_norm:g}"
        )
