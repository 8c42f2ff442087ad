"""What lies in a site's folder: its layout, its exams' folders and files, and what belongs to nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from climb_model.checking.result import Finding, found
from climb_model.data.folders import sequence_files
from climb_model.data.tables import folded
from climb_model.intake.parquet.made_marker import MARKER
from climb_model.intake.parquet.source import SOURCE

ODELIA, UKA = "odelia", "uka"
SIDES = ("_left", "_right")

IMAGES = ("data", "data_unilateral")
PARTS = (*IMAGES, "metadata", "metadata_unilateral", "private", "import-report.csv")
"""What may lie in a site's folder."""

TABLES = ("annotation.csv", "split.csv", "reports.csv", "findings.csv", "split_regex.csv", "mrt-befund.csv")
LEFTOVERS = (".unfinished", ".partial", ".old", ".forgotten")
BESIDE = ("provenance.json",)
"""What may lie in an exam's folder beside its images."""

SEQUENCES = re.compile(r"(pre|t2|(post|sub)(_[0-9]{1,3})?)", re.IGNORECASE)
"""Names of ODELIA's sequences."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A site's folder, without its tables' content."""

    folder: Path = field(repr=False)
    kind: str
    """`odelia`, `uka`, or empty where it is neither or both."""

    folders: Mapping[str, Path] = field(repr=False)
    """UID to the exam's folder."""

    files: Mapping[str, Mapping[str, Path]] = field(repr=False)
    """UID to sequence to file, of the sequences that the settings want."""

    unused: Mapping[str, Mapping[str, Path]] = field(repr=False)
    """The same of the other sequences."""

    findings: tuple[Finding, ...]

    @property
    def metadata(self) -> Path:
        """The folder of the tables."""
        return self.folder / ("metadata" if self.kind == UKA else "metadata_unilateral")


def look_around(folder: Path, sequences: Sequence[str]) -> Layout:
    """List a site's folder; no file is opened.

    Args:
        folder: the site's own folder.
        sequences: those that the settings want.
    """
    images = folder / "data_unilateral"
    odelia = _is_folder(folder / "metadata_unilateral")
    uka = "split_regex.csv" in {path.name for path in _list(folder / "metadata")}
    inside = _list(images)
    folders = {path.name: path for path in inside if _is_folder(path) and not path.name.startswith(".")}
    files: dict[str, dict[str, Path]] = {}
    unused: dict[str, dict[str, Path]] = {}
    for uid, path in folders.items():
        named = _sequences(path, sequences)
        files[uid] = {sequence: named[sequence] for sequence in sequences if sequence in named}
        unused[uid] = {name: file for name, file in named.items() if name not in sequences}
    findings = [
        *_kind_faults(odelia=odelia, uka=uka, images=_is_folder(images)),
        *found("files.unreadable", _closed(folder, folders)),
        *_folder_faults(folders, files, sequences),
        *_strangers(folder, folders, unused),
    ]
    return Layout(
        folder=folder,
        kind=ODELIA if odelia and not uka else UKA if uka and not odelia else "",
        folders=folders,
        files=files,
        unused=unused,
        findings=tuple(findings),
    )


def _kind_faults(*, odelia: bool, uka: bool, images: bool) -> list[Finding]:
    facts: list[str] = []
    tables = "metadata_unilateral/ (ODELIA) nor metadata/split_regex.csv (UKA)"
    if not (images or odelia or uka):
        facts.append(f"neither data_unilateral/, {tables}")
    elif not images:
        facts.append("data_unilateral/ is missing")
    elif not (odelia or uka):
        facts.append(f"neither {tables}")
    if odelia and uka:
        facts.append("two at once, metadata_unilateral/ (ODELIA) and metadata/split_regex.csv (UKA)")
    return [each for fact in facts for each in found("tables.layout", count=1, detail=fact)]


