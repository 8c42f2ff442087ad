"""The kit and the request: what is read, what is refused, what proves whose a request is."""

from __future__ import annotations

import base64
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from climb_model.kit import (
    Kit,
    KitError,
    certificate_sha256,
    is_older,
    key_fingerprint,
    make_request,
    parse_time,
    read_kit,
    read_request,
    spaced,
    time_text,
    write_kit,
    write_request,
)

DER = b"any bytes are enough for a digest"
PEM = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(DER).decode()}\n-----END CERTIFICATE-----\n"
KEY = "ecdsa-sha2-nistp384 QUFBQQ=="
KIT = Kit(
    site="Köln-1",
    server="server.example:8443",
    ca=PEM,
    ca_sha256=certificate_sha256(PEM),
    version="0.1.0",
    bundle="b" * 64,
    invitation="secret",
    expires="2030-01-02T03:04:05Z",
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.yaml"


def test_a_kit_is_read_back_equal_and_is_its_owner_s_alone(file: Path) -> None:
    write_kit(file, KIT)
    assert read_kit(file) == KIT
    assert file.stat().st_mode & 0o777 == 0o600
    assert "secret" not in repr(KIT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": "../x"}, "site must be a site's name"),
        ({"server": "server.example"}, "server must be host:port"),
        ({"server": "server.example:70000"}, "server must be host:port"),
        ({"server": "a b:1"}, "server must be host:port"),
        ({"ca_sha256": "0" * 64}, "ca_sha256 is not that of the certificate in it"),
        ({"ca": "none"}, "not one certificate in PEM"),
        ({"version": "new"}, "version must be such as 1.2.3"),
        ({"expires": "tomorrow"}, "expires must be a time in UTC"),
        ({"bundle": ""}, "bundle must be a text"),
    ],
)
def test_a_kit_with_an_impossible_value_is_refused(change: dict[str, str], message: str, file: Path) -> None:
    write_kit(file, replace(KIT, **change))
    with pytest.raises(KitError) as caught:
        read_kit(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no kit"),
        (b"\xff\xfe", "is no kit"),
        (b"- a\n", "is no kit"),
        (b"site: A\n", "is no kit"),
        (b"[" * 1_000, "is no kit"),
        (b"format: 1\n" + b"#" * 70_000, "is no kit"),
        (b"format: 2\n", "of format 2, this program reads 1: upgrade climb-federated"),
        (b"format: 1\n", "site must be a text, got None"),
        (b"format: 1\nsite: [A]\n", "site must be a text, got ['A']"),
    ],
)
def test_what_is_no_kit_is_refused(content: bytes, message: str, file: Path) -> None:
    file.write_bytes(content)
    with pytest.raises(KitError) as caught:
        read_kit(file)
    assert message in str(caught.value)


def test_an_unknown_key_and_a_missing_file_are_named(file: Path) -> None:
    with pytest.raises(KitError, match="No such file"):
        read_kit(file)
    write_kit(file, KIT)
    with file.open("a") as appended:
        appended.write("command: x\n")
    with pytest.raises(KitError, match="unknown key 'command'"):
        read_kit(file)


def test_a_request_answers_its_own_invitation_only(file: Path) -> None:
    write_request(file, make_request("A", KEY, "secret"))
    request = read_request(file)
    assert request.is_answer_to("secret")
    assert not request.is_answer_to("another")
    assert b"secret:" not in file.read_bytes()


@pytest.mark.parametrize("change", [{"site": "B"}, {"public_key": "ecdsa-sha2-nistp384 QkJCQg=="}])
def test_a_changed_request_answers_nothing(change: dict[str, str]) -> None:
    request = replace(make_request("A", KEY, "secret"), **change)
    request = replace(request, fingerprint=key_fingerprint(request.public_key))
    assert not request.is_answer_to("secret")


def test_a_request_whose_fingerprint_is_another_key_s_is_refused(file: Path) -> None:
    write_request(file, replace(make_request("A", KEY, "secret"), fingerprint="SHA256:other"))
    with pytest.raises(KitError, match="the fingerprint is not that of the public key"):
        read_request(file)


@pytest.mark.parametrize("key", ["", "ssh-rsa QUFBQQ==", "ecdsa-sha2-nistp384", f"{KEY} me", f"{KEY}\n{KEY}"])
def test_a_key_of_another_kind_is_refused(key: str) -> None:
    with pytest.raises(KitError, match="a site's public key must be"):
        key_fingerprint(key)


def test_the_fields_of_both_files_hold_no_key_but_a_public_one() -> None:
    assert set(asdict(make_request("A", KEY, "secret"))) == {"site", "public_key", "fingerprint", "code"}
    assert not [name for name in asdict(KIT) if "key" in name]


@pytest.mark.parametrize(
    ("version", "than", "older"),
    [
        ("0.1.0", "0.1.1", True),
        ("0.9.0", "0.10.0", True),
        ("1.0.0", "0.10.0", False),
        ("0.1.0", "0.1.0", False),
        ("unknown", "0.1.0", False),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, than: str, older: bool) -> None:
    assert is_older(version, than) is older


def test_times_and_fingerprints_as_text() -> None:
    moment = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert time_text(moment) == "2030-01-02T03:04:05Z"
    assert parse_time(time_text(moment)) == moment
    assert spaced("0123456789") == "0123 4567 89"
