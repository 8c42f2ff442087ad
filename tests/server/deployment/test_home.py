"""The coordinator's folder: what it holds, who may read it, what is refused."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from configs.errors import SettingsError
from server.deployment.authority import Pair, expires, issue
from server.deployment.home import (
    Expiry,
    Home,
    HomeError,
    HomeSettings,
    check_files,
    expiries,
    home_folder,
    renew,
)

SETTINGS = HomeSettings(host="server.example", port=443)
SECRETS = ("authority/ca.key", "tls/server.key", "tls/loopback.key", "secrets/superexec.secret")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home", SETTINGS)


def modes(folder: Path) -> dict[str, int]:
    """Permissions of all files and folders below a folder."""
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}


def test_keys_and_secrets_are_their_owner_s_alone(home: Home) -> None:
    found = modes(home.path)
    assert {name for name, mode in found.items() if mode == 0o600} == set(SECRETS)
    folders = [name for name in found if (home.path / name).is_dir()]
    assert {found[name] for name in folders} == {home.path.stat().st_mode & 0o777} == {0o700}
    assert {mode & 0o022 for mode in found.values()} == {0}


def test_secrets_are_so_from_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: dict[str, int] = {}
    real = os.open

    def watch(path: str | Path, flags: int, mode: int = 0o777, **rest: int) -> int:
        if flags & os.O_CREAT:
            opened[Path(path).name] = mode
        return real(path, flags, mode, **rest)

    monkeypatch.setattr(os, "open", watch)
    Home.create(tmp_path / "home", SETTINGS)
    assert {opened[f"{Path(name).name}.unfinished"] for name in SECRETS} == {0o600}


def test_private_keys_are_in_the_key_files_only(home: Home) -> None:
    holding = [
        path for path in home.path.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()
    ]
    assert {path.suffix for path in holding} == {".key"}
    assert len(holding) == 3


def test_the_secret_is_32_bytes_and_another_one_each_time(home: Home, tmp_path: Path) -> None:
    other = Home.create(tmp_path / "other", SETTINGS)
    first, second = home.superexec_secret.read_bytes(), other.superexec_secret.read_bytes()
    assert len(first) == len(second) == 32
    assert first != second


def test_the_settings_are_read_back_equal(home: Home) -> None:
    assert home.settings() == SETTINGS
    assert Home.open(home.path).settings() == SETTINGS
    assert home.settings_file.read_text().count("\n# ") >= 4


@pytest.mark.parametrize(
    ("settings", "server"),
    [
        (SETTINGS, "server.example:443"),
        (HomeSettings(host="2001:db8::7"), "[2001:db8::7]:8443"),
        (HomeSettings(host="192.0.2.7"), "192.0.2.7:8443"),
    ],
)
def test_the_server_s_address_as_sites_write_it(settings: HomeSettings, server: str) -> None:
    assert settings.server == server


def test_nothing_is_overwritten(home: Home, tmp_path: Path) -> None:
    before = home.ca_key.read_bytes()
    with pytest.raises(HomeError, match="is there already: nothing was changed"):
        Home.create(home.path, SETTINGS)
    assert home.ca_key.read_bytes() == before
    (tmp_path / "file").touch()
    with pytest.raises(HomeError, match="is there already"):
        Home.create(tmp_path / "file", SETTINGS)
    (tmp_path / "empty").mkdir(mode=0o755)
    assert Home.create(tmp_path / "empty", SETTINGS).path.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(HomeError, match="climb-server init --host NAME"):
        Home.open(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('host: "a b"', "host must be a name or IP address, got 'a b'"),
        ("host: 7", "host must be a name or IP address, got 7"),
        ("port: 0", "port must be a port from 1 to 65535, got 0"),
        ("superlink_port: 443", "port and superlink_port must differ, got 443 twice"),
        ("listen: everywhere", "listen must be an IP address, got 'everywhere'"),
        ("prot: 1", "unknown key 'prot'; there are: host, port, superlink_port, listen"),
        ("host: [", "cannot be read"),
        ("port: true", "port must be a port from 1 to 65535, got True"),
    ],
)
def test_settings_that_cannot_be_are_named(line: str, message: str, home: Home) -> None:
    key = line.partition(":")[0]
    lines = [each for each in home.settings_file.read_text().splitlines() if not each.startswith(f"{key}:")]
    home.settings_file.write_text("\n".join([*lines, line]))
    with pytest.raises(SettingsError) as caught:
        home.settings()
    assert message in str(caught.value)
    assert str(home.settings_file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_host_that_cannot_be_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^--host must be a name or IP address, got "):
        Home.create(tmp_path / "home", replace(SETTINGS, host='x"\nport: 1'))
    assert not (tmp_path / "home").exists()


def test_the_folder_is_the_given_one_the_environment_s_or_coordinator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLIMB_HOME", "/somewhere")
    assert home_folder(Path("x")) == Path("x")
    assert home_folder(None) == Path("/somewhere")
    monkeypatch.delenv("CLIMB_HOME")
    assert home_folder(None) == Path("coordinator")


def test_expiries_warn_30_days_before(home: Home) -> None:
    found = {each.what: each for each in expiries(home)}
    assert [each.days_left for each in found.values()] == [396, 3652, 3652]
    assert "renew" not in "".join(each.line for each in found.values())
    authority = Pair(key=home.ca_key.read_bytes(), certificate=home.ca_certificate.read_bytes())
    for days, words in ((29, "in 28 days: run climb-server renew"), (-1, "EXPIRED on")):
        past = datetime.now(UTC) + timedelta(days=days - 1)
        soon = issue(authority, ("server.example",), days=1, now=past)
        home.server_certificate.write_bytes(soon.certificate)
        assert words in expiries(home)[0].line


def test_a_line_for_each_time_that_is_left() -> None:
    until = datetime(2030, 1, 2, tzinfo=UTC)
    lines = [Expiry(what="x", until=until, days_left=days).line for days in (30, 29, 0, -1)]
    assert lines == [
        "x: good until 2030-01-02",
        "x: expires on 2030-01-02, in 29 days: run climb-server renew",
        "x: expires on 2030-01-02, in 0 days: run climb-server renew",
        "x: EXPIRED on 2030-01-02: run climb-server renew",
    ]


def test_renewal_makes_a_new_key_of_the_server_and_leaves_the_rest(home: Home) -> None:
    before = {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}
    assert renew(home) is None
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"server.key", "server.crt"}
    assert {modes(home.path)[name] for name in SECRETS} == {0o600}


def test_a_certificate_of_loopback_that_ends_before_the_authority_s_is_renewed_and_told(home: Home) -> None:
    authority = Pair(key=home.ca_key.read_bytes(), certificate=home.ca_certificate.read_bytes())
    old = issue(authority, ("127.0.0.1", "localhost"), days=100)
    home.loopback_key.write_bytes(old.key)
    home.loopback_certificate.write_bytes(old.certificate)
    assert renew(home) == expires(old.certificate)
    assert expires(home.loopback_certificate.read_bytes()) == expires(authority.certificate)
    assert renew(home) is None
    assert {modes(home.path)[name] for name in SECRETS} == {0o600}


def test_the_authority_s_renewal_keeps_its_key(home: Home) -> None:
    key, certificate = home.ca_key.read_bytes(), home.ca_certificate.read_bytes()
    before = expires(home.loopback_certificate.read_bytes())
    time.sleep(1.1)  # certificates tell whole seconds
    assert renew(home, ca=True) == before
    assert home.ca_key.read_bytes() == key
    assert home.ca_certificate.read_bytes() != certificate


@pytest.mark.parametrize("ca", [False, True])
def test_who_keeps_the_authority_s_key_elsewhere_is_asked_to_put_it_back(home: Home, ca: bool) -> None:
    home.ca_key.unlink()
    check_files(home)  # nothing else needs it
    before = {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}
    with pytest.raises(
        HomeError, match=r"authority/ca\.key is not there: put it back for climb-server renew"
    ):
        renew(home, ca=ca)
    assert {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tls/server.crt", "certificate of the server: MISSING or damaged: climb-server renew makes it anew"),
        ("tls/loopback.crt", "certificate of loopback: MISSING or damaged: climb-server renew makes it anew"),
        ("authority/ca.crt", "certificate of the authority: MISSING or damaged: put it back from a backup"),
    ],
)
@pytest.mark.parametrize("content", [None, b"", b"\xff", b"text\n"])
def test_a_certificate_that_is_lost_is_told_in_the_place_of_its_date(
    name: str, line: str, content: bytes | None, home: Home
) -> None:
    lose(home.path / name, content)
    lines = [each.line for each in expiries(home)]
    assert [each.startswith(line) for each in lines].count(True) == 1
    assert sum("good until" in each for each in lines) == 2


@pytest.mark.parametrize("name", ["server.crt", "server.key", "loopback.crt", "loopback.key"])
@pytest.mark.parametrize("content", [None, b"text\n"])
def test_renewal_makes_a_lost_certificate_or_key_anew(name: str, content: bytes | None, home: Home) -> None:
    lose(home.path / "tls" / name, content)
    with pytest.raises(HomeError, match="is missing or damaged: climb-server renew makes both anew"):
        check_files(home)
    assert renew(home) is None
    check_files(home)


def test_a_key_of_another_certificate_is_found_before_the_start(home: Home) -> None:
    home.server_key.write_bytes(home.loopback_key.read_bytes())
    with pytest.raises(HomeError, match=r"tls/server\.crt or server\.key is missing or damaged"):
        check_files(home)


def test_what_no_renewal_makes_is_to_be_put_back(home: Home) -> None:
    home.superexec_secret.unlink()
    with pytest.raises(HomeError, match=r"superexec\.secret is missing: put it back from a backup"):
        check_files(home)
    home.ca_certificate.write_bytes(b"\xff")
    for work in (check_files, renew):
        with pytest.raises(HomeError, match=r"ca\.crt is missing or damaged: put it back from a backup"):
            work(home)


def lose(file: Path, content: bytes | None) -> None:
    """Take a file away, or put something else into it."""
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
