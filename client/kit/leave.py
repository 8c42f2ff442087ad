"""`climb-site leave`: the node goes; what stays, and where, is said."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from client.audit import AUDIT_FILE, append
from client.folders import LOCK, SCRATCH, SITE_LOG, TOKENS
from client.node.settings import NodePaths, read_node
from climb_model.kit import REQUEST_SUFFIX
from climb_model.lock import only_process

LEAVE = "leave"
"""Kind of the audit entry."""

NOT_UNLEARNED = (
    "weights that were shared are not unlearned: the coordinator and the other sites keep them",
    "the coordinator was told nothing: ask for climb-server revoke, so that the key is worth nothing",
)
"""What leaving does not do."""

_STUDY_FILE = re.compile(r"(round-\d+\.pt|exams\.json|forgotten\.json)(\.unfinished)?")
_PRIVATE_FILES = (SITE_LOG, f"{SITE_LOG}.1", LOCK)
_PRIVATE_FOLDERS = (TOKENS, SCRATCH)
_AUDIT = (AUDIT_FILE, "audit.lock")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What leaving removes and what it leaves."""

    site: str
    node: Path
    private: Path
    removed: tuple[Path, ...]
    """In the order of their removal: the key first, `site.yaml` last, so that it can be asked for again."""

    kept: tuple[Path, ...]
    """Of the private folder. What this program does not know is among it: nothing else is touched."""


def plan(node: Path, *, keep_private: bool = False, audit_too: bool = False) -> Plan:
    """What `leave` would do; changes nothing.

    Args:
        keep_private: keep private weights, slice tokens and the site's log.
        audit_too: remove the audit log too.

    Raises:
        UsageError: if the folder is no node.
    """
    paths = NodePaths(node.resolve())
    settings = read_node(paths.folder)
    private = settings.private
    audit = [private / name for name in _AUDIT] if audit_too else []
    inside = [] if keep_private else list(_private(private))
    first = (paths.key, paths.public_key, paths.secret, paths.invitation)
    last = (paths.folder / f"{settings.name}{REQUEST_SUFFIX}", paths.ca, paths.policy, paths.state)
    removed = [path for path in (*first, *inside, *audit, *last, paths.settings) if path.exists()]
    return Plan(
        site=settings.name,
        node=paths.folder,
        private=private,
        removed=tuple(removed),
        kept=tuple(_rest(private, removed)),
    )


def leave(node: Path, *, keep_private: bool = False, audit_too: bool = False) -> Plan:
    """Remove a node as `plan` says; a folder that is empty afterwards goes too.

    Raises:
        UsageError: if the folder is no node.
        LockedError: if the node runs.
        AuditError: if the audit log was changed; nothing is removed.
    """
    paths = NodePaths(node.resolve())
    read_node(paths.folder)
    with only_process(paths.lock, what="runs this node: stop it first"):
        found = plan(node, keep_private=keep_private, audit_too=audit_too)
        if not audit_too:
            append(found.private, LEAVE, {"site": found.site, "kept_private": keep_private})
        for path in found.removed:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        for folder in (*{path.parent for path in found.removed}, found.private, found.node):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    return found


def _private(folder: Path) -> Iterator[Path]:
    """What a federation's rounds wrote into a private folder; data door and admin may have more there."""
    for path in sorted(folder.glob("*")):
        if path.is_symlink():
            continue
        if path.is_dir():
            if path.name in _PRIVATE_FOLDERS:
                yield path
            else:
                yield from (file for file in sorted(path.iterdir()) if _STUDY_FILE.fullmatch(file.name))
        elif path.name in _PRIVATE_FILES:
            yield path


def _rest(folder: Path, removed: list[Path]) -> Iterator[Path]:
    """What stays of a private folder: whole entries, or the files of a folder that is not emptied."""
    for path in sorted(folder.glob("*")):
        if path in removed:
            continue
        gone = [each for each in removed if each.parent == path]
        inside = sorted(path.iterdir()) if path.is_dir() and gone else [path]
        yield from (each for each in inside if each not in gone)