def _folder_faults(
    folders: Mapping[str, Path], files: Mapping[str, Mapping[str, Path]], sequences: Sequence[str]
) -> list[Finding]:
    closed = {uid for uid, path in folders.items() if not _can_list(path)}
    empty = {uid for uid, path in folders.items() if not _list(path)} - closed
    without = {uid for uid, named in files.items() if not named} - empty - closed
    lacking = {
        sequence: [uid for uid, named in files.items() if named and sequence not in named]
        for sequence in sequences
    }
    return [
        *found("files.no_side", [uid for uid in folders if not uid.endswith(SIDES)]),
        *found("files.empty_folder", empty),
        *found("files.no_sequence", without),
        *(
            each
            for sequence, who in lacking.items()
            for each in found("files.sequence_missing", who, detail=sequence)
        ),
        *found("files.twice", [uid for uid, path in folders.items() if _has_twice(path)]),
    ]


def _strangers(
    folder: Path, folders: Mapping[str, Path], unused: Mapping[str, Mapping[str, Path]]
) -> list[Finding]:
    """Files of no layout, and what an interrupted import left."""
    there = [path for path in _list(folder) if path.name not in PARTS]
    for name in ("metadata", "metadata_unilateral"):
        tables = folder / name
        there += [path for path in _list(tables) if path.name not in (*TABLES, MARKER, SOURCE)]
    there += [path for path in _list(folder / "data_unilateral") if not _is_folder(path)]
    there += [path for name in IMAGES for path in _list(folder / name) if path.name.startswith(".")]
    for path in folders.values():
        there += [file for file in _list(path) if not _is_image(file) and file.name not in BESIDE]
    leftovers = {path for path in there if path.name.endswith(LEFTOVERS)}
    strange = [path for path in {*there} - leftovers]
    strange += [
        file for named in unused.values() for name, file in named.items() if not SEQUENCES.fullmatch(name)
    ]
    known = [f"{uid}/{name}" for uid, named in unused.items() for name in named if SEQUENCES.fullmatch(name)]
    return [
        *found("files.unfinished", [path.relative_to(folder).as_posix() for path in leftovers]),
        *found("files.unknown", [path.relative_to(folder).as_posix() for path in strange]),
        *found("files.unused", known),
    ]


def _sequences(exam: Path, sequences: Sequence[str]) -> dict[str, Path]:
    """Sequence to file; nothing where the folder cannot be read."""
    try:
        return sequence_files(exam, sequences) if _can_list(exam) else {}
    except OSError:  # gone meanwhile
        return {}


def _closed(folder: Path, folders: Mapping[str, Path]) -> list[str]:
    """Folders that cannot be read: of exams by their UID, others by their name."""
    parts = [folder / name for name in ("", *IMAGES, "metadata", "metadata_unilateral")]
    named = {path.relative_to(folder).as_posix(): path for path in parts if _is_folder(path)}
    return [name for name, path in {**named, **folders}.items() if not _can_list(path)]


def _can_list(folder: Path) -> bool:
    """Whether the names in a folder can be read, and its files reached."""
    return os.access(folder, os.R_OK | os.X_OK)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # in a folder that cannot be entered
        return False


def _list(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where it is none or cannot be read."""
    try:
        return sorted(folder.iterdir()) if _can_list(folder) else []
    except OSError:  # no folder, or gone meanwhile
        return []


def _is_image(path: Path) -> bool:
    return path.name.endswith((".nii", ".nii.gz")) and not path.name.startswith(".")


def _has_twice(folder: Path) -> bool:
    """Whether one sequence has two files: `Pre.nii` beside `Pre.nii.gz`, `Sub` beside `Sub_1`."""
    stems = [
        folded(path.name.removesuffix(".gz").removesuffix(".nii"))
        for path in _list(folder)
        if _is_image(path)
    ]
    names = ["sub" if stem == "sub_1" else stem for stem in stems]
    return len(set(names)) < len(names)
