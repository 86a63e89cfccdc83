"""The operators' console: SHOW and a few commands, in PgBouncer's words, to whoever a user's `console` setting lets in.

`SELECT` in place of `SHOW` does the same, in any case, with or without a semicolon, by the simple and the extended protocol.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from proxy.errors import ClientFault, Forbidden, NotSupported
from proxy.gateway.engine import FLOAT8, INT8, TEXT, Column, Described, Plainly, Result, Value

_COMMANDS = ("PAUSE", "RESUME", "DISABLE", "ENABLE", "KILL", "KILL_CLIENT", "RECONNECT", "RELOAD", "SHUTDOWN")
_WORDS = re.compile(r"\s*(?P<verb>[a-z_]+)(?:\s+(?P<rest>.*?))?[\s;]*", re.IGNORECASE | re.DOTALL)
# What drivers say when they connect or begin, and what means nothing here.
_EMPTY = {"set": "SET", "begin": "BEGIN", "commit": "COMMIT", "rollback": "ROLLBACK", "reset": "RESET", "discard": "DISCARD ALL"}
Table = tuple[Sequence[str], Sequence[Sequence[Value]]]


class Daemon(Protocol):
    """What the console shows and does."""

    def tables(self) -> dict[str, str]:
        """What SHOW knows, and what it is about."""

    def show(self, what: str) -> Table:
        """Names of columns, and rows."""

    async def act(self, verb: str, what: str | None) -> None:
        """Raises ClientFault for what there is not."""


class Console(Plainly):
    """An Engine.  `admin`: may do more than look."""

    def __init__(self, daemon: Daemon, *, user: str, admin: bool) -> None:
        self.daemon, self.user, self.admin = daemon, user, admin

    def split(self, sql: str) -> list[str]:
        return [part.strip() for part in sql.split(";") if part.strip()]

    async def describe(self, sql: str, oids: Sequence[int] = ()) -> Described:
        found = self._shown(sql)
        return Described((), None if found is None else _columns(found))

    async def execute(self, sql: str, parameters: Sequence[Value], formats: Sequence[int] = (), oids: Sequence[int] = ()) -> Result:
        found = self._shown(sql)
        if found is not None:
            return Result("SHOW", _columns(found), found[1])
        verb, rest = _read(sql)
        if verb.lower() in _EMPTY:
            return Result(_EMPTY[verb.lower()])
        if verb not in _COMMANDS:
            raise _unknown(sql)
        if not self.admin:
            raise Forbidden("admin access needed", hint=f"Set switchboard.users.{self.user}.console to admin.")
        await self.daemon.act(verb, rest)
        return Result(verb)

    def _shown(self, sql: str) -> Table | None:
        verb, rest = _read(sql)
        if verb not in ("SHOW", "SELECT"):
            return None
        what = (rest or "help").lower()
        if what in ("help", "1"):
            if what == "1":
                return ["?column?"], [[1]]
            told = [[f"SHOW {name.upper()}", about] for name, about in self.daemon.tables().items()]
            return ["command", "about"], [*told, *([f"{verb} ...", "see the README"] for verb in _COMMANDS)]
        if what not in self.daemon.tables():
            raise _unknown(sql)
        return self.daemon.show(what)


def _read(sql: str) -> tuple[str, str | None]:
    found = _WORDS.fullmatch(sql)
    if found is None:
        raise _unknown(sql)
    return found["verb"].upper(), found["rest"]


def _unknown(sql: str) -> ClientFault:
    fault = NotSupported(f"the console does not know \"{' '.join(sql.split())[:40]}\"", hint="SHOW HELP tells what it knows.")
    fault.sqlstate = "42601"
    return fault


def _columns(found: Table) -> tuple[Column, ...]:
    names, rows = found
    first = rows[0] if rows else [""] * len(names)
    return tuple(Column(name, INT8 if isinstance(value, int) else FLOAT8 if isinstance(value, float) else TEXT)
                 for name, value in zip(names, first, strict=True))
