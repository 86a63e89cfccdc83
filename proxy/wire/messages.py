"""Typed messages: `byte tag | int32 length (counting itself) | body`.  PostgreSQL manual, "Message Formats".

What the dialogues send and read.  The relay does not use this module: it looks at headers (frames.py).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from proxy.errors import ProxyError, UpstreamFault, UpstreamRefused

AUTH_OK, AUTH_CLEARTEXT, AUTH_MD5, AUTH_SASL, AUTH_SASL_CONTINUE, AUTH_SASL_FINAL = 0, 3, 5, 10, 11, 12


def message(tag: bytes, body: bytes = b"") -> bytes:
    return tag + struct.pack("!i", len(body) + 4) + body


def authentication(code: int, body: bytes = b"") -> bytes:
    return message(b"R", struct.pack("!i", code) + body)


def parameter_status(name: str, value: str) -> bytes:
    return message(b"S", name.encode() + b"\0" + value.encode() + b"\0")


def backend_key_data(pid: int, secret: bytes) -> bytes:
    return message(b"K", struct.pack("!I", pid) + secret)


def ready_for_query(status: bytes = b"I") -> bytes:
    return message(b"Z", status)


def query(sql: str) -> bytes:
    return message(b"Q", sql.encode() + b"\0")


def negotiate_protocol_version(minor: int, unknown: tuple[str, ...]) -> bytes:
    names = b"".join(name.encode() + b"\0" for name in unknown)
    return message(b"v", struct.pack("!ii", 3 << 16 | minor, len(unknown)) + names)


def fields(kind: bytes, values: Mapping[str, str]) -> bytes:
    """ErrorResponse (`E`) or NoticeResponse (`N`) from the manual's one-letter codes."""
    body = b"".join(k.encode() + v.encode().replace(b"\0", b"") + b"\0" for k, v in values.items() if v)
    return message(kind, body + b"\0")


def error_response(fault: ProxyError, severity: str = "FATAL") -> bytes:
    if isinstance(fault, UpstreamRefused):
        return fields(b"E", fault.fields | {"S": severity, "V": severity})
    return fields(b"E", {"S": severity, "V": severity, "C": fault.sqlstate, "M": fault.message,
                         "D": fault.detail or "", "H": fault.hint or ""})


def notice(text: str, sqlstate: str = "00000") -> bytes:
    return fields(b"N", {"S": "NOTICE", "V": "NOTICE", "C": sqlstate, "M": text})


def parse_fields(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse; a malformed one gives what could be read."""
    found = {}
    for item in body.split(b"\0"):
        if item:
            found[chr(item[0])] = item[1:].decode("utf-8", "replace")
    return found


def parse_parameter_status(body: bytes) -> tuple[str, str]:
    parts = body.split(b"\0")
    if len(parts) != 3:
        raise UpstreamFault("the server sent a malformed ParameterStatus")
    return parts[0].decode("utf-8", "replace"), parts[1].decode("utf-8", "replace")
