"""plugin -> database, compared with Backstage's own code in 693 cases.

Both refuse, or both resolve and the named fields are equal (null, absent and "" are one value, a number equals its text);
then what the driver would dial is equal too.  Three things are compared otherwise, each for a reason:

* A plugin whose client differs from the base is used verbatim (so the guide), while the merge that Backstage does it with leaks
  the base's keys into what knex dials: there the plugin's own keys must be dialled as Backstage does, the others be the driver's
  defaults.
* `mysql2` records no defaults: host localhost and port 3306 are filled in.  It dials "[::1]" with its brackets, and so never;
  we do without.
* A user of PostgreSQL's that nobody names is that of the process, one of MySQL's is empty.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from proxy.config.dial import dial, target
from proxy.config.load import _nodes, _without_nulls
from proxy.config.resolve import resolve
from proxy.config.resolved import MYSQL, SQLITE, Resolved
from proxy.config.target import SslMode
from proxy.errors import ProxyError

CASES = [json.loads(line) for line in (Path(__file__).parent / "golden/resolver_golden.jsonl").read_text().splitlines()]
# Backstage refuses these later than at resolution, for reasons that are not ours: knex' own pool, a missing driver.
NOT_OURS = ("Tarn: ", "Knex: run", "Cannot read properties of undefined (reading 'on')")
# We refuse at the start what Backstage would only find out by dialling.
STRICTER = ("type '", "expected an object or a connection string", "expected a port", "expected disable, allow")
# The guide's own example, a plugin on SQLite beside a base that is a PostgreSQL URL: Backstage's code refuses what its guide shows.
AS_THE_GUIDE_SAYS = {"rnd/0453": ":memory:"}


def text(value: object) -> str:
    return "" if value is None else str(value)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_as_backstage_resolves(case: dict[str, Any]) -> None:
    want = case["want"]
    refused = want.get("error") or want.get("getClientError") or ""
    root = _without_nulls(_nodes(case["config"], ""))
    try:
        found = resolve(root, case["pluginId"])
        reached = dial(found, "osuser") if found.client in ("pg", *MYSQL) else None
    except ProxyError as fault:
        assert refused or any(text in str(fault) for text in STRICTER), fault
        return
    if case["id"] in AS_THE_GUIDE_SAYS:
        assert (bool(refused), found.database) == (True, AS_THE_GUIDE_SAYS[case["id"]])
        return
    assert not refused or refused.startswith(NOT_OURS), refused
    same = {"client": found.client, "databaseName": found.database, "schemaName": found.schema,
            "pluginDivisionMode": found.division, "skipMigrations": found.skip_migrations, "role": found.role}
    if found.client in SQLITE:
        same["filename"] = found.filename
    else:
        same["ensureExists"] = found.ensure_exists
    if found.client not in (*SQLITE, *MYSQL):
        same["ensureSchemaExists"] = found.ensure_schema_exists
    for name, value in same.items():
        if name == "pluginDivisionMode" and want.get(name) not in ("schema", "database"):
            continue
        assert text(value) == text(want.get(name)), name
    if reached is not None and want.get("dial"):
        expected = dialled(found, want)
        for name, value in expected.items():
            assert text(getattr(reached, name)) == text(value), name
    if found.client == "pg" and want.get("dial"):
        startup = target(found, "osuser").startup
        for name in ("options", "statement_timeout"):
            assert text(startup.get(name)) == text(want["dial"].get(name)), name
        dialled_ssl, ssl = want["dial"]["ssl"], want["connection"].get("ssl", want["dial"]["ssl"])
        # Ours on top is `sslmode` in an object, and what libpq means by allow and prefer, where it is asked for.  "false" as text is
        # true there, which nobody means.  Of a base that verifies nothing, knex leaks that into a plugin's own ssl: not we.
        mode = found.connection.get("sslmode")
        if dialled_ssl != "false" and not (mode and "ssl" not in found.connection) and not (
                mode in ("allow", "prefer") and found.connection.get("uselibpqcompat")):
            assert reached is not None
            verify = ssl.get("rejectUnauthorized", True) if isinstance(ssl, dict) else ssl != "no-verify"
            assert reached.server.tls.mode is (SslMode.DISABLE if dialled_ssl in (False, None) else SslMode.VERIFY_FULL if verify
                                               else SslMode.REQUIRE)
            parts = dialled_ssl if isinstance(dialled_ssl, dict) else {}
            assert text(reached.server.tls.server_name) == text(parts.get("servername"))
            assert text(reached.server.tls.ca) == (text(parts.get("ca")) if verify else "")


def dialled(found: Resolved, want: dict[str, Any]) -> dict[str, Any]:
    """What the driver would reach, from what Backstage's driver would reach: see above."""
    there = {name: want["dial"].get(name) for name in ("host", "port", "user", "password", "database")}
    if found.client_overridden:
        own = want["connection"]
        there = {name: value if name == "database" or own.get(name) not in (None, "") else None for name, value in there.items()}
    if found.client in MYSQL:
        there["host"] = text(there["host"]).strip("[]")
    defaults = {"host": "localhost", "port": 3306, "user": ""} if found.client in MYSQL else {
        "host": "localhost", "port": 5432, "user": "osuser", "database": there["user"] or "osuser"}
    return {name: defaults.get(name) if value in (None, "") else value for name, value in there.items()}


def test_each_kind_of_dial_is_compared() -> None:
    """Against a change of the golden file that leaves nothing to compare."""
    kinds = Counter((case["want"]["client"], case["want"]["clientOverridden"]) for case in CASES if case["want"].get("dial"))
    assert kinds == {("pg", False): 448, ("pg", True): 7, ("mysql2", False): 19, ("mysql2", True): 4}
