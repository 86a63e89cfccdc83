"""The host name of a client's address, as pg_hba.conf's rules ask for it: only a name that leads back to the address.

The reverse record is anybody's who has the address, so it is believed only when the forward lookup of that name gives
this address again (check_hostname in PostgreSQL's hba.c), and only names that some rule speaks of are looked up at all.
A resolver may take long: it is asked in threads of its own, once for all who wait for the same address, and who has no
name in time has none.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from proxy.auth.rules import Address
from proxy.net.aside import Aside
from proxy.net.peer import address_of
from proxy.net.tasks import keep

log = logging.getLogger(__name__)
KEPT = 10.0                 # seconds that an answer serves: a plugin opens many connections at once
MAX_KEPT = 10_000
THREADS = 8


@dataclass(frozen=True, slots=True)
class _Answer:
    at: float
    name: str


class HostNames:
    """`wanted`: does any rule speak of this name?  `timeout`: seconds for one address, 0: no end of our own."""

    def __init__(self, wanted: Callable[[str], bool], timeout: float, *,
                 reverse: Callable[[Address], str] | None = None,
                 forward: Callable[[str], Iterable[Address]] | None = None) -> None:
        self.wanted, self.timeout = wanted, timeout
        self._reverse, self._forward = reverse or _reverse, forward or _forward
        self._clock = asyncio.get_running_loop().time
        self._aside = Aside("host names", THREADS)
        self._answers: dict[Address, _Answer] = {}
        self._flights: dict[Address, asyncio.Task[str]] = {}

    async def of(self, address: Address) -> str:
        """The name, in lower case; empty: none that is wanted and leads back to `address`, or none in time."""
        answer = self._answers.get(address)
        if answer is not None and self._clock() - answer.at < KEPT:
            return answer.name
        flight = self._flights.get(address)
        if flight is None:
            flight = self._flights[address] = keep(self._ask(address), name="host name")
            flight.add_done_callback(lambda _: self._flights.pop(address, None))
        return await asyncio.shield(flight)

    async def _ask(self, address: Address) -> str:
        try:
            async with asyncio.timeout(self.timeout or None):
                name = await self._aside.run(lambda: self._confirmed(address))
        except TimeoutError:
            log.warning("the name of an address was not found in time", extra={"fields": {"address": str(address)}})
            name = ""
        except (OSError, UnicodeError) as error:
            log.debug("an address has no name", extra={"fields": {"address": str(address), "error": str(error)}})
            name = ""
        if len(self._answers) >= MAX_KEPT:
            self._answers.clear()
        self._answers[address] = _Answer(self._clock(), name)
        return name

    def _confirmed(self, address: Address) -> str:
        """In a thread."""
        name = self._reverse(address).lower()
        if not self.wanted(name):
            return ""
        if address in self._forward(name):
            return name
        log.warning("the name of an address does not lead back to it",
                    extra={"fields": {"address": str(address), "name": name}})
        return ""


def _reverse(address: Address) -> str:
    return socket.getnameinfo((str(address), 0), socket.NI_NAMEREQD | socket.NI_NUMERICSERV)[0]


def _forward(name: str) -> list[Address]:
    found = [address_of(place) for *_, place in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    return [ip_address(str(address)) for address in found if address is not None]
