"""MySQL's wire: packets, and the numbers and texts they are made of.

A packet is `int24 length | int8 sequence | payload`, little-endian; one of 2^24-1 bytes goes on in the next.  Each command
starts a sequence at 0.  MySQL Internals, "MySQL Client/Server Protocol"; MariaDB Knowledge Base, "Client/Server Protocol".
Strangers send some of this before anybody knows them: whatever does not parse raises the given fault, never IndexError.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, IntFlag

from proxy.errors import ClientFault, ProxyError

WHOLE = 0xFFFFFF              # a packet of this length goes on in the next one
OK, MORE_DATA, INFILE, EOF, ERR = 0x00, 0x01, 0xFB, 0xFE, 0xFF
UTF8MB4 = 45                  # utf8mb4_general_ci: known to every server
NATIVE, SHA2, CLEAR = "mysql_native_password", "caching_sha2_password", "mysql_clear_password"
NONCE = 20                    # bytes of a scramble


class Can(IntFlag):
    """Capabilities.  Both sides' are those of the connection."""

    LONG_PASSWORD = 1
    FOUND_ROWS = 1 << 1
    LONG_FLAG = 1 << 2
    CONNECT_WITH_DB = 1 << 3
    NO_SCHEMA = 1 << 4
    COMPRESS = 1 << 5
    ODBC = 1 << 6
    LOCAL_FILES = 1 << 7
    IGNORE_SPACE = 1 << 8
    PROTOCOL_41 = 1 << 9
    INTERACTIVE = 1 << 10
    SSL = 1 << 11
    IGNORE_SIGPIPE = 1 << 12
    TRANSACTIONS = 1 << 13
    RESERVED = 1 << 14
    SECURE_CONNECTION = 1 << 15
    MULTI_STATEMENTS = 1 << 16
    MULTI_RESULTS = 1 << 17
    PS_MULTI_RESULTS = 1 << 18
    PLUGIN_AUTH = 1 << 19
    CONNECT_ATTRS = 1 << 20
    PLUGIN_AUTH_LENENC = 1 << 21
    SESSION_TRACK = 1 << 23
    DEPRECATE_EOF = 1 << 24
    # MariaDB's own, which a server has that does not say LONG_PASSWORD
    BULK_OPERATIONS = 1 << 34
    EXTENDED_METADATA = 1 << 35


# What can be relayed: both sides agree on the same, since bytes pass as they are.  Not compression, optional or cached
# metadata, query attributes or progress reports: those would change where answers end, or what a text begins with.
RELAYED = (Can.FOUND_ROWS | Can.LONG_FLAG | Can.NO_SCHEMA | Can.ODBC | Can.LOCAL_FILES | Can.IGNORE_SPACE | Can.INTERACTIVE
           | Can.IGNORE_SIGPIPE | Can.TRANSACTIONS | Can.MULTI_STATEMENTS | Can.MULTI_RESULTS | Can.PS_MULTI_RESULTS
           | Can.SESSION_TRACK | Can.DEPRECATE_EOF | Can.BULK_OPERATIONS | Can.EXTENDED_METADATA)
MARIADB = Can.BULK_OPERATIONS | Can.EXTENDED_METADATA
# What each side settles with its own peer.
OURS = (Can.LONG_PASSWORD | Can.CONNECT_WITH_DB | Can.PROTOCOL_41 | Can.RESERVED | Can.SECURE_CONNECTION | Can.PLUGIN_AUTH
        | Can.CONNECT_ATTRS | Can.PLUGIN_AUTH_LENENC)


