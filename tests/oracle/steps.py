"""What a client can do, and how that is said in bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from proxy.wire.messages import message, query


@dataclass(frozen=True)
class Ask:
    """A simple Query.  `@pid0@` in a text is the process id of the first client, `@me@` the number of who says it."""

    text: str


@dataclass(frozen=True)
class Batch:
    """Messages of the extended protocol, and the Sync behind them."""

    messages: tuple[P | B | D | E | C | H | S | Ask, ...]


@dataclass(frozen=True)
class P:
    text: str
    name: str = ""
    types: tuple[int, ...] = ()


@dataclass(frozen=True)
class B:
    name: str = ""
    values: tuple[str | None, ...] = ()
    portal: str = ""


@dataclass(frozen=True)
class D:
    name: str = ""
    kind: str = "P"


@dataclass(frozen=True)
class E:
    portal: str = ""
    rows: int = 0


@dataclass(frozen=True)
class C:
    name: str
    kind: str = "S"


@dataclass(frozen=True)
class H:
    """Flush."""


@dataclass(frozen=True)
class S:
    """A Sync in the middle."""


@dataclass(frozen=True)
class Copy:
    """COPY FROM STDIN: data is sent when it is asked for (`waits`) or with the statement.  `end`: c, f, or a Sync too early."""

    text: str
    data: tuple[str, ...] = ()
    fails: bool = False
    extended: bool = False
    waits: bool = True


@dataclass(frozen=True)
class Enter:
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Leave:
    """Says goodbye, or not; or goes in the middle of something that cannot be committed: `unfinished` is a batch without its Sync,
    or a COPY without its end."""

    kindly: bool = True
    unfinished: Batch | Copy | None = None


@dataclass(frozen=True)
class Cancelled:
    """What takes for ever, and a cancel request as soon as it runs."""

    step: Ask | Batch


Step = Ask | Batch | Copy | Enter | Leave | Cancelled
Script = tuple[tuple[int, Step], ...]


def packed(one: object) -> bytes:
    match one:
        case Ask(text):
            return query(text)
        case P(text, name, types):
            return message(b"P", name.encode() + b"\0" + text.encode() + b"\0" + struct.pack(f"!h{len(types)}i", len(types), *types))
        case B(name, values, portal):
            told = b"".join(b"\xff\xff\xff\xff" if value is None else struct.pack("!i", len(value.encode())) + value.encode()
                            for value in values)
            return message(b"B", portal.encode() + b"\0" + name.encode() + struct.pack("!xhh", 0, len(values)) + told + b"\0\0")
        case D(name, kind):
            return message(b"D", kind.encode() + name.encode() + b"\0")
        case E(portal, rows):
            return message(b"E", portal.encode() + b"\0" + struct.pack("!i", rows))
        case C(name, kind):
            return message(b"C", kind.encode() + name.encode() + b"\0")
        case H():
            return message(b"H")
    return message(b"S")


def simpler(step: Step) -> Iterator[Step]:
    """The same step with something left out."""
    match step:
        case Ask(text):
            parts = text.split("; ")
            if len(parts) > 1:
                yield from (Ask("; ".join(parts[:at] + parts[at + 1:])) for at in range(len(parts)))
        case Batch(messages):
            if len(messages) > 1:
                yield from (Batch(messages[:at] + messages[at + 1:]) for at in range(len(messages)))
            for at, one in enumerate(messages):
                if isinstance(one, Ask) and "; " in one.text:
                    yield from (Batch((*messages[:at], shorter, *messages[at + 1:])) for shorter in simpler(one))  # type: ignore[arg-type]
        case Copy(data=data) if data:
            yield from (replace(step, data=data[:at] + data[at + 1:]) for at in range(len(data)))
        case Enter(options) if options:
            yield Enter()
            yield from (Enter(options[:at] + options[at + 1:]) for at in range(len(options)))
        case Leave(kindly, unfinished) if unfinished is not None:
            yield Leave(kindly)
