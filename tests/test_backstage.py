"""A real Backstage backend with its connection pointing at the proxy, changed in host and port only.

The empty server lets Backstage's user log in and no more; the databases come by the provisioning credential.  It starts twice:
the second start must find what the first one left.  `-s` shows what each step answered.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.backstage.backend import PATIENCE, Backstage, Unavailable, backstage, install
from tests.servers import Daemon, Postgres, daemon, until

pytestmark = pytest.mark.backstage

PLUGINS = frozenset({"auth", "catalog", "events", "notifications", "scaffolder", "search", "user-settings"})
SHARED = "developer_portal"
"""The one database of schema mode."""
GUEST = "user:development/guest"


@pytest.fixture(scope="module")
def modules() -> Path:
    try:
        return install()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def empty() -> Iterator[Postgres]:
    """A server where `app` may log in and `maker` may create databases and hand them to `app`."""
    server = Postgres()
    try:
        server.sql("create role app login password 'a99'")
        server.sql("create role maker login createdb password 'm4ker'")
        server.sql("grant app to maker")
        yield server
    finally:
        server.remove()


class Told:
    """Prints a step, its answer and when."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def __call__(self, step: str, answer: object) -> None:
        print(f"{time.monotonic() - self.began:6.2f} s  {step}: {answer}")


def through(port: int, division: str, user: str, password: str) -> dict[str, Any]:
    """backend.database, the same for the proxy and for Backstage but for where it points."""
    connection: dict[str, Any] = {"host": "127.0.0.1", "port": port, "user": user, "password": password}
    if division == "database":
        return {"client": "pg", "connection": connection}
    return {"client": "pg", "pluginDivisionMode": "schema", "connection": {**connection, "database": SHARED}}


def catalog(backend: Backstage, told: Told) -> dict[str, str]:
    """The ingested file: name -> uid."""
    def listed() -> dict[str, str]:
        entities = backend.ask("GET", "/api/catalog/entities?filter=kind=component&filter=kind=template")
        return {entity["metadata"]["name"]: entity["metadata"]["uid"] for entity in entities}
    until(lambda: len(listed()) >= 2, "the entities of catalog-info.yaml", PATIENCE)
    found = listed()
    told("catalog lists", sorted(found))
    assert set(found) == {"telephone-exchange", "ring"}
    return found


def scaffolder(backend: Backstage, user: str, told: Told) -> None:
    """Runs the ingested template; steps and logs go through the database."""
    task = backend.ask("POST", "/api/scaffolder/v2/tasks", {"templateRef": "template:default/ring", "values": {}}, user)["id"]
    def status() -> str:
        return str(backend.ask("GET", f"/api/scaffolder/v2/tasks/{task}", token=user)["status"])
    until(lambda: status() not in ("open", "processing"), "the scaffolder's task", PATIENCE)
    told("scaffolder ran the template", status())
    assert status() == "completed"


def search(backend: Backstage, told: Told) -> None:
    def titles() -> list[str]:
        return [row["document"]["title"] for row in backend.ask("GET", "/api/search/query?term=subscriber")["results"]]
    until(titles, "the search index", PATIENCE)
    told("search for 'subscriber' finds", titles())
    assert titles() == ["telephone-exchange"]


def events(backend: Backstage, start: int, told: Told) -> None:
    """A reader that waits is woken by LISTEN / NOTIFY; who asks too early is told to wait by a 202."""
    bus, reader = "/api/events/bus/v1", f"/api/events/bus/v1/subscriptions/start-{start}"
    backend.ask("PUT", reader, {"topics": ["bell"]})
    backend.ask("POST", f"{bus}/events", {"event": {"topic": "bell", "payload": {"start": start}}})
    answer = backend.ask("GET", f"{reader}/events")
    told("events delivers", answer["events"])
    assert answer["events"] == [{"topic": "bell", "payload": {"start": start}}]


