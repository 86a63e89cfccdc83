"""What a dialogue may ask of the world.  A dialogue is a generator that yields these; `net/drive` does them.

    packet = yield Ask.STARTUP          one untyped packet, parsed (wire/startup)
    tag, body = yield Ask.MESSAGE       one typed message
    byte = yield Ask.BYTE               one byte (the answer to SSLRequest)
    number, payload = yield Ask.PACKET  one packet of MySQL's
    yield Send(data)                    written before the dialogue goes on
    yield Send(data, more=True)         written with whatever is written next: one packet, one system call
    yield Ask.TLS                       both sides speak TLS from here on
    yield Work(function)                computed in a thread: for what would hold up everybody else
    name = yield Ask.ALPN               the protocol that TLS agreed on (RFC 7301), or None
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar


class Ask(enum.Enum):
    STARTUP = "startup"
    MESSAGE = "message"
    BYTE = "byte"
    TLS = "tls"
    ALPN = "alpn"
    PACKET = "packet"


@dataclass(frozen=True, slots=True)
class Send:
    data: bytes = field(repr=False)   # may hold a proof
    more: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    function: Callable[[], object] = field(repr=False)


T = TypeVar("T")
Dialogue = Generator[Ask | Send | Work, Any, T]
