"""500 mutated NIfTI files: none crashes, hangs, fills the memory, or is read wrongly in silence.

What NIfTI states once and nothing else in the file confirms cannot be noticed when it changes: the intensity
scaling, the number type among those of one width, the position where only one of sform and qform is set, and
the voxels of a file that is not compressed. These are counted, by name, and nothing else is let pass.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from climb_model.data.nifti_header import farthest_corner_mm

NUM_FILES = 500
SIZE = (14, 12, 10)
SPARE_BYTES = 256 << 20
SECONDS = 10
UNNOTICEABLE = ("scaling", "number type", "position told once", "raw voxels")

READ = f"""
import hashlib, json, resource, signal, sys
from pathlib import Path
import numpy as np
from climb_model.data.nifti import read_nifti, read_nifti_header
from climb_model.data.nifti_header import NiftiError

pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + {SPARE_BYTES}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
    signal.alarm({SECONDS})
    try:
        image = read_nifti(Path(path))
        head = read_nifti_header(Path(path))
        assert head.shape == image.voxels.shape and (head.affine == image.affine).all()
        with np.errstate(all="ignore"):
            values = image.voxels.astype(np.float64) * image.slope + image.intercept
        answer = [hashlib.sha256(values.tobytes()).hexdigest(), values.shape, image.affine.tolist()]
    except NiftiError as error:
        answer = str(error)
    signal.alarm(0)
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True)
class Mutant:
    """A changed file beside the sound one it was made of."""

    path: Path
    sound: Path
    kind: str
    header: bytes
    """The changed header."""

    raw_voxels: bool
    """Whether voxels changed that no checksum covers."""


def sound_files(folder: Path) -> list[Path]:
    """Both versions of NIfTI, both byte orders, oblique and straight, sform with and without qform."""
    rng = np.random.default_rng(0)
    straight = np.array([[-0.7, 0, 0, 60], [0, -0.7, 0, 70], [0, 0, 3, -40], [0, 0, 0, 1.0]])
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    paths: list[Path] = []
    for name, kind, order, affine, dtype, qform in (
        ("plain", nib.Nifti1Image, "<", straight, "i2", 1),
        ("oblique", nib.Nifti1Image, "<", turn @ straight, "f4", 1),
        ("swapped", nib.Nifti1Image, ">", straight, "i2", 1),
        ("second", nib.Nifti2Image, "<", turn @ straight, "u2", 1),
        ("sform-only", nib.Nifti1Image, "<", straight, "i2", 0),
    ):
        image = kind(rng.integers(0, 900, SIZE).astype(dtype), affine, kind.header_class(endianness=order))
        image.set_data_dtype(f"{order}{dtype}")
        image.set_qform(affine, qform)
        for ending in (".nii", ".nii.gz"):
            paths.append(folder / f"{name}{ending}")
            paths[-1].write_bytes(packed(image.to_bytes(), paths[-1]))
    return paths


def packed(raw: bytes, path: Path) -> bytes:
    return gzip.compress(raw, 1, mtime=0) if path.suffix == ".gz" else raw


