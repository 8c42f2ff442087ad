"""`climb-site start`, `pause`, `status` and `approve` at the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.cli import main
from client.egress.policy import default_policy, write_policy
from client.node.bundle import Approvals, bundle_digest, files_of_fab
from client.node.checks import check_node
from client.node.server_check import ServerCheck
from client.node.settings import NodeError
from client.node.status import Answered, NodeStatus, StatusFile
from climb_model.kit import certificate_sha256
from climb_model.lock import only_process
from climb_model.supervisor import ServiceState

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(node: Any, command: Any) -> Ask:
    """Run `climb-site VERB ... --node NODE`."""
    return lambda *words: command(main, *words, "--node", node.paths.folder)


def status_file(node: Any) -> StatusFile:
    now = time.time()
    first = NodeStatus(site="H", server="s:1", version="0", bundle="b", pid=1, started=now, updated=now)
    return StatusFile(node.paths.status, first)


RUNS = ServiceState(pid=9, since=1.0, ready=True, restarts=0, last_exit=None)


def test_a_site_is_paused_and_takes_part_again(ask: Ask, node: Any) -> None:
    assert ask("pause", "--reason", "GPU in maintenance")[0] == 0
    assert json.loads(node.paths.paused.read_text())["reason"] == "GPU in maintenance"
    assert ask("pause", "--off")[1] == "takes part again\n"
    assert not node.paths.paused.exists()
    assert ask("pause", "--off")[1] == "was not paused\n"
    assert ask("pause", "--off", "--now")[0] == 2
    assert ask("pause", "--reason", "x" * 121)[0] == 1


def test_status_without_a_node_that_ran(ask: Ask) -> None:
    assert ask("status")[:2] == (1, "not started yet: climb-site start\n")


def test_status_is_0_while_connected_and_1_otherwise(ask: Ask, node: Any, tmp_path: Path) -> None:
    log = tmp_path / "supernode.log"
    file = status_file(node)
    code, said, _ = ask("status")
    assert code == 1
    assert "does not run" in said
    with only_process(node.paths.lock, what="runs the node"):
        log.write_text("INFO : Starting Flower SuperNode\n")
        file.supernode(RUNS, log, ServerCheck(answers=False, offset_s=7.0, problem="the clock is wrong"))
        code, said, _ = ask("status")
        assert code == 1
        assert "not connected: the clock is wrong" in said
        assert "clock: +7.0 s" in said
        log.write_text("Starting Flower SuperNode\nStarted server process [9]\nSuperNode ID: 5\n")
        file.supernode(RUNS, log, None)
        file.answered(Answered(time.time(), "study", "train", 3, "", 400))
        file.answered(Answered(time.time(), "study", "train", 4, "site 'H': its policy", 0))
        code, said, _ = ask("status")
        assert code == 0
        assert "connected since" in said
        assert "(study, train, round 4)" in said
        assert "2, 1 refused; 400 bytes of weights left, 400 with the last update" in said
        assert "last refusal: site 'H': its policy" in said
        values = json.loads(ask("status", "--json")[1])
        assert values["connected"] is values["running"] is True
        assert (values["last_round"], values["num_refused"], values["last_bytes"]) == (4, 1, 400)
        log.write_text("Starting Flower SuperNode\nStarted server process [8]\nSuperNode ID: 5\n")
        file.supernode(replace(RUNS, pid=10), log, None)  # it began anew, and wrote nothing yet
        assert ask("status")[0] == 1


def test_a_bundle_is_looked_at_approved_and_withdrawn(
    ask: Ask, node: Any, received: Any, small_bundle: Any
) -> None:
    bundle = small_bundle("import os\n")
    digest = bundle_digest(files_of_fab(bundle))
    node.refused(received(bundle))
    assert f"climb-site approve {digest} --diff" in ask("status")[1]
    code, said, _ = ask("approve", "--list")
    assert code == 0
    assert f"{digest}  waits, version 9.9.9" in said
    code, said, _ = ask("approve", digest[:12], "--diff")
    assert code == 0
    assert "+++ bundle/client/app.py" in said
    assert "+import os" in said
    assert f"climb-site approve {digest}\n" in said
    code, _, error = ask("approve", digest[:12])
    assert code == 1
    assert "all 64 digits" in error
    assert not Approvals(node.paths.bundles).is_approved(digest)
    code, said, _ = ask("approve", digest)
    assert code == 0
    assert f"approved: {digest}" in said
    assert "changed client/app.py" in said or "more files" in said
    assert Approvals(node.paths.bundles).is_approved(digest)
    assert ask("approve", "--withdraw", digest[:8])[0] == 0
    assert not Approvals(node.paths.bundles).is_approved(digest)


def test_a_damaged_note_of_a_bundle_is_one_line(
    ask: Ask, node: Any, received: Any, small_bundle: Any
) -> None:
    node.refused(received(small_bundle("import os\n")))
    [note] = node.paths.bundles.glob("*.json")
    note.write_text("{")
    for words in (("status",), ("approve", "--list")):
        code, said, error = ask(*words)
        assert (code, said) == (1, "")
        assert error.startswith(f"climb-site: {note} is damaged: delete it")


@pytest.mark.parametrize("words", [(), ("--diff",), ("abcdef0123", "--list"), ("--list", "--diff")])
def test_approve_takes_one_thing(words: tuple[str, ...], ask: Ask) -> None:
    assert ask("approve", *words)[0] == 2


def test_start_names_what_is_not_in_order(ask: Ask, node: Any) -> None:
    def told() -> str:
        code, _, error = ask("start")
        assert code == 1
        return error

    assert "node.key is missing" in told()
    for path in (node.paths.key, node.paths.secret):
        path.write_text("key")
        path.chmod(0o644)
    node.paths.ca.write_text("no certificate")
    assert f"chmod 600 {node.paths.key}" in told()
    node.paths.key.chmod(0o600)
    assert f"chmod 600 {node.paths.secret}" in told()
    node.paths.secret.chmod(0o600)
    assert "is not one certificate in PEM" in told()


@pytest.fixture
def ready(node: Any) -> Any:
    """A node in whose folder all is in order."""
    for path in (node.paths.key, node.paths.secret):
        path.write_text("key")
        path.chmod(0o600)
    pem = "-----BEGIN CERTIFICATE-----\nAAECAw==\n-----END CERTIFICATE-----\n"
    node.paths.ca.write_text(pem)
    write_policy(node.paths.policy, default_policy((certificate_sha256(pem),)))
    return node


@pytest.mark.parametrize("what", ["folder", "settings", "policy", "ca", "state", "bundles"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_what_decides_is_not_for_others_to_change(what: str, mode: int, ready: Any) -> None:
    ready.paths.bundles.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_node(ready.paths, ready.settings)
    path = getattr(ready.paths, what)
    path.chmod(path.stat().st_mode | mode)
    with pytest.raises(NodeError, match=f"chmod go-w {path}$"):
        check_node(ready.paths, ready.settings)


def test_the_private_folder_is_its_owners_alone(ready: Any) -> None:
    check_node(ready.paths, ready.settings)
    private = ready.settings.private
    assert private.stat().st_mode & 0o777 == 0o700
    private.chmod(0o750)
    with pytest.raises(NodeError, match=f"is open to others .mode 0750.: chmod 700 {private}$"):
        check_node(ready.paths, ready.settings)


@pytest.mark.parametrize("place", [".", "node", "node/state/x"])
def test_the_private_folder_is_one_of_its_own(place: str, ready: Any, tmp_path: Path) -> None:
    with pytest.raises(NodeError, match=r"private of site\.yaml must "):
        check_node(ready.paths, replace(ready.settings, private=tmp_path / place))


def test_start_without_a_node_says_what_to_do(command: Any, tmp_path: Path) -> None:
    code, _, error = command(main, "start", "--node", tmp_path)
    assert code == 2
    assert "climb-site join KIT" in error
