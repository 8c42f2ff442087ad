"""Folders of NIfTI files: one exam a folder, nothing followed that leads out."""

from __future__ import annotations

import os
from pathlib import Path

from climb_model.data.exam import DataError
from climb_model.intake.study import LeftOut

_ENDINGS = (".nii.gz", ".nii")
SIDES = ("_left", "_right")
OUTSIDE = "a link that leads out of the folder"
DEEPER = "below an exam's own folder; wanted one folder an exam"
ONE_BREAST = "one breast already: it needs no import"
UNREADABLE = "a folder that cannot be read"


def check_layout(folder: Path, root: Path) -> None:
    """Refuse a folder that is not one folder an exam with both breasts.

    Raises:
        DataError: saying what it is instead.
    """
    if not folder.is_dir():
        raise DataError(f"no such folder ({folder})", "no such folder")
    names = [place.name for place in root.iterdir() if place.is_dir() and not place.name.startswith(".")]
    sided = bool(names) and all(name.endswith(SIDES) for name in names)
    if sided or (root == folder and "data_unilateral" in names):
        fact = "one breast a folder already: it needs no import"
        raise DataError(f"{fact}; run climb-site check {folder}", fact)
    if any(_is_nifti(path) for path in root.iterdir()):
        fact = "NIfTI files beside the exam folders: wanted <ID>/<sequence>.nii.gz"
        raise DataError(f"{fact} ({root})", fact)


def _is_nifti(path: Path) -> bool:
    return _is_image_name(path.name) and not path.is_dir()


def _is_image_name(name: str) -> bool:
    return name.casefold().endswith(_ENDINGS) and not name.startswith(".")


def inside(path: Path, folder: Path) -> bool:
    """Whether a path, its links followed, lies in a folder."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return False


def find_volumes(place: Path, folder: Path) -> tuple[dict[str, Path], list[LeftOut]]:
    """Stem to path of an exam's files, and what is none of them.

    Args:
        place: the exam's folder.
        folder: the source; links out of it are not followed.
    """
    paths: dict[str, Path] = {}
    left_out: list[LeftOut] = []
    faults: list[OSError] = []
    walk = list(os.walk(place, onerror=faults.append))
    for fault in faults:
        path = Path(fault.filename)
        left_out.append(LeftOut(what="exam" if path == place else "file", reason=UNREADABLE, path=path))
    for path in sorted(Path(parent, name) for parent, _, names in walk for name in names):
        if not _is_image_name(path.name):
            continue
        stem = path.name[: -len(".nii.gz" if path.name.casefold().endswith(".gz") else ".nii")]
        if path.parent != place:
            left_out.append(LeftOut(what="file", reason=DEEPER, path=path))
        elif not inside(path, folder):
            left_out.append(LeftOut(what="file", reason=OUTSIDE, path=path))
        elif stem in paths:
            left_out.append(LeftOut(what="file", reason="the same name with and without .gz", path=path))
        else:
            paths[stem] = path
    return paths, left_out
