"""Records what a real Backstage says to its databases: once on better-sqlite3's files, once on a real PostgreSQL.

    python -m tests.backstage.record FOLDER

FOLDER holds `node_modules/better-sqlite3` (`npm install better-sqlite3@12` there; it has native code, which the backend's own
lock file has not).  Written beside this file: recorded-sqlite.jsonl and recorded-pg.jsonl, a line for each different statement
{plugin, dialect, sql, bindings, seen}, and files/PLUGIN.sql, the dump of each plugin's file as Backstage left it.

Ids that one run made up stand for the other's in the pg recording, so its statements find in the files what they found in
PostgreSQL.  Tokens, ports and this machine's paths are replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests import test_backstage as scenes
from tests.backstage.backend import HERE, Backstage, backstage, install
from tests.backstage.visits import visit
from tests.servers import Postgres

CATALOG = "/srv/catalog"
KEPT = 40
"""Sets of bindings of one statement to choose from."""
TWINS = {
    "catalog": ("select entity_ref, entity_id from refresh_state", "select type || target, id from locations"),
    "scaffolder": ("select 'task', id from tasks order by created_at",),
    "notifications": ("select title, id from notification order by created", "select title, id from broadcast order by created"),
    "auth": ("select 'key', kid from signing_keys order by created_at",)}
"""What of one run stands for what of the other: by the first column, and among equals by their order."""
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")


def clean(text: str) -> str:
    text = _JWT.sub("token", text).replace(str(HERE), CATALOG)
    return re.sub(r"127\.0\.0\.1:\d{4,5}", "127.0.0.1:7007", text)


def key(sql: str) -> str:
    """One text for statements that differ only in what was made up for this time: knex's names, a random delay, search's tags."""
    return re.sub(r"\b(trx|_knex_temp_alter)\d+|'\d+\.\d+ seconds'|[0-9a-f]{8}-[0-9a-f-]{27}", r"\1", sql)


def said(raw: Path) -> list[dict[str, Any]]:
    """The different statements of a recording, in the order of their first time, each with all its sets of bindings."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for line in raw.read_text().splitlines():
        one = json.loads(clean(line))
        kept = found.setdefault((one["plugin"], key(one["sql"])), {**one, "bindings": [], "seen": 0})
        kept["seen"] += 1
        if one["bindings"] not in kept["bindings"]:
            kept["bindings"] = [*kept["bindings"][-KEPT:], one["bindings"]]
    return list(found.values())


def native(value: Any) -> Any:
    """As knex gives a binding to better-sqlite3."""
    if isinstance(value, dict):
        if "$bytes" in value:
            return bytes.fromhex(value["$bytes"])
        return None
    return json.dumps(value) if isinstance(value, list) else int(value) if isinstance(value, bool) else value


def chosen(one: dict[str, Any], file: sqlite3.Connection) -> list[Any]:
    """The newest set of bindings with which the statement finds something in the file; the last if none does."""
    sql = re.sub(r"\$(\d+)", r"?\1", one["sql"]).replace("for update skip locked", "").replace("::text[]", "")
    sql = re.sub(r"= ANY\((\?\d+)\)", r"in (select value from json_each(\1))", sql)
    if re.match(r"\s*(select|with|update|delete)", sql, re.IGNORECASE):
        for bindings in reversed(one["bindings"]):
            with contextlib.suppress(sqlite3.Error):
                file.execute("begin")
                done = file.execute(sql, [native(value) for value in bindings])
                if done.fetchall() or done.rowcount > 0:
                    return list(bindings)
            with contextlib.suppress(sqlite3.Error):
                file.execute("rollback")
    return list(one["bindings"][-1])


def twins(files: Path, server: Postgres) -> dict[str, str]:
    """PostgreSQL's made-up ids -> the files'."""
    found: dict[str, str] = {}
    for plugin, queries in TWINS.items():
        with sqlite3.connect(files / f"{plugin}.sqlite") as file:
            for query in queries:
                rest = list(file.execute(query))
                for name, value in server.sql(query, f"backstage_plugin_{plugin}"):
                    at = next((at for at, row in enumerate(rest) if row[0] == name), None)
                    if at is not None:
                        found[str(value)] = rest.pop(at)[1]
        file.close()
    return found


@contextlib.contextmanager
def listening(out: Path, better_sqlite3: Path) -> Iterator[None]:
    """Every backend started within writes to `out`."""
    more = {"NODE_OPTIONS": f"--require {HERE / 'record.cjs'}", "BACKSTAGE_RECORDING": str(out),
            "BACKSTAGE_BETTER_SQLITE3": str(better_sqlite3)}
    os.environ.update(more)
    try:
        yield
    finally:
        for name in more:
            del os.environ[name]


def play(folder: Path, database: dict[str, Any], modules: Path) -> None:
    """Two starts, and a day of use in each."""
    told = scenes.Told()
    for start in (1, 2):
        with backstage(folder, database, modules) as backend:
            use(backend, start, told)


def use(backend: Backstage, start: int, told: scenes.Told) -> None:
    scenes.catalog(backend, told)
    user = backend.guest()
    scenes.scaffolder(backend, user, told)
    scenes.search(backend, told)
    scenes.events(backend, start, told)
    scenes.settings(backend, user, start, told)
    for fault in visit(backend, user):
        print("   ", fault)


def write(folder: Path, files: Path, ids: dict[str, str]) -> None:
    dumps = HERE / "files"
    dumps.mkdir(exist_ok=True)
    opened = {}
    for path in sorted(files.glob("*.sqlite")):
        file = opened[path.stem] = sqlite3.connect(path, isolation_level=None)
        (dumps / f"{path.stem}.sql").write_text(clean("\n".join(file.iterdump()) + "\n"))
    for dialect in ("sqlite", "pg"):
        with (HERE / f"recorded-{dialect}.jsonl").open("w") as out:
            for one in said(folder / f"{dialect}.raw"):
                one = json.loads(re.sub(r"[\w-]{20,}", lambda match: ids.get(match[0], match[0]), json.dumps(one)))
                one["bindings"] = chosen(one, opened[one["plugin"]]) if one["plugin"] in opened else one["bindings"][-1]
                out.write(json.dumps(one, ensure_ascii=False) + "\n")
    for file in opened.values():
        file.close()


def main(better_sqlite3: Path) -> None:
    modules = install()
    folder = Path(tempfile.mkdtemp(prefix="recording-"))
    server = Postgres()
    try:
        with listening(folder / "sqlite.raw", better_sqlite3):
            play(folder, {"client": "better-sqlite3", "connection": {"directory": str(folder / "files")}}, modules)
        with listening(folder / "pg.raw", better_sqlite3):
            login = {"host": "127.0.0.1", "port": server.port, "user": "postgres", "password": server.password}
            play(folder, {"client": "pg", "connection": login}, modules)
        write(folder, folder / "files", twins(folder / "files", server))
    finally:
        server.remove()
        print("raw recordings and files:", folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() / "node_modules/better-sqlite3")
