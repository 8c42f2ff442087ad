"""Who takes part: invitations, admissions and revocations, one record a site in `sites/NAME.yaml`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import yaml
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from climb_model.atomic import write_atomic
from climb_model.kit import Kit, Request, certificate_sha256, parse_time, time_text
from climb_model.lock import only_process
from climb_model.made_by import made_by
from climb_model.names import check_name
from configs.errors import UserError
from server.deployment.home import Home
from server.register import ADMITTED

INVITED, REVOKED = "invited", "revoked"

Register = Callable[[Path, str], int]
"""Lets the OpenSSH public key of a file connect under a name; returns the number of its node."""

Unregister = Callable[[int], None]
"""Lets a node connect no more."""

_LOCK_WAIT_S = 5.0


class MemberError(UserError):
    """An invitation, admission or revocation that cannot be; one line."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One change of a site's membership."""

    what: str
    """`invited`, `admitted` or `revoked`."""

    time: str
    """UTC, to the second, ISO 8601."""

    fingerprint: str | None = None
    """Of the key that was admitted or revoked."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One site as the coordinator knows it."""

    name: str
    state: str
    """`invited`, `admitted` or `revoked`."""

    expires: str | None = None
    """End of the invitation, while the site is invited."""

    invitation: str | None = field(default=None, repr=False)
    """Code of the invitation, while the site is invited."""

    public_key: str | None = None
    """OpenSSH; of the site's admission, also after it was revoked."""

    fingerprint: str | None = None
    node: int | None = None
    """Number of the site's SuperNode, while it is admitted."""

    events: tuple[Event, ...] = ()
    """All that happened, oldest first."""

    @property
    def since(self) -> str:
        """Since when it has been in its state."""
        return self.events[-1].time


def invite(
    home: Home, name: str, *, bundle: str, days: int = 14, again: bool = False, now: datetime | None = None
) -> Kit:
    """Record an invitation and return its kit.

    Args:
        bundle: digest of the application's files that this coordinator sends.
        days: for which the invitation is good.
        again: make an earlier invitation of this name, and its kit, worthless.
        now: UTC; None takes the clock.

    Raises:
        RunError: if the name can be no folder's name.
        HomeError: if the authority's certificate is missing or damaged.
        MemberError: if the name is taken.
    """
    check_name("site", name)
    now = datetime.now(UTC) if now is None else now
    ca = home.authority_certificate()
    with _alone(home):
        before = _find(home, name)
        if before is not None and before.state == ADMITTED:
            raise MemberError(f"site '{name}' is admitted already: climb-server revoke {name} comes first")
        if before is not None and before.state == INVITED and not again:
            raise MemberError(
                f"site '{name}' is invited already, until {before.expires}: --again makes a new kit "
                "and the old one worthless"
            )
        kit = Kit(
            site=name,
            server=home.settings().server,
            ca=ca,
            ca_sha256=certificate_sha256(ca),
            version=made_by()["version"],
            bundle=bundle,
            invitation=secrets.token_urlsafe(32),
            expires=time_text(now + timedelta(days=days)),
        )
        member = Member(
            name=name,
            state=INVITED,
            expires=kit.expires,
            invitation=kit.invitation,
            events=(*(before.events if before else ()), Event(what=INVITED, time=time_text(now))),
        )
        _write(home, member)
    return kit


def admit(
    home: Home,
    request: Request,
    register: Register,
    *,
    fingerprint: str | None = None,
    now: datetime | None = None,
) -> Member:
    """Let the site of a request connect with its key; its invitation is used up.

    Args:
        register: tells the SuperLink.
        fingerprint: of the key as the site's admin read it out; None compares nothing.
        now: UTC; None takes the clock.

    Raises:
        MemberError: if the site is not invited, its invitation has expired, or the request does not
            come from who holds it.
        UserError: whatever `register` raises; the site stays invited.
    """
    now = datetime.now(UTC) if now is None else now
    with _alone(home):
        before = _known(home, request.site)
        if before.state != INVITED or before.invitation is None or before.expires is None:
            raise MemberError(f"site '{before.name}' is {before.state} since {before.since}, not invited")
        if not request.is_answer_to(before.invitation):
            raise MemberError(
                f"the request of site '{before.name}' does not fit its invitation: it was changed, or made "
                "with another kit"
            )
        if parse_time(before.expires) <= now:
            raise MemberError(
                f"the invitation of site '{before.name}' expired on {before.expires}: "
                f"climb-server invite {before.name} --again"
            )
        if fingerprint is not None and fingerprint != request.fingerprint:
            raise MemberError(
                f"the key of site '{before.name}' has fingerprint {request.fingerprint}, not {fingerprint}: "
                "ask its admin which key it made"
            )
        _check_key(request)
        path = _key_file(home, before.name)
        write_atomic(path, f"{request.public_key}\n".encode())
        node = register(path, before.name)
        event = Event(what=ADMITTED, time=time_text(now), fingerprint=request.fingerprint)
        member = Member(
            name=before.name,
            state=ADMITTED,
            public_key=request.public_key,
            fingerprint=request.fingerprint,
            node=node,
            events=(*before.events, event),
        )
        _write(home, member)
    return member


