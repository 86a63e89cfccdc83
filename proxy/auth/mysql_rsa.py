"""The RSA half of caching_sha2_password: a password that is asked for over a connection without TLS is encrypted (OAEP, SHA-1).

The `cryptography` package does it (the extra `mysql`); without it, whoever needs this is told to use TLS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proxy.errors import OperatorFault, UpstreamFault

BITS = 2048
LONGEST = 8192              # bytes of a public key in PEM
MISSING = "a password over a connection without TLS needs the cryptography package"
REMEDY = "Use TLS, or pip install 'pg-switchboard[mysql]'."


def _padding() -> Any:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    return padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)      # what the protocol says


def encrypt(pem: bytes, data: bytes) -> bytes:
    """For the owner of a server's public key.  Raises OperatorFault without the library, UpstreamFault for what is no key."""
    try:
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise OperatorFault(MISSING, hint=REMEDY) from None
    try:
        key = load_pem_public_key(pem[:LONGEST])
        if not isinstance(key, RSAPublicKey):
            raise ValueError
        return bytes(key.encrypt(data, _padding()))
    except ValueError:
        raise UpstreamFault("the server sent no usable public key") from None


class Key:
    """Ours, for clients: made at start, or read from a file."""

    def __init__(self, path: str | None = None) -> None:
        """Takes a tenth of a second to make one.  Raises OperatorFault."""
        try:
            from cryptography.hazmat.primitives import serialization
            from cryptography.hazmat.primitives.asymmetric import rsa
        except ImportError:
            raise OperatorFault(MISSING, hint=REMEDY) from None
        if path is None:
            self._private = rsa.generate_private_key(public_exponent=65537, key_size=BITS)
        else:
            try:
                found = serialization.load_pem_private_key(Path(path).read_bytes(), None)
            except (OSError, ValueError, TypeError) as fault:
                raise OperatorFault(f"cannot use switchboard.mysql.rsa_key {path}: "
                                    f"{getattr(fault, 'strerror', None) or 'not a private key in PEM without a passphrase'}") from None
            if not isinstance(found, rsa.RSAPrivateKey):
                raise OperatorFault(f"cannot use switchboard.mysql.rsa_key {path}: not an RSA key")
            self._private = found
        self.public = self._private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def decrypt(self, data: bytes) -> bytes | None:
        """None for what was not encrypted for us."""
        try:
            return bytes(self._private.decrypt(data, _padding()))
        except ValueError:
            return None
