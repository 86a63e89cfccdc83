"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS with us as the client (RFC 5802, RFC 7677, RFC 5929).

Our own arithmetic: a library refuses what PostgreSQL allows (fewer than 4096 rounds, passwords that SASLprep refuses).
The keys are cached by password, salt and rounds: PBKDF2 is made to be slow, and a pool logs in with one password again
and again.  A server may ask for rounds without end, so there is a limit.

The gs2 flag tells the server what we think of channel binding: `p` bound, `y` we could but you did not offer it (a man
in the middle who took the offer away is found out), `n` we cannot or will not.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import re
import secrets
import stringprep
import unicodedata
from dataclasses import dataclass, field

from proxy.config.target import Secret
from proxy.errors import UpstreamFault

PLAIN, PLUS = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"
BINDING = "tls-server-end-point"
MAX_ROUNDS = 10_000_000             # some seconds of one core; PostgreSQL's own default is 4096
_SERVER_FIRST = re.compile(rb"r=([\x21-\x2b\x2d-\x7e]+),s=([A-Za-z0-9+/=]+),i=([1-9][0-9]{0,9})(?:,.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Keys:
    client: bytes = field(repr=False)
    server: bytes = field(repr=False)


@functools.lru_cache(maxsize=1024)
def keys(password: Secret, salt: bytes, rounds: int) -> Keys:
    """What a password gives with this salt: PBKDF2, so it takes its time when first asked."""
    salted = hashlib.pbkdf2_hmac("sha256", prepared(password.reveal()), salt, rounds)
    return Keys(hmac.digest(salted, b"Client Key", "sha256"), hmac.digest(salted, b"Server Key", "sha256"))


def prepared(password: str) -> bytes:
    """SASLprep (RFC 4013); a password that it refuses is taken as it is, as PostgreSQL does on both sides."""
    if password.isascii():
        return password.encode()
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in password if not stringprep.in_table_b1(c))
    text = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if not text or any(_prohibited(c) for c in text) or not _one_direction(text):
        return password.encode()
    return text.encode()


def _prohibited(c: str) -> bool:
    return (stringprep.in_table_c12(c) or stringprep.in_table_c21_c22(c) or stringprep.in_table_c3(c)
            or stringprep.in_table_c4(c) or stringprep.in_table_c5(c) or stringprep.in_table_c6(c)
            or stringprep.in_table_c7(c) or stringprep.in_table_c8(c) or stringprep.in_table_c9(c)
            or stringprep.in_table_a1(c))


def _one_direction(text: str) -> bool:
    """RFC 3454 section 6."""
    if not any(map(stringprep.in_table_d1, text)):
        return True
    return not any(map(stringprep.in_table_d2, text)) and stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])


class ScramClient:
    """One exchange.  `end_point` is the hash of the server's certificate (None: not bound); `could_bind`: we would
    have bound, had the server offered it.  `user` stays empty, as libpq has it: PostgreSQL takes the name from the
    startup packet."""

    def __init__(self, password: Secret, *, end_point: bytes | None = None, could_bind: bool = False,
                 user: bytes = b"", nonce: bytes | None = None) -> None:
        self.password = password
        self.mechanism = PLAIN if end_point is None else PLUS
        flag = b"p=" + BINDING.encode() if end_point is not None else b"y" if could_bind else b"n"
        self._gs2 = flag + b",,"
        self._bound = self._gs2 + (end_point or b"")
        self._nonce = nonce or base64.b64encode(secrets.token_bytes(18))
        self._bare = b"n=" + user + b",r=" + self._nonce
        self._proof_of_server = b""
        self.verified = False

    def first(self) -> bytes:
        """client-first-message."""
        return self._gs2 + self._bare

    def work(self, server_first: bytes) -> tuple[bytes, int]:
        """(salt, rounds) that the server asks for.  Raises UpstreamFault for what is not a server-first-message."""
        found = _SERVER_FIRST.fullmatch(server_first)
        if not found:
            raise UpstreamFault("the server sent a malformed SCRAM message")
        nonce, salt64, counted = found.groups()
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise UpstreamFault("the server sent a SCRAM nonce that does not continue ours")
        try:
            salt = base64.b64decode(salt64, validate=True)
        except (ValueError, binascii.Error):
            raise UpstreamFault("the server sent a malformed SCRAM message") from None
        rounds = int(counted)
        if rounds > MAX_ROUNDS:
            raise UpstreamFault(f"the server asks for {rounds} SCRAM iterations, which is more than {MAX_ROUNDS}")
        return salt, rounds

    def final(self, server_first: bytes) -> bytes:
        """server-first-message in, client-final-message out."""
        salt, rounds = self.work(server_first)
        found = keys(self.password, salt, rounds)
        nonce = server_first[2:server_first.index(b",")]
        without_proof = b"c=" + base64.b64encode(self._bound) + b",r=" + nonce
        signed = b",".join((self._bare, server_first, without_proof))
        signature = hmac.digest(hashlib.sha256(found.client).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(found.client, signature, strict=True))
        self._proof_of_server = base64.b64encode(hmac.digest(found.server, signed, "sha256"))
        return without_proof + b",p=" + base64.b64encode(proof)

    def verify(self, server_final: bytes) -> None:
        """A server that does not know the password cannot say this: the other half of the proof."""
        said, _, _ = server_final.partition(b",")
        if not self._proof_of_server or not hmac.compare_digest(said, b"v=" + self._proof_of_server):
            raise UpstreamFault("the server did not prove that it knows the password")
        self.verified = True
