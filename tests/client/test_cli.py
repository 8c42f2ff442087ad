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


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--id", "x"], "--id goes with --series"),
        (["--make-reports"], "--make-reports goes with --parquet"),
        (["--institution", "X"], "--institution goes with --parquet"),
        (["--parquet", "--reports", "x.csv"], "--reports does not go with --parquet"),
        (["--parquet", "--mapping", "x.yaml"], "--mapping does not go with --parquet"),
        (["--parquet", "--motion", "none"], "--motion does not go with --parquet"),
        (["--parquet", "--workers", "2"], "--workers does not go with --parquet"),
        (["--series", "Pre", "--reports", "x.csv"], "--reports does not go with --series"),
        (["--series", "Pre", "--mapping", "x.yaml"], "--mapping does not go with --series"),
        (["--series", "Pre", "--motion", "rigid"], "--motion does not go with --series"),
        (["--series", "Pre", "--workers", "1"], "--workers does not go with --series"),
        (["--series", "Pre", "--replace"], "--replace does not go with --series"),
        (["--series", "Pre", "--show-files"], "--show-files does not go with --series"),
        (["--mapping", "none.yaml"], "none.yaml: No such file or directory"),
    ],
)
def test_options_of_another_kind_of_import_are_refused(
    tmp_path: Path, command: Command, options: list[str], line: str
) -> None:
    (tmp_path / "in").mkdir()
    code, _, error = command(main, "import", tmp_path / "in", tmp_path / "SITE", *options)
    assert code == 2
    assert line in error
    assert error.count("\n") == 1


def test_an_import_that_finds_no_exam_fails_and_says_what_it_found(tmp_path: Path, command: Command) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "note.txt").write_text("x")
    code, out, err = command(main, "import", tmp_path / "in", tmp_path / "SITE")
    assert (code, out) == (1, "")
    assert err == f"climb-site: import: no exam below {tmp_path / 'in'}: 1 x not a DICOM file\n"
    assert not (tmp_path / "SITE").exists()


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
