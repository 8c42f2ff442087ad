"""Preparing an exam against the plain way, and loading a kept one against preparing; ratios of CPU time.

    OMP_NUM_THREADS=1 python benchmarks/data_door.py [--runs 5]

An exam is three volumes of 512 x 512 x 80 int16 at 0.703 x 0.703 x 2 mm, smooth tissue in air with noise, as
nibabel writes them (.nii.gz). The plain way is nibabel's `get_fdata`, `scipy.ndimage.zoom(order=1)` to the
grid's spacing, the crop, and a z-score by `numpy.percentile`. The three are timed one after the other on one
core, run by run, and medians compared: a ratio holds inside one table, not between machines. Of kept exams
eight different files are loaded in a row, as for a split, and their mean counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from climb_model.data.exam import ExamRecord
from climb_model.data.nifti import read_nifti
from climb_model.data.prepared import prepared_volume
from climb_model.data.volume import FOREGROUND_SHARE, read_volume
from configs.schema import DataConfig

SIZE = (512, 512, 80)
"""column, row, slice."""
SPACING_MM = (360 / 512, 360 / 512, 2.0)
KEPT = 8
WANTED = {"plain / ours": 6.0, "ours / kept": 60.0}


def write_exam(folder: Path, sequences: tuple[str, ...]) -> ExamRecord:
    """Volumes of smooth tissue in air; noise as of a magnitude image (Rician)."""
    affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
    column, row = np.meshgrid(*(np.linspace(-1, 1, length) for length in SIZE[:2]), indexing="ij")
    body = ((column / 0.85) ** 2 + (row / 0.6) ** 2 < 1).astype(np.float32)[..., None]
    files: dict[str, Path] = {}
    for number, sequence in enumerate(sequences):
        rng = np.random.default_rng(number)
        tissue = ndimage.gaussian_filter(rng.standard_normal(SIZE, np.float32), 5)
        signal = body * (400 + 150 * tissue / tissue.std())
        parts = (signal + 12 * rng.standard_normal(SIZE, np.float32), 12 * rng.standard_normal(SIZE))
        files[sequence] = folder / f"{sequence}.nii.gz"
        nib.save(nib.Nifti1Image(np.hypot(*parts).astype(np.int16), affine), files[sequence])
    return ExamRecord(uid="0001_left", patient="0001", split="train", files=files)


def plain(exam: ExamRecord, data: DataConfig) -> np.ndarray:
    """(sequence, slice, row, column) with nibabel and scipy alone."""
    mask: np.ndarray | None = None
    scored: list[np.ndarray] = []
    for sequence in data.sequences:
        image = nib.load(exam.files[sequence])
        step = data.spacing_mm[::-1]
        factors = [length / wanted for length, wanted in zip(image.header.get_zooms(), step, strict=True)]
        values = ndimage.zoom(image.get_fdata(), factors, order=1)
        size = (data.columns, data.rows, data.slices)
        first = [(length - wanted) // 2 for length, wanted in zip(values.shape, size, strict=True)]
        crop = values[tuple(slice(at, at + wanted) for at, wanted in zip(first, size, strict=True))]
        if mask is None:
            low, high = np.percentile(crop, [1, 99])
            mask = crop > low + FOREGROUND_SHARE * (high - low)
        clipped = np.clip(crop, *np.percentile(crop[mask], data.clip_percentiles))
        scored.append((clipped - clipped[mask].mean()) / clipped[mask].std())
    return np.stack(scored).transpose(0, 3, 2, 1).astype(np.float32)


def load_kept(exams: list[ExamRecord], data: DataConfig, folder: Path) -> None:
    """One exam after the other; each is let go before the next."""
    for exam in exams:
        prepared_volume(exam, data, folder)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Of this process, all its threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    if os.environ.get("OMP_NUM_THREADS") != "1":
        raise SystemExit("set OMP_NUM_THREADS=1: the ratios are of one core")
    data = DataConfig()
    with tempfile.TemporaryDirectory() as name:
        exam, kept = write_exam(Path(name), data.sequences), Path(name) / "prepared"
        several = [replace(exam, uid=f"{number:04d}_left") for number in range(KEPT)]
        load_kept(several, data, kept)
        ours = prepared_volume(several[0], data, kept)
        alike = np.corrcoef(plain(exam, data).ravel(), ours.values.ravel())[0, 1]
        ways: dict[str, Callable[[], object]] = {
            "plain": lambda: plain(exam, data),
            "ours": lambda: read_volume(exam, data),
            "of which reading": lambda: [read_nifti(path) for path in exam.files.values()],
            "kept": lambda: load_kept(several, data, kept),
        }
        times = {way: [] for way in ways}
        for _ in range(runs):
            for way, work in ways.items():
                times[way].append(cpu_seconds(work) / (KEPT if way == "kept" else 1))
        megabytes = sum(path.stat().st_size for path in exam.files.values()) / 1e6
    middle = {way: statistics.median(each) for way, each in times.items()}
    print(
        f"one exam of {megabytes:.0f} MB (.nii.gz), {runs} runs; correlation of the two results {alike:.3f}"
    )
    for way, seconds in middle.items():
        lowest, highest = (1000 * end(times[way]) for end in (min, max))
        print(f"{way:18} {seconds * 1000:8.1f} ms   {lowest:.1f} to {highest:.1f}")
    for ratio, wanted in WANTED.items():
        over, under = ratio.split(" / ")
        found = middle[over] / middle[under]
        print(f"{ratio:18} {found:8.1f} x    wanted {wanted:.0f}: {'met' if found >= wanted else 'missed'}")


if __name__ == "__main__":
    main()
