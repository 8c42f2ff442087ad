"""`climb-site join`: a site's node from its kit, with a key of its own."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.audit import append
from client.egress.policy import default_policy, write_policy
from client.node.bundle import bundle_digest, own_files
from client.node.private import open_to_others
from client.node.settings import DEVICES, NodePaths, NodeSettings, names_devices, write_node
from climb_model.atomic import write_atomic
from climb_model.kit import (
    REQUEST_SUFFIX,
    Kit,
    KitError,
    Request,
    is_older,
    make_request,
    parse_time,
    read_kit,
    write_kit,
    write_request,
)
from climb_model.made_by import made_by
from configs.cli import existing_file, existing_folder
from configs.errors import UsageError

JOIN = "join"
"""Kind of the audit entry."""

PRIVATE = "private"
"""The private folder within the node's, where no other is given."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A node that is ready, once its request is admitted."""

    node: Path
    private: Path
    kit: Kit
    request: Request
    request_file: Path
    notices: tuple[str, ...]
    """What its admin should know, one line each."""


def join(
    kit_file: Path,
    *,
    data: Path,
    node: Path,
    private: Path | None = None,
    weights: Path | None = None,
    devices: str = "auto",
    now: datetime | None = None,
) -> Joined:
    """Make a node's folder: settings, policy, key, secret; and the request that the coordinator admits.

    `site.yaml` comes last: a folder without it is no node, and joining begins anew.

    Args:
        data: the site's data folder, which exists.
        node: new folder, or what an earlier `leave` left of one.
        private: None takes `private` within the node's: a container mounts the data read-only, so the
            private folder does not lie below it.
        weights: folder of the frozen encoders' model folders.
        devices: where the site trains.
        now: UTC; None takes the clock.

    Raises:
        KitError: if the kit is none, was changed, has expired, or needs a newer program.
        UsageError: if there is no kit, or a node already; if `devices` names none; if the private folder is
            not one of its own, or open to others.
    """
    if not names_devices(devices):
        raise UsageError(f"--devices must be {DEVICES}, got {devices!r}")
    kit = _usable_kit(existing_file(kit_file, "KIT"), datetime.now(UTC) if now is None else now)
    paths = NodePaths(node.resolve())
    if paths.folder.exists():
        existing_folder(paths.folder, "--node")
    if paths.settings.exists():
        raise UsageError(f"{node} is a site's node already: climb-site leave comes first, or another --node")
    private = paths.folder / PRIVATE if private is None else private.resolve()
    _check_private(private, paths, data.resolve())
    for folder in (paths.folder, paths.state, private):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths.folder.chmod(0o700)
    request = make_request(kit.site, _new_key(paths), kit.invitation)
    write_atomic(paths.ca, kit.ca.encode("ascii"))
    write_atomic(paths.secret, secrets.token_bytes(32), mode=0o600)
    write_kit(paths.invitation, kit)
    write_policy(paths.policy, default_policy((kit.ca_sha256,)))
    request_file = paths.folder / f"{kit.site}{REQUEST_SUFFIX}"
    write_request(request_file, request)
    append(
        private,
        JOIN,
        {"site": kit.site, "server": kit.server, "ca_sha256": kit.ca_sha256, "key": request.fingerprint},
    )
    settings = NodeSettings(
        name=kit.site,
        server=kit.server,
        data=data.resolve(),
        private=private,
        weights=None if weights is None else weights.resolve(),
        devices=devices,
    )
    write_node(paths.folder, settings)
    return Joined(
        node=paths.folder,
        private=private,
        kit=kit,
        request=request,
        request_file=request_file,
        notices=_notices(kit, private, data.resolve()),
    )


def _check_private(private: Path, paths: NodePaths, data: Path) -> None:
    """Refuse a private folder that is not one of its own, or that others may open; an empty one is closed."""
    if private == data:
        raise UsageError(f"--private must be another folder than --data, got {private} twice")
    for inner, what in ((data, "--data"), (paths.folder, "--node")):
        if inner.is_relative_to(private):
            raise UsageError(f"--private must be a folder of its own, {what} lies in {private}")
    if private.is_relative_to(paths.state):
        raise UsageError(f"--private must not lie in the node's state, got {private}")
    if not private.exists():
        return
    existing_folder(private, "--private")
    if not any(private.iterdir()):
        private.chmod(0o700)
    elif line := open_to_others(private):
        raise UsageError(f"--private {line}")


def _usable_kit(path: Path, now: datetime) -> Kit:
    kit = read_kit(path)
    own = made_by()["version"]
    if is_older(own, kit.version):
        raise KitError(
            f"the coordinator runs climb-federated {kit.version}, this site {own}: "
            f"upgrade this site's image or installation to {kit.version}, then join again"
        )
    if parse_time(kit.expires) <= now:
        raise KitError(f"{path}: the kit expired on {kit.expires}: ask the coordinator for a new one")
    try:
        certificate = x509.load_pem_x509_certificate(kit.ca.encode("ascii"))
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound):
        raise KitError(f"{path}: the certificate of the authority cannot be read") from None
    if not is_ca or certificate.not_valid_after_utc <= now:
        raise KitError(f"{path}: the certificate of the authority is none of an authority, or has expired")
    return kit


def _new_key(paths: NodePaths) -> str:
    """Write a new private key and its public part, both as OpenSSH does; returns the public part."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    write_atomic(paths.key, private, mode=0o600)
    write_atomic(paths.public_key, public + b"\n")
    return public.decode("ascii")


def _notices(kit: Kit, private: Path, data: Path) -> tuple[str, ...]:
    found: list[str] = []
    own = made_by()["version"]
    if is_older(kit.version, own):
        found.append(f"the coordinator runs climb-federated {kit.version}, older than this site's {own}")
    if bundle_digest(own_files()) != kit.bundle:
        found.append(
            "the coordinator's code is not this site's: runs wait until climb-site approve, or until both "
            "have the same version"
        )
    if private.is_relative_to(data):
        found.append(f"the private folder lies below the data: in a container, mount {private} writable")
    return tuple(found)
