"""`climb-site`: what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from client.cli import main

Command = Callable[..., tuple[int, str, str]]


def test_import_refuses_a_missing_folder(command: Command, tmp_path: Path) -> None:
    wrong = tmp_path / "no"
    found = command(main, "import", wrong, tmp_path / "site", "--series", "Pre=T1")
    assert found == (2, "", f"climb-site: DICOM_DIR must be a folder, got {wrong}, where there is nothing\n")
    assert not (tmp_path / "site").exists()


def test_import_needs_a_series(command: Command, tmp_path: Path) -> None:
    code, out, err = command(main, "import", tmp_path, tmp_path / "site")
    assert (code, out) == (2, "")
    assert err.startswith("climb-site import: the following arguments are required: --series")
    assert err.count("\n") == 1


@pytest.mark.parametrize("series", ["=T1", "Pre=", ""])
def test_import_refuses_a_series_without_both_names(series: str, command: Command, tmp_path: Path) -> None:
    code, _, err = command(main, "import", tmp_path, tmp_path / "site", "--series", series)
    assert code == 2
    assert f"must be SEQUENCE or SEQUENCE=DESCRIPTION, got '{series}'" in err


def test_import_of_a_folder_without_dicom_is_one_line(command: Command, tmp_path: Path) -> None:
    (tmp_path / "dicom").mkdir()
    code, out, err = command(main, "import", tmp_path / "dicom", tmp_path / "site", "--series", "Pre=T1")
    assert (code, out) == (1, "")
    assert err.startswith("climb-site: ")
    assert err.count("\n") == 1
