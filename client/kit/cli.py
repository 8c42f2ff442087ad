"""`climb-site join` and `leave`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from client.node.arguments import add_node_argument, node_folder
from configs.cli import DONE, Tool, existing_folder
from configs.errors import UsageError

if TYPE_CHECKING:
    from client.kit.leave import Plan


def add_membership(tool: Tool) -> None:
    """Add the verbs."""
    _add_join(tool)
    _add_leave(tool)


def _add_join(tool: Tool) -> None:
    parser = tool.verb("join", _join, does="make this site's node from the coordinator's kit")
    parser.add_argument("kit", type=Path, metavar="KIT", help="the kit that the coordinator made")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="SITE_DIR", help="the site's data folder; only read"
    )
    parser.add_argument(
        "--private",
        type=Path,
        metavar="DIR",
        help="folder of private weights, slice tokens and the audit log; else private in the node's folder",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="DIR",
        help="folder of model folders; else only presets whose encoders are built in (debug, demo)",
    )
    parser.add_argument(
        "--devices", default="auto", metavar="LIST", help="auto (the default), cpu, or such as cuda:0,cuda:1"
    )
    add_node_argument(parser)


def _join(arguments: argparse.Namespace) -> int:
    data = existing_folder(arguments.data, "--data")
    weights = None if arguments.weights is None else existing_folder(arguments.weights, "--weights")
    from client.kit.join import join
    from climb_model.kit import spaced

    os.umask(0o022)  # start refuses what others may change
    joined = join(
        arguments.kit,
        data=data,
        node=node_folder(arguments),
        private=arguments.private,
        weights=weights,
        devices=arguments.devices,
    )
    print(f"node of site '{joined.kit.site}': {joined.node} (its server: {joined.kit.server})")
    print(f"fingerprint of the coordinator's authority: {spaced(joined.kit.ca_sha256)}")
    print(f"fingerprint of this site's key: {joined.request.fingerprint}")
    print(f"private folder: {joined.private} (climb-site check and forget find it with --node)")
    for notice in joined.notices:
        print(f"note: {notice}")
    print(f"next: read {joined.node / 'policy.yaml'}, what may leave this site")
    print(f"      send {joined.request_file} to the coordinator: it holds nothing secret")
    print("      compare both fingerprints with the coordinator by telephone, not by the kit's way")
    print("      once admitted: climb-site start")
    return DONE


def _add_leave(tool: Tool) -> None:
    parser = tool.verb("leave", _leave, does="remove this site's node: its key, state and private weights")
    parser.add_argument(
        "--keep-private", action="store_true", help="keep private weights, slice tokens and the site's log"
    )
    parser.add_argument("--audit-too", action="store_true", help="remove the audit log too")
    parser.add_argument("--yes", action="store_true", help="do it; else it is only shown")
    add_node_argument(parser)


def _leave(arguments: argparse.Namespace) -> int:
    node = node_folder(arguments)
    from client.kit.leave import NOT_UNLEARNED, leave, plan

    work = leave if arguments.yes else plan
    found = work(node, keep_private=arguments.keep_private, audit_too=arguments.audit_too)
    _show(found, done=arguments.yes)
    for line in NOT_UNLEARNED:
        print(f"note: {line}")
    if not arguments.yes:
        raise UsageError("nothing was removed: give --yes too")
    return DONE


def _show(found: Plan, *, done: bool) -> None:
    print(f"site '{found.site}' {'has left' if done else 'would leave'}: {found.node}")
    for path in found.removed:
        print(f"{'removed' if done else 'would remove'}  {path}")
    for path in found.kept:
        print(f"stays  {path}")
