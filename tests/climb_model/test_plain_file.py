"""Locks and whole files where somebody else has put a link or a pipe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from climb_model.atomic import write_atomic
from climb_model.lock import is_held, only_process
from climb_model.plain_file import open_plain


def put(kind: str, place: Path, other: Path) -> None:
    """Something of a kind at a place."""
    if kind == "link":
        place.symlink_to(other)
    elif kind == "hard link":
        place.hardlink_to(other)
    else:
        os.mkfifo(place)


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_a_lock_is_a_plain_file(tmp_path: Path, kind: str) -> None:
    other, place = tmp_path / "reports.csv", tmp_path / "lock"
    other.write_text("uid,report\n")
    put(kind, place, other)
    with pytest.raises(OSError, match="no plain file"), only_process(place, what="works"):
        raise AssertionError("it was locked")
    with pytest.raises(OSError, match="no plain file"):
        is_held(place)
    assert other.read_text() == "uid,report\n"


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_a_whole_file_is_written_beside_what_bears_its_unfinished_name(tmp_path: Path, kind: str) -> None:
    other, place = tmp_path / "reports.csv", tmp_path / "state.json"
    other.write_text("uid,report\n")
    put(kind, tmp_path / "state.json.unfinished", other)
    write_atomic(place, b"new", mode=0o600)
    assert (place.read_bytes(), place.is_symlink(), place.stat().st_mode & 0o777) == (b"new", False, 0o600)
    assert other.read_text() == "uid,report\n"


def test_a_link_at_the_files_own_name_is_replaced_not_followed(tmp_path: Path) -> None:
    other, place = tmp_path / "reports.csv", tmp_path / "state.json"
    other.write_text("uid,report\n")
    place.symlink_to(other)
    write_atomic(place, b"new")
    assert (place.is_symlink(), other.read_text()) == (False, "uid,report\n")


def test_a_device_and_a_folder_are_no_plain_files(tmp_path: Path) -> None:
    for place in (Path("/dev/null"), tmp_path):
        with pytest.raises(OSError, match="no plain file"):
            open_plain(place, os.O_RDONLY)


def test_a_plain_file_is_opened_and_made(tmp_path: Path) -> None:
    file = open_plain(tmp_path / "new", os.O_WRONLY | os.O_CREAT)
    os.write(file, b"x")
    os.close(file)
    assert (tmp_path / "new").read_bytes() == b"x"
