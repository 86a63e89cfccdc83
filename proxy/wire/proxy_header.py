"""The PROXY protocol, versions 1 and 2: what a load balancer says of the client that it speaks for.

    v1   PROXY TCP4 192.0.2.7 198.51.100.1 51234 5432\\r\\n            one line of at most 107 bytes
    v2   \\r\\n\\r\\n\\0\\r\\nQUIT\\n  version and command  family  length  addresses  extensions

A header without a client (UNKNOWN, LOCAL: the balancer's own health check; or a unix socket) leaves the connection's own
address.  Extensions are skipped.  proxy-protocol.txt of HAProxy, sections 2.1 and 2.2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from proxy.errors import ClientFault

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1 = b"PROXY "
V1_LONGEST = 107            # section 2.1, with CRLF
V2_HEAD = 16
V2_LONGEST = 4096           # addresses take 216 at most; the rest are extensions, a certificate's names among them


@dataclass(frozen=True, slots=True)
class Source:
    """The client that a balancer speaks for."""

    address: IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if isinstance(self.address, IPv6Address) else f"{self.address}:{self.port}"


def parse_v1(line: bytes) -> Source | None:
    """A whole line with its CRLF."""
    if len(line) > V1_LONGEST or not line.startswith(V1) or not line.endswith(b"\r\n"):
        raise ClientFault("malformed PROXY header")
    try:
        words = line[:-2].decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise ClientFault("malformed PROXY header") from None
    if words[1] == "UNKNOWN":
        return None
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise ClientFault("malformed PROXY header")
    family = IPv4Address if words[1] == "TCP4" else IPv6Address
    try:
        family(words[3])
        source = family(words[2])
    except AddressValueError:
        raise ClientFault("malformed address in PROXY header") from None
    _port(words[5])
    return Source(_plain(source), _port(words[4]))


def _port(word: str) -> int:
    if not (word.isdecimal() and len(word) <= 5 and str(int(word)) == word and int(word) < 65_536):
        raise ClientFault("malformed port in PROXY header")
    return int(word)


def length_v2(head: bytes) -> int:
    """How many bytes follow the first sixteen."""
    if len(head) != V2_HEAD or not head.startswith(SIGNATURE) or head[12] not in (0x20, 0x21):
        raise ClientFault("malformed PROXY header")
    length = int.from_bytes(head[14:16])
    if length > V2_LONGEST:
        raise ClientFault("PROXY header is too long")
    return length


def parse_v2(header: bytes) -> Source | None:
    """A whole header: sixteen bytes and what `length_v2` says."""
    rest = header[V2_HEAD:]
    if len(rest) != length_v2(header[:V2_HEAD]):
        raise ClientFault("malformed PROXY header")
    if header[12] == 0x20:      # LOCAL: whatever addresses there are do not count
        return None
    try:
        match header[13]:
            case 0x11:
                source, _, port, _ = struct.unpack_from("!4s4sHH", rest)
                return Source(IPv4Address(source), port)
            case 0x21:
                source, _, port, _ = struct.unpack_from("!16s16sHH", rest)
                return Source(_plain(IPv6Address(source)), port)
            case 0x00 | 0x31:   # unspecified, or a unix socket at the balancer
                return None
            case _:
                raise ClientFault("PROXY header of a protocol that is not TCP")
    except struct.error:
        raise ClientFault("malformed PROXY header") from None


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """::ffff:192.0.2.7 is 192.0.2.7, for rules and limits."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
