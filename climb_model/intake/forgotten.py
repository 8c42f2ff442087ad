"""Exams that a site forgot on request, as keyed hashes: no import brings them back."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from climb_model.atomic import write_atomic
from climb_model.data.exam import DataError
from climb_model.intake.pseudonym import KEY_FILE, pseudonym, site_key

FORGOTTEN_FILE = Path("private") / "forgotten.json"
SITE_LOCK = Path("private") / "import.lock"
"""Held by whoever adds exams to a site's folder or takes some away."""

REASON = "forgotten on request"
_SIDES = ("_left", "_right")


@dataclass(frozen=True)
class _Forgotten:
    salt: str
    """Hexadecimal; stands in for the pseudonym key at a site that has none."""

    hashes: tuple[str, ...]


def is_forgotten(site_dir: Path, exam_id: str) -> bool:
    """Whether an exam, or one breast of it, is to be left out of an import.

    Args:
        exam_id: `<ID>`: true also if one breast of it was forgotten, since the native volumes hold both.
            `<ID>_left` or `<ID>_right`: true if this breast or the whole exam was.

    Raises:
        DataError: if the list or the pseudonym key cannot be used.
    """
    known = _read(site_dir)
    if not known.hashes:
        return False
    whole = whole_exam(exam_id)
    names = (whole, exam_id) if whole != exam_id else (exam_id, *(exam_id + side for side in _SIDES))
    keys = [bytes.fromhex(known.salt)] if known.salt else []
    if (site_dir / KEY_FILE).exists():
        keys.append(site_key(site_dir))
    return any(_hash(key, name) in known.hashes for key in keys for name in names)


def remember_forgotten(site_dir: Path, names: Sequence[str]) -> dict[str, str]:
    """Add names of exams or breasts to the list; those that it has already change nothing.

    The caller holds `SITE_LOCK`.

    Returns:
        Each name's keyed hash, by the site's pseudonym key or, at a site without one, by a salt of its own.

    Raises:
        DataError: if the list or the pseudonym key cannot be used.
    """
    known = _read(site_dir)
    salt = known.salt
    if (site_dir / KEY_FILE).exists():
        key = site_key(site_dir)
    else:
        salt = salt or secrets.token_hex(32)
        key = bytes.fromhex(salt)
    hashes = {name: _hash(key, name) for name in names}
    wanted = _Forgotten(salt, tuple(sorted({*known.hashes, *hashes.values()})))
    if wanted != known:
        text = json.dumps({"salt": wanted.salt, "exams": wanted.hashes}, indent=2) + "\n"
        write_atomic(site_dir / FORGOTTEN_FILE, text.encode(), mode=0o600)
    return hashes


def whole_exam(uid: str) -> str:
    """`<ID>` of `<ID>_left`, `<ID>_right` or `<ID>`."""
    for side in _SIDES:
        if uid.endswith(side):
            return uid.removesuffix(side)
    return uid


def _hash(key: bytes, name: str) -> str:
    return pseudonym(key, "forgotten", name)


def _read(site_dir: Path) -> _Forgotten:
    path = site_dir / FORGOTTEN_FILE
    if not path.exists():
        return _Forgotten("", ())
    try:
        values = json.loads(path.read_text("utf-8"))
        found = _Forgotten(str(values["salt"]), tuple(map(str, values["exams"])))
        bytes.fromhex(found.salt)
    except (ValueError, TypeError, KeyError):
        fact = "the list of forgotten exams is damaged"
        raise DataError(f"{fact} ({path}): take it from a backup", public=fact) from None
    return found
