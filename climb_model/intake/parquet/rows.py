"""Rows of parquet files: the light columns of all, images and affines one row at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from climb_model.data.exam import DataError
from climb_model.data.tables import folded
from climb_model.intake.nifti.folders import OUTSIDE, inside
from climb_model.intake.study import LeftOut

IMAGE, AFFINE = "image_", "affine_"
"""How the columns of a sequence begin, in folded form."""

TOLD = ("UID", "Institution", "PatientID", "Age", "Split", "Fold", "Lesion")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One breast as the light columns tell it."""

    path: Path = field(repr=False)
    place: int
    """Row of its file, from 0."""

    cells: Mapping[str, str] = field(repr=False)

    @property
    def uid(self) -> str:
        return self.cells["UID"]


def find_files(folder: Path) -> tuple[list[Path], list[LeftOut]]:
    """The parquet files below a folder, and links out of it, which are not read."""
    paths = [path for path in sorted(folder.rglob("*.parquet")) if path.is_symlink() or not path.is_dir()]
    outside = [path for path in paths if not inside(path, folder)]
    within = [path for path in paths if path not in outside and path.is_file()]
    return within, [LeftOut(what="file", reason=OUTSIDE, path=path) for path in outside]


def _fault(fact: str, path: Path | None = None, detail: str = "") -> DataError:
    where = "" if path is None else f" ({path})"
    return DataError(f"parquet: {fact}{detail}{where}", f"parquet: {fact}")


def _open(path: Path) -> Any:
    """A pyarrow ParquetFile whose pages are read as they are needed.

    Raises:
        DataError: pyarrow is not there, or the file is no parquet.
    """
    if find_spec("pyarrow") is None:
        raise _fault("pyarrow is not installed; pip install 'climb-federated[parquet]'")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True)
    except OSError as error:
        raise _fault("a file cannot be read", path, f": {error.strerror or 'damaged'}") from None
    except pa.ArrowException:
        raise _fault("a file is no parquet, or damaged", path) from None


def _columns(file: Any, path: Path) -> dict[str, str]:
    """Our name of each top-level column of interest to its name in the file.

    Raises:
        DataError: no UID, or no image.
    """
    names = {folded(name): name for name in file.schema_arrow.names}
    columns = {name: names[folded(name)] for name in TOLD if folded(name) in names}
    if "UID" not in columns or not any(name.startswith(IMAGE) for name in names):
        raise _fault("wanted the columns UID and Image_<sequence>", path)
    return columns


def light_rows(paths: Sequence[Path]) -> list[Row]:
    """All rows without their images; cells are texts, empty where null."""
    if not paths:
        raise _fault("no .parquet file in the folder")
    rows: list[Row] = []
    for path in paths:
        file = _open(path)
        columns = _columns(file, path)
        place = 0
        for batch in _batches(file, path, list(columns.values()), size=1024):
            for cells in batch.to_pylist():
                told = {name: _text(cells[column]) for name, column in columns.items()}
                rows.append(Row(path=path, place=place, cells=dict.fromkeys(TOLD, "") | told))
                place += 1
    return rows


def _batches(
    file: Any, path: Path, columns: list[str], *, size: int, groups: list[int] | None = None
) -> Iterator[Any]:
    import pyarrow as pa

    try:
        yield from file.iter_batches(batch_size=size, columns=columns, row_groups=groups, use_threads=False)
    except (OSError, pa.ArrowException):
        raise _fault("a file is damaged", path) from None


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def of_institution(rows: Sequence[Row], institution: str) -> list[Row]:
    names = sorted({row.cells["Institution"] for row in rows})
    if not institution and len(names) > 1:
        listed = ", ".join(name or "(empty)" for name in names)
        raise _fault(f"{len(names)} institutions, one a site's folder; choose with --institution: {listed}")
    chosen = [
        row for row in rows if not institution or folded(row.cells["Institution"]) == folded(institution)
    ]
    if not chosen:
        raise _fault(f"no row of institution '{institution}'; there are: {', '.join(names) or 'no rows'}")
    return chosen


def heavy_cells(rows: Sequence[Row], *, one_image: bool = False) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Each row with its image and affine cells under their folded column names, one row in memory at a time.

    Row groups without a wanted row are not read.

    Args:
        rows: those wanted.
        one_image: read the columns of `first_image` only.

    Raises:
        DataError: a damaged file.
    """
    for path in dict.fromkeys(row.path for row in rows):
        wanted = {row.place: row for row in rows if row.path == path}
        file = _open(path)
        heavy = [name for name in file.schema_arrow.names if folded(name).startswith((IMAGE, AFFINE))]
        if one_image:
            first = first_image(map(folded, heavy))
            heavy = [name for name in heavy if folded(name).removeprefix(IMAGE).removeprefix(AFFINE) == first]
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            if any(start <= place < end for place in wanted):
                batches = _batches(file, path, heavy, size=1, groups=[group])
                for place, batch in enumerate(batches, start=start):
                    if place in wanted:
                        yield wanted[place], {folded(name): batch.column(name)[0] for name in heavy}
            start = end


def first_image(columns: Iterable[str]) -> str:
    """The sequence whose image stands for its row: `pre`, else the first in the alphabet.

    Args:
        columns: folded names.
    """
    names = sorted(name.removeprefix(IMAGE) for name in columns if name.startswith(IMAGE))
    return "pre" if "pre" in names else names[0]
