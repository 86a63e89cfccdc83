"""From a Server to a connection that is logged in: host by host, address by address, way by way, under one deadline.

As libpq does it (fe-connect.c): an address that cannot be connected to gives way to the next, a host that is starting up
or has the wrong role to the next host, a refused kind of encryption to the next kind (`allow`, `prefer`); any other
refusal of a server is final.  Unlike libpq the deadline is one over everything, of which each host gets its share, and
what was learnt of a host (pool/hosts) serves the next dial.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from proxy.config.settings import Upstream as UpstreamSettings
from proxy.config.target import Credential, Server, Session
from proxy.errors import NoCredential, OperatorFault, ProxyError, UpstreamFault, UpstreamRefused
from proxy.net.dial import Address, OutOfFiles, addresses, connected
from proxy.net.drive import drive
from proxy.net.stream import Stream
from proxy.net.tasks import keep
from proxy.net.upstream_tls import check, end_point, explained, server_name, upstream_context
from proxy.pool.hosts import REFUSALS, Host, Hosts, Role, role_of
from proxy.session.login import Channel, Way, Welcome, login, secure, ways
from proxy.tokens.mint import Mint
from proxy.wire import messages

log = logging.getLogger(__name__)
MAX_SERVERS = 1000
GOODBYE = messages.message(b"X")


@dataclass(frozen=True, slots=True)
class Route:
    """How a connection was made; a cancel request takes the same."""

    server: Server
    host: str
    port: int
    address: Address
    way: Way


@dataclass(slots=True)
class Reached:
    sock: socket.socket
    welcome: Welcome
    route: Route
    role: Role | None = None


class Reach:
    """The one who dials, and what is known of every server's hosts.  One for all pools: what one learns, all know."""

    def __init__(self, mint: Mint | None = None) -> None:
        self.mint = mint or Mint()
        self._servers: dict[tuple[object, ...], Hosts] = {}

    @property
    def dial(self) -> type[Dial]:
        """How one connection is made, on this wire."""
        return Dial

    def hosts(self, server: Server) -> Hosts:
        """Those of one server; shared by all plugins that name the same hosts and want the same role."""
        key = (server.places, server.session, server.shuffle)
        found = self._servers.get(key)
        if found is None:
            if len(self._servers) >= MAX_SERVERS:
                self._servers.clear()
            found = self._servers[key] = Hosts(server.places, server.session, server.shuffle)
        return found

    def has_answered(self, server: Server) -> bool:
        """Was any of its hosts ever there?"""
        return any(host.seen for host in self.hosts(server).known)

    def moved(self, route: Route) -> bool:
        """Does the host's name mean other addresses by now than the one that was taken?"""
        return any(host.left(str(route.address)) for host in self.hosts(route.server).known
                   if (host.host, host.port) == (route.host, route.port))

    def report(self) -> list[dict[str, Any]]:
        """Each host that was tried: host, port, up, and role (primary, standby, or null where nobody asked)."""
        rows: dict[str, dict[str, Any]] = {}
        for host in (host for hosts in self._servers.values() for host in hosts.known if host.seen or host.away is not None):
            row = rows.setdefault(str(host), {"host": host.host, "port": host.port, "up": True, "role": None})
            row["up"] = row["up"] and host.away is None
            if host.role is not None:
                row["role"] = "standby" if host.role.standby else "primary"
        return list(rows.values())

    async def connect(self, server: Server, credential: Credential, parameters: Mapping[str, str],
                      settings: UpstreamSettings) -> Reached:
        """A connection to a host that fits, within `connect_timeout`.  Raises ProxyError."""
        loop = asyncio.get_running_loop()
        async with _in_time(settings.connect_timeout, "the address of the server"):
            server = await self.mint.locate(server, credential)
        hosts = self.hosts(server)
        plan = hosts.plan(loop.time())
        if not plan.tries:
            raise _again(plan.reason) if plan.reason is not None else UpstreamFault("every host is being probed")
        dial = self.dial(self.mint, server, credential, parameters, settings)
        for host in plan.probes:
            keep(self._probe(dial, host), name=f"probe {host}")
        end = loop.time() + settings.connect_timeout if settings.connect_timeout else None
        faults: list[ProxyError] = []
        refusal: UpstreamRefused | None = None
        spare: Reached | None = None
        try:
            for at, host in enumerate(plan.tries):
                if host.probing:
                    faults.append(host.away or UpstreamFault("another connection is finding out"))
                    continue
                share = None if end is None else max(0.0, end - loop.time()) / (len(plan.tries) - at)
                try:
                    reached = await dial.host(host, share)
                except UpstreamRefused as fault:
                    if fault.sqlstate != "57P03":
                        if server.session is Session.ANY:
                            raise
                        # A standby may lag behind what was just made: a database, a role, a password.
                        refusal = refusal or fault
                    faults.append(fault)
                    continue
                except (OperatorFault, OutOfFiles):
                    raise
                except UpstreamFault as fault:
                    faults.append(fault)
                    continue
                if server.session is Session.ANY or (reached.role is not None and reached.role.fits(server.session)):
                    return reached
                if server.session is Session.PREFER_STANDBY and spare is None:
                    spare = reached
                    continue
                goodbye(reached.sock)
                faults.append(UpstreamFault(failed(host, REFUSALS.get(server.session, "it does not fit"))))
            if spare is not None:
                found, spare = spare, None
                return found
        finally:
            if spare is not None:
                goodbye(spare.sock)
        raise refusal or _together(faults)

    async def _probe(self, dial: Dial, host: Host) -> None:
        """Is it back?  Nobody waits for this."""
        if host.probing:
            return
        try:
            reached = await dial.host(host, dial.settings.connect_timeout or None)
        except ProxyError as fault:
            log.debug("%s is still away: %s", host, fault.message)
        else:
            goodbye(reached.sock)
            log.info("server is back", extra={"fields": {"server": str(host)}})


