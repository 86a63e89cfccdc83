"""What a pool does with those who wait while its server cannot be reached: arithmetic, no clocks.

A server that has been there and is away is coming back (a restart, a failover): clients wait up to `hold_timeout` from the
moment it went, whoever comes meanwhile with them.  After that, and for a server that was never there, everybody is told
the reason, and newcomers hear it from memory for `retry_delay`.  A refusal (a wrong password, no rights) is told at once:
waiting does not mend it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from proxy.errors import OperatorFault, ProxyError, UpstreamFault, UpstreamRefused

GOING = frozenset({"57P01", "57P02", "57P03"})      # shutting down, crashed, starting up


class Do(enum.Enum):
    HOLD = "hold"          # let them wait, and try again after `retry_delay`
    TELL = "tell"          # fail all who wait


def away(fault: ProxyError) -> bool:
    """Does this say that the server is not there (and not that it will not have us)?"""
    if isinstance(fault, UpstreamRefused):
        return fault.sqlstate in GOING
    return isinstance(fault, UpstreamFault) and not isinstance(fault, OperatorFault)


@dataclass(slots=True)
class Outage:
    """Of one pool.  Times are the loop's, in seconds."""

    was_up: bool = False
    since: float | None = None             # when the server went away
    until: float = 0.0                     # newcomers hear `fault` until then
    fault: ProxyError | None = None

    def over(self) -> None:
        """A connection was made."""
        self.was_up, self.since, self.until, self.fault = True, None, 0.0, None

    def failed(self, fault: ProxyError, now: float, *, hold: float, delay: float) -> Do:
        """A dial failed, nobody else is dialling, and no connection is open."""
        if not away(fault):
            self.since = None
        elif self.since is None:
            self.since = now
        self.fault = fault
        if fault.sqlstate == "57P03" or (
                self.since is not None and self.was_up and now < self.since + hold):
            self.until = 0.0
            return Do.HOLD
        self.until = now + delay
        return Do.TELL

    def cached(self, now: float) -> ProxyError | None:
        """What a newcomer is told without a dial."""
        return self.fault if now < self.until else None
