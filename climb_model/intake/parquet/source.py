"""What a site's folder was made of: its institution, and the image of each row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from climb_model.atomic import write_text_atomic
from climb_model.data.exam import DataError
from climb_model.data.tables import folded
from climb_model.intake.parquet.cells import array_of, nifti_of
from climb_model.intake.parquet.rows import AFFINE, IMAGE, first_image
from climb_model.intake.reports.site_tables import FOLDER
from climb_model.intake.study import SeriesError

SOURCE = "source.json"
"""Beside the tables: `{"institution": name}`, of a site whose exams came as parquet."""


def claim(site_dir: Path, institution: str) -> None:
    """Note whose rows the site's folder holds. The caller holds its lock.

    Raises:
        DataError: it holds another institution's, or the note is damaged.
    """
    path = site_dir / FOLDER / SOURCE
    if not path.exists():
        write_text_atomic(path, json.dumps({"institution": institution}) + "\n")
        return
    try:
        there = str(json.loads(path.read_text("utf-8"))["institution"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        fact = f"parquet: {SOURCE} of the site's folder cannot be read"
        raise DataError(f"{fact} ({path})", fact) from None
    if folded(there) != folded(institution):
        fact = "parquet: the site's folder holds another institution"
        raise DataError(f"{fact}, '{there}'; wanted a folder of its own for '{institution}'", fact)


def row_digest(cells: Mapping[str, Any]) -> str:
    """SHA-256 of the image and the affine that stand for a row, however they are stored as numbers.

    Args:
        cells: folded column name to pyarrow scalar, those of `first_image` among them.
    """
    name = first_image(cells)
    digest = hashlib.sha256()
    shape, image = _content(cells.get(IMAGE + name))
    _, affine = _content(cells.get(AFFINE + name))  # 4 rows of 4 or 16 numbers are one affine
    for part in (shape, image, affine):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _content(cell: Any | None) -> tuple[bytes, bytes]:
    """Shape and content of a cell; of one that cannot be read the reason stands for both."""
    if cell is None or not cell.is_valid:
        return b"", b""
    try:
        content = nifti_of(cell)
        if content is not None:
            return b"", content
        numbers = array_of(cell)
    except SeriesError as error:
        return b"", str(error).encode()
    return str(numbers.shape).encode(), numbers.astype("<f8").tobytes()
