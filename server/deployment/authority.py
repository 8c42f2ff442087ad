"""The coordinator's certificate authority: certificates and keys as PEM bytes."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from configs.errors import UserError

AUTHORITY_DAYS = 3653
"""Ten years."""

LEAF_DAYS = 397
"""What browsers and other strict clients accept at most, less a day."""

_CLOCKS_DIFFER = timedelta(hours=1)
"""A certificate begins to be good so long before it is made."""


class AuthorityError(UserError):
    """A key or certificate that cannot be used; one line without its content."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A private key and its certificate, PEM."""

    key: bytes = field(repr=False)
    """PKCS #8, not encrypted."""

    certificate: bytes


def new_authority(name: str, *, now: datetime | None = None) -> Pair:
    """A new authority (ECDSA P-384), good for ten years, that signs leaf certificates only.

    Args:
        name: of the coordinator, for its certificate's subject.
        now: UTC; None takes the clock.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _subject(f"authority of {name}")
    return Pair(key=_key_bytes(key), certificate=_authority_certificate(key, subject, now))


def renewed_authority(authority: Pair, *, now: datetime | None = None) -> Pair:
    """The same key and name with a new certificate: what it signed stays good under both.

    Raises:
        AuthorityError: if the key or the certificate cannot be read or do not belong together.
    """
    key, certificate = _read_authority(authority)
    return Pair(key=authority.key, certificate=_authority_certificate(key, certificate.subject, now))


def issue(
    authority: Pair, hosts: Sequence[str], *, days: int = LEAF_DAYS, now: datetime | None = None
) -> Pair:
    """A new key (ECDSA P-256) with a certificate of the authority for a TLS server.

    Args:
        hosts: names and IP addresses of the server, the first one its subject.
        days: for which it is good, or until the authority's own end.
        now: UTC; None takes the clock.

    Raises:
        AuthorityError: if the authority cannot be read, has expired, or its key is another's.
    """
    ca_key, ca = _read_authority(authority)
    now = _now(now)
    if ca.not_valid_after_utc <= now:
        raise AuthorityError(
            f"the authority's certificate expired on {ca.not_valid_after_utc.date()}: "
            "run climb-server renew --ca, and every site needs the new ca.crt"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _begun(
            key, _subject(hosts[0]), ca.subject, now, min(now + timedelta(days=days), ca.not_valid_after_utc)
        )
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA384())
    )
    return Pair(key=_key_bytes(key), certificate=_pem(certificate))


def expires(certificate: bytes) -> datetime:
    """When a certificate ends, UTC.

    Raises:
        AuthorityError: if it is none.
    """
    return _read_certificate(certificate).not_valid_after_utc


def _authority_certificate(key: ec.EllipticCurvePrivateKey, name: x509.Name, now: datetime | None) -> bytes:
    now = _now(now)
    certificate = (
        _begun(key, name, name, now, now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA384())
    )
    return _pem(certificate)


def _begun(
    key: ec.EllipticCurvePrivateKey, subject: x509.Name, issuer: x509.Name, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "climb-federated")]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _read_authority(authority: Pair) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    try:
        key = serialization.load_pem_private_key(authority.key, None)
    except (ValueError, TypeError):
        raise AuthorityError("the authority's key cannot be read: wanted PEM without a passphrase") from None
    certificate = _read_certificate(authority.certificate)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise AuthorityError("the authority's key and certificate do not belong together")
    return key, certificate


def _read_certificate(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate)
    except ValueError:
        raise AuthorityError("a certificate cannot be read: wanted PEM") from None


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _now(now: datetime | None) -> datetime:
    return datetime.now(UTC) if now is None else now
