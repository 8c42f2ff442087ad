"""What must be in order in a node's folder before it starts."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from client.egress.policy import read_policy
from client.node.private import check_private
from client.node.settings import NodeError, NodePaths, NodeSettings
from climb_model.kit import certificate_sha256


def check_node(paths: NodePaths, settings: NodeSettings) -> str:
    """Check keys, policy, folders and who may change them; returns the digest of the coordinator's authority.

    Raises:
        NodeError: naming the first thing that is not in order.
        KitError: if the authority's certificate is none.
        PolicyFileError: if the site's policy cannot be used.
    """
    for path, what in (
        (paths.key, "this site's key"),
        (paths.secret, "the secret between gate and SuperNode"),
        (paths.ca, "the coordinator's authority"),
    ):
        if not path.is_file():
            raise NodeError(f"{path} is missing, {what}: restore it, or join anew")
    for path in (paths.key, paths.secret):
        _check_mode(path)
    for path in (paths.folder, paths.settings, paths.policy, paths.ca, paths.state, paths.bundles):
        _check_own(path)
    digest = certificate_sha256(paths.ca.read_text("ascii", "replace"))
    if digest not in read_policy(paths.policy).coordinators:
        raise NodeError(
            f"{paths.ca} is of an authority with the SHA-256 {digest}, which coordinators of {paths.policy} "
            "does not name: compare it with the coordinator by telephone before you add it"
        )
    _check_folders(settings)
    check_private(paths, settings)
    return digest


def _check_mode(path: Path) -> None:
    found = path.stat()
    if found.st_mode & 0o077:
        raise NodeError(
            f"{path} can be read by others (mode {stat.S_IMODE(found.st_mode):04o}): chmod 600 {path}"
        )
    if not os.access(path, os.R_OK):
        raise NodeError(f"{path} cannot be read by user {os.getuid()}: it belongs to user {found.st_uid}")


def _check_own(path: Path) -> None:
    """Whoever may write there decides what leaves, and which program runs."""
    if path.exists() and path.stat().st_mode & 0o022:
        mode = stat.S_IMODE(path.stat().st_mode)
        raise NodeError(f"{path} can be changed by others (mode {mode:04o}): chmod go-w {path}")


def _check_folders(settings: NodeSettings) -> None:
    if not settings.data.is_dir():
        raise NodeError(f"data of site.yaml must be the folder of the site's exams, got {settings.data}")
    if settings.weights is not None and not settings.weights.is_dir():
        raise NodeError(f"weights of site.yaml must be a folder of model folders, got {settings.weights}")
