"""What a command says that is ours to answer or to change: USE, KILL, and what is not relayed at all.

Texts are read as the server would read their first words: behind comments and space.  One that holds more than the statement
(`USE a; SELECT 1`) is not taken apart: it goes to the server, whose own rights decide.
MySQL Reference Manual, "USE Statement", "KILL Statement"; MariaDB Knowledge Base, "KILL".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.wire.mysql import Command

_COMMENTS = re.compile(rb"(?:\s|/\*(?!!|M!).*?\*/|(?:--[\s]|#)[^\n]*(?:\n|$))*", re.DOTALL)
_USE = re.compile(rb"use\s*(?:`((?:[^`]|``)+)`|\s([^\s;`]+))", re.IGNORECASE)
_KILL = re.compile(rb"(kill\s+(?:(?:hard|soft)\s+)?(?:(?:connection|query)\s+)?)(\d{1,20})", re.IGNORECASE)
BRIEF = 1024                  # a longer text is no USE and no KILL
_END = b"; \t\r\n\v\f"
REFUSED = {
    Command.CHANGE_USER: "COM_CHANGE_USER is not relayed: connect anew as the other user",
    Command.BINLOG_DUMP: "replication is not relayed", Command.BINLOG_DUMP_GTID: "replication is not relayed",
    Command.TABLE_DUMP: "replication is not relayed", Command.REGISTER_SLAVE: "replication is not relayed",
    Command.MULTI: "COM_MULTI is not relayed"}


@dataclass(frozen=True, slots=True)
class Use:
    """COM_INIT_DB, or its text."""

    database: str


@dataclass(frozen=True, slots=True)
class Kill:
    """`words` are what stands before the number; None: COM_PROCESS_KILL."""

    thread: int
    words: bytes | None

    def worded(self, thread: int) -> bytes:
        """The same command against another number."""
        if self.words is None:
            return bytes((Command.PROCESS_KILL,)) + (thread & 0xFFFFFFFF).to_bytes(4, "little")
        return bytes((Command.QUERY,)) + self.words + str(thread).encode()


@dataclass(frozen=True, slots=True)
class Refused:
    why: str


def words_of(text: bytes) -> bytes:
    """Behind the comments and the space in front of a statement."""
    begin = _COMMENTS.match(text)
    assert begin is not None                   # it matches nothing too
    return text[begin.end():]


def understood(payload: bytes) -> Use | Kill | Refused | None:
    """None: nothing for us to think about."""
    command, rest = payload[0], payload[1:]
    if command == Command.INIT_DB:
        return Use(rest.decode("utf-8", "replace"))
    if command == Command.PROCESS_KILL and len(rest) >= 4:
        return Kill(int.from_bytes(rest[:4], "little"), None)
    if command in REFUSED:
        return Refused(REFUSED[Command(command)])
    if command != Command.QUERY or len(rest) > BRIEF:
        return None
    words = words_of(rest).rstrip(_END)
    found = _USE.fullmatch(words)
    if found is not None:
        name = found[1].replace(b"``", b"`") if found[1] is not None else found[2]
        return Use(name.decode("utf-8", "replace"))
    found = _KILL.fullmatch(words)
    if found is not None:
        return Kill(int(found[2]), found[1])
    return None
