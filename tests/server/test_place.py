"""Where the server keeps what is its own: one file, or a folder of studies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from climb_model.runs import RunError
from server.place import ServerPlace, read_place, read_place_file, write_place


def place(folder: Path) -> ServerPlace:
    return ServerPlace(
        data=folder / "d",
        run=folder / "r",
        weights=folder / "w",
        num_sites=4,
        flower_runs=(7, 2**63),
        members=folder / "m",
    )


def test_the_servers_place_is_read_back_as_written(tmp_path: Path) -> None:
    write_place(tmp_path / "server.json", place(tmp_path))
    assert read_place_file(tmp_path / "server.json") == place(tmp_path)
    assert read_place("any", {"CLIMB_SERVER": str(tmp_path / "server.json")}) == place(tmp_path)


def test_in_a_folder_each_study_has_its_own_place(tmp_path: Path) -> None:
    for study in ("one", "two"):
        write_place(tmp_path / "studies" / f"{study}.json", place(tmp_path / study))
    environment = {"CLIMB_SERVER": str(tmp_path / "studies")}
    assert read_place("two", environment) == place(tmp_path / "two")
    with pytest.raises(RunError, match=r"three\.json does not describe the server's place"):
        read_place("three", environment)


@pytest.mark.parametrize("study", ["../secret", "", None, "a/b", "."])
def test_a_study_of_no_name_reads_no_file(study: object, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    write_place(tmp_path / "secret.json", place(tmp_path))
    with pytest.raises(RunError, match="a study is named with"):
        read_place(study, {"CLIMB_SERVER": str(tmp_path / "studies")})


def test_a_server_without_a_place_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the server needs CLIMB_SERVER"):
        read_place("any", {})
    with pytest.raises(RunError, match="does not describe the server's place"):
        read_place("any", {"CLIMB_SERVER": str(tmp_path / "none.json")})
    (tmp_path / "bad.json").write_text(json.dumps({"data": "d", "run": "r", "paths": 1}))
    with pytest.raises(RunError, match="does not describe the server's place"):
        read_place("any", {"CLIMB_SERVER": str(tmp_path / "bad.json")})