@asynccontextmanager
async def _in_time(seconds: float, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds or None):
            yield
    except TimeoutError:
        raise NoCredential(f"{what} did not come within {seconds:.3g} s") from None


class Dial:
    """One connection to be made: what does not change from host to host."""

    def __init__(self, mint: Mint, server: Server, credential: Credential, parameters: Mapping[str, str],
                 settings: UpstreamSettings) -> None:
        self.mint = mint
        self.server = server
        self.credential = credential
        self.parameters = parameters
        self.settings = settings
        self.proof = replace(server.proof, cleartext=server.proof.cleartext or settings.cleartext_passwords)

    async def host(self, host: Host, share: float | None) -> Reached:
        """Within `share` seconds.  Keeps `host` up to date."""
        loop = asyncio.get_running_loop()
        host.probing = host.away is not None
        try:
            async with asyncio.timeout(share):
                reached = await self._logged_in(host, share)
        except TimeoutError:
            fault: ProxyError = UpstreamFault(failed(host, "timeout expired"))
        except (OutOfFiles, OperatorFault):
            raise
        except UpstreamRefused as refused:
            if refused.sqlstate != "57P03":
                host.answered(None)
                raise
            fault = refused
        except UpstreamFault as found:
            fault = found
        else:
            host.answered(reached.role)
            return reached
        finally:
            host.probing = False
        host.failed(fault, loop.time() + self.settings.retry_delay)
        raise fault

    async def _logged_in(self, host: Host, share: float | None) -> Reached:
        """A token that the server refuses is replaced once: it may have been withdrawn."""
        database = self.parameters.get("database", self.credential.user)
        for _ in range(2):
            # A little less than the share: it is not the server that is late then.
            async with _in_time(0.9 * (share or 0), "a password for the server"):
                who = await self.mint.fill(self.credential, host.host, host.port, database)
            try:
                return await self._addresses(host, share, who)
            except UpstreamRefused as fault:
                refused = fault
                if not refused.sqlstate.startswith("28") or not self.mint.spoil(who, host.host, host.port, database):
                    raise
        raise refused

    async def _addresses(self, host: Host, share: float | None, who: Credential) -> Reached:
        loop = asyncio.get_running_loop()
        end = None if share is None else loop.time() + share
        found = await self._places(host)
        host.resolved(map(str, found), loop.time())
        fault = UpstreamFault(failed(host, "no address"))
        for at, address in enumerate(found):
            part = None if end is None else max(0.0, end - loop.time()) / (len(found) - at)
            try:
                async with asyncio.timeout(part):
                    return await self._ways(host, address, who)
            except TimeoutError:
                fault = UpstreamFault(failed(host, "timeout expired", address))
            except OSError as error:
                # The system's word for it: asyncio has sentences of its own.
                why = os.strerror(error.errno) if error.errno else str(error)
                fault = UpstreamFault(failed(host, why, address))
        raise fault

    async def _places(self, host: Host) -> list[Address]:
        return await addresses(host.host, host.port)

    async def _ways(self, host: Host, address: Address, who: Credential) -> Reached:
        """Kinds of encryption, in the order that sslmode gives."""
        faults: list[ProxyError] = []
        for way in ways(self.server.tls, local=address.local):
            try:
                return await self._way(host, address, way, who)
            except OutOfFiles:
                raise
            except (UpstreamFault, OperatorFault) as fault:
                faults.append(fault)
                if fault.sqlstate == "57P03":
                    break
        # A wrong password says more than the "no pg_hba.conf entry" that the other kind of connection met.
        raise next((fault for fault in faults if isinstance(fault, UpstreamRefused) and fault.sqlstate != "28000"), faults[-1])

    async def _way(self, host: Host, address: Address, way: Way, who: Credential) -> Reached:
        server = self.server
        route = Route(server, host.host, host.port, address, way)
        stream, encrypted = await open_route(route, self.settings)
        try:
            sock = stream.sock
            binding = end_point(sock) if isinstance(sock, ssl.SSLSocket) else None
            channel = Channel(encrypted, address.local, binding)
            welcome = await drive(login(who, self.parameters, channel, self.proof), stream, server_side=False)
            role = role_of(welcome.parameters)
            if role is None and server.session is not Session.ANY:
                role = await _ask_role(stream)
            stream.unwatch()
            return Reached(stream.sock, welcome, route if encrypted else replace(route, way=Way.PLAIN), role)
        except EOFError:
            stream.close()
            raise UpstreamFault(failed(host, "server closed the connection unexpectedly", address)) from None
        except ssl.SSLError as error:
            stream.close()                    # in TLS 1.3 a server tells what it thinks of our certificate after the handshake
            raise explained(error, server.tls, host.host) from None
        except BaseException:
            stream.close()
            raise


