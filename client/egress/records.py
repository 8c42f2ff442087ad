"""What a reply holds, read byte by byte: nothing of it is believed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from climb_model.npy import values_of

ARRAYS, NUMBERS, WORDS = "tensors", "numbers", "words"
"""Kinds of records."""

_NUMBER_BYTES = 8
MAX_DIMENSIONS = 32
"""Of a tensor that can be read; NumPy takes no more."""


@dataclass(frozen=True)
class Tensor:
    """One tensor that wants to leave."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int
    norm: float | None
    """Euclidean; None if the bytes are no plain array of the announced shape and type."""

    sha256: str
    """Of its bytes, as they leave."""


@dataclass(frozen=True)
class Reading:
    """What a reply holds."""

    records: Mapping[str, str]
    """Name of each record to its kind."""

    tensors: tuple[Tensor, ...]
    numbers: Mapping[str, object] = field(repr=False)
    words: Mapping[str, object] = field(repr=False)
    num_bytes: int
    """Of tensors, numbers and words as they leave, with their names."""


def unread() -> Reading:
    """What is known of a reply that cannot be read: nothing."""
    return Reading({}, (), {}, {}, 0)


def read_reply(content: RecordDict) -> Reading:
    """Read all records of a reply once; each tensor's norm and digest are computed."""
    kinds: dict[str, str] = {}
    tensors: list[Tensor] = []
    numbers: dict[str, object] = {}
    words: dict[str, object] = {}
    num_bytes = 0
    for name, record in content.items():
        num_bytes += len(name.encode())
        if isinstance(record, ArrayRecord):
            kinds[name] = ARRAYS
            tensors += [read_tensor(key, array) for key, array in record.items()]
        elif isinstance(record, MetricRecord):
            kinds[name] = NUMBERS
            numbers |= record
        else:
            kinds[name] = WORDS
            words |= record
    num_bytes += sum(len(each.name.encode()) + each.num_bytes for each in tensors)
    num_bytes += sum(len(key.encode()) + _size(value) for key, value in (*numbers.items(), *words.items()))
    return Reading(kinds, tuple(tensors), numbers, words, num_bytes)


def read_tensor(name: str, array: Array) -> Tensor:
    """A tensor's facts. Bytes that NumPy would not have written for its shape and type have no norm."""
    shape = tuple(array.shape)
    described = len(array.dtype.encode()) + len(array.stype.encode()) + _NUMBER_BYTES * len(shape)
    values = values_of(array.data, array.dtype, shape) if array.stype == "numpy.ndarray" else None
    norm = None if values is None else float(np.linalg.norm(values.astype(np.float64)))
    return Tensor(
        name=name,
        shape=shape,
        dtype=array.dtype,
        num_bytes=len(array.data) + described,
        norm=norm,
        sha256=hashlib.sha256(array.data).hexdigest(),
    )


def agreed_shapes(request: RecordDict) -> dict[str, tuple[int, ...]]:
    """Name to shape of each tensor of a request: what its reply may answer with."""
    return {
        name: tuple(array.shape)
        for record in request.array_records.values()
        for name, array in record.items()
    }


def _size(value: object) -> int:
    """Bytes of a number, a word, or a list of them."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, list):
        return sum(map(_size, value))
    return _NUMBER_BYTES
