"""A site's exams where they come as NIfTI files: one folder an exam, both breasts in view."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from climb_model.atomic import write_atomic
from climb_model.data.exam import DataError
from climb_model.data.nifti import Image, read_nifti, read_phases, read_phases_header
from climb_model.data.nifti_header import NiftiError, NiftiHead
from climb_model.intake.mapping import SeriesMapping
from climb_model.intake.nifti.folders import ONE_BREAST, OUTSIDE, SIDES, check_layout, find_volumes, inside
from climb_model.intake.nifti.names import VolumeName, name_files
from climb_model.intake.nifti.tables import ExamFacts, read_facts
from climb_model.intake.pseudonym import keyed_digest
from climb_model.intake.sequences.native import nifti_bytes
from climb_model.intake.study import LeftOut, SeriesError, Study
from climb_model.made_by import made_by

_FEWEST = 2
"""Voxels along each axis: a single slice is no volume of a breast."""

NEEDED = ("Pre", "Post_1")
"""Without one of them an exam cannot be used."""

NO_PLACE = "its position is not told: the affine is the identity, which converters write for want of one"


@dataclass(frozen=True, kw_only=True)
class NiftiVolume:
    """One sequence of an exam."""

    path: Path = field(repr=False)
    phase: int | None
    """Place on the file's time axis, from 0; None for a 3-D file."""

    how: str
    """Why it was taken for this sequence, without a word of the file's name."""


@dataclass(frozen=True, kw_only=True)
class NiftiExam:
    """One exam as it lies in its folder. The raw number and the patient stay in memory."""

    raw_id: str = field(repr=False)
    """Name of its folder: the accession number for all who ask."""

    patient: str = field(repr=False)
    """PatientID of the tables; empty without."""

    files: dict[str, NiftiVolume] = field(repr=False)
    """`Pre`, `Post_1` ..., `T2`."""

    without: dict[str, str] = field(default_factory=dict)
    """Sequences whose file cannot be used, to the reason."""

    laterality: str = ""
    """Always empty: whether both breasts are in view is seen in the image."""

    lesions: dict[str, int] = field(default_factory=dict)
    """`left`, `right` to ODELIA's class (0 none, 1 benign, 2 malignant), where the tables tell it."""

    split: str = ""
    """`train`, `val`, `test`, or empty."""

    age_days: int | None = None


@dataclass(frozen=True, kw_only=True)
class NiftiSource:
    """All exams of a folder."""

    exams: tuple[NiftiExam, ...]
    left_out: tuple[LeftOut, ...]


def find_exams(folder: Path, mapping: SeriesMapping) -> NiftiSource:
    """Exams below `data/<ID>/` with the tables in `metadata/` (ODELIA, both breasts), else below `<ID>/`.

    Headers are read, voxels are not. Links out of the folder are not followed.

    Raises:
        DataError: no exam folder, one breast a folder already, files without exam folders, or tables that
            cannot be used, or a folder that cannot be read.
    """
    try:
        return _find_exams(folder, mapping)
    except OSError as error:
        fact = f"the folder cannot be read: {error.strerror}"
        raise DataError(f"{fact} ({error.filename})", fact) from None


def _find_exams(folder: Path, mapping: SeriesMapping) -> NiftiSource:
    root = folder / "data" if (folder / "data").is_dir() else folder
    check_layout(folder, root)
    left_out: list[LeftOut] = []
    found: list[NiftiExam] = []
    facts = read_facts(folder, site=folder.resolve().name)
    for place in sorted(root.iterdir()):
        if place.name.startswith(".") or not place.is_dir():
            continue
        if not inside(place, folder):
            left_out.append(LeftOut(what="exam", reason=OUTSIDE, path=place))
            continue
        if place.name.endswith(SIDES):
            left_out.append(LeftOut(what="exam", reason=ONE_BREAST, path=place))
            continue
        paths, others = find_volumes(place, folder)
        left_out += others
        if not paths:
            continue
        try:
            files, without, others = _name(paths, mapping)
        except SeriesError as error:
            left_out.append(LeftOut(what="exam", reason=str(error), path=place, num_files=len(paths)))
            continue
        left_out += others
        found.append(_exam(place.name, files, without, facts.exams.get(place.name, ExamFacts())))
    if not found and not left_out:
        fact = "no NIfTI file in a folder of its own exam"
        raise DataError(f"{fact} ({root})", fact)
    return NiftiSource(exams=tuple(found), left_out=(*left_out, *facts.missing({e.raw_id for e in found})))


def as_study(exam: NiftiExam) -> Study:
    """The raw numbers of an exam, as pseudonyms and report tables want them."""
    return Study(
        uid="",
        accession=exam.raw_id,
        patient=exam.patient,
        date="",
        age_days=exam.age_days,
        names=frozenset(),
        vendor="other",
        field_strength_t=None,
        series=(),
    )


