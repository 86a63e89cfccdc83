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

from proxy.auth.scram_client import BINDING, PLAIN, PLUS, prepared
from proxy.errors import AuthenticationFailed, AuthorizationFailed, ClientFault, NotSupported

MECHANISM = PLAIN
_PRINTABLE = bytes(range(0x21, 0x7F))
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
    return derive(password, iterations, secrets.token_bytes(16) if salt is None else salt)


def derive(password: str, iterations: int, salt: bytes) -> Verifier:
    """The same without the cache: for passwords that strangers send."""
    salted = hashlib.pbkdf2_hmac("sha256", prepared(password), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    return Verifier(iterations, salt, stored, hmac.digest(salted, b"Server Key", "sha256"))


def mock_verifier(user: str, iterations: int = 4096) -> Verifier:
    seed = hmac.digest(_MOCK_KEY, user.encode(), "sha256")
    return Verifier(iterations, seed[:16], hashlib.sha256(seed).digest(), seed)


class ScramServer:
    """Our side towards a client.  `first` and `final` take the client's messages and give ours.

    `end_point` is the hash of our certificate on this connection: with it SCRAM-SHA-256-PLUS is offered, and a client
    that says "I could have bound, but you did not offer it" (`y`) tells of a man in the middle.  The name in the messages
    is ignored, as PostgreSQL does: it has the one of the startup packet, and libpq sends none.
    """

    def __init__(self, verifier: Verifier, *, real: bool = True, end_point: bytes | None = None, only_bound: bool = False) -> None:
        self._real = real
        self._verifier = verifier
        self._end_point = end_point
        self.mechanisms = ((PLUS,) if end_point is not None else ()) + (() if only_bound else (PLAIN,))
        self._bound = self._bare = self._server_first = self._nonce = b""

    def first(self, message: bytes, mechanism: str = PLAIN) -> bytes:
        """client-first-message in, server-first-message out (RFC 5802 section 7)."""
        flag, comma, rest = message.partition(b",")
        authzid, comma_too, bare = rest.partition(b",")
        if not comma or not comma_too:
            raise ClientFault("malformed SCRAM message")
        self._binding(flag, mechanism)
        if authzid:
            raise NotSupported("client uses authorization identity, but it is not supported")
        words = bare.split(b",")
        if words[0].startswith(b"m="):
            raise NotSupported("client requires an unsupported SCRAM extension")
        if len(words) < 2 or not words[0].startswith(b"n=") or not words[1].startswith(b"r="):
            raise ClientFault("malformed SCRAM message")
        nonce = words[1][2:]
        if not 1 <= len(nonce) <= 1024 or nonce.translate(None, _PRINTABLE):
            raise ClientFault("non-printable characters in SCRAM nonce")
        self._bound = flag + b",," + (self._end_point or b"" if mechanism == PLUS else b"")
        self._bare = bare
        self._nonce = nonce + base64.b64encode(secrets.token_bytes(18))
        salt = base64.b64encode(self._verifier.salt)
        self._server_first = b"r=%b,s=%b,i=%d" % (self._nonce, salt, self._verifier.iterations)
        return self._server_first

    def _binding(self, flag: bytes, mechanism: str) -> None:
        """The gs2-cbind-flag must fit what was offered and chosen (RFC 5802 section 6)."""
        if mechanism not in self.mechanisms:
            raise ClientFault("client selected an invalid SASL authentication mechanism")
        if flag in (b"n", b"y") and mechanism == PLUS:
            raise ClientFault("malformed SCRAM message", detail="SCRAM-SHA-256-PLUS was selected, but the message does not bind.")
        if flag == b"y" and self._end_point is not None:
            raise AuthorizationFailed("SCRAM channel binding negotiation error", detail="The client supports SCRAM channel binding "
                                      "but thinks the server does not.  However, this server does support channel binding.")
        if flag.startswith(b"p="):
            if mechanism != PLUS:
                raise ClientFault("malformed SCRAM message",
                                  detail="SCRAM-SHA-256 without channel binding was selected, but the message binds.")
            if flag[2:] != BINDING.encode():
                raise ClientFault("unsupported SCRAM channel-binding type")
        elif flag not in (b"n", b"y"):
            raise ClientFault("malformed SCRAM message")

    def final(self, message: bytes) -> bytes:
        """client-final-message in, server-final-message out; AuthenticationFailed for a wrong proof."""
        without_proof, found, proof64 = message.rpartition(b",p=")
        words = without_proof.split(b",")
        if not found or len(words) < 2 or not words[0].startswith(b"c="):
            raise ClientFault("malformed SCRAM message")
        if words[0][2:] != base64.b64encode(self._bound):
            raise AuthorizationFailed("SCRAM channel binding check failed")
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
        client_key = (int.from_bytes(proof) ^ int.from_bytes(signature)).to_bytes(len(proof))
        right = hmac.compare_digest(hashlib.sha256(client_key).digest(), self._verifier.stored_key)
        if not right or not self._real:
            raise AuthenticationFailed("password authentication failed")
        return b"v=" + base64.b64encode(hmac.digest(self._verifier.server_key, signed, "sha256"))
