"""The untyped packets that open a connection.

Each is `int32 length (counting itself) | int32 code | rest`.  PostgreSQL manual, "Message Formats":
StartupMessage, SSLRequest, GSSENCRequest, CancelRequest.  Strangers send these before anybody knows them, so
`parse` either returns a record or raises ClientFault, and never looks at more than MAX_STARTUP bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy.errors import ClientFault, NoStartup, NotSupported

MAX_STARTUP = 10_000        # PostgreSQL's own MAX_STARTUP_PACKET_LENGTH (pqcomm.h)
SSL_CODE = 80877103
GSSENC_CODE = 80877104
CANCEL_CODE = 80877102
V3_0 = 196608
NEWEST_MINOR = 2            # 3.1 was never anybody's; 3.2 has longer cancel keys (PostgreSQL manual, "Protocol Versions")


@dataclass(frozen=True, slots=True)
class SSLRequest:
    pass


@dataclass(frozen=True, slots=True)
class DirectTls:
    """No packet: a TLS ClientHello began where a packet should (libpq's sslnegotiation=direct)."""


@dataclass(frozen=True, slots=True)
class GSSENCRequest:
    pass


@dataclass(frozen=True, slots=True)
class CancelRequest:
    pid: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Startup:
    """`parameters` holds everything the client sent, `user` and `database` included; `unknown` the `_pq_.` names."""

    minor: int
    parameters: Mapping[str, str]
    unknown: tuple[str, ...] = ()

    @property
    def secret_length(self) -> int:
        """Bytes of this client's cancel key.  libpq before 18, and others, take four and nothing else."""
        return 32 if self.minor >= 2 else 4

    @property
    def user(self) -> str:
        return self.parameters["user"]

    @property
    def replication(self) -> str | None:
        """`physical`, `logical`, or None for an ordinary connection (PostgreSQL manual, "Streaming Replication Protocol")."""
        if "replication" not in self.parameters:
            return None
        word = self.parameters["replication"].strip().lower()
        if word == "database":
            return "logical"
        if (word and any(name.startswith(word) for name in ("true", "yes"))) or word in ("on", "1"):
            return "physical"
        if (word and any(name.startswith(word) for name in ("false", "no"))) or word in ("off", "of", "0"):
            return None
        fault = ClientFault(f'invalid value for parameter "replication": "{word}"',
                            hint='Valid values are: "false", 0, "true", 1, "database".')
        fault.sqlstate = "22023"
        raise fault

    @property
    def database(self) -> str:
        return self.parameters.get("database") or self.user


TLS_HANDSHAKE = 0x16         # the first byte of a ClientHello; a packet of that length would be refused (RFC 8446 section 5.1)
ALPN = "postgresql"
Packet = DirectTls | SSLRequest | GSSENCRequest | CancelRequest | Startup


def length_of(head: bytes) -> int:
    """The length a packet claims, checked before anything is read or widened."""
    (length,) = struct.unpack("!i", head[:4])
    if not 8 <= length <= MAX_STARTUP:
        raise NoStartup("invalid length of startup packet")
    return int(length)


def parse(packet: bytes) -> Packet:
    """One whole packet, its length included."""
    if len(packet) < 8:
        raise NoStartup("invalid length of startup packet")
    (code,) = struct.unpack_from("!i", packet, 4)
    if code == SSL_CODE and len(packet) == 8:
        return SSLRequest()
    if code == GSSENC_CODE and len(packet) == 8:
        return GSSENCRequest()
    if code == CANCEL_CODE:
        # Protocol 3.2 allows longer secrets: up to 256 bytes.
        if not 16 <= len(packet) <= 12 + 256:
            raise NoStartup("invalid length of cancel request")
        return CancelRequest(int.from_bytes(packet[8:12]), packet[12:])
    major, minor = code >> 16, code & 0xFFFF
    if major != 3:
        raise NotSupported(f"unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}")
    return _startup(minor, packet)


def _startup(minor: int, packet: bytes) -> Startup:
    if packet[-1] != 0:
        raise ClientFault("invalid startup packet layout: expected terminator as last byte")
    texts = packet[8:-1].split(b"\0")
    # Pairs, each text terminated: so an empty text follows the last one, and their number is odd.
    if texts[-1] != b"" or len(texts) % 2 == 0 or b"" in texts[:-1:2]:
        raise ClientFault("invalid startup packet layout: expected terminator as last byte")
    try:
        words = [text.decode() for text in texts[:-1]]
    except UnicodeDecodeError:
        raise ClientFault("startup packet holds text that is not UTF-8") from None
    parameters = dict(zip(words[::2], words[1::2], strict=True))
    unknown = tuple(name for name in parameters if name.startswith("_pq_."))
    for name in unknown:
        del parameters[name]
    if not parameters.get("user"):
        # PostgreSQL: ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION
        fault = ClientFault("no PostgreSQL user name specified in startup packet")
        fault.sqlstate = "28000"
        raise fault
    return Startup(minor, parameters, unknown)


def pack(parameters: Mapping[str, str]) -> bytes:
    """A StartupMessage of protocol 3.0."""
    body = b"".join(k.encode() + b"\0" + v.encode() + b"\0" for k, v in parameters.items()) + b"\0"
    return struct.pack("!ii", len(body) + 8, V3_0) + body


def pack_cancel(pid: int, secret: bytes) -> bytes:
    return struct.pack("!iiI", 12 + len(secret), CANCEL_CODE, pid) + secret


SSL_REQUEST = struct.pack("!ii", 8, SSL_CODE)
