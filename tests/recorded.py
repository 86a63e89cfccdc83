"""A recorded Backstage played to whoever serves its SQLite files in PostgreSQL's SQL, each answer held against SQLite's own.

    python -m tests.recorded [--json] [--itself]

A statement of the pg recording (tests/backstage) runs in a transaction that is rolled back, on the files that Backstage left:
what it answers, and for one that writes, what the tables hold that it names.  SQLite itself gets, on a file of its own, the same
statement in this order: as Backstage said it to better-sqlite3; the text as it is; the text after `REWRITTEN`, which is what
Backstage's own code says instead when its database is SQLite.  `--itself` plays to SQLite instead, to try the player.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tests.alike import rows_alike
from tests.recorded_daemon import through
from tests.recording import UNREADABLE, UNSUPPORTED, Answer, Ask, Itself, Refused, recording, restore

PLAYED = re.compile(r"\s*(select|insert|update|delete|with)\b", re.IGNORECASE)
WRITES = re.compile(r"\b(insert\s+into|update\s+\S+\s+(as\s+\S+\s+)?set|delete\s+from)\b", re.IGNORECASE)
ISO = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
REWRITTEN = tuple((re.compile(pattern, re.IGNORECASE), text) for pattern, text in (
    (r"\s+for update( skip locked)?", ""),
    (r"(not )?(\S+) = any\((\?\d+)::text\[\]\)", r"\1\2 in (select value from json_each(\3))"),
    (r"(now\(\)|current_timestamp) ([+-]) interval '([\d.]+) seconds'", r"datetime('now', '\2\3 seconds')"),
    (r"(\"?[\w.\"]+) \+ interval '([\d.]+) seconds'", r"datetime(\1, '+\2 seconds')"),
    (r"\bgreatest\(", "max("), (r"\bnow\(\)", "CURRENT_TIMESTAMP"), (r"\bilike\b", "like"), (r"::text\b", ""),
    (r"::double precision\b", " * 1.0"), (r'(select .* from "\w+") on conflict', r"\1 where true on conflict"),
    (r"\bcount\(([^)]*)\)::(?:int|integer)\b", r"count(\1)"), (r"\bchr\(1\)", "char(1)"),
    (r"select \* from information_schema\.tables where table_name = (\?\d+) and table_schema = current_schema\(\)",
     r"select 1 from sqlite_master where type = 'table' and name = \1")))


@dataclasses.dataclass
class Verdict:
    """`what`: equal, failed alike, refused, differing, or ran (where SQLite has nothing to hold it against)."""

    plugin: str
    sql: str
    what: str
    why: str = ""
    rows: int = 0
    """That SQLite itself gave or wrote: where there are none, an equal answer says less."""


def shape(sql: str) -> str:
    """The same for a statement in knex's two dialects, and for values made up anew."""
    sql = re.sub(r"'\d+\.\d+ seconds'", "'n seconds'", re.sub(r"[\"`;]", "", re.sub(r"\$\d+|\?", "?", sql)))
    return " ".join(sql.split()).lower()


def as_said(bindings: Sequence[Any], said: Sequence[Any]) -> list[Any]:
    """A time that Backstage tells PostgreSQL as text, as a number where it tells SQLite one."""
    return [{"$date": one} if isinstance(other, int) and not isinstance(other, bool) and isinstance(one, str) and ISO.fullmatch(one)
            else one for one, other in zip_longest(bindings, said[:len(bindings)])]


