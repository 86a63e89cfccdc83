"""Passwords that are not ours to know: a directory (LDAP) or PAM judges them.

Their libraries block, so each has threads of its own; whoever waits for an answer waits `auth.ask_timeout`, within the
one deadline of the login.
"""

from __future__ import annotations

import asyncio
import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

from proxy.auth.ldap import Directory
from proxy.errors import OperatorFault, UpstreamFault
from proxy.net.aside import Aside
from proxy.server import directory, pam

if TYPE_CHECKING:
    from proxy.config.rule import Rule

log = logging.getLogger(__name__)
THREADS = 16                # for each: a hundred plugins that start at once wait for each other, not for ever
LIBRARIES = {"ldap": "ldap3", "pam": "pam"}
NAMES = {"ldap": "LDAP", "pam": "PAM"}


class Judge:
    def __init__(self) -> None:
        self._asides = {method: Aside(name, THREADS) for method, name in NAMES.items()}

    async def knows(self, rule: Rule, user: str, password: str, address: str, timeout: float) -> bool:
        """Is this the user's password?  Raises ProxyError when nobody can tell, or not within `timeout` seconds (0: no end)."""
        name = NAMES[rule.method]
        if find_spec(LIBRARIES[rule.method]) is None:
            log.error("a library is missing", extra={"fields": {
                "method": rule.method, "remedy": f"pip install 'pg-switchboard[{rule.method}]'"}})
            raise OperatorFault(f"{name} authentication is not installed here")
        if rule.method == "ldap":
            place = Directory.of(rule)
            work = lambda: directory.knows(place, user, password, timeout or 3600.0)  # noqa: E731
        else:
            work = lambda: pam.knows(rule.pamservice, user, password, address)  # noqa: E731
        try:
            async with asyncio.timeout(timeout or None):
                return await self._asides[rule.method].run(work)
        except TimeoutError:
            log.error("no answer in time", extra={"fields": {"method": rule.method, "seconds": timeout}})
            raise UpstreamFault(f"{name} could not be asked") from None
