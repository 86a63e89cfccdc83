"""plugin -> database, compared with Backstage's own code in 693 cases.

Compared as tests/golden says: both refuse, or both resolve and the named fields are equal (null, absent and "" are one
value, a number equals its text).  Where the plugin's client differs from the base the guide says verbatim, so `dial`
(into which knex leaks base keys) is not compared there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.config.dial import dial
from proxy.config.load import _nodes, _without_nulls
from proxy.config.resolve import resolve
from proxy.config.resolved import MYSQL, SQLITE
from proxy.errors import ProxyError

CASES = [json.loads(line) for line in (Path(__file__).parent / "golden/resolver_golden.jsonl").read_text().splitlines()]
# Backstage refuses these later than at resolution, for reasons that are not ours: knex' own pool, a missing driver.
NOT_OURS = ("Tarn: ", "Knex: run", "Cannot read properties of undefined (reading 'on')")
# We refuse at the start what Backstage would only find out by dialling.
STRICTER = ("type '", "expected an object or a connection string", "expected a port", "expected disable, allow")
# Known differences, each for a reason.
DIFFERENT = {
    "rnd/0453": "the guide's own example: a plugin on SQLite beside a base that is a PostgreSQL URL",
}


def text(value: object) -> str:
    return "" if value is None else str(value)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_as_backstage_resolves(case: dict[str, Any]) -> None:
    if case["id"] in DIFFERENT:
        return
    want = case["want"]
    refused = want.get("error") or want.get("getClientError") or ""
    root = _without_nulls(_nodes(case["config"], ""))
    try:
        found = resolve(root, case["pluginId"])
        reached = dial(found, "osuser") if found.client == "pg" else None
    except ProxyError as fault:
        assert refused or any(text in str(fault) for text in STRICTER), fault
        return
    assert not refused or refused.startswith(NOT_OURS), refused
    same = {"client": found.client, "databaseName": found.database, "schemaName": found.schema,
            "pluginDivisionMode": found.division, "skipMigrations": found.skip_migrations}
    if found.client not in SQLITE:
        same["ensureExists"] = found.ensure_exists
    if found.client not in (*SQLITE, *MYSQL):
        same["ensureSchemaExists"] = found.ensure_schema_exists
    for name, value in same.items():
        if name == "pluginDivisionMode" and want.get(name) not in ("schema", "database"):
            continue
        assert text(value) == text(want.get(name)), name
    if reached is not None and want.get("dial") and not found.client_overridden:
        for name in ("host", "port", "user", "password", "database"):
            assert text(getattr(reached, name)) == text(want["dial"].get(name)), name
