"""`climb-site preview` and `audit log`: what would leave this site, and what has left it."""

from __future__ import annotations

import argparse
import json
import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from client.node.arguments import add_node_argument, node_folder
from configs.cli import DONE, FAILED, Parser, Tool, existing_folder, whole_number
from configs.errors import UsageError
from configs.load import load_settings, preset_names

if TYPE_CHECKING:
    from client.egress.preview import LastMessage

_LOG = "show the audit log, and check that no line was changed, taken out or moved"
_MIN_DIGITS = 16


def add_egress(tool: Tool) -> None:
    """Add the verbs."""
    _add_preview(tool)
    _add_audit(tool)


def _add_preview(tool: Tool) -> None:
    parser = tool.verb(
        "preview",
        _preview,
        does="show all that this site's next messages would hold, and what its policy says; sends nothing",
        settings=True,
    )
    add_node_argument(parser)
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"settings of the study, else those of its last message, with its overrides: "
        f"{', '.join(preset_names())}",
    )
    parser.add_argument("--study", metavar="NAME", help="the study; else that of the last message")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a message")
    form.add_argument(
        "--tensors", action="store_true", help="only the tensors, as lines for policy.yaml; reads no exam"
    )


def _preview(arguments: argparse.Namespace) -> int:
    from climb_model.environment import NO_CALLS, NO_HUB

    os.environ.update({**NO_CALLS, **NO_HUB})  # read when Flower and the hub's client are imported
    from client.node.settings import NodeError, NodePaths, read_node

    folder = node_folder(arguments)
    node, paths = read_node(folder), NodePaths(folder)
    from client.egress.policy_text import tensor_text
    from client.egress.preview import last_message, preview, shared_tensors, uncached_weights
    from client.egress.show import show_foreseen, to_dict
    from client.node.weights import missing_weights
    from climb_model.kit import certificate_sha256

    last = last_message(node.private, arguments.study)
    preset = arguments.preset or (last and last.preset)
    if preset is None:
        raise UsageError("preview needs --preset NAME: no message of this study has left this site yet")
    settings = load_settings(preset, [*_overrides_of(last, arguments), *arguments.overrides])
    if arguments.tensors:
        print(tensor_text(shared_tensors(settings)))
        return DONE
    lacking = missing_weights(settings, node.weights)
    if node.weights is None and not lacking and (names := uncached_weights(settings)):
        lacking = f"weights of {' and '.join(map(repr, names))} are not in the hub's cache on this machine"
    if lacking:
        raise NodeError(f"preset {preset}: {lacking}; weights of site.yaml names the folder of model folders")
    messages = preview(
        settings,
        node.node_config(),
        paths.policy,
        study=arguments.study or (last.study if last else "preview"),
        coordinator=certificate_sha256(paths.ca.read_text("utf-8")),
        last=last,
        end=paths.audit_end,
    )
    if arguments.json:
        for message in messages:
            print(json.dumps(to_dict(message), ensure_ascii=False))
    else:
        show_foreseen(messages)
    return DONE if all(message.takes_part for message in messages) else FAILED


def _overrides_of(last: LastMessage | None, arguments: argparse.Namespace) -> tuple[str, ...]:
    """Those of the last message, where its preset is taken too."""
    if arguments.preset is not None or last is None:
        return ()
    if last.overrides is None:
        raise UsageError(
            "preview needs --preset NAME and its overrides: the audit log does not hold those of the last "
            "message whole"
        )
    return last.overrides


def _add_audit(tool: Tool) -> None:
    parser = tool.verb("audit", _audit, does="look at what has left this site")
    kinds = parser.add_subparsers(required=True, metavar="WHAT", title="what", parser_class=Parser)
    _add_log(kinds.add_parser("log", help=_LOG, description=_LOG, allow_abbrev=False))


def _add_log(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(audit=_audit_log)
    add_node_argument(parser)
    parser.add_argument(
        "--private", type=Path, metavar="DIR", help="the site's private folder, not the node's"
    )
    parser.add_argument("--last", type=whole_number(0), metavar="N", help="show the last N entries only")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object an entry, with all that it holds"
    )
    parser.add_argument(
        "--expect",
        type=_digest,
        metavar="DIGEST",
        help="digest of an entry, noted elsewhere, that the log must still hold: tells of a cut-off end",
    )
    parser.add_argument(
        "--accept-end",
        action="store_true",
        help="let messages leave again after a loss that has its reason, such as a backup put back; "
        "the log says so, and what it lost counts no more",
    )


def _audit(arguments: argparse.Namespace) -> int:
    return arguments.audit(arguments)


def _audit_log(arguments: argparse.Namespace) -> int:
    if arguments.private is not None and arguments.node is not None:
        raise UsageError("audit log takes --private DIR or --node DIR, got both")
    if arguments.private is not None:
        if arguments.accept_end:
            raise UsageError("audit log --accept-end takes --node DIR: the end is noted in the node's folder")
        private, end = existing_folder(arguments.private, "--private"), None
    else:
        from client.node.settings import NodePaths, read_node

        folder = node_folder(arguments)
        private, end = read_node(folder).private, NodePaths(folder).audit_end
    if arguments.accept_end and end is not None:
        return _accept_end(private, end)
    return _show_log(private, end, arguments.last, arguments.expect, as_json=arguments.json)


def _accept_end(private: Path, end: Path) -> int:
    from client.audit import accept_end

    entry = accept_end(private, end)
    if entry is None:
        print("the log holds what this node wrote last: nothing to accept")
    else:
        print(f"accepted, as entry {entry.number} of the log says from now on")
    return DONE


def _show_log(
    private: Path, end: Path | None, most: int | None, expected: str | None, *, as_json: bool
) -> int:
    from client.audit import AUDIT_FILE, AuditEntry, AuditError, AuditLog, entries
    from client.egress.show import entry_dict, show_log

    kept: deque[AuditEntry] = deque(maxlen=most)
    newest, found, fault = None, None, None
    try:
        for newest in entries(private):
            kept.append(newest)
            if expected is not None and newest.digest.startswith(expected):
                found = newest
    except AuditError as error:  # what stands before the fault is sound and worth seeing
        fault = error
    if as_json:
        for entry in kept:
            print(json.dumps(entry_dict(entry), ensure_ascii=False))
    elif kept:
        show_log(tuple(kept))
    if fault is not None:
        raise fault
    AuditLog(private, end).check_end()
    if expected is not None and found is None:
        raise AuditError(
            f"{private / AUDIT_FILE} holds no entry of digest {expected[:16]}...: its end was cut off, or it "
            "was written anew"
        )
    if not as_json:
        print("no entry" if newest is None else f"{newest.number} entries, each as it was written")
        if found is not None:
            print(f"entry {found.number} is the one expected")
        if newest is not None:
            print(f"digest of the last: {newest.digest} (note it elsewhere; --expect finds a cut-off end)")
    return DONE


def _digest(text: str) -> str:
    digest = text.lower()
    if len(digest) < _MIN_DIGITS or set(digest) - set("0123456789abcdef"):
        raise argparse.ArgumentTypeError(f"must be {_MIN_DIGITS} to 64 hexadecimal digits, got {text!r}")
    return digest
