# SPDX-License-Identifier: GPL-3.0-or-later
"""The converter's own certificate: made at first start, known to agents by its fingerprint."""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from p2v.images.durable import write_durably
from p2v.model.errors import UsageError
from p2v.model.pairing import fingerprint_of, format_fingerprint
from p2v.service.addresses import local_addresses

FILE_NAME = "tls.pem"
LIFETIME = timedelta(days=3653)
ALPN_DATA = "p2v/1"
ALPN_HTTP = "http/1.1"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key, in one PEM file that only its owner can read."""

    path: Path
    digest: bytes
    """SHA-256 of the certificate in DER."""

    @property
    def public_key(self) -> str:
        """SHA-256 of the public key (its SubjectPublicKeyInfo) in base64, as curl pins it."""
        certificate = x509.load_pem_x509_certificate(self.path.read_bytes())
        der = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return base64.b64encode(hashlib.sha256(der).digest()).decode("ascii")

    @property
    def fingerprint(self) -> str:
        """The digest as it is shown to people."""
        return format_fingerprint(self.digest)

    def context(self) -> ssl.SSLContext:
        """Return a server's TLS context (1.2 or newer) that offers both of our protocols."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.path)
        context.set_alpn_protocols([ALPN_DATA, ALPN_HTTP])
        return context


def ensure_certificate(data: Path) -> Certificate:
    """Return the certificate of the converter at `data`; make it if there is none.

    Raises:
        UsageError: the file is there but holds no certificate.
    """
    path = data / FILE_NAME
    if not path.exists():
        write_durably(path, _generate(), mode=0o600)
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise UsageError(
            problem=f"{path} holds no certificate; restore it, or remove it for a new one "
            "(agents must pair again)"
        ) from None
    return Certificate(path, fingerprint_of(found.public_bytes(serialization.Encoding.DER)))


def _generate() -> bytes:
    """Return a new key and self-signed certificate in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    host = socket.gethostname()
    # A common name has 64 characters at most (RFC 5280, appendix A.1).
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64] or "p2v")])
    names = list(dict.fromkeys([host or "p2v", "localhost"]))
    alternatives: list[x509.GeneralName] = [x509.DNSName(entry) for entry in names]
    alternatives += [x509.IPAddress(address) for address in local_addresses()]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A live ISO's clock may be behind; agents check the fingerprint, not the dates.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)
