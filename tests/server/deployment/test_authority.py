"""The certificate authority: what a TLS client accepts of it and what it refuses."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from server.deployment.authority import (
    LEAF_DAYS,
    AuthorityError,
    Pair,
    expires,
    issue,
    new_authority,
    renewed_authority,
)

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def authority() -> Pair:
    return new_authority("server.example")


def handshake(tmp_path: Path, server: Pair, ca: bytes, host: str) -> str:
    """A TLS handshake in memory with full checks by the client; the protocol's version."""
    (tmp_path / "key").write_bytes(server.key)
    (tmp_path / "crt").write_bytes(server.certificate)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    client_context = ssl.create_default_context(cadata=ca.decode("ascii"))
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(back, there, server_hostname=host)
    answering = server_context.wrap_bio(there, back, server_side=True)
    waiting = [client, answering]
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
        if not waiting:
            break
    assert not waiting
    return str(client.version())


@pytest.mark.parametrize("host", ["server.example", "192.0.2.7", "2001:db8::7"])
def test_a_client_accepts_the_server_under_the_host_of_its_certificate(
    host: str, authority: Pair, tmp_path: Path
) -> None:
    server = issue(authority, (host,))
    assert handshake(tmp_path, server, authority.certificate, host) == "TLSv1.3"


@pytest.mark.parametrize("host", ["other.example", "sub.server.example", "192.0.2.8"])
def test_a_client_refuses_another_host(host: str, authority: Pair, tmp_path: Path) -> None:
    server = issue(authority, ("server.example", "192.0.2.7"))
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
        handshake(tmp_path, server, authority.certificate, host)


def test_a_client_refuses_another_authority_of_the_same_name(authority: Pair, tmp_path: Path) -> None:
    server = issue(new_authority("server.example"), ("server.example",))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, server, authority.certificate, "server.example")


def test_a_client_refuses_a_certificate_that_has_expired(authority: Pair, tmp_path: Path) -> None:
    server = issue(authority, ("server.example",), days=1, now=NOW - timedelta(days=2))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(tmp_path, server, authority.certificate, "server.example")


def test_a_server_s_certificate_signs_no_other(authority: Pair, tmp_path: Path) -> None:
    leaf = issue(authority, ("server.example",))
    forged = issue(leaf, ("server.example",))
    chain = Pair(key=forged.key, certificate=forged.certificate + leaf.certificate)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, chain, authority.certificate, "server.example")


def test_after_the_authority_s_renewal_old_and_new_trust_each_other(authority: Pair, tmp_path: Path) -> None:
    old = issue(authority, ("server.example",))
    later = expires(authority.certificate) - timedelta(days=30)
    renewed = renewed_authority(authority)
    new = issue(renewed, ("server.example",))
    assert renewed.certificate != authority.certificate
    for server in (old, new):
        for ca in (authority.certificate, renewed.certificate):
            assert handshake(tmp_path, server, ca, "server.example")
    assert expires(renewed_authority(authority, now=later).certificate) > later + timedelta(days=3650)


def test_how_long_certificates_are_good(authority: Pair) -> None:
    assert expires(issue(authority, ("a",), now=NOW).certificate) == NOW + timedelta(days=LEAF_DAYS)
    end = expires(authority.certificate)
    assert timedelta(days=3650) < end - NOW < timedelta(days=3655)
    late = issue(authority, ("a",), now=end - timedelta(days=7))
    assert expires(late.certificate) == end


def test_an_expired_authority_signs_nothing(authority: Pair) -> None:
    with pytest.raises(AuthorityError, match="climb-server renew --ca"):
        issue(authority, ("a",), now=expires(authority.certificate))


def test_key_and_certificate_must_belong_together(authority: Pair) -> None:
    mixed = Pair(key=new_authority("b").key, certificate=authority.certificate)
    with pytest.raises(AuthorityError, match="do not belong together"):
        issue(mixed, ("a",))
    with pytest.raises(AuthorityError, match="cannot be read") as caught:
        issue(Pair(key=b"geheim", certificate=authority.certificate), ("a",))
    assert "geheim" not in str(caught.value)


def test_keys_are_not_shown(authority: Pair) -> None:
    assert "PRIVATE" not in repr(authority)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_strictly(authority: Pair, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    (tmp_path / "leaf.crt").write_bytes(issue(authority, ("server.example",)).certificate)
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-verify_hostname",
        "server.example",
    ]
    done = subprocess.run(
        [*command, "-CAfile", "ca.crt", "leaf.crt"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "leaf.crt: OK\n", done.stderr
