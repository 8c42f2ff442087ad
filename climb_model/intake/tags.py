"""Values of single DICOM tags, checked as they are read."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import struct
import warnings
import zlib
from collections.abc import Generator, Sequence

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

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
)
"""What pydicom and its decoders raise on damaged files."""

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
    value = tags.get(keyword)
    if value is None:
        return ()
    parts: Sequence[object] = list(value) if isinstance(value, MultiValue) else [value]
    cleaned = ("".join(sign for sign in str(part) if sign.isprintable()).strip() for part in parts)
    return tuple(cleaned)


def number(tags: Dataset, keyword: str) -> float | None:
    """A single number, or None where the tag is missing or empty.

    Raises:
        ValueError: several numbers, or none that is finite.
    """
    value = tags.get(keyword)
    if value is None or value == "":
        return None
    if isinstance(value, MultiValue):
        raise ValueError(f"{keyword} holds {len(value)} values")
    if not math.isfinite(result := float(value)):
        raise ValueError(f"{keyword} is not finite")
    return result


def whole(tags: Dataset, keyword: str) -> int | None:
    """A single whole number, or None where the tag is missing or empty."""
    value = number(tags, keyword)
    return None if value is None else int(value)


def numbers(tags: Dataset, keyword: str, length: int) -> tuple[float, ...] | None:
    """So many finite numbers, or None where the tag holds something else."""
    value = tags.get(keyword)
    if not isinstance(value, MultiValue) or len(value) != length:
        return None
    if any(part is None or part == "" for part in value):
        return None
    result = tuple(float(part) for part in value)
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
