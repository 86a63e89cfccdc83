"""MySQL's proofs: mysql_native_password and caching_sha2_password, both sides.

Each is a hash that only who knows the password, or what a server stores of it, can XOR with a hash of the server's nonce:

    native  SHA1(password) XOR SHA1(nonce + SHA1(SHA1(password)))                    stored: SHA1(SHA1(password))
    sha2    SHA256(password) XOR SHA256(SHA256(SHA256(password)) + nonce)            stored: SHA256(SHA256(password))

Where a server knows no such thing of a user (it has a SCRAM verifier, say), caching_sha2_password asks for the password
itself, under TLS or encrypted by the server's RSA key (auth/mysql_rsa), and remembers its digest: "caching".
MySQL Internals, "Authentication Method"; "Caching SHA-2 Pluggable Authentication".
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Any

from proxy.wire.mysql import NATIVE, NONCE, SHA2

FAST_OK, FULL = b"\x03", b"\x04"               # what a server says of a sha2 proof
ASK_KEY = b"\x02"                              # a client wants the RSA key
_CHARACTERS = bytes(byte for byte in range(0x21, 0x7F) if byte != ord("$"))


def nonce() -> bytes:
    """Twenty bytes that end no string anywhere."""
    return bytes(secrets.choice(_CHARACTERS) for _ in range(NONCE))


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one) ^ int.from_bytes(other)).to_bytes(len(one))


def native_digest(password: bytes) -> bytes:
    return _sha1(_sha1(password))


def sha2_digest(password: bytes) -> bytes:
    return _sha256(_sha256(password))


def native_proof(password: bytes, salt: bytes) -> bytes:
    """Empty for an empty password."""
    return _xor(_sha1(password), _sha1(salt + native_digest(password))) if password else b""


def sha2_proof(password: bytes, salt: bytes) -> bytes:
    return _xor(_sha256(password), _sha256(sha2_digest(password) + salt)) if password else b""


def native_fits(digest: bytes, salt: bytes, proof: bytes) -> bool:
    return len(proof) == 20 and hmac.compare_digest(_sha1(_xor(proof, _sha1(salt + digest))), digest)


def sha2_fits(digest: bytes, salt: bytes, proof: bytes) -> bool:
    return len(proof) == 32 and hmac.compare_digest(_sha256(_xor(proof, _sha256(digest + salt))), digest)


FITS: dict[str, Callable[[bytes, bytes, bytes], bool]] = {NATIVE: native_fits, SHA2: sha2_fits}
DIGESTS: dict[str, Callable[[bytes], bytes]] = {NATIVE: native_digest, SHA2: sha2_digest}
PROOFS: dict[str, Callable[[bytes, bytes], bytes]] = {NATIVE: native_proof, SHA2: sha2_proof}


def hide(password: bytes, salt: bytes) -> bytes:
    """The password with its NUL, under the nonce again and again: what RSA encrypts; its own inverse."""
    data = password + b"\0"
    return bytes(byte ^ salt[at % len(salt)] for at, byte in enumerate(data))


class Remembered:
    """Digests of passwords that a user has proven here, where what is configured holds none: by user, and by what was configured
    then.  Bounded; the oldest go first."""

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._digests: dict[tuple[str, Any], bytes] = {}

    def find(self, user: str, stored: str) -> bytes | None:
        return self._digests.get((user, stored))

    def learn(self, user: str, stored: str, password: str) -> None:
        if len(self._digests) >= self._most:
            del self._digests[next(iter(self._digests))]
        self._digests[user, stored] = sha2_digest(password.encode())
