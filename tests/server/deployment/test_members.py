"""Invitations, admissions and revocations."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from climb_model.kit import Kit, KitError, Request, key_fingerprint, make_request
from climb_model.names import RunError
from configs.errors import UserError
from server.deployment.home import Home, HomeError, HomeSettings
from server.deployment.members import MemberError, admit, invite, members, readmit, revoke, table, to_json

NOW = datetime(2030, 1, 2, tzinfo=UTC)
BUNDLE = "b" * 64


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home", HomeSettings(host="server.example"))


class Link:
    """What stands in for the SuperLink: it counts nodes from 100."""

    def __init__(self) -> None:
        self.nodes: dict[int, tuple[str, str]] = {}
        self.refuses = False

    def register(self, public_key: Path, name: str) -> int:
        if self.refuses:
            raise UserError("the SuperLink refuses")
        node = 100 + len(self.nodes)
        self.nodes[node] = (name, public_key.read_text())
        return node

    def unregister(self, node: int) -> None:
        if self.refuses:
            raise UserError("the SuperLink refuses")
        del self.nodes[node]


@pytest.fixture
def link() -> Link:
    return Link()


def public_key() -> str:
    """A new OpenSSH public key as sites make it."""
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def answer(kit: Kit) -> Request:
    return make_request(kit.site, public_key(), kit.invitation)


def test_a_kit_names_server_authority_version_and_bundle(home: Home) -> None:
    kit = invite(home, "A", bundle=BUNDLE, days=3, now=NOW)
    assert (kit.site, kit.server, kit.bundle) == ("A", "server.example:8443", BUNDLE)
    assert kit.ca == home.ca_certificate.read_text()
    assert kit.expires == "2030-01-05T00:00:00Z"
    assert len(kit.invitation) >= 40
    assert "PRIVATE" not in kit.ca


def test_nobody_is_invited_without_the_authority_s_certificate(home: Home) -> None:
    home.ca_certificate.unlink()
    with pytest.raises(HomeError, match=r"ca\.crt is missing or damaged: put it back"):
        invite(home, "A", bundle=BUNDLE)
    assert members(home) == ()


def test_an_invited_site_is_admitted_once(home: Home, link: Link) -> None:
    kit = invite(home, "A", bundle=BUNDLE, now=NOW)
    request = answer(kit)
    member = admit(home, request, link.register, now=NOW + timedelta(days=1))
    assert (member.state, member.node, member.fingerprint) == ("admitted", 100, request.fingerprint)
    assert link.nodes == {100: ("A", f"{request.public_key}\n")}
    assert members(home) == (member,)
    with pytest.raises(MemberError, match="is admitted since 2030-01-03T00:00:00Z, not invited"):
        admit(home, request, link.register, now=NOW)
    assert len(link.nodes) == 1


def test_the_invitation_is_kept_only_while_it_is_open_and_never_shown(home: Home, link: Link) -> None:
    kit = invite(home, "A", bundle=BUNDLE)
    record = home.sites / "A.yaml"
    assert kit.invitation in record.read_text()
    assert record.stat().st_mode & 0o777 == 0o600
    (member,) = members(home)
    assert kit.invitation not in f"{member!r} {to_json(member, None)} {table([member], None)}"
    admit(home, answer(kit), link.register)
    assert not [
        path for path in home.path.rglob("*") if path.is_file() and kit.invitation in path.read_text("latin1")
    ]


def test_a_changed_public_key_is_refused(home: Home, link: Link) -> None:
    request = answer(invite(home, "A", bundle=BUNDLE))
    other = public_key()
    forged = replace(request, public_key=other, fingerprint=key_fingerprint(other))
    with pytest.raises(MemberError, match="does not fit its invitation"):
        admit(home, forged, link.register)
    assert not link.nodes
    assert admit(home, request, link.register).node == 100


def test_another_site_s_invitation_is_refused(home: Home, link: Link) -> None:
    invite(home, "A", bundle=BUNDLE)
    kit = invite(home, "B", bundle=BUNDLE)
    with pytest.raises(MemberError, match="does not fit its invitation"):
        admit(home, make_request("A", public_key(), kit.invitation), link.register)


def test_a_site_that_nobody_invited_is_refused(home: Home, link: Link) -> None:
    with pytest.raises(MemberError, match="site 'C' was never invited"):
        admit(home, make_request("C", public_key(), "guess"), link.register)
    with pytest.raises(RunError, match="a site is named with"):
        admit(home, make_request("../C", public_key(), "guess"), link.register)


def test_an_expired_invitation_is_refused(home: Home, link: Link) -> None:
    kit = invite(home, "A", bundle=BUNDLE, days=2, now=NOW)
    with pytest.raises(MemberError, match=r"expired on 2030-01-04T00:00:00Z: climb-server invite A --again"):
        admit(home, answer(kit), link.register, now=NOW + timedelta(days=2))


def test_another_fingerprint_than_the_one_read_out_is_refused(home: Home, link: Link) -> None:
    request = answer(invite(home, "A", bundle=BUNDLE))
    with pytest.raises(MemberError, match="not SHA256:other: ask its admin"):
        admit(home, request, link.register, fingerprint="SHA256:other")
    assert admit(home, request, link.register, fingerprint=request.fingerprint).state == "admitted"


def test_a_key_that_is_none_is_refused(home: Home, link: Link) -> None:
    kit = invite(home, "A", bundle=BUNDLE)
    with pytest.raises(MemberError, match="is no ECDSA key on P-384"):
        admit(home, make_request("A", "ecdsa-sha2-nistp384 QUFBQQ==", kit.invitation), link.register)
    with pytest.raises(KitError, match="a site's public key must be"):
        make_request("A", "ssh-ed25519 QUFBQQ==", kit.invitation)


def test_a_taken_name_is_refused_unless_again_which_makes_the_old_kit_worthless(
    home: Home, link: Link
) -> None:
    old = invite(home, "A", bundle=BUNDLE)
    with pytest.raises(MemberError, match=r"is invited already, until .*: --again makes a new kit"):
        invite(home, "A", bundle=BUNDLE)
    new = invite(home, "A", bundle=BUNDLE, again=True)
    with pytest.raises(MemberError, match="does not fit its invitation"):
        admit(home, answer(old), link.register)
    admit(home, answer(new), link.register)
    for again in (False, True):
        with pytest.raises(MemberError, match="climb-server revoke A comes first"):
            invite(home, "A", bundle=BUNDLE, again=again)


def test_a_revoked_site_may_be_invited_again_and_its_record_stays(home: Home, link: Link) -> None:
    first = answer(invite(home, "A", bundle=BUNDLE, now=NOW))
    admit(home, first, link.register, now=NOW)
    revoked = revoke(home, "A", link.unregister, now=NOW)
    assert (revoked.state, revoked.node, revoked.fingerprint) == ("revoked", None, first.fingerprint)
    assert not link.nodes
    with pytest.raises(MemberError, match=r"is revoked since 2030-01-02T00:00:00Z$"):
        revoke(home, "A", link.unregister)
    with pytest.raises(MemberError, match=r"is revoked since .*, not invited"):
        admit(home, first, link.register)
    second = answer(invite(home, "A", bundle=BUNDLE, now=NOW))
    member = admit(home, second, link.register, now=NOW)
    assert [event.what for event in member.events] == [
        *("invited", "admitted", "revoked", "invited", "admitted"),
    ]
    assert [event.fingerprint for event in member.events if event.what == "admitted"] == [
        first.fingerprint,
        second.fingerprint,
    ]


def test_an_invitation_is_taken_back_without_a_server(home: Home, link: Link) -> None:
    kit = invite(home, "A", bundle=BUNDLE)
    link.refuses = True
    assert revoke(home, "A", link.unregister).state == "revoked"
    link.refuses = False
    with pytest.raises(MemberError, match="not invited"):
        admit(home, answer(kit), link.register)


def test_where_the_server_refuses_nothing_changes(home: Home, link: Link) -> None:
    request = answer(invite(home, "A", bundle=BUNDLE))
    link.refuses = True
    with pytest.raises(UserError, match="refuses"):
        admit(home, request, link.register)
    assert members(home)[0].state == "invited"
    link.refuses = False
    admit(home, request, link.register)
    link.refuses = True
    with pytest.raises(UserError, match="refuses"):
        revoke(home, "A", link.unregister)
    assert members(home)[0].state == "admitted"


def test_sites_that_the_server_has_lost_are_registered_again_with_their_keys(home: Home, link: Link) -> None:
    requests = {name: answer(invite(home, name, bundle=BUNDLE)) for name in ("A", "B", "C", "D")}
    for name in ("A", "B", "C"):
        admit(home, requests[name], link.register)
    revoke(home, "C", link.unregister)
    lost = Link()
    lost.nodes[100] = ("A", "")
    (again,) = readmit(home, lost.nodes, lost.register)
    assert (again.name, again.node, again.fingerprint) == ("B", 101, requests["B"].fingerprint)
    assert lost.nodes[101] == ("B", f"{requests['B'].public_key}\n")
    assert [member.node for member in members(home)] == [100, 101, None, None]
    assert readmit(home, lost.nodes, lost.register) == ()


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "-x", "a b", "x" * 65])
def test_a_name_that_can_be_no_folder_is_refused(name: str, home: Home) -> None:
    with pytest.raises(RunError, match="a site is named with"):
        invite(home, name, bundle=BUNDLE)
    assert not list(home.sites.glob("*.yaml"))


@pytest.mark.parametrize(
    "content", ["", "name: A", "name: B\nstate: invited\nevents: []", "[", "name: A\nevents: 7"]
)
def test_a_damaged_record_is_named(content: str, home: Home) -> None:
    (home.sites / "A.yaml").write_text(content)
    with pytest.raises(MemberError, match=r"A\.yaml is no record of a site"):
        members(home)


def test_the_table_tells_each_site_s_state_and_last_contact(home: Home, link: Link) -> None:
    for name in ("A", "B", "C", "D"):
        kit = invite(home, name, bundle=BUNDLE, now=NOW)
        if name != "A":
            admit(home, answer(kit), link.register, now=NOW)
    revoke(home, "D", link.unregister, now=NOW)
    lines = table(members(home), {100: "online since 2030-01-02"})
    assert [line.split()[0] for line in lines] == ["site", "A", "B", "C", "D"]
    assert "invited until 2030-01-16T00:00:00Z" in lines[1]
    assert lines[2].endswith("online since 2030-01-02")
    assert lines[3].endswith("never")
    assert lines[4].endswith("-")
    assert table(members(home), None)[2].endswith("server not running")
    told = to_json(members(home)[1], {100: "online since 2030-01-02"})
    assert (told["node"], told["last_contact"]) == (100, "online since 2030-01-02")
