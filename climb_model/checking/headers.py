"""What headers alone tell of a site's images: one read of 4 KB a file."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from nibabel.orientations import io_orientation

from climb_model.checking.result import Finding, found
from climb_model.data.nifti import read_nifti_header
from climb_model.data.nifti_header import NiftiError, NiftiHead, farthest_corner_mm

SMALLEST_MM, LARGEST_MM = 0.1, 20.0
FEWEST_VOXELS = 4
MOST_DEGREES = 20.0
SAME_PLACE_MM = 1.0
"""Two breasts whose centres are nearer than this have lost their positions."""

DOUBTFUL_MM = 20.0
"""A patient lies this far beside the scanner's middle at most; a breast's centre is about 75 mm from it."""

THREADS = 8
OPPOSITE = {"left": "right", "right": "left"}

REASONS = {
    "unreadable": "files.unreadable",
    "truncated: ": "files.truncated",
    "no NIfTI header": "files.not_nifti",
    "header of a .hdr": "files.not_nifti",
    "wanted a 3-D": "files.not_3d",
    "voxels are not real": "files.not_3d",
    "no orientation": "files.no_orientation",
    "sform and qform": "files.forms_disagree",
    "pixdim and affine": "files.pixdim_disagrees",
    "larger than": "files.too_long",
    "lengths in": "files.spacing_implausible",
}
"""How a NiftiError begins, and its code; any other is `files.bad_header`."""

Heads = Mapping[str, Mapping[str, NiftiHead]]
"""UID to sequence to header, of all files whose header is sound."""


@dataclass(frozen=True, kw_only=True)
class HeaderStage:
    """What the headers gave."""

    heads: Heads = field(repr=False)
    findings: tuple[Finding, ...]


def code_of(path: Path, error: NiftiError) -> str:
    """The code of a file that cannot be read. Only a gzip stream that fails is looked at again."""
    reason = str(error)
    if "gzip stream" in reason:
        return "files.truncated" if ends_early(path) else "files.damaged"
    matches = (code for start, code in REASONS.items() if reason.startswith(start))
    return next(matches, "files.bad_header")


def ends_early(path: Path) -> bool:
    """Whether a gzip file is sound as far as it goes, but has no end."""
    stream = zlib.decompressobj(31)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                while block:
                    stream.decompress(block, 1 << 24)
                    block = stream.unconsumed_tail
    except (OSError, zlib.error):
        return False
    return not stream.eof


def read_headers(files: Mapping[str, Mapping[str, Path]], first: str) -> HeaderStage:
    """Read and compare the headers of all exams.

    Args:
        files: UID to sequence to file.
        first: the sequence that others are compared with, where an exam has it.
    """
    jobs = [(uid, sequence, path) for uid, paths in files.items() for sequence, path in paths.items()]
    heads: dict[str, dict[str, NiftiHead]] = {uid: {} for uid in files}
    faults: dict[str, list[str]] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for (uid, sequence, path), head in zip(jobs, pool.map(_head, (job[2] for job in jobs)), strict=True):
            if isinstance(head, str):
                faults.setdefault(head, []).append(f"{uid}/{path.name}")
            else:
                heads[uid][sequence] = head
    findings = [each for code, who in faults.items() for each in found(code, who)]
    findings += [*_single(heads), *_grids(heads, first), *_sides(heads)]
    return HeaderStage(heads=heads, findings=tuple(findings))


def _head(path: Path) -> NiftiHead | str:
    try:
        return read_nifti_header(path)
    except NiftiError as error:
        return code_of(path, error)


def _single(heads: Heads) -> Iterator[Finding]:
    """What one header tells without any other."""
    faults: dict[str, list[str]] = {}
    grids: set[tuple[object, ...]] = set()
    for uid, sequences in heads.items():
        for sequence, head in sequences.items():
            grids.add((head.shape, tuple(np.round(head.spacing_mm, 2))))
            for code in header_faults(sequence, head):
                faults.setdefault(code, []).append(f"{uid}/{sequence}")
    for code, who in faults.items():
        yield from found(code, who)
    if len(grids) > 1:
        yield from found("files.many_grids", count=len(grids))


def header_faults(sequence: str, head: NiftiHead) -> Iterator[str]:
    """Codes of what is wrong or doubtful with one header."""
    spacing = np.array(head.spacing_mm)
    if spacing.min() < SMALLEST_MM or spacing.max() > LARGEST_MM:
        yield "files.spacing_implausible"
    if np.allclose(spacing, 1, atol=1e-6):
        yield "files.spacing_one"
    if min(head.shape) < FEWEST_VOXELS:
        yield "files.small"
    if sequence.startswith("Sub") and head.dtype.kind == "u" and head.intercept >= 0:
        yield "files.sub_unsigned"
    axes = np.abs(head.affine[:3, :3] / spacing)
    if np.degrees(np.arccos(np.clip(axes.max(axis=0), -1, 1))).max() > MOST_DEGREES:
        yield "files.oblique"
    thick = int(spacing.argmax())
    if spacing[thick] > 1.5 * np.median(spacing) and int(io_orientation(head.affine)[thick, 0]) != 2:
        yield "files.not_axial"


def _grids(heads: Heads, first: str) -> Iterator[Finding]:
    """Sequences that do not lie on the grid of their exam's first, as preprocessing will refuse them."""
    sizes: list[str] = []
    places: list[str] = []
    for uid, sequences in heads.items():
        if len(sequences) < 2:
            continue
        base = sequences.get(first) or next(iter(sequences.values()))
        for sequence, head in sequences.items():
            if head.shape != base.shape:
                sizes.append(f"{uid}/{sequence}")
            elif farthest_corner_mm(head.affine, base.affine, head.shape) > 0.5 * min(base.spacing_mm):
                places.append(f"{uid}/{sequence}")
    yield from found("files.size_differs", sizes)
    yield from found("files.grid_differs", places)


def _sides(heads: Heads) -> Iterator[Finding]:
    """Whether breasts lie where their names say. In RAS+ x grows to the patient's right."""
    centres = {uid: _centre(next(iter(sequences.values()))) for uid, sequences in heads.items() if sequences}
    swapped: list[str] = []
    unknown: list[str] = []
    doubtful: list[str] = []
    for uid, x in centres.items():
        study, _, side = uid.rpartition("_")
        if side not in OPPOSITE:
            continue
        other = centres.get(f"{study}_{OPPOSITE[side]}")
        if other is None:
            if (x if side == "left" else -x) > DOUBTFUL_MM:
                doubtful.append(uid)
        elif side == "left" and abs(x - other) < SAME_PLACE_MM:
            unknown.append(study)
        elif side == "left" and x > other:
            swapped.append(study)
    yield from found("files.sides_swapped", swapped)
    yield from found("files.side_doubtful", doubtful)
    yield from found("files.side_unknown", unknown)


def _centre(head: NiftiHead) -> float:
    """x of the image's middle in RAS+ millimetres."""
    middle = (np.array(head.shape) - 1) / 2
    return float(head.affine[0, :3] @ middle + head.affine[0, 3])
