"""`climb-site start`, `pause`, `status` and `approve`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from client.node.arguments import add_node_argument, node_folder
from configs.cli import DONE, FAILED, Tool
from configs.errors import UsageError

if TYPE_CHECKING:
    from client.node.bundle import Approvals
    from client.node.settings import NodePaths
    from client.node.status import NodeStatus

_NUM_SHOWN = 20


def add_node(tool: Tool) -> None:
    """Add the verbs."""
    _add_start(tool)
    _add_pause(tool)
    _add_status(tool)
    _add_approve(tool)


def _paths(arguments: argparse.Namespace) -> NodePaths:
    """The folders of a node that is there."""
    from client.node.settings import NodePaths, read_node

    folder = node_folder(arguments)
    read_node(folder)
    return NodePaths(folder.resolve())


def _add_start(tool: Tool) -> None:
    parser = tool.verb("start", _start, does="connect this site to its server and take part, until stopped")
    add_node_argument(parser)


def _start(arguments: argparse.Namespace) -> int:
    paths = _paths(arguments)
    from client.node.environment import set_environment

    set_environment(paths.flower_home)
    from client.node.start import start_node

    start_node(paths.folder, lambda line: print(line, flush=True))
    return DONE


def _add_pause(tool: Tool) -> None:
    parser = tool.verb(
        "pause", _pause, does="refuse all messages until pause --off; the node stays connected"
    )
    parser.add_argument(
        "--reason", default="", metavar="TEXT", help="one line that the coordinator is told with each refusal"
    )
    parser.add_argument("--now", action="store_true", help="end the training that runs, too")
    parser.add_argument("--off", action="store_true", help="take part again")
    add_node_argument(parser)


def _pause(arguments: argparse.Namespace) -> int:
    if arguments.off and (arguments.reason or arguments.now):
        raise UsageError("--off takes part again and takes no --reason and no --now")
    paths = _paths(arguments)
    from client.node.pause import pause, resume

    if arguments.off:
        print("takes part again" if resume(paths.paused) else "was not paused")
        return DONE
    pause(paths.paused, arguments.reason, now=arguments.now)
    print("paused: messages are refused until climb-site pause --off")
    return DONE


def _add_status(tool: Tool) -> None:
    parser = tool.verb(
        "status", _status, does="show how this site's node is; exit code 0 while it is connected"
    )
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object")
    add_node_argument(parser)


def _status(arguments: argparse.Namespace) -> int:
    paths = _paths(arguments)
    import dataclasses
    import json

    from client.node.bundle import Approvals
    from client.node.pause import paused_line, paused_since
    from client.node.status import read_status
    from climb_model.lock import is_held

    running, found = is_held(paths.lock), read_status(paths.status)
    waiting = [one for one in Approvals(paths.bundles).waiting() if not one.approved]
    connected = running and found is not None and found.connected_since is not None
    if arguments.json:
        values = {} if found is None else dataclasses.asdict(found)
        values |= {
            "running": running,
            "connected": connected,
            "paused_since": paused_since(paths.paused),
            "waiting": [one.digest for one in waiting],
        }
        print(json.dumps(values, ensure_ascii=False))
    else:
        print("\n".join(_status_lines(found, running=running, paused=paused_line(paths.paused))))
        for one in waiting:
            print(f"a changed program waits: climb-site approve {one.digest} --diff")
    return DONE if connected else FAILED


def _status_lines(found: NodeStatus | None, *, running: bool, paused: str | None) -> list[str]:
    """The node for people, one line a fact."""
    if found is None:
        return ["not started yet: climb-site start"]
    lines = [f"site '{found.site}', server {found.server}, version {found.version}"]
    lines.append(f"its program's bundle: {found.bundle}")
    if not running:
        lines.append(f"does not run (last seen {_moment(found.updated)}): climb-site start")
    elif found.connected_since is not None:
        lines.append(f"connected since {_moment(found.connected_since)}")
    else:
        lines.append(f"not connected: {found.problem or 'it is just starting'}")
    if paused is not None:
        lines.append(f"{paused}; climb-site pause --off ends it")
    if found.clock_offset_s is not None:
        lines.append(f"clock: {found.clock_offset_s:+.1f} s to the server's")
    if found.last_message is not None:
        what = f"{found.last_study}, {found.last_kind}" + (
            f", round {found.last_round}" if found.last_round else ""
        )
        lines.append(f"last message: {_moment(found.last_message)} ({what})")
    lines.append(
        f"messages since {_moment(found.started)}: {found.num_messages}, {found.num_refused} refused; "
        f"{found.bytes_left} bytes of weights left, {found.last_bytes} with the last update"
    )
    if found.last_refused:
        lines.append(f"last refusal: {found.last_refused}")
    if found.restarts:
        lines.append(f"SuperNode: started again {found.restarts} times (exit code {found.last_exit})")
    return lines


def _moment(seconds: float) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")


def _add_approve(tool: Tool) -> None:
    parser = tool.verb(
        "approve", _approve, does="let a changed program of the study run here, or see how it differs"
    )
    parser.add_argument(
        "hash",
        nargs="?",
        metavar="HASH",
        help="digest of its files as status shows it, all 64 digits; for --diff 8 do",
    )
    parser.add_argument("--diff", action="store_true", help="show the changed text; approves nothing")
    parser.add_argument("--list", action="store_true", help="show what waits and what is approved")
    parser.add_argument("--withdraw", metavar="HASH", help="take an approval back")
    add_node_argument(parser)


def _approve(arguments: argparse.Namespace) -> int:
    if sum(map(bool, (arguments.hash, arguments.list, arguments.withdraw))) != 1:
        raise UsageError("approve takes one of HASH, --list and --withdraw HASH")
    if arguments.diff and not arguments.hash:
        raise UsageError("--diff shows the changes of HASH, and none was given")
    paths = _paths(arguments)
    from datetime import UTC, datetime

    from client.node.bundle import Approvals

    approvals = Approvals(paths.bundles)
    if arguments.list:
        _list(approvals)
    elif arguments.withdraw:
        print(f"no longer approved: {approvals.withdraw(arguments.withdraw)}")
    elif arguments.diff:
        _diff(approvals, arguments.hash)
    else:
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        _show_difference(approvals, arguments.hash)  # first: what it cannot show is not approved
        print(f"approved: {approvals.approve(arguments.hash, moment)}, from the next message on")
    return DONE


def _list(approvals: Approvals) -> None:
    kept = approvals.waiting()
    for one in kept:
        state = "approved" if one.approved else "waits"
        version, num_files = one.version or "unknown", one.difference.num_files
        print(f"{one.digest}  {state}, version {version}, {num_files} files differ")
    for digest, moment in approvals.approved().items():
        if digest not in {one.digest for one in kept}:
            print(f"{digest}  approved {moment}; comes with the next message")
    if not kept and not approvals.approved():
        print("no changed program waits, none is approved")


def _show_difference(approvals: Approvals, digest: str) -> None:
    for one in approvals.waiting():
        if one.digest == digest:
            lines = one.difference.lines()
            print("\n".join(lines[:_NUM_SHOWN]))
            if len(lines) > _NUM_SHOWN:
                print(f"and {len(lines) - _NUM_SHOWN} more files; --diff shows all")


def _diff(approvals: Approvals, prefix: str) -> None:
    from client.node.bundle import contents_of_fab, own_contents, unified_diff

    digest = approvals.find(prefix)
    theirs = contents_of_fab(approvals.content(digest))
    print("\n".join(unified_diff(own_contents(), theirs)))
    print(f"to let it run: climb-site approve {digest}")