def notifications(backend: Backstage, user: str, start: int, told: Told) -> None:
    to = {"type": "entity", "entityRef": GUEST}
    backend.ask("POST", "/api/notifications/", {"recipients": to, "payload": {"title": f"start {start}"}})
    found = [row["payload"]["title"] for row in backend.ask("GET", "/api/notifications/", token=user)["notifications"]]
    told("notifications lists", found)
    assert sorted(found) == [f"start {number}" for number in range(1, start + 1)]


def settings(backend: Backstage, user: str, start: int, told: Told) -> None:
    path = "/api/user-settings/buckets/tests/keys/start"
    status, before = backend.request("GET", path, token=user)
    assert (status, before["value"] if status == 200 else None) == ((404, None) if start == 1 else (200, start - 1))
    backend.ask("PUT", path, {"value": start}, user)
    kept = backend.ask("GET", path, token=user)["value"]
    told("user-settings keeps", kept)
    assert kept == start


def use(backend: Backstage, start: int, told: Told) -> dict[str, str]:
    """One start's worth of API calls; the catalog's name -> uid."""
    told(f"start {start}", "ready")
    found = catalog(backend, told)
    user = backend.guest()
    told("auth signs a guest's token", f"{len(user)} characters")
    scaffolder(backend, user, told)
    search(backend, told)
    events(backend, start, told)
    notifications(backend, user, start, told)
    settings(backend, user, start, told)
    return found


def stands(server: Postgres, division: str, told: Told) -> None:
    """What the server holds afterwards: each plugin's tables where they belong, the right owner, nothing stray."""
    if division == "database":
        assert server.databases() == {"postgres", *(f"backstage_plugin_{plugin}" for plugin in PLUGINS)}
        owners = server.sql("select distinct pg_get_userbyid(datdba) from pg_database where datname like 'backstage%'")
    else:
        assert server.databases() == {"postgres", SHARED}
        owners = server.sql(f"select distinct pg_get_userbyid(nspowner) from pg_namespace where nspname = any(array{sorted(PLUGINS)})",
                            SHARED)
        tables = dict(server.sql("select schemaname, count(*) from pg_tables where schemaname not like 'pg_%' "
                                 "and schemaname <> 'information_schema' group by 1", SHARED))
        told("tables by schema", tables)
        assert set(tables) == PLUGINS
    told("databases", sorted(server.databases()))
    assert owners == [("app",)]


def counted(proxy: Daemon, told: Told) -> None:
    """The metrics page tells each plugin's own queries."""
    queries = {plugin: int(proxy.metric("switchboard_queries_total", plugin=plugin)) for plugin in sorted(PLUGINS)}
    told("queries by plugin", queries)
    told("connections kept, by reason", [line for line in proxy.get("/metrics").splitlines()
                                         if line.startswith("switchboard_pins_total{") and not line.endswith(" 0.0")])
    assert all(queries.values())


@pytest.mark.parametrize("mode", ["session", "transaction", "auto"])
@pytest.mark.parametrize(("division", "ensures"), [("database", True), ("schema", False), ("schema", True)])
def test_backstage(modules: Path, empty: Postgres, tmp_path: Path, division: str, ensures: bool, mode: str) -> None:
    """`ensures`: Backstage's own ensureExists, on by default; off, it asks for nothing and the proxy alone creates."""
    told = Told()
    with pytest.raises(psycopg.errors.InsufficientPrivilege), \
            psycopg.connect(empty.dsn(user="app", password="a99"), autocommit=True) as connection:
        connection.execute("create database refused")
    maker = {"server": f"127.0.0.1:{empty.port}", "user": "maker", "password": "m4ker"}
    told(f"{division} mode, pools by {mode}, ensureExists {ensures}", sorted(empty.databases()))
    with daemon(tmp_path, through(empty.port, division, "app", "a99"), pool={"mode": mode},
                provisioning={"credentials": [maker]}) as proxy:
        pointed = {**through(proxy.port, division, "backstage", "s3cret"), **({} if ensures else {"ensureExists": False})}
        with backstage(tmp_path, pointed, modules) as backend:
            first = use(backend, 1, told)
        with backstage(tmp_path, pointed, modules) as backend:
            assert use(backend, 2, told) == first
        stands(empty, division, told)
        counted(proxy, told)
