"""The exam contract: what a folder promises about one breast, and what the model is given of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from configs.errors import UserError

SPLITS = ("train", "val", "test")


class DataError(UserError):
    """Data that cannot be used: one line saying who, what was wanted and what came.

    `public` is the same fact without identifiers and paths: what may be told to the server.
    """

    def __init__(self, message: str, public: str) -> None:
        super().__init__(message)
        self.public = public


@dataclass(frozen=True, kw_only=True)
class ExamRecord:
    """One breast as the tables describe it; no pixel has been read yet."""

    uid: str
    """Folder name, `<StudyOrPatientID>_left` or `_right`. A string: leading zeros count."""

    patient: str
    """Pseudonymous patient; both breasts of a patient share it."""

    split: str
    """`train`, `val` or `test`; all exams of a patient are in one split."""

    files: dict[str, Path] = field(repr=False)
    """Sequence name (`Pre`, `Sub`, `T2`, `Post_1` ...) to its NIfTI file."""

    report: str | None = field(default=None, repr=False)
    """This breast's part of the German report. Never printed, logged or sent."""

    findings: dict[str, int | None] = field(default_factory=dict, repr=False)
    """Finding name to 1, 0 or None (unknown). Only the server's exams need it."""

    fold: int | None = None
    age_days: int | None = None
    lesion: int | None = None
    """ODELIA's class of the breast: 0 none, 1 benign, 2 malignant."""


@dataclass(frozen=True, kw_only=True)
class SiteData:
    """All usable exams of one folder, and what was left out."""

    name: str
    exams: tuple[ExamRecord, ...] = field(repr=False)
    left_out: dict[str, str] = field(default_factory=dict, repr=False)
    """UID to the reason why that exam is not used. For the site's own screen only."""

    def of_split(self, split: str) -> tuple[ExamRecord, ...]:
        """The exams of one split, in the order of their UIDs."""
        return tuple(exam for exam in self.exams if exam.split == split)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One exam on the model's grid.

    Padded slices and absent sequences are zeros under `present`; there are no sentinel values.
    """

    values: np.ndarray
    """(sequence, slice, row, column) float32, z-scored over the foreground."""

    present: np.ndarray
    """(sequence, slice) bool. False: this slice is padding or its sequence is absent."""

    spacing_mm: tuple[float, float, float]
    """slice, row, column."""

    def __post_init__(self) -> None:
        if self.values.ndim != 4 or self.present.shape != self.values.shape[:2]:
            raise ValueError(
                f"a volume is (sequence, slice, row, column) with a (sequence, slice) mask, "
                f"got {self.values.shape} and {self.present.shape}"
            )
        if self.present.dtype != np.bool_:
            raise ValueError(f"the presence mask must be bool, got {self.present.dtype}")
        if not np.isfinite(self.values).all():
            raise ValueError("a volume must be finite")
        if np.any(self.values[~self.present]):
            raise ValueError("slices that are not present must be zero")
