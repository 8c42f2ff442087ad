"""The form that each word has in this program: no free text leaves in the place of a hash or a count."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import cast

from flwr.app import ConfigRecord, RecordDict

from client.egress.policy import HELLO, REFUSED
from climb_model.data.exam import SPLITS
from climb_model.made_by import LIBRARIES
from climb_model.notices import WITHHELD as NOTICES_WITHHELD
from climb_model.notices import is_known, notice
from climb_model.public_lines import WITHHELD, is_public

NOTICES = "notices"

_VERSION = re.compile(
    r"[0-9]{1,4}(\.[0-9]{1,8}){0,4}((a|b|rc)[0-9]{1,4})?(\.post[0-9]{1,4})?(\.dev[0-9]{1,8})?"
    r"(\+[a-z0-9]{1,20}(\.[a-z0-9]{1,12})?)?|unknown"
)
_HASH = re.compile(r"[0-9a-f]{0,64}")
_PART = re.compile(r"[a-z_]{1,20}")
_MAX_PARTS = 10
_MAX_COUNT = 10**9


def has_form(key: str, value: str, sequences: Collection[str]) -> bool:
    """Whether a word of the first exchange is what this program writes there; of others nothing is known.

    Args:
        sequences: names of the study's sequences.
    """
    judge = _FORMS.get(key)
    return judge is None or judge(value, sequences)


def without_free_text(
    content: RecordDict, site: str, sent: Collection[str], settings_line: str | None
) -> tuple[RecordDict, int]:
    """A reply in which every notice, and the line of a refusal, is one of this program's.

    Args:
        sent: names that the coordinator sent, which may be repeated to it.
        settings_line: what the app says to settings that are not possible; None if they are.

    Returns:
        The reply itself, or one with other words and how many were withheld.
    """
    hello, refused = content.get(HELLO), content.get(REFUSED)
    if isinstance(hello, ConfigRecord) and isinstance(hello.get(NOTICES), list):
        lines = cast(list[object], hello[NOTICES])
        known = [line for line in lines if isinstance(line, str) and is_known(line)]
        if len(known) < len(lines):
            told = [*known, notice(NOTICES_WITHHELD, len(lines) - len(known))]
            return _with(content, HELLO, hello, NOTICES, told), len(lines) - len(known)
    if isinstance(refused, ConfigRecord) and REFUSED in refused:
        line = refused[REFUSED]
        if not isinstance(line, str) or not _is_own(line, site, sent, settings_line):
            return _with(content, REFUSED, refused, REFUSED, f"site '{site}': {WITHHELD}"), 1
    return content, 0


def _with(
    content: RecordDict, name: str, record: ConfigRecord, key: str, value: str | list[str]
) -> RecordDict:
    return RecordDict({**content, name: ConfigRecord({**record, key: value})})


def _is_own(line: str, site: str, sent: Collection[str], settings_line: str | None) -> bool:
    name = f"site '{site}'"
    if settings_line is not None and line == f"{name}: {settings_line}":
        return True
    fact = line.removesuffix(f" of {name}")
    for before in (f"{name}: ", f"{name} ", "a site "):
        if fact.startswith(before):
            fact = fact.removeprefix(before)
            break
    return is_public(fact, sent)


def _object(value: str) -> dict[str, object]:
    """A JSON object; an empty one if the text is none, or is written in another way than this program's."""
    try:
        parsed: object = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(parsed, dict) or json.dumps(parsed, ensure_ascii=False) != value:
        return {}
    return cast(dict[str, object], parsed)


def _is_version(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 40 and _VERSION.fullmatch(value) is not None


def _are_versions(value: str, _: Collection[str]) -> bool:
    versions = _object(value)
    return (
        bool(versions)
        and set(versions) <= {"python", *LIBRARIES}
        and all(map(_is_version, versions.values()))
    )


def _are_hashes(value: str, _: Collection[str]) -> bool:
    parts = _object(value)
    return 0 < len(parts) <= _MAX_PARTS and all(
        _PART.fullmatch(name) and isinstance(digest, str) and _HASH.fullmatch(digest)
        for name, digest in parts.items()
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_COUNT


def _are_counts(values: object, names: Collection[str]) -> bool:
    if not isinstance(values, dict):
        return False
    counts = cast(Mapping[str, object], values)
    return set(counts) <= set(names) and all(map(_is_count, counts.values()))


def _is_summary(value: str, sequences: Collection[str]) -> bool:
    """As `client.summary.data_summary` makes it."""
    summary = _object(value)
    splits = summary.get("splits")
    return (
        set(summary) == {"splits", "lacking", "left_out"}
        and isinstance(splits, dict)
        and set(cast(Mapping[str, object], splits)) <= set(SPLITS)
        and all(
            _are_counts(each, ("exams", "patients")) for each in cast(Mapping[str, object], splits).values()
        )
        and _are_counts(summary["lacking"], sequences)
        and _is_count(summary["left_out"])
    )


_FORMS: Mapping[str, Callable[[str, Collection[str]], bool]] = {
    "version": lambda value, _: _is_version(value),
    "versions": _are_versions,
    "fingerprint": _are_hashes,
    "settings": lambda value, _: _HASH.fullmatch(value) is not None,
    "summary": _is_summary,
}
