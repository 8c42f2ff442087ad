"""The code that this coordinator sends: its digest, as kits tell it, and a folder that holds nothing else."""

from __future__ import annotations

import hashlib
import io
import tempfile
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from flwr.cli.build import build_fab_from_files

from climb_model.bundle_files import bundle_candidates

_INFO = ".info/"
"""Flower's own list of the files, which follows from them."""


def bundle_digest(app: Path) -> str:
    """SHA-256 over the paths and SHA-256 of the files in the bundle of a folder, as sites compute it.

    Args:
        app: folder with the `pyproject.toml` from which the bundle is made.
    """
    lines = [f"{name}\0{hashlib.sha256(data).hexdigest()}\n" for name, data in sorted(_contents(app).items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def staged(app: Path, beside: Path) -> Generator[Path]:
    """A folder with the files of the bundle of `app` and no others, while the block runs.

    Flower bundles it without a look at the rest of a checkout, and gets the same bundle.

    Args:
        beside: an existing folder, in which it is made.
    """
    with tempfile.TemporaryDirectory(dir=beside, prefix="bundle-") as folder:
        for name, data in _contents(app).items():
            file = Path(folder) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        yield Path(folder)


def _contents(app: Path) -> dict[str, bytes]:
    """Path to bytes of each file in the bundle."""
    fab, _ = build_fab_from_files(bundle_candidates(app))
    with zipfile.ZipFile(io.BytesIO(fab)) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.startswith(_INFO)}