class Player:
    def __init__(self, ask: Ask, itself: Itself) -> None:
        self.ask, self.itself = ask, itself
        self.said = {(one["plugin"], shape(one["sql"])): one for one in recording("sqlite")}

    def play(self) -> list[Verdict]:
        return [self.judge(one["plugin"], one["sql"], one["bindings"]) for one in recording("pg") if PLAYED.match(one["sql"])]

    def judge(self, plugin: str, sql: str, bindings: Sequence[Any]) -> Verdict:
        own, source = self._by_itself(plugin, sql, bindings)
        theirs = self._transaction(self.ask, plugin, sql, bindings, self._named(plugin, sql))
        if isinstance(own, Refused) and isinstance(theirs, Refused) and own.sqlstate == theirs.sqlstate != UNREADABLE:
            return Verdict(plugin, sql, "failed alike", theirs.sqlstate)
        if isinstance(theirs, Refused):
            what = "differing" if not isinstance(own, Refused) and theirs.sqlstate != UNSUPPORTED else "refused"
            return Verdict(plugin, sql, what, f"{theirs.sqlstate} {theirs}")
        if isinstance(own, Refused):
            if own.sqlstate == UNREADABLE or "no such table: pg_" in str(own):
                return Verdict(plugin, sql, "ran", f"SQLite itself: {own}")
            return Verdict(plugin, sql, "differing", f"ran, but in SQLite itself: {own.sqlstate} {own}")
        shown = source == "text" or source == "said"
        why = next((f"{what}: {found}" for what, ours, its in zip(["answer", *self._named(plugin, sql)], theirs, own, strict=True)
                    if (found := differing(ours, its, sql if what == "answer" else "", shown))), "")
        return Verdict(plugin, sql, "differing" if why else "equal", why or source, max(len(own[0].rows), own[0].written))

    def _by_itself(self, plugin: str, sql: str, bindings: Sequence[Any]) -> tuple[list[Answer] | Refused, str]:
        tables = self._named(plugin, sql)
        said = self.said.get((plugin, shape(sql)))
        ways = [*([("said", said["sql"], as_said(bindings, said["bindings"]))] if said else []), ("text", sql, bindings)]
        text = re.sub(r"\$(\d+)", r"?\1", sql)
        for pattern, instead in REWRITTEN:
            text = pattern.sub(instead, text)
        own: list[Answer] | Refused = Refused(UNREADABLE, "")
        for source, way, given in (*ways, ("rewritten", text, bindings)):
            own = self._transaction(self.itself, plugin, way, given, tables)
            if not isinstance(own, Refused) or own.sqlstate.startswith("23"):
                return own, source
        return own, ""

    def _named(self, plugin: str, sql: str) -> list[str]:
        """The tables to look at behind a statement that writes."""
        if not WRITES.search(sql):
            return []
        return [name for name in self.itself.tables(plugin) if re.search(rf"\b{re.escape(name)}\b", sql)]

    @staticmethod
    def _transaction(ask: Callable[[str, str, Sequence[Any]], Answer], plugin: str, sql: str, bindings: Sequence[Any],
                     tables: Sequence[str]) -> list[Answer] | Refused:
        ask(plugin, "begin", ())
        try:
            return [ask(plugin, sql, bindings), *(ask(plugin, f'select * from "{table}"', ()) for table in tables)]
        except Refused as refusal:
            return refusal
        finally:
            ask(plugin, "rollback", ())


def differing(ours: Answer, its: Answer, sql: str, named: bool) -> str:
    """What differs, or nothing.  `named`: SQLite was given the same names; what it calls an expression is its own affair."""
    if "information_schema.tables" in sql:
        return "" if bool(ours.rows) == bool(its.rows) else "a table is not found" if its.rows else "a table that is not there is found"
    if sql and named and any(re.fullmatch(r"[A-Za-z_]\w*", other) and mine.lower() != other.lower()
                             for mine, other in zip(ours.columns, its.columns, strict=False)):
        return f"columns {ours.columns}, SQLite's {its.columns}"
    if not its.columns and not ours.columns and -1 not in (ours.written, its.written) and ours.written != its.written:
        return f"{ours.written} rows written, SQLite {its.written}"
    return rows_alike(ours.rows, its.rows, ordered="order by" in sql.lower())


def counts(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """{what: how many}, and for `reasons` of those refused {reason: how many}."""
    reasons = collections.Counter(re.sub(r'"[^"]*"', '"…"', one.why) for one in verdicts if one.what == "refused")
    kinds = collections.Counter(one.what for one in verdicts)
    return {"statements": len(verdicts), "equal": kinds["equal"],
            "equal with rows": sum(one.what == "equal" and one.rows > 0 for one in verdicts),
            **{what: kinds[what] for what in ("failed alike", "refused", "ran", "differing")}, "reasons": dict(reasons.most_common())}


def through_daemon(folder: Path) -> list[Verdict]:
    """Files of its own for the daemon, and others for SQLite itself.  `folder`: where the daemon's own PostgreSQL may look, too."""
    for name in ("served", "itself"):
        (folder / name).mkdir()
        restore(folder / name)
    itself = Itself(folder / "itself")
    try:
        with through(folder, folder / "served") as ask:
            return Player(ask, itself).play()
    finally:
        itself.close()


def by_itself(folder: Path) -> list[Verdict]:
    for name in ("a", "b"):
        (folder / name).mkdir()
        restore(folder / name)
    itself, again = Itself(folder / "a"), Itself(folder / "b")

    def ask(plugin: str, sql: str, parameters: Sequence[Any]) -> Answer:
        try:
            return again(plugin, sql, parameters)
        except Refused as refusal:
            raise Refused(UNSUPPORTED if refusal.sqlstate == UNREADABLE or "information_schema" in sql else refusal.sqlstate,
                          str(refusal)) from None

    try:
        return Player(ask, itself).play()
    finally:
        itself.close()
        again.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--itself", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sb-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        verdicts = (by_itself if options.itself else through_daemon)(Path(name))
    if options.json:
        json.dump({**counts(verdicts), "verdicts": [dataclasses.asdict(one) for one in verdicts]}, sys.stdout, indent=1)
        return
    told = counts(verdicts)
    for what, reasons in ((what, many) for what, many in told.items() if what != "reasons"):
        print(f"{reasons:6d}  {what}")
    for reason, many in told["reasons"].items():
        print(f"{many:6d}  refused: {reason}")
    for one in verdicts:
        if one.what in ("differing", "ran"):
            print(f"{one.what}: {one.plugin}: {' '.join(one.sql.split())[:300]}\n        {one.why[:300]}")


if __name__ == "__main__":
    main()
