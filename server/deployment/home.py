"""The coordinator's own folder: settings, authority, certificates, secrets, and what the server writes."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import ssl
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import yaml

from climb_model.atomic import write_atomic, write_text_atomic
from configs.errors import SettingsError, UsageError
from server.deployment.authority import (
    AUTHORITY_DAYS,
    AuthorityError,
    Pair,
    expires,
    issue,
    new_authority,
    renewed_authority,
)

VARIABLE = "CLIMB_HOME"
"""Environment variable that names the coordinator's folder; `./coordinator` without it."""

WARN_DAYS = 30
"""Before a certificate expires."""

_DEFAULT = Path("coordinator")
_HOST = re.compile(r"(?!-)[0-9A-Za-z\-]{1,63}(\.(?!-)[0-9A-Za-z\-]{1,63})*")
_LOOPBACK = ("127.0.0.1", "localhost")
_CA_REMEDY = "put it back from a backup, or from the folder of a site's node, which holds the same ca.crt"


class HomeError(UsageError):
    """A coordinator's folder that is missing, there already or changed; one line."""


@dataclass(frozen=True, kw_only=True)
class HomeSettings:
    """`server.yaml`."""

    host: str
    """Name or IP address under which sites reach the server; it stands in the server's certificate."""

    port: int = 8443
    """Public TCP port of the proxy."""

    superlink_port: int = 18443
    """TCP port of Flower's SuperLink, on loopback only."""

    listen: str = "0.0.0.0"
    """IP address on which the proxy listens."""

    @property
    def server(self) -> str:
        """`host:port`, as it stands in kits."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Expiry:
    """Until when a certificate is good."""

    what: str
    until: datetime | None
    """None: its file is missing or damaged."""

    days_left: int | None
    """Whole days; negative once it has expired."""

    remedy: str = "climb-server renew makes it anew"
    """Where it is missing or damaged."""

    @property
    def line(self) -> str:
        """What a screen shows; with what to do where less than `WARN_DAYS` are left."""
        if self.until is None or self.days_left is None:
            return f"{self.what}: MISSING or damaged: {self.remedy}"
        day = self.until.date().isoformat()
        if self.days_left < 0:
            return f"{self.what}: EXPIRED on {day}: run climb-server renew"
        if self.days_left < WARN_DAYS:
            return f"{self.what}: expires on {day}, in {self.days_left} days: run climb-server renew"
        return f"{self.what}: good until {day}"


@dataclass(frozen=True)
class Home:
    """Paths of the coordinator's folder. It is its owner's alone (0700); keys and secrets are 0600."""

    path: Path

    @property
    def settings_file(self) -> Path:
        """`HomeSettings`."""
        return self.path / "server.yaml"

    @property
    def ca_key(self) -> Path:
        """Private key of the authority; needed for `init` and `renew` only, so it may be kept elsewhere."""
        return self.path / "authority" / "ca.key"

    @property
    def ca_certificate(self) -> Path:
        """What sites and our own processes verify the server by."""
        return self.path / "authority" / "ca.crt"

    @property
    def server_key(self) -> Path:
        """Of the proxy."""
        return self.path / "tls" / "server.key"

    @property
    def server_certificate(self) -> Path:
        """Of the proxy, for `HomeSettings.host`."""
        return self.path / "tls" / "server.crt"

    @property
    def loopback_key(self) -> Path:
        """Of the SuperLink."""
        return self.path / "tls" / "loopback.key"

    @property
    def loopback_certificate(self) -> Path:
        """Of the SuperLink, for 127.0.0.1 and localhost."""
        return self.path / "tls" / "loopback.crt"

    @property
    def superexec_secret(self) -> Path:
        """32 random bytes, raw, as Flower reads them."""
        return self.path / "secrets" / "superexec.secret"

    @property
    def flower(self) -> Path:
        """FLWR_HOME of all Flower processes."""
        return self.path / "flower"

    @property
    def database(self) -> Path:
        """Of the SuperLink."""
        return self.path / "superlink.db"

    @property
    def logs(self) -> Path:
        """Of the server's processes."""
        return self.path / "logs"

    @property
    def nginx(self) -> Path:
        """Configuration and temporary folders of the proxy."""
        return self.path / "nginx"

    @property
    def sites(self) -> Path:
        """Records of the members."""
        return self.path / "sites"

    @property
    def studies(self) -> Path:
        """`ServerPlace` of each study."""
        return self.path / "studies"

    def settings(self) -> HomeSettings:
        """What `server.yaml` says.

        Raises:
            SettingsError: naming the key, what was wanted and what came.
        """
        try:
            values: object = yaml.safe_load(self.settings_file.read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise SettingsError(
                f"{self.settings_file} cannot be read: {' '.join(str(error).split())}"
            ) from None
        return _settings(values, f"{self.settings_file}: ")

    def authority_certificate(self) -> str:
        """The certificate in `ca_certificate`, PEM.

        Raises:
            HomeError: if it is missing or damaged.
        """
        try:
            text = self.ca_certificate.read_text("ascii")
            expires(text.encode())
        except (OSError, ValueError):
            raise HomeError(f"{self.ca_certificate} is missing or damaged: {_CA_REMEDY}") from None
        return text

    @classmethod
    def open(cls, path: Path) -> Home:
        """The folder that `create` made.

        Raises:
            HomeError: if there is none.
        """
        home = cls(path.resolve())
        if not home.settings_file.is_file():
            raise HomeError(f"{path} is no coordinator's folder: make one with climb-server init --host NAME")
        return home

    @classmethod
    def create(cls, path: Path, settings: HomeSettings) -> Home:
        """Make the folder with a new authority, certificates and secrets.

        `server.yaml` comes last: a folder without it is not finished.

        Raises:
            HomeError: if the folder holds anything already.
            SettingsError: if a setting is impossible.
        """
        home = cls(path.resolve())
        _settings({each.name: vars(settings)[each.name] for each in fields(settings)}, "--")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise HomeError(f"{path} is there already: nothing was changed (climb-server renew renews)")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        folders = (home.ca_key.parent, home.server_key.parent, home.superexec_secret.parent, home.flower)
        for folder in (*folders, home.logs, home.nginx, home.sites, home.studies):
            folder.mkdir(mode=0o700)
        authority = new_authority(settings.host)
        _write_pair(home.ca_key, home.ca_certificate, authority)
        _issue_server(home, settings, authority)
        _issue_loopback(home, authority)
        write_atomic(home.superexec_secret, secrets.token_bytes(32), mode=0o600)
        write_text_atomic(home.settings_file, _settings_text(settings))
        return home


def home_folder(given: Path | None) -> Path:
    """The folder of `--home`, else of `CLIMB_HOME`, else `./coordinator`."""
    return given if given is not None else Path(os.environ.get(VARIABLE) or _DEFAULT)


def expiries(home: Home) -> tuple[Expiry, ...]:
    """Until when the three certificates are good, by the clock of this machine."""
    return (
        _expiry("certificate of the server", home.server_certificate),
        _expiry("certificate of loopback", home.loopback_certificate),
        replace(_expiry("certificate of the authority", home.ca_certificate), remedy=_CA_REMEDY),
    )


def check_files(home: Home) -> None:
    """See that the certificates, keys and the secret that the server's programs read are there and fit.

    Raises:
        HomeError: naming a file and how it is made again.
    """
    home.authority_certificate()
    for key, certificate in (
        (home.server_key, home.server_certificate),
        (home.loopback_key, home.loopback_certificate),
    ):
        if not _is_pair(key, certificate):
            raise HomeError(
                f"{certificate} or {key.name} is missing or damaged: climb-server renew makes both anew"
            )
    if not home.superexec_secret.is_file():
        raise HomeError(
            f"{home.superexec_secret} is missing: put it back from a backup, or 32 random bytes of mode 0600"
        )


def renew(home: Home, *, ca: bool = False) -> datetime | None:
    """Issue a new certificate and key for the server, which a running proxy takes within seconds.

    The certificate of loopback lives as long as the authority's. Only where it would end before, or is
    missing or damaged, it is issued anew as well.

    Args:
        ca: a new certificate for the authority first, with the same key. Sites go on trusting the old
            one until it expires; by then each must have the new ca.crt.

    Returns:
        Until when (UTC) a running SuperLink can go on with the old certificate of loopback; None: it has
        the present one.

    Raises:
        HomeError: if the authority's key or certificate is not there.
        AuthorityError: if the key cannot be read, is another's, or the certificate is expired.
    """
    authority = _authority(home)
    loopback = expires(authority.certificate)
    sound = _is_pair(home.loopback_key, home.loopback_certificate)
    if sound:
        loopback = expires(home.loopback_certificate.read_bytes())
    if ca:
        authority = renewed_authority(authority)
        write_atomic(home.ca_certificate, authority.certificate)
    _issue_server(home, home.settings(), authority)
    outlived = loopback < expires(authority.certificate)
    if outlived or not sound:
        _issue_loopback(home, authority)
    return loopback if outlived else None


def _expiry(what: str, certificate: Path) -> Expiry:
    try:
        until = expires(certificate.read_bytes())
    except (OSError, AuthorityError):
        return Expiry(what=what, until=None, days_left=None)
    return Expiry(what=what, until=until, days_left=(until - datetime.now(UTC)) // timedelta(days=1))


def _authority(home: Home) -> Pair:
    certificate = home.authority_certificate().encode()
    if not home.ca_key.is_file():
        raise HomeError(
            f"{home.ca_key} is not there: put it back for climb-server renew, and take it away afterwards"
        )
    return Pair(key=home.ca_key.read_bytes(), certificate=certificate)


def _is_pair(key: Path, certificate: Path) -> bool:
    """Whether both files are there and belong together."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError:
        return False
    return True


def _issue_server(home: Home, settings: HomeSettings, authority: Pair) -> None:
    _write_pair(home.server_key, home.server_certificate, issue(authority, (settings.host,)))


def _issue_loopback(home: Home, authority: Pair) -> None:
    """As long as the authority's own: it is for this machine's processes, and no site takes it for the
    server's. A SuperLink reads it once, and a restart of the server ends the studies."""
    pair = issue(authority, _LOOPBACK, days=AUTHORITY_DAYS)
    _write_pair(home.loopback_key, home.loopback_certificate, pair)


def _write_pair(key: Path, certificate: Path, pair: Pair) -> None:
    """The certificate last: who watches it finds both."""
    write_atomic(key, pair.key, mode=0o600)
    write_atomic(certificate, pair.certificate)


def _settings(given: object, source: str) -> HomeSettings:
    """Settings from untyped values; `source` stands before a key's name in errors."""
    names = [each.name for each in fields(HomeSettings)]
    if not isinstance(given, dict):
        raise SettingsError(f"{source}wanted keys {', '.join(names)}")
    values = cast(dict[str, object], given)
    for name in values:
        if name not in names:
            raise SettingsError(f"{source}unknown key {ascii(name)[:40]}; there are: {', '.join(names)}")
    host, listen = values.get("host"), values.get("listen", "0.0.0.0")
    if not isinstance(host, str) or not (_is_address(host) or _HOST.fullmatch(host)):
        raise SettingsError(f"{source}host must be a name or IP address, got {ascii(host)[:60]}")
    if not isinstance(listen, str) or not _is_address(listen):
        raise SettingsError(f"{source}listen must be an IP address, got {ascii(listen)[:60]}")
    ports = {name: values[name] for name in ("port", "superlink_port") if name in values}
    for name, port in ports.items():
        if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
            raise SettingsError(f"{source}{name} must be a port from 1 to 65535, got {ascii(port)[:40]}")
    settings = HomeSettings(host=host, listen=listen, **cast(dict[str, int], ports))
    if settings.port == settings.superlink_port:
        raise SettingsError(f"{source}port and superlink_port must differ, got {settings.port} twice")
    return settings


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _settings_text(settings: HomeSettings) -> str:
    return f"""\
# Settings of the coordinator's server, read when it starts.

# Name or IP address under which sites reach the server. It stands in the server's certificate: after a
# change run `climb-server renew`, and sites need new kits.
host: {_scalar(settings.host)}

# Public TCP port: the only one that a firewall has to let in.
port: {settings.port}

# TCP port of Flower's SuperLink. It is on loopback: nobody outside may reach it.
superlink_port: {settings.superlink_port}

# IP address on which the public port listens; 0.0.0.0 is every IPv4 address of this machine.
listen: {_scalar(settings.listen)}
"""


def _scalar(text: str) -> str:
    return f'"{text}"'
