"""SCRAM-SHA-256 towards clients (RFC 5802, RFC 7677), and the verifiers that we store.

A verifier is `SCRAM-SHA-256$<rounds>:<salt>$<StoredKey>:<ServerKey>` (PostgreSQL manual, pg_authid.rolpassword).
Unknown users get a whole exchange with a salt that is always the same for their name, so that they look like
known ones (PostgreSQL: mock authentication).
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Any

import scramp

from proxy.errors import AuthenticationFailed, ClientFault, NotSupported

MECHANISM = "SCRAM-SHA-256"
_MECH: Any = scramp.ScramMechanism(mechanism=MECHANISM)
_MOCK_KEY = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class Verifier:
    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def __str__(self) -> str:
        salt, stored, server = (base64.b64encode(raw).decode() for raw in (self.salt, self.stored_key, self.server_key))
        return f"{MECHANISM}${self.iterations}:{salt}${stored}:{server}"


def parse_verifier(text: str) -> Verifier:
    """Raises ValueError for text that is not a verifier."""
    try:
        mechanism, counted, keys = text.split("$")
        rounds, salt = counted.split(":")
        stored, server = keys.split(":")
        if mechanism != MECHANISM:
            raise ValueError
        decode = functools.partial(base64.b64decode, validate=True)
        verifier = Verifier(int(rounds), decode(salt), decode(stored), decode(server))
    except (ValueError, binascii.Error):
        raise ValueError("not a SCRAM-SHA-256 verifier") from None
    if verifier.iterations < 1 or len(verifier.stored_key) != 32 or len(verifier.server_key) != 32:
        raise ValueError("not a SCRAM-SHA-256 verifier")
    return verifier


@functools.lru_cache(maxsize=1024)
def make_verifier(password: str, iterations: int = 4096, salt: bytes | None = None) -> Verifier:
    """Cached: PBKDF2 is made to be slow, and a pool of clients logs in with the same password."""
    salt, stored, server, iterations = _MECH.make_auth_info(password, iteration_count=iterations, salt=salt)
    return Verifier(iterations, salt, stored, server)


def mock_verifier(user: str, iterations: int = 4096) -> Verifier:
    seed = hmac.digest(_MOCK_KEY, user.encode(), "sha256")
    return Verifier(iterations, seed[:16], hashlib.sha256(seed).digest(), seed)


class ScramServer:
    """Our side towards a client.  `first` and `final` take the client's messages and give ours.

    Our own arithmetic, because scramp refuses the empty user name that libpq sends (PostgreSQL ignores the name in
    SCRAM: it has the one of the startup packet).  The library stays for PBKDF2.
    """

    def __init__(self, verifier: Verifier, *, real: bool = True) -> None:
        self._real = real
        self._verifier = verifier
        self._gs2 = self._bare = self._server_first = self._nonce = b""

    def first(self, message: bytes) -> bytes:
        """client-first-message in, server-first-message out (RFC 5802 section 7)."""
        flag, comma, rest = message.partition(b",")
        authzid, comma_too, bare = rest.partition(b",")
        if not comma or not comma_too:
            raise ClientFault("malformed SCRAM message")
        if flag not in (b"n", b"y"):
            raise ClientFault("the client wants channel binding, which was not offered")
        if authzid:
            raise NotSupported("client uses authorization identity, but it is not supported")
        words = bare.split(b",")
        if len(words) < 2 or not words[0].startswith(b"n=") or not words[1].startswith(b"r="):
            raise ClientFault("malformed SCRAM message")
        nonce = words[1][2:]
        if not 1 <= len(nonce) <= 1024 or not all(0x21 <= byte <= 0x7E for byte in nonce):
            raise ClientFault("non-printable characters in SCRAM nonce")
        self._gs2, self._bare = flag + b",,", bare
        self._nonce = nonce + base64.b64encode(secrets.token_bytes(18))
        salt = base64.b64encode(self._verifier.salt)
        self._server_first = b"r=%b,s=%b,i=%d" % (self._nonce, salt, self._verifier.iterations)
        return self._server_first

    def final(self, message: bytes) -> bytes:
        """client-final-message in, server-final-message out; AuthenticationFailed for a wrong proof."""
        without_proof, found, proof64 = message.rpartition(b",p=")
        words = without_proof.split(b",")
        if not found or len(words) < 2 or words[0] != b"c=" + base64.b64encode(self._gs2):
            raise ClientFault("malformed SCRAM message")
        if words[1] != b"r=" + self._nonce:
            raise ClientFault("SCRAM nonce does not match")
        try:
            proof = base64.b64decode(proof64, validate=True)
        except (ValueError, binascii.Error):
            raise ClientFault("malformed SCRAM message") from None
        signed = b",".join((self._bare, self._server_first, without_proof))
        signature = hmac.digest(self._verifier.stored_key, signed, "sha256")
        if len(proof) != len(signature):
            raise ClientFault("malformed SCRAM message")
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        right = hmac.compare_digest(hashlib.sha256(client_key).digest(), self._verifier.stored_key)
        if not right or not self._real:
            raise AuthenticationFailed("password authentication failed")
        return b"v=" + base64.b64encode(hmac.digest(self._verifier.server_key, signed, "sha256"))