class Command(IntEnum):
    QUIT = 0x01
    INIT_DB = 0x02
    QUERY = 0x03
    FIELD_LIST = 0x04
    STATISTICS = 0x09
    PROCESS_KILL = 0x0C
    PING = 0x0E
    CHANGE_USER = 0x11
    BINLOG_DUMP = 0x12
    TABLE_DUMP = 0x13
    REGISTER_SLAVE = 0x15
    STMT_PREPARE = 0x16
    STMT_EXECUTE = 0x17
    STMT_SEND_LONG_DATA = 0x18
    STMT_CLOSE = 0x19
    STMT_RESET = 0x1A
    SET_OPTION = 0x1B
    STMT_FETCH = 0x1C
    BINLOG_DUMP_GTID = 0x1E
    RESET_CONNECTION = 0x1F
    MULTI = 0xFE


class Status(IntFlag):
    """What OK and EOF packets say of the session."""

    IN_TRANS = 1
    AUTOCOMMIT = 2
    MORE_RESULTS = 8
    CURSOR = 0x40
    IN_TRANS_READONLY = 0x2000


def packets(payload: bytes, sequence: int = 0) -> bytes:
    """The payload in as many packets as it takes."""
    made = bytearray()
    while True:
        piece, payload = payload[:WHOLE], payload[WHOLE:]
        made += len(piece).to_bytes(3, "little") + bytes((sequence & 0xFF,)) + piece
        sequence += 1
        if len(piece) < WHOLE:
            return bytes(made)


def number(value: int) -> bytes:
    """A length-encoded integer."""
    if value < 0xFB:
        return bytes((value,))
    for mark, size in ((0xFC, 2), (0xFD, 3), (0xFE, 8)):
        if value < 1 << (8 * size):
            return bytes((mark,)) + value.to_bytes(size, "little")
    raise ValueError("beyond 64 bits")


def text(value: bytes) -> bytes:
    """A length-encoded string."""
    return number(len(value)) + value


class Reader:
    """Reads a payload from its beginning; `fault` is what is raised for one that ends too early."""

    __slots__ = ("at", "data", "fault")

    def __init__(self, data: bytes, fault: type[ProxyError] = ClientFault) -> None:
        self.data, self.at, self.fault = data, 0, fault

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise self.fault("malformed packet")
        self.at += size
        return self.data[self.at - size:self.at]

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def number(self) -> int:
        first = self.integer(1)
        if first < 0xFB:
            return first
        if first in (0xFB, 0xFF):
            raise self.fault("malformed packet")
        return self.integer({0xFC: 2, 0xFD: 3, 0xFE: 8}[first])

    def text(self) -> bytes:
        return self.take(self.number())

    def to_nul(self) -> bytes:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise self.fault("malformed packet")
        found = self.data[self.at:end]
        self.at = end + 1
        return found

    def rest(self) -> bytes:
        return self.take(self.left)


def ok(status: int = Status.AUTOCOMMIT, affected: int = 0) -> bytes:
    return bytes((OK,)) + number(affected) + number(0) + status.to_bytes(2, "little") + b"\0\0"


def eof(status: int = Status.AUTOCOMMIT) -> bytes:
    return bytes((EOF, 0, 0)) + status.to_bytes(2, "little")


def error(errno: int, state: str, message: str, *, early: bool = False) -> bytes:
    """`early`: before the client has told that it knows of SQLSTATEs."""
    mark = b"" if early else b"#" + state.encode("ascii", "replace")[:5].ljust(5, b"0")
    return bytes((ERR,)) + errno.to_bytes(2, "little") + mark + message.encode()[:480]


def parse_error(payload: bytes) -> tuple[int, str, str]:
    """(errno, SQLSTATE, message) of an ERR packet; of a broken one what can be read."""
    errno, rest = int.from_bytes(payload[1:3], "little"), payload[3:]
    state = "HY000"
    if rest[:1] == b"#" and len(rest) >= 6:
        state, rest = rest[1:6].decode("ascii", "replace"), rest[6:]
    return errno, state, rest.decode("utf-8", "replace")


def attributes(values: Mapping[str, str]) -> bytes:
    """Connection attributes, as a handshake response carries them."""
    return text(b"".join(text(key.encode()) + text(value.encode()) for key, value in values.items()))
