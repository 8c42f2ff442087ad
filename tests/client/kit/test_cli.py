"""From nothing to an admitted site, on both command lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import client.kit.join as join
import server.deployment.bundle as bundle
import server.deployment.flower as flower
import server.deployment.superlink as superlink
from client.cli import main as site
from client.node.bundle import bundle_digest as digest_of
from climb_model.ports import free_port
from server.cli import main as coordinator
from server.deployment.flower import Node

Command = Callable[..., tuple[int, str, str]]


class SuperLink:
    """What stands in for a running one."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}

    def register(self, _: Path, public_key: Path, name: str) -> int:
        assert public_key.read_text().startswith("ecdsa-sha2-nistp384 ")
        self.names[7 + len(self.names)] = name
        return 6 + len(self.names)

    def unregister(self, _: Path, node: int) -> None:
        del self.names[node]

    def nodes(self, _: Path) -> list[Node]:
        return [
            Node(node=node, status="online", online_since="2030-01-01", offline_since="")
            for node in self.names
        ]


@pytest.fixture
def superlink_runs(monkeypatch: pytest.MonkeyPatch) -> SuperLink:
    link = SuperLink()
    monkeypatch.setattr(superlink, "healthy", lambda *_: True)
    for name in ("register", "unregister", "nodes"):
        monkeypatch.setattr(flower, name, getattr(link, name))
    return link


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of coordinator and site that have the same code, with an empty data folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("CLIMB_HOME", "CLIMB_NODE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "data").mkdir()
    files = {"client/app.py": "a" * 64}
    monkeypatch.setattr(join, "own_files", lambda: files)
    monkeypatch.setattr(bundle, "bundle_digest", lambda _: digest_of(files))
    return tmp_path


def test_init_invite_join_admit_revoke_leave(here: Path, command: Command, superlink_runs: SuperLink) -> None:
    code, out, _ = command(coordinator, "init", "--host", "server.example", "--port", "443")
    assert code == 0
    (authority,) = [line for line in out.splitlines() if line.startswith("fingerprint of the authority: ")]
    code, out, _ = command(coordinator, "invite", "A", "--days", "3")
    assert code == 0
    assert authority in out
    code, out, _ = command(site, "join", "A.kit.yaml", "--data", "data")
    assert code == 0
    assert authority.partition(": ")[2] in out
    assert "(its server: server.example:443)" in out
    assert "note:" not in out
    (key,) = [line.partition(": ")[2] for line in out.splitlines() if line.startswith("fingerprint of this")]
    request = "node/A.request.yaml"
    code, _, err = command(coordinator, "admit", request, "--fingerprint", "SHA256:wrong")
    assert (code, "not SHA256:wrong" in err) == (1, True)
    code, out, _ = command(coordinator, "admit", request, "--fingerprint", key)
    assert code == 0
    assert f"asks with key {key}" in out
    assert "site 'A' is admitted as node 7" in out
    assert superlink_runs.names == {7: "A"}
    code, out, _ = command(coordinator, "sites", "--json")
    (entry,) = json.loads(out)["sites"]
    assert (entry["name"], entry["state"], entry["fingerprint"]) == ("A", "admitted", key)
    assert entry["last_contact"] == "online since 2030-01-01"
    assert len(json.loads(out)["certificates"]) == 3
    assert command(coordinator, "revoke", "A")[0] == 0
    assert superlink_runs.names == {}
    code, out, err = command(site, "leave")
    assert (code, err) == (2, "climb-site: nothing was removed: give --yes too\n")
    assert "would remove" in out
    assert "are not unlearned" in out
    assert (here / "node" / "node.key").exists()
    assert command(site, "leave", "--yes")[0] == 0
    assert not (here / "node" / "node.key").exists()


def test_without_a_running_server_nobody_is_admitted(here: Path, command: Command) -> None:
    command(coordinator, "init", "--host", "127.0.0.1")
    port = free_port()
    settings = here / "coordinator" / "server.yaml"
    settings.write_text(settings.read_text().replace("18443", str(port)))
    command(coordinator, "invite", "A")
    command(site, "join", "A.kit.yaml", "--data", "data")
    code, _, err = command(coordinator, "admit", "node/A.request.yaml")
    assert code == 2
    assert err == (
        f"climb-server: the server of {here / 'coordinator'} does not run (127.0.0.1:{port} does not "
        "answer with its certificate): climb-server start comes first\n"
    )
    assert "invited until" in command(coordinator, "sites")[1]


def test_a_node_that_the_server_has_lost_is_registered_again_or_revoked(
    here: Path, command: Command, superlink_runs: SuperLink
) -> None:
    command(coordinator, "init", "--host", "server.example")
    command(coordinator, "invite", "A")
    command(site, "join", "A.kit.yaml", "--data", "data", "--node", here / "n")
    command(coordinator, "admit", here / "n" / "A.request.yaml")
    assert "knows all admitted sites" in command(coordinator, "admit", "--lost")[1]
    superlink_runs.names.clear()
    assert "site 'A' is registered again, as node 7" in command(coordinator, "admit", "--lost")[1]
    superlink_runs.names.clear()
    code, out, _ = command(coordinator, "revoke", "A")
    assert code == 0
    assert "the server has no node 7" in out


def test_what_is_there_is_not_overwritten(here: Path, command: Command) -> None:
    command(coordinator, "init", "--host", "server.example")
    code, _, err = command(coordinator, "init", "--host", "server.example", "--home", here / "coordinator")
    assert (code, err.count("\n")) == (2, 1)
    assert "is there already: nothing was changed" in err
    Path("A.kit.yaml").write_text("a letter")
    code, _, err = command(coordinator, "invite", "A")
    assert (code, "--out must be a new file" in err) == (2, True)
    code, _, err = command(coordinator, "invite", "A", "--again")
    assert (code, "is no kit of a site" in err) == (1, True)
    assert Path("A.kit.yaml").read_text() == "a letter"
    assert "A" not in command(coordinator, "sites")[1].split()


def test_renewal_says_what_to_do(here: Path, command: Command) -> None:
    command(coordinator, "init", "--host", "server.example")
    before = (here / "coordinator" / "tls" / "server.crt").read_bytes()
    code, out, _ = command(coordinator, "renew")
    assert code == 0
    assert "certificate of the server: good until" in out
    assert "a server that runs shows sites the new certificate within seconds" in out
    assert "start it again" not in out
    assert (here / "coordinator" / "tls" / "server.crt").read_bytes() != before
    _, out, _ = command(coordinator, "renew", "--ca")
    assert "new fingerprint of the authority: " in out
    assert "policy.yaml" in out


@pytest.mark.parametrize(
    ("main", "arguments", "line"),
    [
        (coordinator, ["sites"], "climb-server: coordinator is no coordinator's folder: make one"),
        (site, ["leave"], "climb-site: "),
        (
            site,
            ["join", "none.yaml", "--data", "data"],
            "climb-site: KIT must be a file, got none.yaml, where there is nothing",
        ),
        (
            site,
            ["join", "data", "--data", "data"],
            "climb-site: KIT must be a file, got data, where there is a folder",
        ),
        (
            site,
            ["join", "none.yaml", "--data", "data", "--devices", "gpu7"],
            "climb-site: --devices must be auto, cpu or such as cuda:0,cuda:1, got 'gpu7'",
        ),
        (site, ["join", "none.yaml", "--data", "no"], "climb-site: --data must be a folder, got no"),
    ],
)
def test_what_cannot_be_is_one_line(
    here: Path, command: Command, main: Callable[..., int], arguments: list[str], line: str
) -> None:
    code, out, err = command(main, *arguments)
    assert code in (1, 2)
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1
    assert {path.name for path in here.iterdir()} == {"data"}


def test_a_host_that_is_none_is_told_once(here: Path, command: Command) -> None:
    code, out, err = command(coordinator, "init", "--host", "a b")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("climb-server: ")
    assert "climb-server: climb-server" not in err
    assert "host must be a name or IP address, got 'a b'" in err
    assert {path.name for path in here.iterdir()} == {"data"}
