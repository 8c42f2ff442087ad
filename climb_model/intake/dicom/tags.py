"""Values of single DICOM tags, checked as they are read."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import re
import struct
import warnings
import zlib
from collections.abc import Generator
from typing import cast

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

READ_FAULTS = (
    EOFError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    MemoryError,
    AssertionError,
    struct.error,
    zlib.error,
    BytesLengthException,
    InvalidDicomError,
)
"""What pydicom and its decoders raise on damaged files."""

_BINARY = {"US": "H", "UL": "L", "FD": "d", "FL": "f"}
_ASCII = {"DS", "IS", "CS", "UI", "DA", "TM", "DT", "AS"}
_DAY_S = 24 * 3600
_TIME = re.compile(r"(\d{2}):?(\d{2})?:?(\d{2}(?:\.\d{0,6})?)?")


@contextlib.contextmanager
def silent_pydicom() -> Generator[None]:
    """Keep pydicom's warnings and log lines back: they quote the tags they complain of."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def text(tags: Dataset, keyword: str) -> str:
    """The printable characters of a tag, several values joined by a backslash; empty where it is missing."""
    return "\\".join(texts(tags, keyword))


def texts(tags: Dataset, keyword: str) -> tuple[str, ...]:
    """The values of a tag as `text`."""
    return tuple(
        "".join(sign for sign in str(part) if sign.isprintable()).strip() for part in _parts(tags, keyword)
    )


def number(tags: Dataset, keyword: str) -> float | None:
    """A single number, or None where the tag is missing or empty.

    Raises:
        ValueError: several numbers, or none that is finite.
    """
    parts = _parts(tags, keyword)
    if len(parts) > 1:
        raise ValueError(f"{keyword} holds {len(parts)} values")
    for part in parts:
        if part != "":
            if not math.isfinite(result := _as_float(part)):
                raise ValueError(f"{keyword} is not finite")
            return result
    return None


def whole(tags: Dataset, keyword: str) -> int | None:
    """A single whole number, or None where the tag is missing or empty."""
    value = number(tags, keyword)
    return None if value is None else int(value)


def numbers(tags: Dataset, keyword: str, length: int) -> tuple[float, ...] | None:
    """So many finite numbers, or None where the tag holds something else."""
    parts = _parts(tags, keyword)
    if len(parts) != length or any(part is None or part == "" for part in parts):
        return None
    result = tuple(map(_as_float, parts))
    return result if all(map(math.isfinite, result)) else None


def seconds(tags: Dataset, date_and_time: str, time: str = "") -> float | None:
    """Seconds since midnight of a tag with date and time (DT), else of one with a time (TM)."""
    for keyword, skip in ((date_and_time, 8), (time, 0)):
        found = _TIME.match(text(tags, keyword)[skip:]) if keyword else None
        if found:
            hours, minutes, rest = (float(part or 0) for part in found.groups())
            total = 3600 * hours + 60 * minutes + rest
            return total if total < _DAY_S else None
    return None


def first_item(tags: Dataset, keyword: str) -> Dataset | None:
    """The first item of a sequence, or None where it is missing or empty."""
    tag, _ = _tag(keyword)
    return tags[tag].value[0] if tag in tags and tags[tag].value else None


@functools.cache
def _tag(keyword: str) -> tuple[BaseTag, str]:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return BaseTag(tag), dictionary_VR(tag)


def _parts(tags: Dataset, keyword: str) -> tuple[object, ...]:
    """The values of a tag; plain ones without pydicom's conversion, which takes most of a header's time."""
    tag, kind = _tag(keyword)
    if tag not in tags:
        return ()
    element = tags.get_item(tag)
    if isinstance(element, RawDataElement) and element.VR in (None, kind):
        packed = element.value or b""
        if kind in _BINARY:
            code = f"{'<' if element.is_little_endian else '>'}{_BINARY[kind]}"
            return tuple(value for (value,) in struct.iter_unpack(code, packed))
        if kind in _ASCII:
            return tuple(part.strip(" \0") for part in packed.decode("ascii").split("\\")) if packed else ()
    value: object = tags[tag].value
    if isinstance(value, MultiValue):
        return tuple(cast(MultiValue[object], value))
    return () if value is None else (value,)


def _as_float(value: object) -> float:
    if isinstance(value, str | int | float):
        return float(value)
    raise TypeError(f"wanted a number, got {type(value).__name__}")
