"""Addresses and sockets towards upstreams.

DNS is asked anew for each dial (a failover by DNS is seen by the next one), all addresses are returned in the system's
order.  Socket options are libpq's keepalives_*, tcp_user_timeout; they are set before the connect, so that the latter
covers it too.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import dataclass
from typing import Any

from proxy.config.settings import Tcp
from proxy.config.settings import Upstream as UpstreamSettings
from proxy.errors import UpstreamFault

OUT_OF_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass(frozen=True, slots=True)
class Address:
    """One place that a socket can be connected to."""

    family: int
    address: Any

    @property
    def local(self) -> bool:
        return self.family == socket.AF_UNIX

    def __str__(self) -> str:
        return str(self.address) if self.local else str(self.address[0])


class OutOfFiles(UpstreamFault):
    """We have no socket to dial with: that says nothing about the server."""

    sqlstate = "53000"


async def addresses(host: str, port: int) -> list[Address]:
    """All of them, in the system's order.  Raises UpstreamFault."""
    if host.startswith("/"):
        return [Address(socket.AF_UNIX, f"{host}/.s.PGSQL.{port}")]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        raise UpstreamFault(f'could not translate host name "{host}" to address: {reason}') from None
    return list(dict.fromkeys(Address(family, address) for family, _, _, _, address in found))


async def connected(place: Address, settings: UpstreamSettings) -> socket.socket:
    """A connected non-blocking socket.  Raises OSError with the system's reason, or OutOfFiles."""
    try:
        sock = socket.socket(place.family, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno in OUT_OF_FILES:
            raise OutOfFiles(f"cannot open a socket to the server: {error.strerror}") from None
        raise
    try:
        sock.setblocking(False)
        if not place.local:
            tune(sock, settings)
        await asyncio.get_running_loop().sock_connect(sock, place.address)
    except BaseException:
        sock.close()
        raise
    return sock


def tune(sock: socket.socket, settings: Tcp) -> None:
    """What is accepted from a listening socket inherits all of it (Linux, BSD)."""
    tcp = socket.IPPROTO_TCP
    sock.setsockopt(tcp, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Names differ between systems (macOS has TCP_KEEPALIVE for the idle time); what is not there is left alone.
    idle = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)
    for option, value in ((idle, settings.keepalives_idle), (getattr(socket, "TCP_KEEPINTVL", None), settings.keepalives_interval),
                          (getattr(socket, "TCP_KEEPCNT", None), settings.keepalives_count)):
        if option is not None and value:
            sock.setsockopt(tcp, option, max(1, int(value)))
    if settings.tcp_user_timeout and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(tcp, socket.TCP_USER_TIMEOUT, int(settings.tcp_user_timeout * 1000))
