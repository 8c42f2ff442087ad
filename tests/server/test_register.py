"""The names under which nodes are registered."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from server.register import names_of_nodes


def record(folder: Path, name: str, **values: object) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"name": name, "state": "admitted", "node": 2, **values}))
    return file


def test_admitted_sites_are_known_by_their_nodes_from_the_moment_of_their_record(tmp_path: Path) -> None:
    assert names_of_nodes(tmp_path) == {}
    record(tmp_path, "A", node=2**63 + 1)
    record(tmp_path, "B", node=3, state="revoked")
    record(tmp_path, "C", node=None, state="invited")
    assert names_of_nodes(tmp_path) == {2**63 + 1: "A"}
    record(tmp_path, "C", node=4)
    assert names_of_nodes(tmp_path) == {2**63 + 1: "A", 4: "C"}
    record(tmp_path, "A", node=None, state="revoked")
    assert names_of_nodes(tmp_path) == {4: "C"}


@pytest.mark.parametrize("text", ["", "[", "7", "name: A", "\x00", "name: B\nstate: admitted\nnode: 5"])
def test_a_damaged_record_names_no_node_and_hides_no_other(text: str, tmp_path: Path) -> None:
    record(tmp_path, "C", node=4)
    (tmp_path / "A.yaml").write_text(text)
    (tmp_path / "D.yaml").write_bytes(b"\xff\xfe\x01")
    assert names_of_nodes(tmp_path) == {4: "C"}


def test_a_folder_that_is_not_there_knows_nobody(tmp_path: Path) -> None:
    assert names_of_nodes(tmp_path / "none") == {}
