"""DECLARE, FETCH, MOVE and CLOSE: SQL's own names for portals (PostgreSQL manual, "DECLARE").

A cursor is a portal, so drivers may describe it by name (psycopg's server-side cursors).  It goes forward only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy.errors import NotSupported
from proxy.gateway.answers import rows_of
from proxy.gateway.engine import Described, Raw, Result, Value
from proxy.gateway.extended import Extended, Portal, Statement, fault

_NAME = r'(?P<name>[a-z_][\w$]*|"(?:[^"]|"")+")'
_DECLARE = re.compile(rf"declare\s+{_NAME}\s+(?P<kind>(?:(?:binary|asensitive|insensitive|no\s+scroll|scroll)\s+)*)cursor\s+"
                      r"(?:(?P<hold>with|without)\s+hold\s+)?for\s+(?P<query>.+)", re.IGNORECASE | re.DOTALL)
_FETCH = re.compile(r"(?P<verb>fetch|move)\s+(?:(?P<how>next|all|forward\s+all|forward\s+\d+|forward|\d+)\s+)?"
                    rf"(?:from\s+|in\s+)?{_NAME}", re.IGNORECASE)
_CLOSE = re.compile(rf"close\s+(?:(?P<all>all)|{_NAME})", re.IGNORECASE)
MOST = 1 << 20                # rows of one FETCH, which are held at once


def about_cursors(sql: str) -> bool:
    return sql[:7].lower().rstrip() in ("declare", "fetch", "move", "close") or sql[:5].lower() in ("fetch", "move ", "close")


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


class Cursors(Extended):
    if TYPE_CHECKING:
        async def _execute_sql(self, sql: str, parameters: Sequence[Value], oids: Sequence[int]) -> Result: ...

    async def describe_cursor(self, sql: str, oids: Sequence[int]) -> Described:
        """What such a statement takes and gives."""
        if (declared := _DECLARE.fullmatch(sql)) is not None:
            return Described((await self.engine.describe(declared["query"].strip(), oids)).parameters, None)
        fetched = _FETCH.fullmatch(sql)
        if fetched is None or fetched["verb"].lower() == "move":
            return Described((), None)
        return Described((), self._cursor(fetched["name"]).statement.described.columns)

    async def _described(self, sql: str, oids: Sequence[int]) -> Described:
        if self.engine.steady and about_cursors(sql):
            return await self.describe_cursor(sql, oids)
        return await super()._described(sql, oids)

    def _bound(self, sql: str, oids: Sequence[int], raws: Sequence[Raw]) -> Sequence[Value]:
        declared = _DECLARE.fullmatch(sql) if self.engine.steady and about_cursors(sql) else None
        return super()._bound(declared["query"].strip() if declared is not None else sql, oids, raws)

    def _cursor(self, name: str) -> Portal:
        portal = self.portals.get(_plain(name))
        if portal is None:
            raise fault("34000", f'cursor "{_plain(name)}" does not exist')
        return portal

    async def run_cursor(self, sql: str, parameters: Sequence[Value], oids: Sequence[int]) -> Result:
        """Raises ClientFault, NotSupported."""
        if (declared := _DECLARE.fullmatch(sql)) is not None:
            return await self._declare(declared, parameters, oids)
        if (fetched := _FETCH.fullmatch(sql)) is not None:
            return await self._fetch(self._cursor(fetched["name"]), fetched["verb"].upper(), (fetched["how"] or "next").lower().split())
        if (closed := _CLOSE.fullmatch(sql)) is not None:
            if closed["all"]:
                await self._forget_portals()
                return Result("CLOSE CURSOR ALL")
            self._cursor(closed["name"])
            await self._drop(_plain(closed["name"]))
            return Result("CLOSE CURSOR")
        raise NotSupported(f"{' '.join(sql.split()[:3])[:60]} is not supported on a SQLite file",
                           hint="Cursors go forward: FETCH, FETCH 10, FETCH ALL, MOVE 10.")

    async def _declare(self, declared: re.Match[str], parameters: Sequence[Value], oids: Sequence[int]) -> Result:
        name, query, kind = _plain(declared["name"]), declared["query"].strip(), " ".join(declared["kind"].lower().split())
        if "binary" in kind or ("scroll" in kind and "no scroll" not in kind):
            raise NotSupported("a cursor of this kind is not supported on a SQLite file", hint="Declare it NO SCROLL.")
        if (declared["hold"] or "").lower() == "with":
            raise NotSupported("a cursor WITH HOLD is not supported on a SQLite file")
        if self.status == "I" and not self.opened:
            raise fault("25P01", "DECLARE CURSOR can only be used in transaction blocks")
        if name in self.portals:
            raise fault("42P03", f'cursor "{name}" already exists')
        described = await self.engine.describe(query, oids)
        result = await self._execute_sql(query, parameters, oids)
        if result.columns is None:
            raise fault("42601", "a cursor is declared for a query")
        portal = self.portals[name] = Portal(Statement(query, tuple(oids), described), parameters, ())
        portal.result, portal.rows = result, rows_of(result)
        return Result("DECLARE CURSOR")

    async def _fetch(self, portal: Portal, verb: str, how: list[str]) -> Result:
        count = MOST if "all" in how else next((int(word) for word in how if word.isdigit()), 1)
        assert portal.rows is not None
        assert portal.result is not None
        rows: list[Sequence[Value]] = []
        while len(rows) < count and (some := await portal.rows.take(min(256, count - len(rows)))):
            rows += some
            if len(rows) >= MOST:
                raise fault("54000", f"FETCH of more than {MOST} rows")
        if verb == "MOVE":
            return Result(f"MOVE {len(rows)}")
        return Result("FETCH ", portal.result.columns, rows, encoded=portal.result.encoded)