def raw_of(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


def header_of(raw: bytes) -> Nifti1Header:
    kind = Nifti2Header if 540 in (int.from_bytes(raw[:4], order) for order in ("little", "big")) else None
    kind = kind or Nifti1Header
    size = kind.template_dtype.itemsize
    order = "<" if int.from_bytes(raw[:4], "little") == size else ">"
    return kind(raw[:size], order, check=False)


def mutate(sound: Path, path: Path, rng: np.random.Generator) -> Mutant:
    raw = bytearray(raw_of(sound))
    zipped = sound.suffix == ".gz"
    kinds = ("header", "header", "header", "fields", "codes", "cut", "stream" if zipped else "voxels")
    kind = kinds[int(rng.integers(len(kinds)))]
    size = header_of(bytes(raw)).template_dtype.itemsize
    if kind == "header":
        for place in rng.integers(0, size, rng.integers(1, 4)):
            raw[place] ^= 1 << int(rng.integers(8)) if rng.random() < 0.5 else int(rng.integers(1, 256))
    elif kind in ("fields", "codes"):
        header = header_of(bytes(raw))
        absurd(header, rng) if kind == "fields" else clear_codes(header, rng)
        raw[:size] = header.binaryblock
    elif kind == "voxels":
        raw[int(rng.integers(size + 4, len(raw)))] ^= int(rng.integers(1, 256))
    content = bytearray(packed(bytes(raw), path))
    if kind == "stream":
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            content[place] ^= int(rng.integers(1, 256))
    if kind == "cut":
        content = content[: int(rng.integers(0, len(content)))]
    path.write_bytes(content)
    return Mutant(path, sound, kind, bytes(raw[:size]), kind == "voxels")


def absurd(header: Nifti1Header, rng: np.random.Generator) -> None:
    """One field that decides size, type, place or spacing gets a value far off."""
    number = float(rng.choice([0, -1, 1e9, -1e9, 3e38, np.nan, np.inf, 1e-30, 7.5]))
    field = str(
        rng.choice(["dim", "dim", "vox_offset", "datatype", "bitpix", "pixdim", "srow_x", "qoffset_y"])
    )
    if field == "dim":
        top = 32767 if header["dim"].dtype.itemsize == 2 else 2**62
        for axis in rng.integers(0, 8, rng.integers(1, 4)):
            header["dim"][axis] = int(rng.choice([0, 1, 2, 3, 4, 7, 100, -5, top]))
    elif field in ("datatype", "bitpix"):
        header[field] = int(rng.choice([0, 1, 2, 4, 8, 16, 32, 64, 128, 512, 768, 1536, 2304, -7]))
    elif field == "vox_offset":
        header[field] = int(rng.choice([0, 16, 348, 353, 368, 4000, 2**30, -16]))
    elif field == "qoffset_y":
        header[field] = number
    else:
        header[field][int(rng.integers(header[field].size))] = number


def clear_codes(header: Nifti1Header, rng: np.random.Generator) -> None:
    for code in ("sform_code", "qform_code"):
        if rng.random() < 0.6:
            header[code] = 0


def answers(paths: list[Path]) -> list[object]:
    """What reading each file gives, in a process with little memory and time; a crash is an error."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", READ, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{paths[len(lines)].name}: exit {done.returncode}: {done.stderr[-500:]}"
    return [json.loads(line) for line in lines]


def unnoticed(mutant: Mutant, read: list[object], sound: list[object]) -> str:
    """Empty where the file was read as the sound one; else what changed without a reason to notice it."""
    before, after = header_of(raw_of(mutant.sound)), header_of(mutant.header)
    apart = farthest_corner_mm(np.array(read[2]), np.array(sound[2]), SIZE)
    if read[:2] == sound[:2] and apart <= 0.5 * 0.7:
        return ""
    if read[:2] != sound[:2]:
        if mutant.raw_voxels:
            return "raw voxels"
        if after["datatype"] != before["datatype"] and after["bitpix"] == before["bitpix"]:
            return "number type"
        if any(after[field] != before[field] for field in ("scl_slope", "scl_inter")):
            return "scaling"
    elif after["sform_code"] <= 0 or after["qform_code"] <= 0:
        return "position told once"
    return "read wrongly"


@pytest.mark.long
def test_no_mutated_file_is_read_wrongly_in_silence(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    sound = sound_files(tmp_path)
    wanted = dict(zip(sound, answers(sound), strict=True))
    assert all(isinstance(answer, list) for answer in wanted.values())
    mutants: list[Mutant] = []
    while len(mutants) < NUM_FILES:
        source = sound[len(mutants) % len(sound)]
        mutants.append(mutate(source, tmp_path / f"{len(mutants)}{''.join(source.suffixes)}", rng))
    outcomes: Counter[tuple[str, str]] = Counter()
    for start in range(0, NUM_FILES, 100):
        batch = mutants[start : start + 100]
        for mutant, answer in zip(batch, answers([each.path for each in batch]), strict=True):
            outcome = "refused"
            if isinstance(answer, list):
                outcome = unnoticed(mutant, answer, wanted[mutant.sound]) or "read as the sound one"
            assert outcome != "read wrongly", (mutant.path.name, mutant.kind, mutant.sound.name, answer)
            outcomes[mutant.kind, outcome] += 1
    lines = [f"{kind:8} {what:22} {count}" for (kind, what), count in sorted(outcomes.items())]
    sys.stdout.write("\n".join(["", *lines, ""]))  # shown by pytest -s
    total = Counter(what for (_, what), count in outcomes.items() for _ in range(count))
    assert sum(total.values()) == NUM_FILES
    assert total["refused"] > NUM_FILES // 2
    assert total["read as the sound one"] > NUM_FILES // 10
    assert sum(total[name] for name in UNNOTICEABLE) < NUM_FILES // 5
    assert outcomes["cut", "refused"] == sum(count for (kind, _), count in outcomes.items() if kind == "cut")
