"""Only the record of drawn exams, in a site's folder or above it, makes them synthetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from climb_model.data.synthetic import RECORD
from climb_model.origin import record_of

DRAWN = {"kind": "synthetic: no patient", "seed": 3}


@pytest.mark.parametrize("place", [".", "SITE_A"])
def test_the_record_is_found_in_the_folder_and_above_it(place: str, tmp_path: Path) -> None:
    (tmp_path / "SITE_A").mkdir()
    assert record_of(tmp_path / "SITE_A") is None
    (tmp_path / place / RECORD).write_text(json.dumps(DRAWN), "utf-8")
    assert record_of(tmp_path / "SITE_A") == DRAWN


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "knitted"}', "\udcff"])
def test_a_file_of_another_kind_is_no_record(text: str, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert record_of(tmp_path / "SITE_A") is None
