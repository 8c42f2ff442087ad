"""The digest of the code that this coordinator sends, as its kits tell it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

from flwr.cli.build import build_fab_from_disk

_INFO = ".info/"
"""Flower's own list of the files, which follows from them."""


def bundle_digest(app: Path) -> str:
    """SHA-256 over the paths and SHA-256 of the files in the bundle of a folder, as sites compute it.

    Args:
        app: folder with the `pyproject.toml` from which the bundle is made.
    """
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(app))) as archive:
        names = sorted(name for name in archive.namelist() if not name.startswith(_INFO))
        lines = [f"{name}\0{hashlib.sha256(archive.read(name)).hexdigest()}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
