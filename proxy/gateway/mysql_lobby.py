"""A MySQL client that has named no database yet: what it may ask before it says which plugin it means.

That is how Backstage asks for its databases (`CREATE DATABASE IF NOT EXISTS`), and how people look around (`SHOW DATABASES`,
`USE catalog`).  Nothing here touches a server but through provisioning.  Settings (`SET NAMES`, ...) and the beginning of a
transaction are remembered, and told to the server when the client has chosen.  What is not understood needs a database, and is
told so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.errors import ClientFault, NotSupported, ProxyError
from proxy.mysql.rows import result
from proxy.session.mysql_commands import Kill, Refused, Use, understood, words_of
from proxy.wire.mysql import Can, Command, eof, error, ok, packets
from proxy.wire.mysql_errors import NO_DB, NOT_SUPPORTED, Told, error_packet

MAX_SETTINGS, MAX_TEXT = 50, 4096
_NAME = r"(?:`((?:[^`]|``)+)`|([\w$]+))"
# Of texts without a closing semicolon; each is read in time linear in its length, or nearly.
_CREATE = re.compile(rf"create\s+(?:database|schema)\s+(if\s+not\s+exists\s+)?{_NAME}\s*(.*)", re.IGNORECASE | re.DOTALL)
_DROP = re.compile(r"(?:drop|alter)\s+(?:database|schema)\b", re.IGNORECASE)
_SHOW = re.compile(r"show\s+(?:databases|schemas)(?:\s+like\s+'((?:[^'\\]|\\.|'')*)')?", re.IGNORECASE)
_SELECT = re.compile(r"select\s+", re.IGNORECASE)
_LIMIT = re.compile(r"\slimit\s+1\Z", re.IGNORECASE)
_ITEM = re.compile(r"(@@[\w.]+|\w+\s*\(\s*\)|-?\d{1,18}|'[^'\\]*')(?:\s+(?:as\s+)?(?:`([^`]+)`|(\w+)))?", re.IGNORECASE)
_SETTING = re.compile(r"set\s+(?!global\b|persist|password\b|role\b|default\b|@@global\b|@@persist)", re.IGNORECASE)
_BEGIN = re.compile(r"(?:begin|start\s+transaction|savepoint)\b[^;]*", re.IGNORECASE)
_NOTHING = re.compile(r"(?:commit|rollback)\b[\w\s]*", re.IGNORECASE)
_VARIABLES = re.compile(r"show\s+(?:session\s+|global\s+)?variables\s+like\s+'((?:[^'\\]|\\.|'')*)'", re.IGNORECASE)
_UNLOCK = re.compile(r"unlock\s+tables", re.IGNORECASE)
_TABLESPACES = re.compile(r"select\s[^;]{0,500}\sfrom\s+information_schema\.files\b", re.IGNORECASE)
_WARNINGS = re.compile(r"show\s+warnings\b", re.IGNORECASE)


class Places(Protocol):
    """What this user may see, make and kill."""

    async def databases(self) -> Sequence[str]:
        """That are there, of this user's plugins."""

    async def create(self, database: str) -> bool:
        """Was it us?  Raises ProxyError."""

    def kill(self, command: Kill) -> None:
        """Raises ProxyError."""


@dataclass(frozen=True, slots=True)
class Enter:
    """The client has chosen.  `settings` are to be told to the server first."""

    database: str
    settings: tuple[str, ...]


