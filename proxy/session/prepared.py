"""Prepared statements that clients share: one text, one name on every server.

A client's names are its own; on the servers a statement is called by what it is - text, types of the parameters, and the
settings under which the text means what it means - so that what one client has prepared serves all.  The names cannot be
guessed, so that a client which speaks of statements that it does not have finds none.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field

from proxy.session.consequences import Bound, Effect
from proxy.session.pids import parameters
from proxy.session.statements import read

MOST_NAMES = 20_000           # remembered; a statement that was forgotten gets another name
MOST_ON_A_SERVER = 500        # statements; the least lately used is closed
MOST_OF_A_CLIENT = 10_000     # statements; one more is an error

NOWHERE = b"sb_%s_none" % secrets.token_hex(6).encode()
"""A name that no server has."""

PREFIX = NOWHERE[:-4]
_names: OrderedDict[tuple[bytes, bytes], bytes] = OrderedDict()
_serial = 0
_generation = 0


@dataclass(frozen=True, slots=True)
class Statement:
    """What a Parse message said: the text, and behind its final zero the parameters' types."""

    text: bytes
    types: bytes = field(repr=False)
    meaning: bytes = field(repr=False)        # digest of the settings under which it was prepared
    server: bytes                             # its name on the servers
    effects: tuple[Effect, ...] = field(repr=False)
    pids: frozenset[int] = frozenset()        # parameters that are process ids, from 0
    bound: bool = False                       # parameters tell what it does
    written: bytes | None = field(default=None, repr=False)   # by the client, where what it means may change from time to time

    def parse(self, name: bytes | None = None) -> bytes:
        body = (self.server if name is None else name) + b"\0" + self.text + b"\0" + self.types
        return b"P" + (len(body) + 4).to_bytes(4) + body


def schema_changed() -> None:
    """What is prepared from now on is prepared anew: on the servers, older statements may have other results.

    Who has prepared one before goes on with it, and hears of the change from the server, as with a connection of its own.
    """
    global _generation
    _generation += 1
    _names.clear()


def generation() -> int:
    """Another number after each change of a schema that went through here."""
    return _generation


def is_stale(known: Statement) -> None:
    """The server says that its result has changed: nobody else gets this one."""
    for key in [key for key, name in _names.items() if name == known.server]:
        del _names[key]


def statement(text: bytes, types: bytes, meaning: bytes, *, conforming: bool) -> Statement:
    """Equal statements have equal names."""
    global _serial
    key = (meaning, text + b"\0" + types)
    name = _names.get(key)
    if name is None:
        _serial += 1
        name = b"%s%d" % (PREFIX, _serial)
        if len(_names) >= MOST_NAMES:
            _names.popitem(last=False)
        if len(text) <= 65_536:
            _names[key] = name
    else:
        _names.move_to_end(key)
    effects = read(text, conforming=conforming)
    return Statement(text, types, meaning, name, effects, parameters(text, effects) if effects else frozenset(),
                     any(isinstance(effect, Bound) for effect in effects))
