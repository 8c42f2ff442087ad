"""Keyed pseudonyms of accession and patient numbers; the key never leaves the site."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import tempfile
from pathlib import Path

from climb_model.data.exam import DataError
from climb_model.intake.study import Study

KEY_FILE = Path("private") / "pseudonym.key"
_KEY_BYTES = 32
_ID_CHARACTERS = 20
"""80 bits: two exams of a site get the same name with a chance below 1e-12 per million exams."""
_NAMED = re.compile(rf"[0-9a-f]{{{_ID_CHARACTERS}}}")


def keyed_digest(key: bytes, *parts: str) -> str:
    """HMAC-SHA256 (RFC 2104) of the parts, as 64 hexadecimal characters.

    The same parts and key give the same digest; without the key it can neither be recomputed nor tried out.
    """
    message = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def pseudonym(key: bytes, *parts: str) -> str:
    """The first 20 hexadecimal characters of the keyed digest of the parts."""
    return keyed_digest(key, *parts)[:_ID_CHARACTERS]


def exam_id(study: Study, key: bytes) -> str:
    """The folder name of an exam: of its accession number, else of patient number and study together.

    Two studies of one patient never share a name.

    Raises:
        DataError: the study has neither.
    """
    require_number(study)
    if study.accession:
        return pseudonym(key, "accession", study.accession)
    return pseudonym(key, "patient", study.patient, study.uid)


def require_number(study: Study) -> None:
    """Refuse a study that cannot be named.

    Raises:
        DataError: neither an accession number nor a patient number.
    """
    if not study.accession and not (study.patient and study.uid):
        fact = "the DICOM files have neither an accession number nor a patient number; give an exam id"
        raise DataError(fact, public=fact)


def patient_id(patient_number: str, key: bytes) -> str:
    """The name of a patient in the site's tables: the same in all their exams.

    Raises:
        DataError: there is no patient number, so that exams of one patient could get into two splits.
    """
    if not patient_number:
        fact = "the DICOM files have no patient number, so that exams of one patient cannot be kept together"
        raise DataError(fact, public=fact)
    return pseudonym(key, "patient", patient_number)


def site_key(site_dir: Path) -> bytes:
    """The site's key; made on first use, readable by its owner only, the same in every import.

    Whoever loses it cannot give a further import the names that earlier ones got, so where `data/` holds
    exams that were named by a key, no new one is made.

    Raises:
        DataError: a key file that others can read, that is damaged, or that is missing beside such exams.
    """
    path = site_dir / KEY_FILE
    try:
        if not path.exists():
            _check_nothing_named(site_dir, path)
            _make_key(path)
        mode = path.stat().st_mode & 0o777
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        fact = f"the pseudonym key can be neither read nor made: {error.strerror}"
        raise DataError(f"{fact} ({path})", public=fact) from None
    if mode & 0o077:
        fact = f"the pseudonym key can be read by others (mode {mode:o}), wanted 600"
        raise DataError(f"{fact} ({path})", public=fact)
    if len(text) != 2 * _KEY_BYTES or set(text) - set("0123456789abcdef"):
        fact = f"the pseudonym key is damaged: wanted {2 * _KEY_BYTES} hexadecimal characters"
        raise DataError(f"{fact} ({path}); put back a copy of it", public=fact)
    return bytes.fromhex(text)


def _check_nothing_named(site_dir: Path, path: Path) -> None:
    data = site_dir / "data"
    exams = [exam for exam in data.iterdir() if _NAMED.fullmatch(exam.name)] if data.is_dir() else []
    if exams:
        fact = (
            f"the pseudonym key is missing, but {len(exams)} exams were named by it: "
            "a new one would give the same exams other names"
        )
        raise DataError(f"{fact}; put back a copy of {path}, or import into a new folder", public=fact)


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
