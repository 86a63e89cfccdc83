"""When certificates end, in seconds since the epoch: our own, authorities', and those that servers show us.

Of a file with several certificates the next end counts: of a chain, every link must hold; of a bundle of authorities, those that
have ended are history, so that an alert passes on when somebody has looked at it, until the last one has ended.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable
from pathlib import Path

from asn1crypto import x509

_CERTIFICATE = re.compile(r"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----(.*?)-----END", re.DOTALL)


def end(certificate: bytes | None) -> float | None:
    """Of one in DER; None when it is none."""
    if not certificate:
        return None
    try:
        return float(x509.Certificate.load(certificate).not_valid_after.timestamp())
    except (ValueError, TypeError, OverflowError):
        return None


def ends(pem: str) -> list[float]:
    """Of each certificate in PEM text, in order; what cannot be read is left out."""
    found = []
    for match in _CERTIFICATE.finditer(pem):
        try:
            der = ssl.PEM_cert_to_DER_cert(f"-----BEGIN CERTIFICATE-----{match[1]}-----END CERTIFICATE-----")
        except ValueError:
            continue
        found.append(end(der))
    return [one for one in found if one is not None]


def ends_in(path: str) -> list[float]:
    """The same for a file; one that cannot be read has none."""
    try:
        return ends(Path(path).read_text("ascii", "replace"))
    except OSError:
        return []


def chain_end(found: Iterable[float]) -> float | None:
    """The first link's to end."""
    return min(found, default=None)


def next_end(found: Iterable[float], now: float) -> float | None:
    """Of several that stand for each other: the first to end from now on, or the last that has ended."""
    times = sorted(found)
    return next((time for time in times if time >= now), times[-1] if times else None)