class Lobby:
    """`version`, `thread` and `user` ('name@host') are what the client was told or told us."""

    def __init__(self, *, places: Places, version: str, thread: int, user: str, capabilities: Can) -> None:
        self.places, self.capabilities = places, capabilities
        self.settings: list[str] = []
        self._values = {"version()": version, "@@version": version, "@@version_comment": "Switchboard", "database()": None,
                        "schema()": None, "user()": user, "current_user()": user, "session_user()": user, "system_user()": user,
                        "connection_id()": str(thread), "@@max_allowed_packet": "16777216", "@@auto_increment_increment": "1",
                        "@@wait_timeout": "28800", "@@lower_case_table_names": "0", "@@socket": None}

    async def answer(self, payload: bytes) -> bytes | Enter | None:
        """The packets for a command, numbered from 1; None: goodbye."""
        command = payload[0] if payload else 0
        try:
            match command:
                case Command.QUIT:
                    return None
                case Command.PING:
                    return _done()
                case Command.RESET_CONNECTION:
                    self.settings.clear()
                    return _done()
                case Command.SET_OPTION:
                    return packets(eof(), 1)
                case Command.STATISTICS:
                    return packets(b"Switchboard, without a database", 1)
                case Command.STMT_CLOSE | Command.STMT_SEND_LONG_DATA:
                    return b""
            found = understood(payload)
            if isinstance(found, Refused):
                return packets(error(NOT_SUPPORTED, "0A000", found.why), 1)
            if isinstance(found, Use):
                return Enter(found.database, tuple(self.settings))
            if isinstance(found, Kill):
                self.places.kill(found)
                return _done()
            if command == Command.QUERY:
                return await self._query(words_of(payload[1:]).decode("utf-8", "replace"))
            raise _no_database()
        except ProxyError as fault:
            return packets(error_packet(fault), 1)

    async def _query(self, text: str) -> bytes:
        text = text.rstrip("; \t\r\n")
        if len(text) > MAX_TEXT:
            raise _no_database()
        if text.startswith("/*!") and text.endswith("*/"):
            text = text[3:-2].lstrip("0123456789").strip()      # what only MySQL is to read: so do we
        if (found := _CREATE.fullmatch(text)) is not None:
            if found[4]:
                raise NotSupported("options of CREATE DATABASE are not passed on", hint="Leave them out, or create it at the server")
            name = found[2].replace("``", "`") if found[2] is not None else found[3]
            if not await self.places.create(name) and not found[1]:
                raise Told(1007, "HY000", f"Can't create database '{name}'; database exists")
            return _done(affected=1)
        if _DROP.match(text):
            raise NotSupported("databases are not dropped or altered through the proxy", hint="Do it at the server")
        if (found := _SHOW.fullmatch(text)) is not None:
            like = _like(found[1]) if found[1] is not None else None
            names = sorted(name for name in await self.places.databases() if like is None or like.fullmatch(name))
            return self._rows(["Database"], [[name] for name in names])
        if _SETTING.match(text) or _BEGIN.fullmatch(text):
            if len(self.settings) >= MAX_SETTINGS:
                raise ClientFault("too many settings before a database is selected")
            self.settings.append(text)
            return _done()
        if _NOTHING.fullmatch(text):
            self.settings = [setting for setting in self.settings if not _BEGIN.fullmatch(setting)]
            return _done()
        if (found := _VARIABLES.fullmatch(text)) is not None:
            like = _like(found[1])
            return self._rows(["Variable_name", "Value"], [[name[2:], value or ""] for name, value in sorted(self._values.items())
                                                           if name.startswith("@@") and like.fullmatch(name[2:])])
        if _UNLOCK.fullmatch(text):
            return _done()
        if _WARNINGS.match(text):
            return self._rows(["Level", "Code", "Message"], [])
        if _TABLESPACES.match(text):
            return self._rows(["LOGFILE_GROUP_NAME"], [])      # of mysqldump, to whom no plugin has any
        if (found := _SELECT.match(text)) is not None:
            return self._selected(_LIMIT.sub("", text[found.end():]))
        raise _no_database()

    def _selected(self, items: str) -> bytes:
        names, values = [], []
        for item in items.split(","):
            found = _ITEM.fullmatch(item.strip())
            if found is None:
                raise _no_database()
            word = re.sub(r"\s", "", found[1])
            key = word.lower().replace("@@session.", "@@").replace("@@global.", "@@")
            if word[0] in "-'" or word[0].isdigit():
                value: str | None = word.strip("'")
            elif key in self._values:
                value = self._values[key]
            else:
                raise _no_database()
            names.append(found[2] or found[3] or word)
            values.append(value)
        return self._rows(names, [values])

    def _rows(self, names: Sequence[str], rows: Sequence[Sequence[str | None]]) -> bytes:
        return result(names, rows, self.capabilities)


def _done(affected: int = 0) -> bytes:
    return packets(ok(affected=affected), 1)


def _no_database() -> ProxyError:
    return Told(NO_DB, "3D000", "No database selected", hint="USE a plugin's id, such as catalog, or its database")


def _like(pattern: str) -> re.Pattern[str]:
    """A LIKE pattern; without case, as names of databases are compared in SHOW."""
    made, at = "", 0
    while at < len(pattern):
        one = pattern[at]
        if one == "\\" and at + 1 < len(pattern):
            at += 1
            made += re.escape(pattern[at])
        else:
            made += {"%": ".*", "_": "."}.get(one, re.escape(one))
        at += 1
    return re.compile(made, re.IGNORECASE | re.DOTALL)

