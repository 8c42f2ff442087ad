"""Folders of exams that appear, change and go as a whole, whenever the process dies."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".unfinished"
"""Ending of folders that are being written."""
ASIDE = ".old"
"""Ending of folders that are being replaced."""


@contextmanager
def draft_of(folder: Path) -> Generator[Path]:
    """A fresh folder beside `folder` that no reader takes for an exam; removed unless it was shown."""
    draft = folder.with_name(f".{folder.name}{UNFINISHED}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def show(draft: Path, folder: Path) -> None:
    """Put a finished draft in its place; an older folder steps aside first."""
    if folder.exists():
        folder.rename(aside(folder))
    draft.rename(folder)
    shutil.rmtree(aside(folder), ignore_errors=True)


def remove(folder: Path) -> None:
    """Take a folder away in one step, then its files."""
    if folder.exists():
        folder.rename(aside(folder))
        shutil.rmtree(aside(folder), ignore_errors=True)


def aside(folder: Path) -> Path:
    """Where a folder waits while another takes its place."""
    return folder.with_name(f".{folder.name}{ASIDE}")


def tidy(parent: Path) -> None:
    """Undo what a killed process left in a folder: drafts go, what stepped aside for nothing comes back."""
    for draft in parent.glob(f".*{UNFINISHED}"):
        if draft.is_dir():
            shutil.rmtree(draft)
    for old in parent.glob(f".*{ASIDE}"):
        folder = old.with_name(old.name.removeprefix(".").removesuffix(ASIDE))
        if old.is_dir() and not folder.exists():
            old.rename(folder)
        elif old.is_dir():
            shutil.rmtree(old)
