"""Kept slice tokens: one memory-mapped float16 file for a site's split, named by what made it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from climb_model.data.exam import DataError, ExamRecord

MAGIC = "CLIMB slice tokens 1"
NUM_WORKERS = 2
"""Threads that read and encode, one exam each; every exam is computed on one core."""
AHEAD = 4
"""Exams under way at once."""

Encoded = tuple[np.ndarray, np.ndarray]
"""Tokens (view, slice token, dim) and presence (slice token,) of one exam."""


@dataclass(frozen=True)
class StoreIndex:
    """What lies in a token file; written last, so that a half-built file has no index."""

    magic: str
    site: str
    key: str
    uids: tuple[str, ...]
    num_views: int
    num_tokens: int
    width: int
    left_out: dict[str, str]

    @property
    def num_bytes(self) -> int:
        """Size of the data file: all tokens, then one presence byte a slice token."""
        return len(self.uids) * self.num_tokens * (self.num_views * self.width * 2 + 1)


@dataclass(frozen=True)
class KeptTokens:
    """An open store."""

    index: StoreIndex
    tokens: np.ndarray
    """(exam, view, slice token, dim) float16, memory-mapped read-only."""

    present: np.ndarray
    """(exam, slice token) bool."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process maps the same file instead of getting a copy."""
        if isinstance(self.tokens, np.memmap) and self.tokens.filename is not None:
            return map_store, (Path(self.tokens.filename), self.index)
        return KeptTokens, (self.index, np.asarray(self.tokens), self.present)


def store_key(fingerprints: Sequence[str], num_views: int, exams: Sequence[ExamRecord]) -> str:
    """Hash of everything that decides the tokens: encoder, preprocessing, views, and the files' state."""
    digest = hashlib.sha256(json.dumps([*fingerprints, num_views]).encode())
    for exam in exams:
        digest.update(exam.uid.encode())
        for sequence, path in sorted(exam.files.items()):
            stat = path.stat()
            digest.update(f"{sequence}:{stat.st_size}:{stat.st_mtime_ns};".encode())
    return digest.hexdigest()


def open_store(base: Path, site: str, key: str) -> KeptTokens | None:
    """Open a finished store of this site; None when there is none, or it is stale or truncated.

    Raises:
        DataError: if the file belongs to another site or is no token store.
    """
    index_path, data_path = base.with_suffix(".json"), base.with_suffix(".f16")
    if not index_path.exists():
        return None
    try:
        raw = json.loads(index_path.read_text(encoding="utf-8"))
        raw["uids"] = tuple(raw["uids"])
        index = StoreIndex(**raw)
    except (ValueError, TypeError, KeyError):
        raise DataError(
            f"token store: {index_path} is not an index of this program; move it away",
            "the token store is not readable",
        ) from None
    if index.magic != MAGIC or index.site != site:
        raise DataError(
            f"token store: {index_path} belongs to site '{index.site}' ({index.magic}), "
            f"wanted site '{site}' ({MAGIC}); give each site its own scratch folder",
            "the token store belongs to another site",
        )
    if index.key != key or not data_path.exists() or data_path.stat().st_size != index.num_bytes:
        return None
    return map_store(data_path, index)


def store_holds(base: Path, uids: Sequence[str]) -> bool:
    """Whether a store holds one of these exams, or its index cannot tell: of a build that was killed.

    An index of another program is left alone.
    """
    index_path = base.with_suffix(".json")
    if not index_path.exists():
        return bool(_data_files(base))
    try:
        raw = json.loads(index_path.read_text(encoding="utf-8"))
        known = {*raw["uids"], *raw["left_out"]} if raw["magic"] == MAGIC else set[str]()
    except (ValueError, TypeError, KeyError):
        return True
    return not known.isdisjoint(uids)


def remove_store(base: Path) -> None:
    """Delete a store, the index first: what is left of it when this is cut off is no store."""
    base.with_suffix(".json").unlink(missing_ok=True)
    for path in _data_files(base):
        path.unlink(missing_ok=True)


def _data_files(base: Path) -> list[Path]:
    data = base.with_suffix(".f16")
    return [*([data] if data.exists() else []), *base.parent.glob(f"{base.name}.*.partial")]


def map_store(data_path: Path, index: StoreIndex) -> KeptTokens:
    """Map a finished data file."""
    shape = (len(index.uids), index.num_views, index.num_tokens, index.width)
    if not index.uids:
        return KeptTokens(index, np.zeros(shape, np.float16), np.zeros((0, index.num_tokens), bool))
    tokens = np.memmap(data_path, np.float16, "r", 0, shape)
    present = np.memmap(data_path, np.bool_, "r", tokens.nbytes, (len(index.uids), index.num_tokens))
    return KeptTokens(index, tokens, np.array(present))


def build_store(
    base: Path,
    site: str,
    key: str,
    exams: Sequence[ExamRecord],
    num_views: int,
    encode: Callable[[ExamRecord], Encoded],
    on_exam: Callable[[int, int], None] | None = None,
) -> KeptTokens:
    """Encode all exams into a new store, replacing what was there.

    An exam that cannot be read is left out with its reason. The data file is complete before its
    index appears, so a killed build is built again.
    """
    base.parent.mkdir(parents=True, exist_ok=True)
    index_path, data_path = base.with_suffix(".json"), base.with_suffix(".f16")
    index_path.unlink(missing_ok=True)
    partial = base.with_suffix(f".{os.getpid()}.partial")
    uids: list[str] = []
    masks: list[np.ndarray] = []
    left_out: dict[str, str] = {}
    num_tokens = width = 0
    with partial.open("wb") as file:
        for number, (exam, made) in enumerate(work_ahead(exams, encode), start=1):
            if isinstance(made, DataError):
                left_out[exam.uid] = str(made)
            else:
                tokens, present = made
                num_tokens, width = tokens.shape[1:]
                file.write(np.ascontiguousarray(tokens, np.float16).tobytes())
                uids.append(exam.uid)
                masks.append(present)
            if on_exam is not None:
                on_exam(number, len(exams))
        for mask in masks:
            file.write(mask.astype(np.bool_).tobytes())
        file.flush()
        os.fsync(file.fileno())
    partial.replace(data_path)
    index = StoreIndex(MAGIC, site, key, tuple(uids), num_views, num_tokens, width, left_out)
    scratch = base.with_suffix(f".{os.getpid()}.json.partial")
    scratch.write_text(json.dumps(asdict(index), ensure_ascii=False), encoding="utf-8")
    scratch.replace(index_path)
    return map_store(data_path, index)


def work_ahead(
    exams: Sequence[ExamRecord], encode: Callable[[ExamRecord], Encoded]
) -> Iterator[tuple[ExamRecord, Encoded | DataError]]:
    """Read and encode exams in a few threads, a few ahead, in order. A DataError is handed on as a value."""

    def attempt(exam: ExamRecord) -> Encoded | DataError:
        try:
            return encode(exam)
        except DataError as error:
            return error

    with ThreadPoolExecutor(NUM_WORKERS, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending = [pool.submit(attempt, exam) for exam in exams[:AHEAD]]
        for number, exam in enumerate(exams):
            made = pending.pop(0).result()
            following = number + AHEAD
            if following < len(exams):
                pending.append(pool.submit(attempt, exams[following]))
            yield exam, made
