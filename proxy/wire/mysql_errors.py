"""Faults across wires: MySQL's error numbers become SQLSTATEs that our pools understand, our own faults become numbers that
MySQL's clients understand.

What a MySQL server said reaches a MySQL client as it was: number, state and words.  MySQL Server Error Message Reference.
"""

from __future__ import annotations

from proxy.errors import LoginTimeout, Overdue, ProxyError, UpstreamFault, UpstreamRefused
from proxy.wire.mysql import error, parse_error
from proxy.wire.mysql_login import BadHandshake

ACCESS_DENIED, DB_ACCESS_DENIED, NO_DB, UNKNOWN_DB, UNKNOWN_COMMAND = 1045, 1044, 1046, 1049, 1047
NO_SUCH_THREAD, KILL_DENIED, NOT_SUPPORTED, DB_EXISTS, DB_MISSING = 1094, 1095, 1235, 1007, 1008
# number -> the SQLSTATE that PostgreSQL has for the same
_STATES = {
    ACCESS_DENIED: "28P01", 1698: "28000", 1130: "28000", DB_ACCESS_DENIED: "42501", UNKNOWN_DB: "3D000", 1142: "42501", 1227: "42501",
    1040: "53300", 1203: "53300", 1226: "53300", 1053: "57P03", 1129: "28000", 1862: "28P01", 3118: "28000", 4151: "28000"}
# SQLSTATE, or its class -> number and state
_NUMBERS = {
    "28": (ACCESS_DENIED, "28000"), "3D": (UNKNOWN_DB, "42000"), "42501": (DB_ACCESS_DENIED, "42000"), "0A": (NOT_SUPPORTED, "0A000"),
    "53": (1040, "08004"), "08P01": (1835, "HY000"), "57P01": (1053, "08S01"), "57P03": (1053, "08S01"), "08": (1429, "HY000"),
    "57014": (3024, "HY000"), "25P": (4031, "HY000"), "57P05": (4031, "HY000"), "22": (1231, "42000")}
UNKNOWN = 1105, "HY000"


class MysqlRefused(UpstreamRefused):
    """A MySQL server's ERR packet.  `sqlstate` is PostgreSQL's word for it, `errno` and `state` are its own."""

    def __init__(self, errno: int, state: str, message: str) -> None:
        super().__init__({"S": "FATAL", "C": _STATES.get(errno, state if state != "HY000" else "XX000"), "M": message})
        self.errno, self.state = errno, state


class Told(ProxyError):
    """A fault of ours that has a number of MySQL's."""

    def __init__(self, errno: int, state: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.sqlstate, self.errno, self.state = state, errno, state


class LostServer(UpstreamFault):
    """The server went away in the middle."""


def refused(payload: bytes) -> MysqlRefused:
    return MysqlRefused(*parse_error(payload))


def numbers(fault: ProxyError) -> tuple[int, str]:
    """(errno, SQLSTATE) for a MySQL client."""
    if isinstance(fault, (MysqlRefused, Told)):
        return fault.errno, fault.state
    if isinstance(fault, BadHandshake):
        return 1043, "08S01"
    if isinstance(fault, LoginTimeout):
        return 1159, "08S01"
    if isinstance(fault, LostServer):
        return 2013, "HY000"
    if isinstance(fault, Overdue) and fault.sqlstate not in _NUMBERS:
        return _NUMBERS["25P"] if "idle" in fault.message else _NUMBERS["57014"]
    for key in (fault.sqlstate, fault.sqlstate[:3], fault.sqlstate[:2]):
        if key in _NUMBERS:
            return _NUMBERS[key]
    return UNKNOWN


def error_packet(fault: ProxyError, *, early: bool = False) -> bytes:
    """The payload of the ERR packet for a fault: there are no fields for detail and hint, so they follow the message."""
    errno, state = numbers(fault)
    words = [fault.message, *(part for part in (fault.detail, fault.hint) if part)]
    return error(errno, state, ". ".join(word.rstrip(".") for word in words) if len(words) > 1 else fault.message, early=early)
