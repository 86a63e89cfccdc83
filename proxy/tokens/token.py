"""What a provider is asked, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.config.target import Secret


@dataclass(frozen=True, slots=True)
class Place:
    """For whom, and where it will be used."""

    host: str
    port: int
    database: str
    user: str


@dataclass(slots=True)
class Token:
    """`expires`: seconds since the epoch.  `reused`: it has been given out before."""

    secret: Secret = field(repr=False)
    expires: float
    reused: bool = False
