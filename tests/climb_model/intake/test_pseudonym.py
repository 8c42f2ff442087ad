"""Keyed names of exams."""

from __future__ import annotations

from pathlib import Path

import pytest

from climb_model.data.exam import DataError
from climb_model.intake.pseudonym import pseudonym, site_key


def test_the_parts_of_a_name_cannot_run_into_each_other() -> None:
    key = bytes(32)
    assert pseudonym(key, "patient", "1", "23") != pseudonym(key, "patient", "12", "3")


def test_a_key_that_others_can_read_or_that_is_damaged_is_refused(tmp_path: Path) -> None:
    key = site_key(tmp_path)
    assert site_key(tmp_path) == key
    assert len(key) == 32
    path = tmp_path / "private" / "pseudonym.key"
    path.chmod(0o644)
    with pytest.raises(DataError, match=r"can be read by others \(mode 644\)"):
        site_key(tmp_path)
    path.chmod(0o600)
    path.write_text("abc")
    with pytest.raises(DataError, match="damaged"):
        site_key(tmp_path)
