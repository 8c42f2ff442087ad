"""DICOM files of a folder, read once and grouped into studies and series."""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage

from climb_model.data.exam import DataError
from climb_model.intake.dicom.copies import UNREADABLE, without_copies
from climb_model.intake.dicom.frames import HEADER_TAGS, FileHeader, SeriesTags, StudyTags, describe
from climb_model.intake.dicom.kinds import no_image_series
from climb_model.intake.dicom.tags import READ_FAULTS, silent_pydicom
from climb_model.intake.processes import in_processes
from climb_model.intake.study import LeftOut, Series, Study

NOT_DICOM = "not a DICOM file"
NO_PREAMBLE = "a DICOM file without its preamble (PS3.10, 7.1)"
DAMAGED = "damaged DICOM header"
DIRECTORY = "DICOM directory file"
LINK_OUT = "a symbolic link out of the folder"
LINK_TO_FOLDER = "a symbolic link to a folder"
UNREADABLE_FOLDER = "a folder that cannot be read"

_INFLATED_BYTES = 2**30
"""Largest deflated file that is read, inflated: a small file can hold any number of zeros."""
_META_START = 144
"""Preamble, `DICM` and the element that tells the length of the file meta group."""
_CHUNK_FILES = 64

_HEAD_BYTES = 4096
_FIRST_ELEMENT = re.compile(rb".{0,4}?([\x02\x08]\0.\0|\0[\x02\x08]\0.)", re.DOTALL)
"""A tag of group 2 or 8 in either byte order, at the beginning or within a few bytes of it."""

_STANDARD_UID = b"1.2.840.10008."
"""How the UIDs of DICOM's own SOP classes begin."""

_Value = TypeVar("_Value", str, int, float)
OnFile = Callable[[int, int], None]
"""Called with the number of files read so far and of all files."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a folder holds, before a pixel is read."""

    studies: tuple[Study, ...]
    """In the order of their UIDs, each with at least one series, those in the order of theirs."""

    left_out: tuple[LeftOut, ...] = field(repr=False)


def scan(dicom_dir: Path, *, workers: int = 1, on_file: OnFile | None = None) -> Scan:
    """Studies with MR series of a folder, whatever its files are called; all else is listed.

    The same result, in the same order, with any number of workers.

    Args:
        dicom_dir: walked through with its subfolders; nothing outside it is read.
        workers: processes that read headers.
        on_file: told of each file read, for a progress bar.

    Raises:
        DataError: `dicom_dir` is no folder, or a worker was lost.
    """
    everything = collect(dicom_dir, workers=workers, on_file=on_file)
    studies: list[Study] = []
    left_out = list(everything.left_out)
    for study in everything.studies:
        reasons = {series.uid: no_image_series(series.frames) for series in study.series}
        left_out += [_series_out(series, why) for series in study.series if (why := reasons[series.uid])]
        kept = tuple(series for series in study.series if not reasons[series.uid])
        if kept:
            studies.append(replace(study, series=kept))
    return Scan(studies=tuple(studies), left_out=tuple(left_out))


def collect(dicom_dir: Path, *, workers: int = 1, on_file: OnFile | None = None) -> Scan:
    """As `scan`, with the series that are no MR images among the studies."""
    if not dicom_dir.is_dir():
        raise DataError(f"DICOM folder is missing ({dicom_dir})", public="DICOM folder is missing")
    paths, left_out = _walk(dicom_dir)
    headers: list[tuple[Path, FileHeader]] = []
    with closing(_read_all(paths, workers)) as read:
        for done, (path, header) in enumerate(zip(paths, read, strict=True), start=1):
            if isinstance(header, str):
                left_out.append(LeftOut(what="file", reason=header, path=path))
            else:
                headers.append((path, header))
            if on_file:
                on_file(done, len(paths))
    headers, copies = without_copies(headers)
    studies, mixed = _group([header for _, header in headers])
    return Scan(studies=studies, left_out=(*left_out, *copies, *mixed))


def read_header(path: Path) -> FileHeader | str:
    """The header, or the reason why the file belongs to no series."""
    try:
        with silent_pydicom():
            if not _inflates(path):
                return DAMAGED
            tags = dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER_TAGS))
            if tags.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
                return DIRECTORY
            header = describe(path, tags)
    except InvalidDicomError:
        return _unmarked(path)
    except OSError as error:
        return DAMAGED if error.errno is None else UNREADABLE  # pydicom raises it without a number
    except READ_FAULTS:
        return DAMAGED
    for keyword, value in (
        ("SOPInstanceUID", header.frames[0].instance if header.frames else ""),
        ("StudyInstanceUID", header.study.uid),
        ("SeriesInstanceUID", header.series.uid),
    ):
        if not value:
            return f"no {keyword}"
    return header


def _unmarked(path: Path) -> str:
    """What a file without `DICM` behind its preamble is."""
    try:
        with path.open("rb") as file:
            start = file.read(_HEAD_BYTES)
    except OSError:
        return UNREADABLE
    return NO_PREAMBLE if _FIRST_ELEMENT.match(start) and _STANDARD_UID in start else NOT_DICOM