def files_digest(exam: NiftiExam, key: bytes) -> str:
    """Keyed digest of the files' contents and of what each was taken for.

    Of a gzip file its first 4 KB and its last 8 bytes stand for the rest: CRC-32 and length of the content.
    A file that cannot be read has a digest of its own, and is told when it is copied.
    """
    parts: list[str] = []
    for name, volume in sorted(exam.files.items()):
        try:
            content = _content_digest(volume.path)
        except OSError:
            content = "unreadable"
        parts += [name, str(volume.phase), content]
    return keyed_digest(key, "nifti", *parts)


def _content_digest(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4096)
        if start[:2] == b"\x1f\x8b":
            file.seek(-8, 2)
            return hashlib.sha256(start + file.read()).hexdigest()
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_native_copy(exam: NiftiExam, folder: Path) -> dict[str, Any]:
    """Write every sequence as `<name>.nii.gz` and return its provenance.

    Voxels and affine only: description, file names and extensions of a header may name the patient.
    Integers stay what they are; a scaled image becomes float32.

    Raises:
        SeriesError: Pre or Post_1 that cannot be read. Others that cannot are left out, with the reason
            under `without`.
    """
    files: dict[str, Any] = {}
    without = dict(exam.without)
    for name, image, volume in _images(exam, without):
        voxels = image.voxels.astype(image.voxels.dtype.newbyteorder("="), copy=False)
        if (image.slope, image.intercept) != (1.0, 0.0):
            with np.errstate(over="ignore", invalid="ignore"):
                voxels = (voxels * np.float64(image.slope) + image.intercept).astype(np.float32)
        content = nifti_bytes(voxels, image.affine)
        write_atomic(folder / f"{name}.nii.gz", content)
        files[name] = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "recognised": volume.how,
            "phase": None if volume.phase is None else volume.phase + 1,
            "dtype": voxels.dtype.name,
            "shape": list(voxels.shape),
            "affine_from": "NIfTI header",
        }
    made = {"program": made_by()["version"], "source_format": "NIfTI"}
    return {**made, "files": files, "without": without}


def _images(exam: NiftiExam, without: dict[str, str]) -> Iterator[tuple[str, Image, NiftiVolume]]:
    """Each file is read once, whatever sequences it holds; what cannot be read is added to `without`."""
    phases: tuple[Path, tuple[Image, ...]] | None = None
    for name, volume in exam.files.items():
        try:
            if volume.phase is None:
                image = read_nifti(volume.path)
            else:
                if phases is None or phases[0] != volume.path:
                    phases = (volume.path, read_phases(volume.path))
                if volume.phase >= len(phases[1]):
                    raise NiftiError(f"{len(phases[1])} time points now, there were more")
                image = phases[1][volume.phase]
        except NiftiError as error:
            if name in NEEDED:
                raise SeriesError(f"{name}: {error}") from None
            without[name] = str(error)
            continue
        yield name, image, volume


def _name(
    paths: dict[str, Path], mapping: SeriesMapping
) -> tuple[dict[str, NiftiVolume], dict[str, str], list[LeftOut]]:
    """The sequences among an exam's files, those whose file cannot be used, and what is none of them.

    Raises:
        SeriesError: as `name_files`, or a file of Pre or Post_1 that cannot be used.
    """
    heads: dict[str, NiftiHead] = {}
    faults: dict[str, str] = {}
    for stem, path in paths.items():
        try:
            heads[stem] = read_phases_header(path)
        except NiftiError as error:
            faults[stem] = str(error)
    named = name_files(
        [VolumeName(stem, heads[stem].num_volumes if stem in heads else 1) for stem in paths], mapping
    )
    files: dict[str, NiftiVolume] = {}
    without: dict[str, str] = {}
    for name, (stem, phase) in named.sequences.items():
        fault = faults.get(stem) or _fault(heads[stem])
        if fault and name in NEEDED:
            raise SeriesError(f"{name}: {fault}")
        if fault:
            without[name] = fault
            continue
        files[name] = NiftiVolume(path=paths[stem], phase=phase, how=named.how[name])
    left_out = [LeftOut(what="file", reason=why, path=paths[stem]) for stem, why in named.left_out.items()]
    return files, without, left_out


def _fault(head: NiftiHead) -> str:
    if np.array_equal(head.affine, np.eye(4)):
        return NO_PLACE
    if min(head.shape) < _FEWEST:
        return f"wanted a volume, got {'x'.join(map(str, head.shape))} voxels"
    return ""


def _exam(raw_id: str, files: dict[str, NiftiVolume], without: dict[str, str], facts: ExamFacts) -> NiftiExam:
    return NiftiExam(
        raw_id=raw_id,
        patient=facts.patient,
        files=files,
        without=without,
        lesions=facts.lesions,
        split=facts.split,
        age_days=facts.age_days,
    )
