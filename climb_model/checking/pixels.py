"""What only the pixels tell: checksums, values, images under two names. Kept between checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from climb_model.atomic import write_text_atomic
from climb_model.checking.headers import code_of
from climb_model.checking.result import Finding, found
from climb_model.data.nifti import Image, read_nifti
from climb_model.data.nifti_header import NiftiError
from climb_model.intake.processes import in_processes

CACHE = "check-cache.json"
"""Below the private folder. Holds names of exams and hashes of their voxels: `forget` removes it."""

VERSION = 2
"""Grows when the same file would be seen otherwise."""

CHUNK = 16
"""Files handed to a worker at once."""

_BLOCK = 2**18
"""Voxels that are scaled at once: they stay in the processor's cache."""

OnFile = Callable[[int, int], None]


@dataclass(frozen=True)
class Pixels:
    """What is kept of one file."""

    fault: str = ""
    """A code; then nothing else is known."""

    digest: str = ""
    """Of shape and values as float32, whatever number type and scaling the file has them in."""

    constant: bool = False
    finite: bool = True


def look_at(path: Path) -> Pixels:
    """Read one file whole, its checksum included."""
    try:
        image = read_nifti(path)
    except NiftiError as error:
        return Pixels(fault=code_of(path, error))
    voxels = np.asarray(image.voxels)
    flat = voxels.reshape(-1, order="A")
    low, high = flat.min(), flat.max()  # NaN comes through both
    finite = bool(np.isfinite(low) and np.isfinite(high))
    return Pixels(digest=_digest(image, flat), constant=bool(low == high), finite=finite)


def _digest(image: Image, flat: np.ndarray) -> str:
    """The same for each file that holds the same values, for a copy may have another number type."""
    digest = hashlib.blake2b(str(image.voxels.shape).encode(), digest_size=16)
    scaled = (image.slope, image.intercept) != (1.0, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, flat.size, _BLOCK):
            values = flat[start : start + _BLOCK]
            if scaled:
                values = values.astype(np.float64) * image.slope + image.intercept
            digest.update((values.astype(np.float32) + np.float32(0)).data)  # -0 becomes 0
    return digest.hexdigest()


def read_pixels(
    files: Mapping[str, Mapping[str, Path]],
    folder: Path,
    cache: Path | None,
    *,
    workers: int,
    on_file: OnFile | None = None,
) -> dict[str, dict[str, Pixels]]:
    """Look at all files, or take over what an earlier check saw of files that have not changed.

    Args:
        files: UID to sequence to file.
        folder: the site's folder, which the cache's names are relative to.
        cache: the cache's file; None keeps nothing.
        workers: processes; 1 works in this one.
        on_file: called with (done, all).

    Raises:
        DataError: a worker was lost.
    """
    known = _load(cache)
    keys = {path: _key(path, folder) for sequences in files.values() for path in sequences.values()}
    seen = {path: known[key] for path, key in keys.items() if key in known}
    new = [path for path in keys if path not in seen]
    try:
        with closing(_look(new, workers)) as look:
            for done, (path, pixels) in enumerate(zip(new, look, strict=True), start=1):
                seen[path] = pixels
                if on_file is not None:
                    on_file(done, len(new))
    finally:  # an interrupted check goes on where it was
        if cache is not None and set(known) != {keys[path] for path in seen}:
            _save(cache, {keys[path]: pixels for path, pixels in seen.items()})
    return {uid: {sequence: seen[path] for sequence, path in paths.items()} for uid, paths in files.items()}


def pixel_findings(pixels: Mapping[str, Mapping[str, Pixels]]) -> list[Finding]:
    """Faults of single files, and files whose voxels are the same."""
    faults: dict[str, list[str]] = {}
    owners: dict[str, list[tuple[str, str]]] = {}
    for uid, sequences in pixels.items():
        for sequence, one in sequences.items():
            where = f"{uid}/{sequence}"
            if one.fault:
                faults.setdefault(one.fault, []).append(where)
            elif not one.finite:
                faults.setdefault("files.not_finite", []).append(where)
            elif one.constant:
                faults.setdefault("files.constant", []).append(where)
            else:
                owners.setdefault(one.digest, []).append((uid, sequence))
    shared = {uid for where in owners.values() if len({u for u, _ in where}) > 1 for uid, _ in where}
    inside = {uid for where in owners.values() for uid, n in _counts(where).items() if n > 1}
    return [
        *(each for code, who in faults.items() for each in found(code, who)),
        *found("files.same_pixels", shared),
        *found("files.same_in_exam", inside),
    ]


def _counts(where: list[tuple[str, str]]) -> dict[str, int]:
    uids = [uid for uid, _ in where]
    return {uid: uids.count(uid) for uid in uids}


def _look(paths: list[Path], workers: int) -> Generator[Pixels]:
    if workers == 1 or len(paths) <= CHUNK:
        yield from map(look_at, paths)
    else:
        yield from in_processes(look_at, paths, workers=workers, chunk=CHUNK, verb="check")


def _key(path: Path, folder: Path) -> str:
    """Name, size and time of a file: another content has another key."""
    try:
        state = path.stat()
    except OSError:
        return f"{path.relative_to(folder).as_posix()}|gone"
    return f"{path.relative_to(folder).as_posix()}|{state.st_size}|{state.st_mtime_ns}"


def _load(cache: Path | None) -> dict[str, Pixels]:
    """What an earlier check kept; nothing where the file is missing, damaged or of another version."""
    if cache is None:
        return {}
    try:
        raw = json.loads(cache.read_text("utf-8"))
        return (
            {key: Pixels(**values) for key, values in raw["files"].items()}
            if raw["version"] == VERSION
            else {}
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _save(cache: Path, files: Mapping[str, Pixels]) -> None:
    """Keep what was seen where only its owner reads it; a read-only folder keeps nothing."""
    kept = {"version": VERSION, "files": {key: asdict(pixels) for key, pixels in files.items()}}
    try:
        cache.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_text_atomic(cache, json.dumps(kept))
        cache.chmod(0o600)
    except OSError:
        return
