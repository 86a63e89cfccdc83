"""SCRAM-SHA-256 on both sides (RFC 5802, RFC 7677), by the scramp library, and the verifiers that we store.

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

import scramp  # type: ignore[import-untyped]

from proxy.errors import AuthenticationFailed, ClientFault, UpstreamFault

MECHANISM = "SCRAM-SHA-256"
_MECH = scramp.ScramMechanism(mechanism=MECHANISM)
_MOCK_KEY = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class Verifier:
    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def __str__(self) -> str:
        b64 = lambda raw: base64.b64encode(raw).decode()  # noqa: E731 - three uses, one line
        return f"{MECHANISM}${self.iterations}:{b64(self.salt)}${b64(self.stored_key)}:{b64(self.server_key)}"


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
    """Our side towards a client.  `first` and `final` take the client's messages and give ours."""

    def __init__(self, verifier: Verifier, *, real: bool = True) -> None:
        self._real = real
        info = (verifier.salt, verifier.stored_key, verifier.server_key, verifier.iterations)
        self._server: Any = _MECH.make_server(lambda _user: info)

    def first(self, message: bytes) -> bytes:
        try:
            self._server.set_client_first(message.decode())
            return bytes(self._server.get_server_first().encode())
        except (scramp.ScramException, UnicodeDecodeError, ValueError, IndexError, KeyError):
            raise ClientFault("malformed SCRAM message") from None

    def final(self, message: bytes) -> bytes:
        try:
            self._server.set_client_final(message.decode())
            final = bytes(self._server.get_server_final().encode())
        except scramp.ScramException:
            raise AuthenticationFailed("password authentication failed") from None
        except (UnicodeDecodeError, ValueError, IndexError, KeyError, TypeError):
            raise ClientFault("malformed SCRAM message") from None
        if not self._real or final.startswith(b"e="):
            raise AuthenticationFailed("password authentication failed")
        return final


class ScramClient:
    """Our side towards a server."""

    def __init__(self, password: str) -> None:
        self._client: Any = scramp.ScramClient([MECHANISM], "*", password)

    def first(self) -> bytes:
        return bytes(self._client.get_client_first().encode())

    def final(self, server_first: bytes) -> bytes:
        try:
            self._client.set_server_first(server_first.decode())
            return bytes(self._client.get_client_final().encode())
        except (scramp.ScramException, UnicodeDecodeError, ValueError, IndexError, KeyError):
            raise UpstreamFault("the server sent a malformed SCRAM message") from None

    def verify(self, server_final: bytes) -> None:
        """A server that does not know the password cannot say this: the other half of the proof."""
        try:
            self._client.set_server_final(server_final.decode())
        except (scramp.ScramException, UnicodeDecodeError, ValueError, IndexError, KeyError):
            raise UpstreamFault("the server did not prove that it knows the password") from None
