"""Leaving: what goes, what stays, and what is never touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.audit import AuditError, append, read_log
from client.kit.leave import leave, plan
from client.node.settings import NodePaths, NodeSettings, write_node
from climb_model.lock import LockedError, only_process
from configs.errors import UsageError

OF_ROUNDS = {
    "study/round-0001.pt",
    "study/round-0002.pt",
    "study/exams.json",
    "study/forgotten.json",
    "tokens/tokens-train/data",
    "scratch/climb-train-x/meet",
    "site.log",
    "site.log.1",
    "lock",
}
OF_OTHERS = {"pseudonym.key", "forgotten.json", "import.lock", "notes/letter.txt", "study/mine.txt"}
AUDIT = {"audit.jsonl", "audit.lock"}


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A private folder that the data door uses too."""
    folder = tmp_path / "data" / "private"
    for name in OF_ROUNDS | OF_OTHERS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    append(folder, "join", {"site": "A"})
    return folder


@pytest.fixture
def node(tmp_path: Path, private: Path) -> Path:
    paths = NodePaths(tmp_path / "node")
    paths.bundles.mkdir(parents=True)
    for path in (paths.key, paths.public_key, paths.secret, paths.invitation, paths.ca, paths.policy):
        path.write_text("x")
    (paths.folder / "A.request.yaml").write_text("x")
    write_node(paths.folder, NodeSettings(name="A", server="s:1", data=tmp_path / "data", private=private))
    return paths.folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_node_and_what_rounds_wrote_go_and_the_audit_log_stays(node: Path, private: Path) -> None:
    found = leave(node)
    assert not node.exists()
    assert files(private) == OF_OTHERS | AUDIT
    assert found.removed[0].name == "node.key"
    assert found.removed[-1].name == "site.yaml"
    assert {str(path.relative_to(private)) for path in found.kept} == {
        *AUDIT,
        *("pseudonym.key", "forgotten.json", "import.lock", "notes", "study/mine.txt"),
    }
    assert [entry.kind for entry in read_log(private)] == ["join", "leave"]


def test_private_weights_stay_if_asked(node: Path, private: Path) -> None:
    leave(node, keep_private=True)
    assert not node.exists()
    assert files(private) == OF_ROUNDS | OF_OTHERS | AUDIT


def test_the_audit_log_goes_if_asked(node: Path, private: Path) -> None:
    leave(node, audit_too=True)
    assert files(private) == OF_OTHERS


def test_a_private_folder_within_the_node_s_leaves_only_the_audit_log(tmp_path: Path) -> None:
    node = tmp_path / "node"
    (node / "private" / "study").mkdir(parents=True)
    (node / "private" / "study" / "round-0001.pt").touch()
    append(node / "private", "join", {})
    write_node(node, NodeSettings(name="A", server="s:1", data=tmp_path, private=node / "private"))
    leave(node)
    assert files(node) == {f"private/{name}" for name in AUDIT}


def test_a_plan_changes_nothing_and_is_what_is_done(node: Path, private: Path) -> None:
    before = files(node), files(private)
    found = plan(node)
    assert (files(node), files(private)) == before
    assert leave(node).removed == found.removed


def test_a_link_is_not_followed(node: Path, private: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "round-0001.pt").touch()
    (private / "linked").symlink_to(tmp_path / "elsewhere")
    leave(node)
    assert (tmp_path / "elsewhere" / "round-0001.pt").exists()


def test_a_running_node_is_refused(node: Path, private: Path) -> None:
    before = files(node), files(private)
    with (
        only_process(NodePaths(node).lock, what="runs"),
        pytest.raises(LockedError, match="runs this node: stop it first"),
    ):
        leave(node)
    assert files(node) - {"state/lock"} == before[0]
    assert files(private) == before[1]


def test_a_changed_audit_log_stops_it(node: Path, private: Path) -> None:
    log = private / "audit.jsonl"
    log.write_text(log.read_text().replace("join", "jean"))
    with pytest.raises(AuditError, match="was changed or damaged"):
        leave(node)
    assert NodePaths(node).key.exists()


def test_a_folder_that_is_no_node_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node.key").touch()
    with pytest.raises(UsageError, match="is no site's node"):
        leave(tmp_path)
    assert (tmp_path / "node.key").exists()