def readmit(home: Home, known: Collection[int], register: Register) -> tuple[Member, ...]:
    """Let admitted sites whose nodes the SuperLink has lost, as with its database, connect again.

    Args:
        known: the nodes that the SuperLink knows.
        register: tells it; a site keeps its key and gets a new node.

    Returns:
        The sites that were registered again.
    """
    found: list[Member] = []
    with _alone(home):
        for before in members(home):
            if before.state == ADMITTED and before.node not in known:
                member = replace(before, node=register(_key_file(home, before.name), before.name))
                _write(home, member)
                found.append(member)
    return tuple(found)


def revoke(home: Home, name: str, unregister: Unregister, *, now: datetime | None = None) -> Member:
    """Let a site connect no more, or take an invitation back; the record stays.

    Args:
        unregister: tells the SuperLink; not called for a site that was never admitted.
        now: UTC; None takes the clock.

    Raises:
        MemberError: if there is no such site, or it is revoked already.
        UserError: whatever `unregister` raises; the site stays admitted.
    """
    now = datetime.now(UTC) if now is None else now
    with _alone(home):
        before = _known(home, name)
        if before.state == REVOKED:
            raise MemberError(f"site '{name}' is revoked since {before.since}")
        if before.node is not None:
            unregister(before.node)
        event = Event(what=REVOKED, time=time_text(now), fingerprint=before.fingerprint)
        member = replace(
            before,
            state=REVOKED,
            expires=None,
            invitation=None,
            node=None,
            events=(*before.events, event),
        )
        _write(home, member)
    return member


def members(home: Home) -> tuple[Member, ...]:
    """All sites that were ever invited, by name.

    Raises:
        MemberError: if a record cannot be read.
    """
    return tuple(_read(path) for path in sorted(home.sites.glob("*.yaml")))


def to_json(member: Member, contacts: Mapping[int, str] | None) -> dict[str, object]:
    """What `climb-server sites --json` tells of a site: everything but the invitation.

    Args:
        contacts: node to its last contact; None where the server does not run.
    """
    values = asdict(member)
    del values["invitation"]
    contact = None if contacts is None or member.node is None else contacts.get(member.node)
    return {**values, "since": member.since, "last_contact": contact}


def table(found: Sequence[Member], contacts: Mapping[int, str] | None) -> list[str]:
    """The sites as lines of text, a heading first; `contacts` as for `to_json`."""
    rows = [("site", "state", "since", "key", "node", "last contact")]
    for member in found:
        contact = "server not running" if contacts is None else contacts.get(member.node or 0, "never")
        admitted = member.state == ADMITTED
        rows.append(
            (
                member.name,
                member.state if member.state != INVITED else f"invited until {member.expires}",
                member.since,
                (member.fingerprint or "-").removeprefix("SHA256:")[:12],
                str(member.node) if admitted else "-",
                contact if admitted else "-",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _alone(home: Home) -> AbstractContextManager[None]:
    return only_process(
        home.sites / ".lock", what="changes the members of this coordinator", wait_s=_LOCK_WAIT_S
    )


def _check_key(request: Request) -> None:
    try:
        key = load_ssh_public_key(request.public_key.encode())
        sound = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)
    except (ValueError, UnsupportedAlgorithm):
        sound = False
    if not sound:
        raise MemberError(f"the public key of site '{request.site}' is no ECDSA key on P-384")


def _key_file(home: Home, name: str) -> Path:
    return home.sites / f"{name}.pub"


def _find(home: Home, name: str) -> Member | None:
    path = home.sites / f"{name}.yaml"
    return _read(path) if path.is_file() else None


def _known(home: Home, name: str) -> Member:
    member = _find(home, check_name("site", name))
    if member is None:
        raise MemberError(f"site '{name}' was never invited: climb-server sites lists all")
    return member


def _write(home: Home, member: Member) -> None:
    values = asdict(member)
    values["events"] = [{key: value for key, value in event.items() if value} for event in values["events"]]
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
    write_atomic(home.sites / f"{member.name}.yaml", text.encode(), mode=0o600)


def _read(path: Path) -> Member:
    try:
        values = cast(dict[str, object], yaml.safe_load(path.read_text("utf-8")))
        events = tuple(Event(**event) for event in cast(list[dict[str, str]], values.pop("events")))
        member = Member(**values, events=events)  # type: ignore[arg-type]
        sound = member.state in (INVITED, ADMITTED, REVOKED) and bool(events) and member.name == path.stem
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        sound, member = False, None
    if not sound or member is None:
        raise MemberError(f"{path} is no record of a site: it was changed or damaged")
    return member
