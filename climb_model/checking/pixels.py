"""What only the pixels tell: checksums, values, images under two names. Kept between checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from climb_model.atomic import write_text_atomic
from climb_model.checking.headers import code_of
from climb_model.checking.result import Finding, found
from climb_model.data.nifti import read_nifti
from climb_model.data.nifti_header import NiftiError

CACHE = "check-cache.json"
"""Below the private folder. Holds names of exams and hashes of their voxels: `forget` removes it."""

VERSION = 1
CHUNK = 16
"""Files handed to a worker at once."""

OnFile = Callable[[int, int], None]


@dataclass(frozen=True)
class Pixels:
    """What is kept of one file."""

    fault: str = ""
    """A code; then nothing else is known."""

    digest: str = ""
    """Of shape, number type and voxels."""

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
    digest = hashlib.blake2b(f"{voxels.shape} {voxels.dtype.str}".encode(), digest_size=16)
    digest.update(flat.view(np.uint8).data)
    low, high = flat.min(), flat.max()  # NaN comes through both
    finite = bool(np.isfinite(low) and np.isfinite(high))
    return Pixels(digest=digest.hexdigest(), constant=bool(low == high), finite=finite)


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
    """
    known = _load(cache)
    keys = {path: _key(path, folder) for sequences in files.values() for path in sequences.values()}
    seen = {path: known[key] for path, key in keys.items() if key in known}
    new = [path for path in keys if path not in seen]
    try:
        for done, (path, pixels) in enumerate(_look(new, workers), start=1):
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


def _look(paths: list[Path], workers: int) -> Iterator[tuple[Path, Pixels]]:
    if workers == 1 or len(paths) <= CHUNK:
        for path in paths:
            yield path, look_at(path)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from zip(paths, pool.map(look_at, paths, chunksize=CHUNK), strict=True)


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
