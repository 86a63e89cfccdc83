"""A server's error in the client's own words: its places and its names, where what was sent is not what the client wrote."""

from __future__ import annotations

import re

from proxy.session import prepared
from proxy.session.consequences import Execute
from proxy.session.dues import Due, E, Q, packed
from proxy.session.pids import position
from proxy.session.prepared import Statement

_POSITION = re.compile(rb"\0P(\d{1,9})\0")


def unread(due: Due, error: bytes) -> bool:
    """A simple Query that does not parse does nothing, whatever it says.  (Another text's error has its place in `p`, not `P`.)"""
    return due.tag == Q and not due.at and b"\0C42601\0" in error and b"\0P" in error and b"\0q" not in error


def nothing_of_that_name(due: Due, error: bytes) -> bool:
    """EXECUTE of a statement that there is none: it did nothing either."""
    return (b"\0C26000\0" in error and due.tag in (Q, E) and len(due.statements) == 1
            and any(isinstance(effect, Execute) for effect in due.statements[0]))


def placed(error: bytes, due: Due) -> bytes:
    """The error's position, in the text as the client wrote it."""
    found = _POSITION.search(error) if due.texts is not None else None
    if due.texts is None or found is None:
        return error
    place = position(*due.texts, int(found[1]))
    moved = b"%d" % (place if due.woven is None else due.woven.placed(place))
    return packed(error[0], error[5:found.start(1)] + moved + error[found.end(1):])


def renamed(error: bytes, due: Due, named: dict[bytes, Statement]) -> bytes:
    """Our names of statements, as the client knows them."""
    if prepared.PREFIX not in error:
        return error
    body = error[5:]
    if due.name is not None:
        body = body.replace(b'"%s"' % due.there, b'"%s"' % due.name)
        if not due.name:
            body = body.replace(b'prepared statement "" does not exist', b"unnamed prepared statement does not exist")
    for name, known in named.items():
        body = body.replace(b'"%s"' % known.server, b'"%s"' % name)
    return packed(error[0], body)
