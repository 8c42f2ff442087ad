"""The list of forgotten exams that an import keeps to."""

from __future__ import annotations

from pathlib import Path

import pytest

from climb_model.data.exam import DataError
from climb_model.intake.forgotten import FORGOTTEN_FILE, is_forgotten, remember_forgotten
from climb_model.intake.pseudonym import site_key


@pytest.mark.parametrize("with_key", [True, False])
@pytest.mark.parametrize(
    ("forgotten", "left_out", "kept"),
    [
        ("7", ("7", "7_left", "7_right"), ("8", "8_left", "77")),
        ("7_left", ("7", "7_left"), ("7_right", "17_left", "8")),
        ("7_right", ("7", "7_right"), ("7_left",)),
    ],
)
def test_a_breast_takes_its_exam_along_and_an_exam_both_breasts(
    with_key: bool, forgotten: str, left_out: tuple[str, ...], kept: tuple[str, ...], tmp_path: Path
) -> None:
    if with_key:
        site_key(tmp_path)
    remember_forgotten(tmp_path, [forgotten])
    assert all(is_forgotten(tmp_path, name) for name in left_out)
    assert not any(is_forgotten(tmp_path, name) for name in kept)


def test_the_list_names_no_exam_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    remember_forgotten(tmp_path, ["A4711_left"])
    path = tmp_path / FORGOTTEN_FILE
    assert "4711" not in path.read_text("utf-8")
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_same_name_again_changes_nothing(tmp_path: Path) -> None:
    first = remember_forgotten(tmp_path, ["7_left"])
    content = (tmp_path / FORGOTTEN_FILE).read_bytes()
    assert remember_forgotten(tmp_path, ["7_left"]) == first
    assert (tmp_path / FORGOTTEN_FILE).read_bytes() == content


def test_what_was_forgotten_before_the_site_had_a_key_stays_forgotten(tmp_path: Path) -> None:
    remember_forgotten(tmp_path, ["7"])
    site_key(tmp_path)
    remember_forgotten(tmp_path, ["8"])
    assert is_forgotten(tmp_path, "7")
    assert is_forgotten(tmp_path, "8")


def test_nothing_is_forgotten_without_a_list_and_none_is_made(tmp_path: Path) -> None:
    assert not is_forgotten(tmp_path, "7")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"salt": "x", "exams": []}', '{"exams": ["a"]}'])
def test_a_damaged_list_is_refused_and_not_taken_for_empty(content: str, tmp_path: Path) -> None:
    path = tmp_path / FORGOTTEN_FILE
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(DataError, match="list of forgotten exams is damaged"):
        is_forgotten(tmp_path, "7")
