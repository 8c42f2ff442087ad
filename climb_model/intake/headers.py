"""DICOM files of a folder, grouped into series."""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import MediaStorageDirectoryStorage

from climb_model.data.exam import DataError

NOT_DICOM = "not a DICOM file"
DAMAGED = "damaged DICOM header"
DIRECTORY = "DICOM directory file"
NO_SERIES = "no SeriesInstanceUID"

NEEDED = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
"""Tags that the geometry cannot do without."""

_TAGS = (
    *NEEDED,
    "Modality",
    "SOPClassUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesDescription",
    "AccessionNumber",
    "PatientID",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "SpacingBetweenSlices",
    "SliceThickness",
    "RescaleSlope",
    "RescaleIntercept",
)
"""All that is kept of a header."""

READ_FAULTS = (
    EOFError,
    OSError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    NotImplementedError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""What pydicom raises on damaged files."""


@dataclass(frozen=True)
class Header:
    """One file of a series, its pixels not yet read."""

    path: Path = field(repr=False)
    tags: Dataset = field(repr=False)

    def text(self, tag: str) -> str:
        """The printable characters of a tag, empty where it is missing."""
        value = self.tags.get(tag)
        parts = value if isinstance(value, MultiValue) else [value]
        text = "\\".join("" if part is None else str(part) for part in parts)
        return "".join(character for character in text if character.isprintable()).strip()


@dataclass(frozen=True)
class Series:
    """The files that share one SeriesInstanceUID."""

    uid: str
    description: str
    headers: tuple[Header, ...]

    @property
    def modality(self) -> str:
        return self.headers[0].text("Modality")


def collect(dicom_dir: Path) -> tuple[tuple[Series, ...], tuple[tuple[Path, str], ...]]:
    """All series below a folder, sorted by UID, and the files that belong to none with the reason.

    Only headers are read, and of them only what the import needs.
    """
    if not dicom_dir.is_dir():
        raise DataError(f"DICOM folder is missing ({dicom_dir})", public="DICOM folder is missing")
    headers: dict[str, list[Header]] = {}
    skipped: list[tuple[Path, str]] = []
    for folder, folders, names in os.walk(dicom_dir):
        folders.sort()
        for name in sorted(names):
            path = Path(folder) / name
            header = _read_header(path)
            if isinstance(header, str):
                skipped.append((path, header))
            else:
                headers.setdefault(header.text("SeriesInstanceUID"), []).append(header)
    series = (
        Series(uid, group[0].text("SeriesDescription"), tuple(group))
        for uid, group in sorted(headers.items())
    )
    return tuple(series), tuple(skipped)


def choose(found: Sequence[Series], wanted: str | None, skipped: Sequence[tuple[Path, str]] = ()) -> Series:
    """The series with this UID or description (in any case); without one, the only MR series there is."""
    if not found:
        counts = Counter(reason for _, reason in skipped)
        others = ", ".join(f"{count} x {reason}" for reason, count in counts.most_common()) or "no files"
        raise DataError(f"no DICOM series found: {others}", public=f"no DICOM series found: {others}")
    if wanted is None:
        matches = [one for one in found if one.modality == "MR"] or list(found)
    else:
        matches = [one for one in found if one.uid == wanted]
        matches = matches or [one for one in found if one.description.casefold() == wanted.strip().casefold()]
    if len(matches) == 1:
        return matches[0]
    if matches:
        fact, named = f"{len(matches)} series to choose from, name one by description or UID", matches
        if wanted is not None:
            fact = f"{len(matches)} series of that description, name one by its UID"
    else:
        fact, named = f"none of {len(found)} series has that description or UID", list(found)
    there = "; ".join(
        f"'{one.description}' {one.uid} ({one.modality}, {len(one.headers)} files)" for one in named
    )
    raise DataError(f"{fact}: {there}", public=fact)


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


def _read_header(path: Path) -> Header | str:
    """The header, or the reason why the file belongs to no series."""
    if not path.is_file():  # a pipe would be waited for
        return NOT_DICOM
    try:
        with silent_pydicom():
            tags = dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
            for tag in _TAGS:
                tags.get(tag)  # decodes the value while faults are caught
    except InvalidDicomError:
        return NOT_DICOM
    except READ_FAULTS:
        return DAMAGED
    if tags.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return DIRECTORY
    if "TransferSyntaxUID" not in tags.file_meta:
        return DAMAGED
    header = Header(path, tags)
    return header if header.text("SeriesInstanceUID") else NO_SERIES
