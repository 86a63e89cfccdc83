"""Who is at the other end of a socket: its address, and the operating system's word for it on a unix socket."""

from __future__ import annotations

import ipaddress
import pwd
import socket
import struct

from proxy.errors import NotSupported

_CREDENTIALS = struct.Struct("3i")            # pid, uid, gid: unix(7), SO_PEERCRED


def address_of(name: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address in what getpeername or accept told; None on a unix socket."""
    if not isinstance(name, tuple):
        return None
    found = ipaddress.ip_address(str(name[0]).partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def system_user(sock: socket.socket) -> str | None:
    """The name of the process' user at the other end; None when it has no name."""
    if not hasattr(socket, "SO_PEERCRED"):
        raise NotSupported("peer authentication is not supported on this platform")
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
