"""Keyed pseudonyms of accession and patient numbers; the key never leaves the site."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from climb_model.data.exam import DataError

KEY_FILE = Path("private") / "pseudonym.key"
_KEY_BYTES = 32
_ID_CHARACTERS = 20
"""80 bits: two exams of a site get the same name with a chance below 1e-12 per million exams."""


def pseudonym(key: bytes, *parts: str) -> str:
    """HMAC-SHA256 (RFC 2104) of the parts, as 20 hexadecimal characters.

    The same parts and key give the same name; without the key it can neither be recomputed nor tried out.
    """
    message = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:_ID_CHARACTERS]


def site_key(site_dir: Path) -> bytes:
    """The site's key; made on first use, readable by its owner only.

    Whoever loses it cannot give a further import the names that earlier ones got.

    Raises:
        DataError: a key file that others can read, or that is damaged.
    """
    path = site_dir / KEY_FILE
    if not path.exists():
        _make_key(path)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        fact = f"the pseudonym key can be read by others (mode {mode:o}), wanted 600"
        raise DataError(f"{fact} ({path})", public=fact)
    text = path.read_text(encoding="ascii", errors="replace").strip()
    if len(text) != 2 * _KEY_BYTES or set(text) - set("0123456789abcdef"):
        fact = f"the pseudonym key is damaged: wanted {2 * _KEY_BYTES} hexadecimal characters"
        raise DataError(f"{fact} ({path})", public=fact)
    return bytes.fromhex(text)


def _make_key(path: Path) -> None:
    """Write a whole key under its name, or leave the one that another process made meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 600
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if not path.exists():
            os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(draft)
