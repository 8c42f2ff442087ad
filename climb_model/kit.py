"""The two files between coordinator and site before they meet: the kit there, the request back.

Neither holds a private key. The kit's invitation proves that a request comes from who holds the kit;
that this is the hospital, a person has to make sure: by telephone, with the fingerprint of the key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import yaml

from climb_model.atomic import write_atomic
from climb_model.names import NAME_PATTERN
from configs.errors import UserError

FORMAT = 1
"""Of both files; another one is not read."""

KIT_SUFFIX, REQUEST_SUFFIX = ".kit.yaml", ".request.yaml"
KEY_KIND = "ecdsa-sha2-nistp384"
"""OpenSSH's name of the sites' keys: ECDSA on P-384."""

_MAX_BYTES = 64 * 1024
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.\-]+):([0-9]{1,5})")


class KitError(UserError):
    """A kit or request that cannot be used; one line."""


@dataclass(frozen=True, kw_only=True)
class Kit:
    """What a site needs to find and trust its coordinator's server."""

    site: str
    server: str
    """`host:port`, as sites reach it."""

    ca: str
    """Certificate of the coordinator's authority, PEM."""

    ca_sha256: str
    """`certificate_sha256` of it."""

    version: str
    """Of climb-federated at the coordinator."""

    bundle: str
    """Digest of the application's files at the coordinator, 64 hexadecimal digits."""

    invitation: str = field(repr=False)
    """Random code of this invitation alone; who has it can ask for admission under this name."""

    expires: str
    """UTC, to the second, ISO 8601."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A site's wish to be admitted with its public key."""

    site: str
    public_key: str
    """OpenSSH, one line of two words."""

    fingerprint: str
    """`key_fingerprint` of it."""

    code: str
    """HMAC-SHA256 of the three others under the kit's invitation, hexadecimal."""

    def is_answer_to(self, invitation: str) -> bool:
        """Whether who made the request had the invitation, and nothing was changed since."""
        return hmac.compare_digest(self.code, _code(self, invitation))


def make_request(site: str, public_key: str, invitation: str) -> Request:
    """The request of a site for its public key.

    Raises:
        KitError: if the key is none of the kind that sites have.
    """
    unsigned = Request(site=site, public_key=public_key, fingerprint=key_fingerprint(public_key), code="")
    return Request(**{**asdict(unsigned), "code": _code(unsigned, invitation)})


def key_fingerprint(public_key: str) -> str:
    """`SHA256:...` of an OpenSSH public key, as `ssh-keygen -l` shows it.

    Raises:
        KitError: if it is no ECDSA key on P-384 in one line of two words.
    """
    kind, space, encoded = public_key.partition(" ")
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if not space or kind != KEY_KIND or not content:
        raise KitError(f"a site's public key must be '{KEY_KIND} ...', got {ascii(public_key)[:60]}")
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode("ascii")
    return f"SHA256:{digest.rstrip('=')}"


def certificate_sha256(pem: str) -> str:
    """SHA-256 of a certificate, 64 hexadecimal digits: `openssl x509 -fingerprint -sha256` without colons.

    Raises:
        KitError: if it is not one certificate in PEM.
    """
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    except (ValueError, binascii.Error):
        raise KitError("the certificate of the authority is not one certificate in PEM") from None


def spaced(fingerprint: str) -> str:
    """A hexadecimal fingerprint in groups of four, to read out by telephone."""
    return " ".join(fingerprint[place : place + 4] for place in range(0, len(fingerprint), 4))


def time_text(moment: datetime) -> str:
    """A moment in UTC as kits and records write it, to the second."""
    return moment.astimezone(UTC).strftime(_TIME)


def parse_time(text: str) -> datetime:
    """The moment that `time_text` wrote.

    Raises:
        ValueError: if it did not.
    """
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


def is_older(version: str, than: str) -> bool:
    """Whether a version of the program is older than another; False where one of them is not known."""
    mine, theirs = _VERSION.match(version), _VERSION.match(than)
    if mine is None or theirs is None:
        return False
    return tuple(map(int, mine.groups())) < tuple(map(int, theirs.groups()))


