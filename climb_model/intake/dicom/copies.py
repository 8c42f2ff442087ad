"""Several files of one DICOM instance: which of them counts."""

from __future__ import annotations

import filecmp
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.dataelem import RawDataElement

from climb_model.intake.dicom.frames import FileHeader
from climb_model.intake.dicom.tags import READ_FAULTS, silent_pydicom
from climb_model.intake.study import LeftOut

COPY = "copy of another file"
CUT_COPY = "truncated copy of another file"
UNREADABLE = "a file that cannot be read"

_DEFER_BYTES = 1024
_UNDEFINED_LENGTH = 0xFFFFFFFF
_PIXEL_DATA = bytes.fromhex("e07f1000")
_DELIMITER = bytes.fromhex("feffdde000000000")
"""What compressed pixels end with (PS3.5 A.4)."""

Read = tuple[Path, FileHeader]


def without_copies(headers: Iterable[Read]) -> tuple[list[Read], list[LeftOut]]:
    """One file an instance: of those that are whole the first by its path, if all whole ones are equal.

    Where whole files of one instance differ, nobody knows which is right: all are left out.
    """
    by_instance: dict[str, list[Read]] = {}
    for path, header in headers:
        by_instance.setdefault(header.frames[0].instance, []).append((path, header))
    kept: list[Read] = []
    left_out: list[LeftOut] = []
    for files in by_instance.values():
        if len(files) == 1:
            kept += files
            continue
        chosen, others = _choose([path for path, _ in files])
        kept += [(path, header) for path, header in files if path == chosen]
        left_out += others
    return kept, left_out


def _choose(paths: Sequence[Path]) -> tuple[Path | None, list[LeftOut]]:
    """The file that counts, if any, and why the others do not."""
    sizes = {path: size for path in paths if (size := _size(path)) is not None}
    reasons = {path: UNREADABLE for path in paths if path not in sizes}
    whole = [path for path in sizes if _is_whole(path)]
    largest = [path for path in sizes if sizes[path] == max(sizes.values())]
    rivals = whole or largest
    chosen = rivals[0] if rivals else None
    reasons |= {path: CUT_COPY for path in sizes if path not in rivals}
    if chosen and not all(_equal(chosen, path) for path in rivals):
        reasons |= dict.fromkeys(rivals, f"{len(rivals)} files of one SOPInstanceUID with different content")
        chosen = None
    reasons |= {path: COPY for path in rivals if chosen not in (None, path)}
    entries = [LeftOut(what="file", reason=reasons[path], path=path) for path in paths if path in reasons]
    return chosen, entries


def _size(path: Path) -> int | None:
    """Bytes of a file; None if it vanished or cannot be opened."""
    try:
        with path.open("rb"):
            return path.stat().st_size
    except OSError:
        return None


def _is_whole(path: Path) -> bool:
    """Whether a file holds all of its pixel data element."""
    try:
        with silent_pydicom():
            tags = dcmread(path, defer_size=_DEFER_BYTES, specific_tags=["PixelData"])
            if "PixelData" not in tags:
                return False
            element = tags.get_item("PixelData", keep_deferred=True)
            if not isinstance(element, RawDataElement):
                return False
            if element.length == _UNDEFINED_LENGTH:
                content = path.read_bytes()
                return _DELIMITER in content[content.rindex(_PIXEL_DATA) :]
            if element.value is not None:  # read at once: it is small, or the file is deflated
                return len(element.value) >= element.length
            return element.value_tell + element.length <= path.stat().st_size
    except READ_FAULTS:
        return False


def _equal(one: Path, other: Path) -> bool:
    try:
        return one == other or filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
