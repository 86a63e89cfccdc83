"""Whatever stands in the files: it is read, or refused in words with the place; never a traceback, never a secret."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.commands import targets
from proxy.config.configuration import read
from proxy.errors import ConfigProblems, ProxyError

WHOLE = yaml.safe_load("""
backend:
  database:
    client: pg
    prefix: p_
    schemaPrefix: s
    pluginDivisionMode: database
    role: r
    ensureExists: true
    ensureSchemaExists: false
    skipMigrations: false
    connection:
      {host: db, port: 5432, user: bs, password: hunter2, sslmode: require, target_session_attrs: any, require_auth: md5, type: default,
       ssl: {ca: PEM, rejectUnauthorized: true, minVersion: TLSv1.2, servername: x}, options: -c x=1, statement_timeout: 5}
    plugin:
      catalog: {connection: 'postgres://u:hunter2@h:5432/db?sslmode=require'}
      auth: {client: better-sqlite3, connection: ':memory:'}
      tech-x: {client: mysql2, connection: 'mysql://u:hunter2@h/db'}
      search: {connection: {passwordCommand: {command: [pass, x], lifetime: 5s}, connectionString: 'postgres://h'}, role: x}
      azure: {connection: {type: azure, tokenCredential: {clientId: x, tokenRenewableOffsetTime: {minutes: 5}}}}
      cloud: {connection: {type: cloudsql, instance: 'a:b:c', ipAddressType: PUBLIC}}
switchboard:
  listen: ['127.0.0.1:6432']
  users: {b: {password: hunter2, plugins: [catalog]}}
  auth:
    {rules: [{type: host, address: all, method: trust, users: [a]}], maps: {m: [{system: x, user: y}]}, query: {connection: 'host=x'}}
  pool: {mode: session, size: 3}
  plugin: {catalog: {pool: {size: 3}}}
  provisioning: {credentials: [{server: 'db:5432', user: u, password: hunter2}]}
  metrics: {listen: 'off'}
  tls: {mode: allow}
  proxy_protocol: {from: [10.0.0.0/8]}
""")
ODD: list[Any] = [
    None, "", 0, 1, -1, 1.5, True, False, [], {}, ["x"], [None], [[]], {"x": 1}, {"$env": "NOPE"}, "${NOPE}", "${A:-b}", "x" * 70, "é",
    "\0", "a b", "::1", "[::1", "http://x", "postgres://a,b:x",
    "postgres://[x", "postgres://h:99999", "postgres://u:p@/x?%", "%", "%ff",
    "socket:/x", "/x y", 10 ** 30, float("inf"), float("nan"), {"command": None}, "better-sqlite3", "mysql2", "embedded-postgres",
    "schema", "rds", "mysql://u:p@h:x/d", "mysql://u:p@[/d", "!"]


def paths(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*above, key)
        yield from paths(inner, (*above, key))


def mutated(chance: random.Random) -> Any:
    """One to three values replaced, keys left out or misspelt."""
    whole = copy.deepcopy(WHOLE)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        *above, key = chance.choice(list(paths(whole)))
        node = whole
        for step in above:
            node = node[step]
        act = chance.random()
        if act < 0.65 or (act > 0.8 and not isinstance(node, dict)):
            node[key] = copy.deepcopy(chance.choice(ODD))
        elif act < 0.8:
            del node[key]
        else:
            inner, at = node.pop(key), chance.randrange(len(key) + 1)
            node[key[:at] + chance.choice("xs_-. 1é") + key[at:]] = inner
    return whole


@pytest.mark.parametrize("seed", range(8))
def test_anything_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    chance, path = random.Random(seed), tmp_path / "a.yaml"
    for _ in range(60):
        path.write_text(yaml.safe_dump(mutated(chance), allow_unicode=True))
        try:
            found = read([path], environ={})
        except ConfigProblems as fault:
            assert all(problem.startswith((f"{path}", "switchboard.")) for problem in fault.problems), fault.problems
            assert "hunter2" not in str(fault)
            continue
        for name in ("catalog", "other", "p_catalog", ""):
            try:
                found.route(name)
            except ProxyError as fault:
                assert "hunter2" not in str(fault)
        assert "hunter2" not in f"{found.warnings} {targets.rows(found)} {found.settings}"
