"""Names and types of all settings, and the nearest to a misspelt one."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from functools import cache
from typing import get_args, get_type_hints

from configs.schema import Settings

_SINGLE = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_SEVERAL = {float: "numbers", str: "texts"}


@cache
def known_keys() -> dict[str, object]:
    """Full key, such as `model.fusion.width`, to its type; in the order of the schema."""
    return dict(_keys_of(Settings, ""))


def _keys_of(section: type, prefix: str) -> Iterable[tuple[str, object]]:
    for name, kind in get_type_hints(section).items():
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield from _keys_of(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind


def wanted(key: str) -> str:
    """What a value of this key must be, in words: `a whole number`, `a list of 3 numbers`."""
    kind = known_keys()[key]
    if isinstance(kind, type) and kind in _SINGLE:
        return _SINGLE[kind]
    items = get_args(kind)
    several = _SEVERAL[items[0]]
    return f"a list of {several}" if items[-1] is Ellipsis else f"a list of {len(items)} {several}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The most similar of some names, or None if none is similar."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return close[0] if close else None


def nearest_key(name: str, section: str) -> str | None:
    """The known key that a misspelt `name` in a section (empty: the top level) may have meant.

    First the section's own names are compared, then every other name, which is then given in full:
    `batch_size` at the top level gives `training.batch_size`, and `fusion` gives `model.fusion`.
    """
    prefix = f"{section}." if section else ""
    siblings = [key[len(prefix) :].split(".")[0] for key in known_keys() if key.startswith(prefix)]
    close = nearest(name, siblings)
    if close:
        return close
    elsewhere: dict[str, str] = {}
    for key in known_keys():
        parts = key.split(".")
        elsewhere |= {part: ".".join(parts[: depth + 1]) for depth, part in enumerate(parts)}
    far = nearest(name.rsplit(".", 1)[-1], elsewhere)
    return elsewhere[far] if far else None