async def open_route(route: Route, settings: UpstreamSettings) -> tuple[Stream, bool]:
    """A socket there, encrypted as the route says; whether it is.  Raises OSError, ProxyError."""
    stream = Stream(await connected(route.address, settings), fault=UpstreamFault)
    tls = route.server.tls
    try:
        encrypted = False
        if route.way is not Way.PLAIN:
            encrypted = await drive(secure(route.way), stream, context=upstream_context(tls), server_side=False,
                                    server_name=server_name(tls, route.host))
        if isinstance(stream.sock, ssl.SSLSocket):
            check(stream.sock, tls, route.host)
        return stream, encrypted
    except EOFError:
        stream.close()
        raise UpstreamFault("server closed the connection unexpectedly") from None
    except UpstreamFault as fault:
        stream.close()
        if isinstance(fault.__cause__, ssl.SSLError):
            raise explained(fault.__cause__, tls, route.host) from None
        raise
    except BaseException:
        stream.close()
        raise


async def _ask_role(stream: Stream) -> Role:
    """Servers before 14 do not report what they are."""
    words = []
    for statement in ("SELECT pg_catalog.pg_is_in_recovery()::text", "SHOW transaction_read_only"):
        await stream.write(messages.query(statement))
        words.append(await _one_value(stream))
    return Role(words[0] in ("true", "t", "on"), words[1] == "on")


async def _one_value(stream: Stream) -> str:
    value = ""
    while True:
        tag, body = await stream.read_message()
        if tag == 0x44 and len(body) > 6:         # D, DataRow: int16 columns, int32 length, bytes
            value = body[6:].decode("utf-8", "replace")
        elif tag == 0x45:
            raise UpstreamRefused(messages.parse_fields(body))
        elif tag == 0x5A:
            return value


def goodbye(sock: socket.socket) -> None:
    """Take leave of a server, so that it logs no lost connection."""
    try:
        sock.send(GOODBYE)
    except OSError:
        pass                                      # already gone: there is nobody to take leave of
    sock.close()


def failed(host: Host, why: str, address: Address | None = None) -> str:
    if address is not None and address.local:
        return f'connection to server on socket "{address}" failed: {why}'
    where = f'"{host.host}"' + (f" ({address})" if address is not None and str(address) != host.host else "")
    return f"connection to server at {where}, port {host.port} failed: {why}"


def _again(fault: ProxyError) -> ProxyError:
    """The same fault for another client: an exception keeps the traceback of whoever raised it."""
    if isinstance(fault, UpstreamRefused):
        return UpstreamRefused(fault.fields)
    fresh = type(fault)(fault.message, detail=fault.detail, hint=fault.hint)
    fresh.sqlstate = fault.sqlstate
    return fresh


def _together(faults: list[ProxyError]) -> ProxyError:
    """One fault that tells of every host."""
    if len(faults) == 1:
        return _again(faults[0])
    fault = UpstreamFault(faults[-1].message, detail="\n".join(dict.fromkeys(fault.message for fault in faults)))
    if any(found.sqlstate == "57P03" for found in faults):
        fault.sqlstate = "57P03"                  # somebody is on the way up: waiting helps
    return fault
