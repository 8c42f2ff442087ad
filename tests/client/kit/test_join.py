"""Joining: what a node's folder holds, who may read it, which kits are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

import client.kit.join as module
from client.audit import read_log
from client.egress.policy import read_policy
from client.kit.join import Joined, join
from client.node.bundle import bundle_digest
from client.node.settings import NodePaths, read_node
from climb_model.kit import (
    Kit,
    KitError,
    certificate_sha256,
    read_kit,
    read_request,
    time_text,
    write_kit,
)
from climb_model.made_by import made_by
from configs.errors import UsageError
from server.deployment.authority import issue, new_authority

NOW = datetime.now(UTC)
FILES = {"client/app.py": "a" * 64}
SECRETS = {"node.key", "superexec.secret", "invitation"}


@pytest.fixture(autouse=True)
def _own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "own_files", lambda: FILES)


@pytest.fixture(scope="module")
def kit() -> Kit:
    pem = new_authority("server.example").certificate.decode("ascii")
    return Kit(
        site="A",
        server="server.example:8443",
        ca=pem,
        ca_sha256=certificate_sha256(pem),
        version=made_by()["version"],
        bundle=bundle_digest(FILES),
        invitation="the-invitation",
        expires=time_text(NOW + timedelta(days=14)),
    )


@pytest.fixture
def joined(tmp_path: Path, kit: Kit) -> Callable[..., Joined]:
    """Join with a kit that differs as the keywords say."""

    def run(*, node: Path | None = None, private: Path | None = None, **change: str) -> Joined:
        (tmp_path / "data").mkdir(exist_ok=True)
        write_kit(tmp_path / "A.kit.yaml", replace(kit, **change))
        return join(
            tmp_path / "A.kit.yaml", data=tmp_path / "data", node=node or tmp_path / "node", private=private
        )

    return run


def test_the_node_s_folder_is_complete(joined: Callable[..., Joined], kit: Kit, tmp_path: Path) -> None:
    made = joined()
    paths = NodePaths(made.node)
    settings = read_node(made.node)
    assert (settings.name, settings.server) == ("A", "server.example:8443")
    assert (settings.data, settings.private) == (tmp_path / "data", made.node / "private")
    assert read_policy(paths.policy).coordinators == (kit.ca_sha256,)
    assert paths.ca.read_text() == kit.ca
    assert read_kit(paths.invitation) == kit
    assert len(paths.secret.read_bytes()) == 32
    assert paths.state.is_dir()
    assert made.notices == ()


def test_the_key_is_new_on_p_384_and_of_the_form_that_flower_reads(
    joined: Callable[..., Joined], tmp_path: Path
) -> None:
    first, second = joined(), joined(node=tmp_path / "other")
    for made in (first, second):
        private = load_ssh_private_key(NodePaths(made.node).key.read_bytes(), None)
        public = load_ssh_public_key(NodePaths(made.node).public_key.read_bytes())
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert isinstance(private.curve, ec.SECP384R1)
        assert private.public_key() == public == load_ssh_public_key(made.request.public_key.encode())
    assert first.request.public_key != second.request.public_key


def test_secrets_are_their_owner_s_alone(joined: Callable[..., Joined]) -> None:
    node = joined().node
    modes = {path.name: path.stat().st_mode & 0o777 for path in node.iterdir()}
    assert {modes[name] for name in SECRETS} == {0o600}
    assert {modes["state"], modes["private"], node.stat().st_mode & 0o777} == {0o700}


def test_no_private_key_and_no_invitation_leave_with_the_request(
    joined: Callable[..., Joined], kit: Kit
) -> None:
    made = joined()
    content = made.request_file.read_text()
    key = NodePaths(made.node).key.read_text()
    assert kit.invitation not in content
    assert not [line for line in key.splitlines() if line in content]
    assert "PRIVATE" not in content
    assert str(made.node) not in content
    request = read_request(made.request_file)
    assert request == made.request
    assert request.is_answer_to(kit.invitation)
    holding = [
        path.name for path in made.node.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()
    ]
    assert holding == ["node.key"]


def test_the_audit_log_begins_with_the_join(joined: Callable[..., Joined], kit: Kit) -> None:
    made = joined()
    (entry,) = read_log(made.private)
    assert entry.kind == "join"
    assert entry.fields == {
        "site": "A",
        "server": kit.server,
        "ca_sha256": kit.ca_sha256,
        "key": made.request.fingerprint,
    }


def test_a_node_is_not_overwritten(joined: Callable[..., Joined]) -> None:
    node = joined().node
    key = NodePaths(node).key.read_bytes()
    with pytest.raises(UsageError, match="is a site's node already: climb-site leave comes first"):
        joined()
    assert NodePaths(node).key.read_bytes() == key


def test_a_join_that_was_killed_halfway_is_done_again(joined: Callable[..., Joined]) -> None:
    made = joined()
    NodePaths(made.node).settings.unlink()
    again = joined()
    assert again.request.public_key != made.request.public_key
    assert read_request(again.request_file) == again.request


def test_an_older_site_is_told_what_to_upgrade(joined: Callable[..., Joined], tmp_path: Path) -> None:
    with pytest.raises(KitError) as caught:
        joined(version="99.1.0")
    assert str(caught.value) == (
        f"the coordinator runs climb-federated 99.1.0, this site {made_by()['version']}: "
        "upgrade this site's image or installation to 99.1.0, then join again"
    )
    assert not (tmp_path / "node").exists()


def test_other_code_and_an_older_coordinator_are_told(joined: Callable[..., Joined]) -> None:
    notices = joined(version="0.0.1", bundle="c" * 64).notices
    assert [notice[:40] for notice in notices] == [
        "the coordinator runs climb-federated 0.0",
        "the coordinator's code is not this site'",
    ]


def test_an_expired_kit_is_refused(joined: Callable[..., Joined], tmp_path: Path) -> None:
    with pytest.raises(KitError, match="the kit expired on 2020-01-01T00:00:00Z: ask the coordinator"):
        joined(expires="2020-01-01T00:00:00Z")
    assert not (tmp_path / "node").exists()


@pytest.mark.parametrize("case", ["leaf", "expired", "garbage"])
def test_a_certificate_that_is_no_authority_s_is_refused(case: str, joined: Callable[..., Joined]) -> None:
    old = new_authority("server.example", now=NOW - timedelta(days=3660))
    pem = {
        "leaf": issue(new_authority("server.example"), ("server.example",)).certificate.decode("ascii"),
        "expired": old.certificate.decode("ascii"),
        "garbage": "-----BEGIN CERTIFICATE-----\nQUFB\n-----END CERTIFICATE-----\n",
    }[case]
    with pytest.raises(KitError, match="certificate of the authority"):
        joined(ca=pem, ca_sha256=certificate_sha256(pem))


def test_a_changed_certificate_is_refused(joined: Callable[..., Joined]) -> None:
    pem = new_authority("server.example").certificate.decode("ascii")
    with pytest.raises(KitError, match="ca_sha256 is not that of the certificate"):
        joined(ca=pem)


def test_a_private_folder_that_is_there_is_closed_or_refused(
    joined: Callable[..., Joined], tmp_path: Path
) -> None:
    private = tmp_path / "kept"
    private.mkdir()
    private.chmod(0o755)
    (private / "letter").touch()
    with pytest.raises(UsageError, match=r"--private is open to others \(mode 0755\): chmod 700 .*/kept"):
        joined(private=private)
    assert not (tmp_path / "node").exists()
    assert private.stat().st_mode & 0o777 == 0o755
    (private / "letter").unlink()
    joined(private=private)
    assert private.stat().st_mode & 0o777 == 0o700
    joined(private=private, node=tmp_path / "second")  # not empty, and closed


@pytest.mark.parametrize(
    ("private", "told"),
    [
        (".", "must be a folder of its own, --data lies in"),
        ("node", "must be a folder of its own, --node lies in"),
        ("node/state/private", "must not lie in the node's state"),
    ],
)
def test_the_private_folder_is_one_of_its_own(
    private: str, told: str, joined: Callable[..., Joined], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=told):
        joined(private=(tmp_path / private).resolve())
    assert not (tmp_path / "node").exists()


@pytest.mark.parametrize("what", ["node", "private"])
def test_a_file_in_the_place_of_a_folder_is_told(
    what: str, joined: Callable[..., Joined], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"--{what} must be a folder, got .*/file, where there is a file"):
        joined(**{what: tmp_path / "file"})
    assert not (tmp_path / "node").exists()


def test_the_private_folder_is_never_the_data_folder(joined: Callable[..., Joined], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--private must be another folder than --data"):
        joined(private=tmp_path / "data")
    below = joined(private=tmp_path / "data" / "private")
    assert below.notices == (
        f"the private folder lies below the data: in a container, mount {below.private} writable",
    )
