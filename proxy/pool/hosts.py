"""Which host of a server is dialled next: arithmetic on what is known of each.  No sockets, no clocks.

A host that failed is **away**: nobody dials it until its time is up, and then one caller at a time (the probe), so that a
server that comes up is not met by a crowd.  What role a host last showed only orders the rest: a host that did not fit is
asked again, last, since a failover may have made it fit.  When no host is left to try, the cached reason is told at
once.

The words are libpq's: `any`, `read-write`, `read-only`, `primary`, `standby`, `prefer-standby` (PostgreSQL manual,
"Database Connection Control Functions", target_session_attrs).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from proxy.config.target import Session
from proxy.errors import ProxyError

MOVED = 60.0                # seconds of answers without an address, after which connections to it are replaced
MAX_MEANT = 256
REPORTED = ("in_hot_standby", "default_transaction_read_only")     # by servers from 14 on


@dataclass(frozen=True, slots=True)
class Role:
    """What a server says of itself."""

    standby: bool
    read_only: bool         # a transaction that nobody asked to be read only is

    def fits(self, session: Session) -> bool:
        match session:
            case Session.READ_WRITE:
                return not self.read_only
            case Session.READ_ONLY:
                return self.read_only
            case Session.PRIMARY:
                return not self.standby
            case Session.STANDBY | Session.PREFER_STANDBY:
                return self.standby
            case _:
                return True


def role_of(parameters: Mapping[str, str]) -> Role | None:
    """From ParameterStatus; None: this server does not report it and must be asked."""
    standby, read_only = (parameters.get(name) for name in REPORTED)
    if standby is None or read_only is None:
        return None
    return Role(standby == "on", standby == "on" or read_only == "on")


REFUSALS = {Session.READ_WRITE: "session is read-only", Session.READ_ONLY: "session is not read-only",
            Session.PRIMARY: "server is in hot standby mode", Session.STANDBY: "server is not in hot standby mode"}


@dataclass(slots=True, eq=False)
class Host:
    """One (host, port) and what is known of it.  `away` is None or why, `until` when it may be tried again; `seen`: it has
    let us in at least once."""

    host: str
    port: int
    away: ProxyError | None = None
    until: float = 0.0
    probing: bool = False
    seen: bool = False
    role: Role | None = None
    meant: dict[str, float] = field(default_factory=dict)     # address -> when the name last meant it
    asked: float = 0.0                                        # when DNS last answered

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def failed(self, fault: ProxyError, until: float) -> None:
        self.away, self.until, self.probing, self.role = fault, until, False, None

    def answered(self, role: Role | None) -> None:
        """It let us in; `role` is None when nobody wanted to know."""
        self.away, self.probing, self.seen, self.role = None, False, True, role or self.role


    def resolved(self, addresses: Iterable[str], now: float) -> None:
        """DNS has answered."""
        if len(self.meant) > MAX_MEANT:
            self.meant.clear()
        self.asked = now
        self.meant.update(dict.fromkeys(addresses, now))

    def left(self, address: str) -> bool:
        """Has the name moved away from this address?  Names that mean another address at each question (a reader
        endpoint) come back to it; so one answer is not believed."""
        last = self.meant.get(address)
        return last is not None and self.asked - last > MOVED


@dataclass(frozen=True, slots=True)
class Plan:
    """`tries`: hosts to dial, in order; `probes`: hosts to ask in the background whether they are back; `reason`: why
    there is nothing to try."""

    tries: tuple[Host, ...] = ()
    probes: tuple[Host, ...] = ()
    reason: ProxyError | None = None


@dataclass(slots=True)
class Hosts:
    """Of one server."""

    places: Sequence[tuple[str, int]]
    session: Session = Session.ANY
    shuffle: bool = False
    random: random.Random = field(default_factory=random.Random)
    known: list[Host] = field(init=False)

    def __post_init__(self) -> None:
        self.known = [Host(host, port) for host, port in self.places]

    def plan(self, now: float) -> Plan:
        """What one dial does now."""
        order = list(self.known)
        if self.shuffle:
            self.random.shuffle(order)
        here = [host for host in order if host.away is None]
        due = [host for host in order if host.away is not None and now >= host.until and not host.probing]
        fit = [host for host in here if host.role is not None and host.role.fits(self.session)]
        unsure = [host for host in here if host.role is None]
        unfit = [host for host in here if host.role is not None and not host.role.fits(self.session)]
        if self.session is Session.ANY:
            fit, unsure, unfit = here, [], []
        elif self.session is not Session.PREFER_STANDBY:
            # Both may fit, and the operator's order decides between them.
            fit = [host for host in here if host not in unfit] if fit else []
            unsure = [host for host in unsure if host not in fit]
        if fit or (here and self.session is Session.PREFER_STANDBY):
            return Plan((*fit, *unsure, *unfit), tuple(due))
        # Who is here answers at once, and a failover may have made it fit; who is away may let us wait.
        tries = (*unsure, *unfit, *due)
        if tries:
            return Plan(tries)
        return Plan(reason=next((host.away for host in order if host.away is not None), None))
