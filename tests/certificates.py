"""Certificates for tests: an authority of our own and a server certificate for localhost."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def make(folder: Path) -> tuple[Path, Path]:
    """Returns (ca.pem, server.pem); the latter holds certificate and key.  Beside them: client.crt and client.key, for a
    PostgreSQL user named `cert`, and crl.pem, which revokes it."""
    now = datetime.datetime.now(datetime.UTC)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def build(subject: str, public: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.CertificateBuilder:
        return (x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name("Test CA")).public_key(public)
                .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
                .not_valid_after(now + datetime.timedelta(days=30)).add_extension(x509.BasicConstraints(ca, None), critical=True))

    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = build("Test CA", authority.public_key(), ca=True).sign(authority, hashes.SHA256())
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = build("localhost", server.public_key(), ca=False).add_extension(names, critical=False).sign(authority, hashes.SHA256())
    pem = serialization.Encoding.PEM
    key = server.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "ca.pem").write_bytes(root.public_bytes(pem))
    (folder / "server.pem").write_bytes(leaf.public_bytes(pem) + key)
    (folder / "server.pem").chmod(0o600)
    client = ec.generate_private_key(ec.SECP256R1())
    known = build("cert", client.public_key(), ca=False).sign(authority, hashes.SHA256())
    (folder / "client.crt").write_bytes(known.public_bytes(pem))
    (folder / "client.key").write_bytes(
        client.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    (folder / "client.key").chmod(0o600)
    revoked = x509.RevokedCertificateBuilder().serial_number(known.serial_number).revocation_date(now).build()
    crl = (x509.CertificateRevocationListBuilder().issuer_name(name("Test CA")).last_update(now - datetime.timedelta(days=1))
           .next_update(now + datetime.timedelta(days=30)).add_revoked_certificate(revoked).sign(authority, hashes.SHA256()))
    (folder / "crl.pem").write_bytes(crl.public_bytes(pem))
    return folder / "ca.pem", folder / "server.pem"
