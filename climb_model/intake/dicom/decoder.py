"""Compressed pixels, decoded in a process of their own: GDCM ends its process on some damaged files."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydicom.pixels.utils import iter_pixels

from climb_model.intake.dicom.tags import READ_FAULTS, silent_pydicom

_START_SECONDS = 60.0
_FRAME_SECONDS = 2.0
_MEMORY_BYTES = 8 * 2**30


def decode_apart(wanted: Mapping[Path, Sequence[int]]) -> dict[Path, np.ndarray]:
    """Stored values (frame, row, column) of the wanted frames of each file.

    Raises:
        ValueError: pixels that cannot be decoded, or not within the time.
    """
    num_frames = sum(map(len, wanted.values()))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "climb_model.intake.dicom.decoder"],
            input=json.dumps([(str(path), list(indices)) for path, indices in wanted.items()]).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_START_SECONDS + _FRAME_SECONDS * num_frames,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError("decoding takes too long") from None
    if done.returncode:
        raise ValueError(f"the decoder ended with code {done.returncode}")
    stream = io.BytesIO(done.stdout)
    return {path: np.load(stream, allow_pickle=False) for path in wanted}


def main() -> int:
    """Read file names and frame numbers as JSON, write one array a file in NumPy's format."""
    _, allowed = resource.getrlimit(resource.RLIMIT_AS)
    if allowed == resource.RLIM_INFINITY or allowed > _MEMORY_BYTES:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    try:
        with silent_pydicom():
            for path, indices in json.load(sys.stdin):
                np.save(sys.stdout.buffer, np.stack(list(iter_pixels(path, indices=indices))))
    except READ_FAULTS:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
