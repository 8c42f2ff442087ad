"""`climb-server init`, `invite`, `admit`, `revoke`, `sites` and `renew`: who takes part, and certificates."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from configs.cli import DONE, Tool, whole_number
from configs.errors import UsageError

if TYPE_CHECKING:
    from configs.cli import Parser
    from server.deployment.home import Home

_MOST_DAYS = 365
"""Of an invitation."""


def add_home(parser: Parser) -> None:
    """Add `--home`, given to `open_home`."""
    parser.add_argument(
        "--home",
        type=Path,
        metavar="DIR",
        help="the coordinator's folder; else CLIMB_HOME, else ./coordinator",
    )


def open_home(arguments: argparse.Namespace) -> Home:
    """The folder of `--home`.

    Raises:
        HomeError: if there is none.
    """
    from server.deployment.home import Home, home_folder

    return Home.open(home_folder(arguments.home))


def add_members(tool: Tool) -> None:
    """Add the verbs."""
    _add_init(tool)
    _add_renew(tool)
    _add_invite(tool)
    _add_admit(tool)
    _add_revoke(tool)
    _add_sites(tool)


def _add_init(tool: Tool) -> None:
    parser = tool.verb(
        "init", _init, does="make the coordinator's folder: authority, certificates, secrets, settings"
    )
    parser.add_argument(
        "--host", required=True, metavar="NAME", help="name or IP address under which sites reach the server"
    )
    parser.add_argument(
        "--port", type=whole_number(1), default=8443, help="public TCP port; 8443 unless told"
    )
    add_home(parser)


def _init(arguments: argparse.Namespace) -> int:
    from climb_model.kit import certificate_sha256, spaced
    from server.deployment.home import Home, HomeSettings, expiries, home_folder

    home = Home.create(home_folder(arguments.home), HomeSettings(host=arguments.host, port=arguments.port))
    print(f"made {home.path}")
    print(f"fingerprint of the authority: {spaced(certificate_sha256(home.authority_certificate()))}")
    print("\n".join(each.line for each in expiries(home)))
    print(
        f"next: keep a copy of {home.ca_key} off this machine, climb-server start, climb-server invite SITE"
    )
    return DONE


def _add_invite(tool: Tool) -> None:
    parser = tool.verb("invite", _invite, does="make the kit with which one site joins")
    parser.add_argument("name", metavar="NAME", help="the site's name in all studies")
    parser.add_argument("--out", type=Path, metavar="FILE", help="new file; NAME.kit.yaml unless told")
    parser.add_argument(
        "--days",
        type=_days,
        default=14,
        metavar="N",
        help=f"good for so long, at most {_MOST_DAYS}; 14 unless told",
    )
    parser.add_argument(
        "--again", action="store_true", help="make an earlier kit of this site worthless, if there is one"
    )
    add_home(parser)


def _days(text: str) -> int:
    try:
        days = int(text)
    except ValueError:
        days = 0
    if not 1 <= days <= _MOST_DAYS:
        raise argparse.ArgumentTypeError(f"must be from 1 to {_MOST_DAYS} days, got {text!r}")
    return days


def _invite(arguments: argparse.Namespace) -> int:
    home = open_home(arguments)
    from climb_model.kit import KIT_SUFFIX, read_kit, spaced, write_kit
    from climb_model.names import check_name
    from server.deployment.bundle import bundle_digest
    from server.deployment.flower import app_folder
    from server.deployment.members import invite

    out = arguments.out or Path(f"{check_name('site', arguments.name)}{KIT_SUFFIX}")
    if out.exists() and not arguments.again:
        raise UsageError(f"--out must be a new file, got {out}, which is there already")
    if out.exists():
        read_kit(out)  # nothing but a kit is overwritten
    kit = invite(
        home,
        arguments.name,
        bundle=bundle_digest(app_folder()),
        days=arguments.days,
        again=arguments.again,
    )
    write_kit(out, kit)
    print(f"kit of site '{kit.site}': {out}, good until {kit.expires}")
    print(f"fingerprint of the authority: {spaced(kit.ca_sha256)}")
    print("next: hand the kit over encrypted or in person; the site's admin runs climb-site join and reads")
    print("this fingerprint and its key's to you by telephone; then climb-server admit REQUEST")
    return DONE


def _add_admit(tool: Tool) -> None:
    parser = tool.verb("admit", _admit, does="let an invited site connect with the key in its request")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("request", type=Path, nargs="?", metavar="FILE", help="the site's NAME.request.yaml")
    what.add_argument(
        "--lost",
        action="store_true",
        help="instead: register admitted sites again that the server no longer knows, as after the loss of "
        "its database",
    )
    parser.add_argument(
        "--fingerprint",
        metavar="SHA256:...",
        help="of the key, as the site's admin read it out; another key is refused",
    )
    add_home(parser)


def _admit(arguments: argparse.Namespace) -> int:
    home = open_home(arguments)
    if arguments.lost:
        return _readmit(home)
    from climb_model.kit import read_request
    from server.deployment.flower import register
    from server.deployment.members import admit

    request = read_request(arguments.request)
    print(f"site '{request.site}' asks with key {request.fingerprint}")
    _need_server(home)
    member = admit(home, request, partial(register, home.flower), fingerprint=arguments.fingerprint)
    print(f"site '{member.name}' is admitted as node {member.node}")
    if arguments.fingerprint is None:
        print(
            "next: compare the key's fingerprint with the site's admin by telephone; if it differs, "
            f"climb-server revoke {member.name}"
        )
    return DONE


def _readmit(home: Home) -> int:
    _need_server(home)
    from server.deployment.flower import register
    from server.deployment.members import readmit

    found = readmit(home, _nodes(home), partial(register, home.flower))
    for member in found:
        print(f"site '{member.name}' is registered again, as node {member.node}")
    if not found:
        print("the server knows all admitted sites")
    return DONE


def _add_revoke(tool: Tool) -> None:
    parser = tool.verb("revoke", _revoke, does="let a site connect no more, or take its invitation back")
    parser.add_argument("name", metavar="NAME", help="the site's name")
    add_home(parser)


def _revoke(arguments: argparse.Namespace) -> int:
    home = open_home(arguments)
    from server.deployment.flower import unregister
    from server.deployment.members import revoke

    def end(node: int) -> None:
        _need_server(home)
        if node in _nodes(home):
            unregister(home.flower, node)
        else:
            print(f"the server has no node {node}: nothing to end there")

    member = revoke(home, arguments.name, end)
    print(f"site '{member.name}' is revoked; its record stays, and it may be invited again")
    return DONE


def _add_sites(tool: Tool) -> None:
    parser = tool.verb("sites", _sites, does="list the sites, their keys and last contact")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    add_home(parser)


def _sites(arguments: argparse.Namespace) -> int:
    home = open_home(arguments)
    from server.deployment.home import expiries
    from server.deployment.members import members, table, to_json

    found, contacts = members(home), _contacts(home)
    if arguments.json:
        certificates = {
            each.what: {"until": each.until and each.until.isoformat(), "days_left": each.days_left}
            for each in expiries(home)
        }
        sites = [to_json(member, contacts) for member in found]
        print(json.dumps({"sites": sites, "certificates": certificates}, ensure_ascii=False))
        return DONE
    print("\n".join(table(found, contacts)))
    print("\n".join(each.line for each in expiries(home)))
    return DONE


def _add_renew(tool: Tool) -> None:
    parser = tool.verb("renew", _renew, does="issue new certificates for the server before the old expire")
    parser.add_argument(
        "--ca", action="store_true", help="a new certificate of the authority too, with the same key"
    )
    add_home(parser)


def _renew(arguments: argparse.Namespace) -> int:
    home = open_home(arguments)
    from climb_model.kit import certificate_sha256, spaced
    from server.deployment.home import expiries, renew

    restart_by = renew(home, ca=arguments.ca)
    print("\n".join(each.line for each in expiries(home)))
    print("a server that runs shows sites the new certificate within seconds; studies go on")
    if restart_by is not None:
        print(
            f"next: end climb-server start and start it again by {restart_by.date()}, between two studies: "
            "only then it takes the new certificate of loopback"
        )
    if arguments.ca:
        digest = certificate_sha256(home.authority_certificate())
        print(f"new fingerprint of the authority: {spaced(digest)}")
        print(
            f"sites go on with the old {home.ca_certificate.name} until it expires; by then each needs the "
            "new one in its node's folder, and the new fingerprint under coordinators in its policy.yaml"
        )
    return DONE


def _need_server(home: Home) -> None:
    home.authority_certificate()  # without it no server is recognized
    if not _is_running(home):
        raise UsageError(
            f"the server of {home.path} does not run (127.0.0.1:{home.settings().superlink_port} does not "
            "answer with its certificate): climb-server start comes first"
        )


def _is_running(home: Home) -> bool:
    from server.deployment.superlink import LOOPBACK, connect, healthy

    connect(home)
    return healthy(LOOPBACK, home.settings().superlink_port, home.ca_certificate)


def _nodes(home: Home) -> set[int]:
    """The nodes that the running server knows."""
    from server.deployment.flower import nodes

    return {each.node for each in nodes(home.flower) if each.status != "unregistered"}


def _contacts(home: Home) -> dict[int, str] | None:
    """Each node's last contact; None where the server does not run."""
    if not _is_running(home):
        return None
    from server.deployment.flower import contacts

    return contacts(home.flower)