def write_kit(path: Path, kit: Kit) -> None:
    """Write a kit for its owner's eyes only: it holds the invitation."""
    _write(
        path,
        f"Kit of site '{kit.site}': its admin gives it to `climb-site join`. Hand it over in person or\n"
        "encrypted: who holds it can ask for admission under this name.",
        asdict(kit),
    )


def read_kit(path: Path) -> Kit:
    """The kit of a file; whether it has expired is not asked.

    Raises:
        KitError: naming the file and what is missing, unknown or wrong in it.
    """
    kit = Kit(**_read(path, "kit", Kit))
    _check_site(path, kit.site)
    server = _SERVER.fullmatch(kit.server)
    if server is None or not 0 < int(server[2]) < 65536:
        raise KitError(f"{path}: server must be host:port, got {ascii(kit.server)[:60]}")
    if certificate_sha256(kit.ca) != kit.ca_sha256:
        raise KitError(f"{path}: ca_sha256 is not that of the certificate in it: the kit was changed")
    if _VERSION.match(kit.version) is None:
        raise KitError(f"{path}: version must be such as 1.2.3, got {ascii(kit.version)[:40]}")
    try:
        parse_time(kit.expires)
    except ValueError:
        raise KitError(f"{path}: expires must be a time in UTC, got {ascii(kit.expires)[:40]}") from None
    return kit


def write_request(path: Path, request: Request) -> None:
    """Write a request; it holds nothing secret."""
    _write(
        path,
        f"Request of site '{request.site}': the coordinator gives it to `climb-server admit`.\n"
        "It holds the site's public key and nothing secret.",
        asdict(request),
    )


def read_request(path: Path) -> Request:
    """The request of a file, whose fingerprint is its key's; whose it is, `is_answer_to` tells.

    Raises:
        KitError: naming the file and what is missing, unknown or wrong in it.
    """
    request = Request(**_read(path, "request", Request))
    _check_site(path, request.site)
    if key_fingerprint(request.public_key) != request.fingerprint:
        raise KitError(f"{path}: the fingerprint is not that of the public key: the request was changed")
    return request


def _check_site(path: Path, name: str) -> None:
    if not NAME_PATTERN.fullmatch(name):
        raise KitError(f"{path}: site must be a site's name, got {ascii(name)[:40]}")


def _code(request: Request, invitation: str) -> str:
    text = json.dumps([FORMAT, request.site, request.public_key, request.fingerprint])
    return hmac.new(invitation.encode(), text.encode(), hashlib.sha256).hexdigest()


def _write(path: Path, comment: str, values: Mapping[str, str]) -> None:
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    body = "".join(_entry(name, value) for name, value in {"format": FORMAT, **values}.items())
    write_atomic(path, f"{head}{body}".encode(), mode=0o600)


def _entry(name: str, value: object) -> str:
    if isinstance(value, str) and "\n" in value:  # PEM, as it is
        return f"{name}: |\n" + "".join(f"  {line}\n" for line in value.splitlines())
    return yaml.safe_dump({name: value}, allow_unicode=True, width=1000)


def _read(path: Path, what: str, form: type[Kit] | type[Request]) -> dict[str, str]:
    """The text values of a file, all of the form's and no other."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise KitError(f"{path}: {error.strerror}") from None
    try:
        values: object = yaml.safe_load(content.decode("utf-8")) if len(content) <= _MAX_BYTES else None
    except (yaml.YAMLError, ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or "format" not in values:
        raise KitError(f"{path} is no {what} of a site")
    given = cast(dict[str, object], values)
    number = given.pop("format")
    if number != FORMAT:
        raise KitError(
            f"{path} is a {what} of format {ascii(number)[:20]}, this program reads {FORMAT}: "
            "upgrade climb-federated where the number is smaller"
        )
    names = [each.name for each in fields(form)]
    for name in names:
        if not isinstance(given.get(name), str) or not given[name]:
            raise KitError(f"{path}: {name} must be a text, got {ascii(given.get(name))[:40]}")
    for name in given:
        if name not in names:
            raise KitError(f"{path}: unknown key {ascii(name)[:40]}")
    return cast(dict[str, str], given)
