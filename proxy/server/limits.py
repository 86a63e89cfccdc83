"""How many clients there may be, and how often they may fail.

`Heads` counts clients by user, plugin and address; what a client was counted under is remembered on the client, so that one
way out gives everything back.  `Throttle` slows down who guesses passwords: a failure beyond the allowed number is answered
late, and later each time.  A right password is never delayed and never refused: many plugins share one address, and one
with a wrong password must not lock out the others.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_network

from proxy.auth.rules import Address

LONGEST = 5.0               # seconds: within any sane login_timeout
FIRST = 0.25
MAX_HELD = 20               # late answers at a time per address: who guesses in parallel gains little
MAX_ADDRESSES = 10_000      # remembered; beyond that the oldest are forgotten
Head = tuple[str, str]


class Heads:
    def __init__(self) -> None:
        self.counts: dict[Head, int] = {}

    def enter(self, counted: list[Head], kind: str, name: str, limit: int = 0) -> bool:
        """Count one more, unless that were more than `limit` (0: any number).  `counted` is the client's own list."""
        head = kind, name
        count = self.counts.get(head, 0)
        if limit and count >= limit:
            return False
        self.counts[head] = count + 1
        counted.append(head)
        return True

    def leave(self, counted: list[Head]) -> None:
        """Everything that this client was counted under."""
        for head in counted:
            self.counts[head] -= 1
            if not self.counts[head]:
                del self.counts[head]
        counted.clear()


@dataclass(slots=True)
class _Record:
    level: float = 0.0          # failures, leaking away
    since: float = 0.0
    held: int = 0


class Throttle:
    """Failures by address.  `failures` in `window` seconds are answered at once; 0 switches it off."""

    def __init__(self, failures: int, window: float) -> None:
        self.failures, self.window = failures, window
        self._records: dict[Hashable, _Record] = {}

    def failed(self, address: Address | None, now: float) -> float:
        """One more failure.  Returns for how many seconds its answer is to be held back."""
        if not self.failures or address is None:
            return 0.0
        who = household(address)
        record = self._records.pop(who, None) or _Record(since=now)
        self._records[who] = record           # the youngest last
        if len(self._records) > MAX_ADDRESSES:
            del self._records[next(iter(self._records))]
        leaked = (now - record.since) * self.failures / self.window if self.window else record.level
        record.level, record.since = max(0.0, record.level - leaked) + 1, now
        beyond = record.level - self.failures
        return 0.0 if beyond <= 0 else float(min(LONGEST, FIRST * 2 ** min(beyond, 10)))

    def hold(self, address: Address | None, change: int) -> None:
        """One more, or one less, late answer under way."""
        if address is not None and (record := self._records.get(household(address))) is not None:
            record.held += change

    def crowded(self, address: Address | None) -> bool:
        """Are so many answers to this address held back that no more logins are begun?"""
        record = self._records.get(household(address)) if address is not None else None
        return record is not None and record.held >= MAX_HELD

    def __bool__(self) -> bool:
        """Has anybody failed at all?"""
        return bool(self._records)


def household(address: Address) -> Hashable:
    """A network of IPv6 is one household (RFC 6177)."""
    return ip_network((address, 64), strict=False) if isinstance(address, IPv6Address) else address
