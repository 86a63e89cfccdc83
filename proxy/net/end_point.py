"""tls-server-end-point: the hash of a server's certificate that channel binding signs (RFC 5929 section 4.1)."""

from __future__ import annotations

import hashlib

from asn1crypto import x509


def certificate_hash(certificate: bytes | None) -> bytes | None:
    """`certificate` in DER, hashed as its own signature is, but never weaker than SHA-256.  None when that signature has no
    single hash (Ed25519), for which the RFC defines nothing."""
    if certificate is None:
        return None
    try:
        name = x509.Certificate.load(certificate).hash_algo
        return hashlib.new("sha256" if name in ("md5", "sha1") else name, certificate).digest()
    except ValueError:
        return None
