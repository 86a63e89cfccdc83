"""Lines of the log that a stranger can cause: the first few of a kind in each minute, then a count.

So a flood of refused logins cannot fill the journal, and is still seen.
"""

from __future__ import annotations

import logging
from typing import Any

FIRST = 5                   # lines of one kind before it is only counted
INTERVAL = 60.0             # seconds
KINDS = 1000                # kinds remembered at most; what is beyond is one kind

log = logging.getLogger(__name__)


class Quota:
    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], int] = {}
        self._since = 0.0

    def allows(self, host: str, reason: str) -> bool:
        """One more of this kind: is it written?"""
        key = (host, reason)
        if key not in self._seen and len(self._seen) >= KINDS:
            key = ("many", "of many kinds")
        count = self._seen[key] = self._seen.get(key, 0) + 1
        return count <= FIRST

    def sweep(self, now: float) -> None:
        """At the end of an interval, `tell`."""
        if now - self._since < INTERVAL:
            return
        self._since = now
        self.tell()

    def tell(self) -> None:
        """What was only counted since the last time; at the end of the process too."""
        for (host, reason), count in self._seen.items():
            if count > FIRST:
                fields: dict[str, Any] = {"address": host, "reason": reason, "more": count - FIRST}
                log.warning("clients refused", extra={"fields": fields})
        self._seen.clear()
