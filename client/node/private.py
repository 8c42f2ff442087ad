"""A site's private folder: its owner's alone, and what of it a round may change."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from client.audit import AUDIT_FILE
from client.folders import LOCK, SCRATCH, SITE_LOG, TOKENS
from client.node.settings import NodeError, NodePaths, NodeSettings
from climb_model.lock import LockedError, only_process
from climb_model.logs import is_full, rotate
from climb_model.names import NAME_PATTERN

_OWN = (
    *(AUDIT_FILE, "audit.lock", SITE_LOG, f"{SITE_LOG}.1", LOCK, TOKENS, SCRATCH),
    *("pseudonym.key", "forgotten.json", "import.lock", "check-cache.json"),
)
"""What has a name of its own in the folder; no study may bear it."""


def check_private(paths: NodePaths, settings: NodeSettings) -> None:
    """Check that the private folder is a folder of its own, for its owner alone; made if missing.

    Raises:
        NodeError: saying what to do.
    """
    private = settings.private.resolve()
    for inner, what in ((paths.folder, "the node"), (settings.data, "the data")):
        if inner.resolve().is_relative_to(private):
            raise NodeError(f"private of site.yaml must be a folder of its own, {what} lies in {private}")
    if private.is_relative_to(paths.state.resolve()):
        raise NodeError(f"private of site.yaml must not lie in the node's state, got {private}")
    settings.private.mkdir(parents=True, exist_ok=True, mode=0o700)
    if line := open_to_others(settings.private):
        raise NodeError(f"private of site.yaml {line}")
    if not os.access(settings.private, os.W_OK):
        raise NodeError(f"private of site.yaml cannot be written: {settings.private}")


def open_to_others(folder: Path) -> str:
    """What is wrong with the mode of a folder that is its owner's alone; '' if nothing is."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    return f"is open to others (mode {mode:04o}): chmod 700 {folder}" if mode & 0o077 else ""


def writable_places(private: Path, study: str) -> tuple[Path, ...]:
    """Make and name what a round of a study writes; the folder itself and its audit log are not among it.

    Raises:
        NodeError: if the study bears the name of something else in the folder; the line may travel.
    """
    private.mkdir(parents=True, exist_ok=True, mode=0o700)
    folders = [private / TOKENS, private / SCRATCH]
    if NAME_PATTERN.fullmatch(study):
        own = private / study
        if study.casefold() in _OWN or (own.exists() and not own.is_dir()):
            raise NodeError(f"does not work on a study named '{study}': that is a file of the site's own")
        folders.append(own)
    for folder in folders:
        folder.mkdir(exist_ok=True, mode=0o700)
    _rotate(private)
    files = [private / SITE_LOG, private / LOCK]
    for file in files:
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.fchmod(opened, 0o600)
        os.close(opened)
    return (*folders, *files)


def _rotate(private: Path) -> None:
    """Put a log aside that has grown; later, while somebody works in the folder."""
    log = private / SITE_LOG
    if is_full(log):
        with suppress(LockedError), only_process(private / LOCK, what="works in the private folder"):
            rotate(log)