def _walk(dicom_dir: Path) -> tuple[list[Path], list[LeftOut]]:
    """Regular files below a folder in the order of their paths, and what else lies there."""
    inside = dicom_dir.resolve()
    paths: list[Path] = []
    left_out: list[LeftOut] = []

    def unreadable(error: OSError) -> None:
        left_out.append(LeftOut(what="file", reason=UNREADABLE_FOLDER, path=Path(error.filename)))

    for folder, folders, names in os.walk(dicom_dir, onerror=unreadable):
        folders.sort()
        linked = [name for name in folders if (Path(folder) / name).is_symlink()]  # os.walk does not follow
        for name in sorted([*names, *linked]):
            path = Path(folder) / name
            reason = _no_file(path, inside)
            if reason:
                left_out.append(LeftOut(what="file", reason=reason, path=path))
            else:
                paths.append(path)
    return paths, left_out


def _no_file(path: Path, inside: Path) -> str:
    """Why a path is no regular file of a folder; empty if it is one."""
    try:
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            return LINK_OUT
        if path.is_dir():
            return LINK_TO_FOLDER
        return "" if path.is_file() else NOT_DICOM  # a pipe would be waited for
    except (OSError, RuntimeError):  # a folder that is listed and not entered, a link to itself
        return UNREADABLE


def _read_all(paths: Sequence[Path], workers: int) -> Generator[FileHeader | str]:
    if workers <= 1 or len(paths) <= _CHUNK_FILES:
        yield from map(read_header, paths)
    else:
        yield from in_processes(read_header, paths, workers=workers, chunk=_CHUNK_FILES, verb="import")


def _inflates(path: Path) -> bool:
    """Whether a file, if it is deflated, stays below `_INFLATED_BYTES`."""
    with path.open("rb") as file:
        start = file.read(_HEAD_BYTES)
        if str(DeflatedExplicitVRLittleEndian).encode() not in start:
            return True
        file.seek(_META_START + int.from_bytes(start[_META_START - 4 : _META_START], "little"))
        inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while packed := inflater.unconsumed_tail or file.read(2**16):
            size += len(inflater.decompress(packed, 2**22))
            if size > _INFLATED_BYTES:
                return False
            if inflater.eof:
                break
    return True


def _group(headers: Sequence[FileHeader]) -> tuple[tuple[Study, ...], list[LeftOut]]:
    """Studies of series; a series or study whose files contradict each other is left out."""
    by_series: dict[str, list[FileHeader]] = {}
    for header in headers:
        by_series.setdefault(header.series.uid, []).append(header)
    by_study: dict[str, list[tuple[Series, list[StudyTags]]]] = {}
    torn: dict[str, list[Series]] = {}
    left_out: list[LeftOut] = []
    for _, members in sorted(by_series.items()):
        series = _series([header.series for header in members], members)
        studies = {header.study.uid for header in members}
        if len(studies) > 1:
            left_out.append(_series_out(series, f"files of one series in {len(studies)} studies"))
            for uid in studies:
                torn.setdefault(uid, []).append(series)
            continue
        by_study.setdefault(members[0].study.uid, []).append((series, [header.study for header in members]))
    found: list[Study] = []
    for uid, pairs in sorted(by_study.items()):
        told = [tags for _, tags_of_series in pairs for tags in tags_of_series]
        mixed = _contradiction(told)
        if mixed:
            left_out += [_series_out(series, mixed) for series, _ in pairs]
        else:
            study = _merge(told, tuple(series for series, _ in pairs))
            found.append(replace(study, torn=tuple(torn.get(uid, ()))))
    return tuple(found), left_out


def _contradiction(told: Sequence[StudyTags]) -> str:
    """A file without a number contradicts none that has one."""
    for tag, values in (
        ("PatientID", {tags.patient for tags in told}),
        ("AccessionNumber", {tags.accession for tags in told}),
    ):
        if len(values - {""}) > 1:
            return f"files of one study with {len(values - {''})} different values of {tag}"
    return ""


def _merge(told: Sequence[StudyTags], series: tuple[Series, ...]) -> Study:
    return Study(
        uid=told[0].uid,
        accession=max(tags.accession for tags in told),
        patient=max(tags.patient for tags in told),
        date=_usual(tags.date for tags in told) or "",
        age_days=_usual(tags.age_days for tags in told),
        names=frozenset().union(*{tags.names for tags in told}),
        vendor=_usual(tags.vendor for tags in told) or "other",
        field_strength_t=_usual(tags.field_strength_t for tags in told),
        series=series,
    )


def _series(told: Sequence[SeriesTags], members: Sequence[FileHeader]) -> Series:
    return Series(
        uid=told[0].uid,
        number=_usual(tags.number for tags in told),
        description=_usual(tags.description for tags in told) or "",
        protocol=_usual(tags.protocol for tags in told) or "",
        modality=_usual(tags.modality for tags in told) or "",
        laterality=_usual(tags.laterality for tags in told) or "",
        contrast=any(tags.contrast for tags in told),
        frames=tuple(frame for header in members for frame in header.frames),
    )


def _usual(values: Iterable[_Value | None]) -> _Value | None:
    """The most frequent value that is there; of equally frequent ones the smallest."""
    counts = Counter(value for value in values if value not in (None, ""))
    return min(counts, key=lambda value: (-counts[value], value)) if counts else None


def _series_out(series: Series, reason: str) -> LeftOut:
    paths = {frame.path for frame in series.frames}
    return LeftOut(what="series", reason=reason, path=min(paths), num_files=len(paths))
