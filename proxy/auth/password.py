"""md5 and cleartext proofs, and what a stored password can prove.  PostgreSQL manual, "Password Authentication"."""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.auth.scram import Verifier, derive, make_verifier, mock_verifier, parse_verifier


def md5_hash(user: str, password: str) -> str:
    """What PostgreSQL stores: `md5` and 32 hexadecimal digits."""
    return "md5" + hashlib.md5((password + user).encode(), usedforsecurity=False).hexdigest()


def md5_answer(stored: str, salt: bytes) -> bytes:
    """The answer to AuthenticationMD5Password, from a stored `md5...` hash."""
    return b"md5" + hashlib.md5(stored[3:].encode() + salt, usedforsecurity=False).hexdigest().encode()


def is_md5(stored: str) -> bool:
    return len(stored) == 35 and stored.startswith("md5") and all(c in "0123456789abcdef" for c in stored[3:])


@functools.lru_cache(maxsize=1024)
def verifier_of(stored: str, iterations: int) -> Verifier | None:
    """The SCRAM verifier that `stored` is or gives; None for an md5 hash."""
    try:
        return parse_verifier(stored)
    except ValueError:
        return None if is_md5(stored) else make_verifier(stored, iterations)


@dataclass(frozen=True, slots=True)
class Disguise:
    """What a user who does not exist looks like: as most of those who do."""

    iterations: int
    md5: bool               # where md5 is asked for: md5 it is; else everybody has a verifier, and would answer by SCRAM


def disguise(stored: Sequence[str], iterations: int) -> Disguise:
    """From the stored passwords of all users; `iterations` are those of verifiers that we make ourselves."""
    rounds, hashes = Counter[int](), 0
    for word in stored:
        try:
            rounds[parse_verifier(word).iterations] += 1
        except ValueError:
            hashes += 1
            if not is_md5(word):
                rounds[iterations] += 1
    most = rounds.most_common(1)
    return Disguise(most[0][0] if most else iterations, md5=hashes > 0 or not stored)


def matches(user: str, stored: str | None, offered: str, iterations: int) -> bool:
    """Does a cleartext password fit what is stored, in whatever form it is stored?

    One PBKDF2 is computed whatever `stored` is, None for an unknown user included: the time tells nothing.
    """
    known = verifier_of(stored, iterations) if stored is not None else None
    verifier = known or mock_verifier(user, iterations)
    made = derive(offered, verifier.iterations, verifier.salt)
    if known is not None:
        return hmac.compare_digest(made.stored_key, known.stored_key)
    return stored is not None and hmac.compare_digest(stored, md5_hash(user, offered))
