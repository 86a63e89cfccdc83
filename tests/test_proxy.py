"""The daemon as its clients see it, in both pool modes, on real PostgreSQL."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa

from tests.servers import Daemon, Postgres, daemon, until


def test_reaches_its_own_database(proxy: Daemon, postgres: Postgres) -> None:
    with proxy.connect("catalog") as connection:
        assert connection.execute("select current_database()").fetchone() == ("backstage_plugin_catalog",)
    assert "backstage_plugin_catalog" in postgres.databases()
    with proxy.connect("backstage_plugin_search") as connection:
        assert connection.execute("select current_database()").fetchone() == ("backstage_plugin_search",)


def test_wrong_password_and_unknown_user_read_the_same(proxy: Daemon) -> None:
    texts = set()
    for user, word in (("backstage", "wrong"), ("nobody", "s3cret")):
        with pytest.raises(psycopg.OperationalError) as caught:
            proxy.connect("catalog", user, word)
        texts.add(str(caught.value).split("FATAL:")[1].replace(user, "U"))
    assert len(texts) == 1


def test_unknown_database_is_told_after_login_only(proxy: Daemon) -> None:
    with pytest.raises(psycopg.OperationalError, match='database "no such" does not exist'):
        proxy.connect("no%20such")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        proxy.connect("no%20such", password="wrong")


def test_errors_keep_everything(proxy: Daemon) -> None:
    with proxy.connect("catalog") as connection:
        with pytest.raises(psycopg.errors.DivisionByZero) as caught:
            connection.execute("select 1/0")
        assert caught.value.diag.sqlstate == "22012"
        assert connection.execute("select 1").fetchone() == (1,)


def test_copy_both_ways(proxy: Daemon) -> None:
    with proxy.connect("catalog") as connection:
        connection.execute("create table if not exists copied (a int, b text)")
        connection.execute("truncate copied")
        with connection.cursor() as cursor:
            with cursor.copy("copy copied from stdin") as copy:
                for number in range(50_000):
                    copy.write_row((number, "x" * (number % 300)))
            with cursor.copy("copy copied to stdout") as copy:
                assert sum(1 for _ in copy.rows()) == 50_000


def test_copy_that_fails_leaves_the_session_usable(proxy: Daemon) -> None:
    with proxy.connect("catalog") as connection:
        connection.execute("create table if not exists numbers (a int)")
        with pytest.raises(psycopg.errors.InvalidTextRepresentation), connection.cursor().copy("copy numbers from stdin") as copy:
            copy.write("no number\n")
        assert connection.execute("select 1").fetchone() == (1,)


def test_big_values(proxy: Daemon) -> None:
    with proxy.connect("catalog") as connection:
        size = 20_000_000
        row = connection.execute("select repeat('x', %s), length(%s)", (size, "y" * size)).fetchone()
        assert row is not None
        assert (len(row[0]), row[1]) == (size, size)


def test_pipeline(proxy: Daemon) -> None:
    with proxy.connect("catalog") as connection, connection.pipeline():
        cursors = [connection.execute("select %s::int", (number,)) for number in range(500)]
        assert [cursor.fetchone() for cursor in cursors] == [(number,) for number in range(500)]


def test_pipeline_with_an_error_in_the_middle(proxy: Daemon) -> None:
    with proxy.connect("catalog") as connection:
        with pytest.raises(psycopg.errors.DivisionByZero), connection.pipeline():
            connection.execute("select 1")
            connection.execute("select 1/0")
            connection.execute("select 2")
        assert connection.execute("select 3").fetchone() == (3,)


def test_cancel(proxy: Daemon) -> None:
    with proxy.connect("catalog") as connection:
        timer = threading.Timer(0.3, connection.cancel)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("select pg_sleep(60)")
        timer.join()
        assert connection.execute("select 1").fetchone() == (1,)


def test_notices_and_notifications(proxy: Daemon) -> None:
    with proxy.connect("catalog") as one, proxy.connect("catalog") as other:
        heard: list[str] = []
        one.add_notice_handler(lambda diagnostic: heard.append(diagnostic.message_primary or ""))
        one.execute("do $$ begin raise notice 'hello'; end $$")
        assert heard == ["hello"]
        one.execute("listen event_bus_publish")
        other.execute("select pg_notify('event_bus_publish', 'topic')")
        assert next(one.notifies(timeout=20)).payload == "topic"


def test_settings_of_one_client_never_reach_another(proxy: Daemon) -> None:
    connections = [proxy.connect("catalog", application_name=f"app{number}") for number in range(6)]
    for number, connection in enumerate(connections):
        connection.execute(f"set timezone to 'Etc/GMT+{number}'")
        connection.execute(f"set work_mem to '{1000 + number}kB'")
    for number, connection in enumerate(connections):
        assert connection.execute("show application_name").fetchone() == (f"app{number}",)
        assert connection.execute("show timezone").fetchone() == (f"Etc/GMT+{number}",)
        connection.close()
    with proxy.connect("catalog") as fresh:
        assert fresh.execute("show work_mem").fetchone() == ("4MB",)


def test_startup_options_pass(proxy: Daemon) -> None:
    with proxy.connect("catalog", options="-c statement_timeout=4321") as connection:
        assert connection.execute("show statement_timeout").fetchone() == ("4321ms",)
    with proxy.connect("catalog") as connection:
        assert connection.execute("show statement_timeout").fetchone() == ("0",)
    with pytest.raises(psycopg.OperationalError, match="unrecognized configuration parameter"):
        proxy.connect("catalog", options="-c no_such_thing=1")


def test_a_client_lost_in_a_transaction_costs_a_rollback(proxy: Daemon) -> None:
    with proxy.connect("catalog") as connection:
        connection.execute("create table if not exists lost (a int)")
        connection.execute("truncate lost")
    connection = proxy.connect("catalog", autocommit=False)
    connection.execute("insert into lost values (1)")
    before = proxy.metric("switchboard_rollbacks_total", plugin="catalog")
    connection.pgconn.finish()
    until(lambda: proxy.metric("switchboard_rollbacks_total", plugin="catalog") > before, "the rollback")
    with proxy.connect("catalog") as other:
        assert other.execute("select count(*) from lost").fetchone() == (0,)


def test_more_clients_than_connections(proxy: Daemon) -> None:
    """Transaction mode shares; session mode lets them wait their turn."""
    def work() -> None:
        with proxy.connect("events") as connection:
            for _ in range(5):
                assert connection.execute("select 1").fetchone() == (1,)

    threads = [threading.Thread(target=work) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert proxy.metric("switchboard_pool_size", plugin="events") == 8


async def test_asyncpg(proxy: Daemon) -> None:
    connection = await asyncpg.connect(proxy.dsn("catalog"))
    try:
        assert await connection.fetchval("select $1::int + 1", 41) == 42
        async with connection.transaction():
            assert [row["g"] async for row in connection.cursor("select generate_series(1, 200) g")] == list(range(1, 201))
        with pytest.raises(asyncpg.UndefinedTableError):
            await connection.fetch("select * from nope")
        with pytest.raises(asyncio.TimeoutError):
            await connection.fetchval("select pg_sleep(60)", timeout=0.3)
        assert await connection.fetchval("select 1") == 1
    finally:
        await connection.close()


def test_sqlalchemy(proxy: Daemon) -> None:
    engine = sa.create_engine(proxy.dsn("catalog").replace("postgresql://", "postgresql+psycopg://"))
    metadata = sa.MetaData()
    table = sa.Table("alchemy", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(40)))
    metadata.drop_all(engine)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(table.insert(), [{"name": f"n{number}"} for number in range(100)])
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == 100
    assert [column["name"] for column in sa.inspect(engine).get_columns("alchemy")] == ["id", "name"]
    engine.dispose()


def test_metrics_and_health(proxy: Daemon) -> None:
    with proxy.connect("catalog") as connection:
        connection.execute("select 1")
        assert proxy.metric("switchboard_clients", plugin="catalog", user="backstage") >= 1
    assert proxy.metric("switchboard_queries_total", plugin="catalog") > 0
    assert proxy.get("/healthz") == "ok\n"
    assert proxy.get("/readyz") == "ready\n"
    assert "<table>" in proxy.get("/")
    assert "s3cret" not in proxy.get("/status.json") + proxy.log


def test_the_log_tells_who_came_and_why_they_left(proxy: Daemon) -> None:
    proxy.connect("proxy-log").close()
    proxy.logged(r'msg="client let in".*plugin=proxy-log')
    proxy.logged(r'msg="client left".*plugin=proxy-log.*reason="client said goodbye"')


def test_session_mode_gives_the_servers_own_pid(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base) as running, running.connect("catalog") as connection:
        assert connection.execute("select pg_backend_pid()").fetchone() == (connection.info.backend_pid,)


def test_users_reach_only_their_plugins(base: dict[str, Any], tmp_path: Path) -> None:
    users = {"backstage": {"password": "s3cret"}, "reader": {"password": "r", "plugins": ["catalog"]}}
    with daemon(tmp_path, base, users=users) as running:
        running.connect("catalog", "reader", "r").close()
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            running.connect("scaffolder", "reader", "r")


def test_an_upstream_that_died_is_replaced_unnoticed(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    with daemon(tmp_path, base, pool={"mode": "transaction", "size": 2}) as running, running.connect("catalog") as connection:
        connection.execute("select 1")
        postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'backstage_plugin_catalog'")
        until(lambda: running.metric("switchboard_upstreams", state="idle", plugin="catalog") == 0, "the end of it")
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("mode", ["session", "transaction", "auto"])
def test_without_the_compiled_twin(base: dict[str, Any], tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no C compiler the Python text does all of it."""
    monkeypatch.setenv("SWITCHBOARD_PURE", "1")
    with daemon(tmp_path, base, pool={"mode": mode, "size": 2}) as running, running.connect("catalog") as first, \
            running.connect("catalog") as second:
        for number, client in enumerate((first, second)):
            if mode != "transaction":
                client.execute("select set_config('my.number', %s, false)", [str(number)])
        for number, client in enumerate((first, second)):
            if mode != "transaction":
                assert client.execute("show my.number").fetchone() == (str(number),)
            with client.transaction():
                assert client.execute("select %s::text", ["x" * 100_000]).fetchone() == ("x" * 100_000,)
            with pytest.raises(psycopg.errors.DivisionByZero):
                client.execute("select 1/0")


def test_query_wait_timeout(base: dict[str, Any], tmp_path: Path) -> None:
    pool = {"mode": "session", "size": 1, "query_wait_timeout": "300ms"}
    with daemon(tmp_path, base, pool=pool) as running, running.connect("catalog"), pytest.raises(
            psycopg.OperationalError, match="query_wait_timeout"):
        running.connect("catalog")


def test_drain_ends_at_a_transaction_boundary(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base) as running:
        idle, busy = running.connect("catalog"), running.connect("catalog", autocommit=False)
        busy.execute("create table if not exists drained (a int)")
        running.process.terminate()
        running.logged("msg=draining")
        with pytest.raises(psycopg.errors.AdminShutdown):
            idle.execute("select 1")
        busy.execute("select 1")
        with pytest.raises(psycopg.OperationalError):
            busy.commit()
            busy.execute("select 1")
        assert running.process.wait(30) == 0
        running.process.poll = lambda: None  # type: ignore[method-assign]
        running.stop = lambda: 0  # type: ignore[method-assign]


def test_reload_keeps_untouched_pools(base: dict[str, Any], tmp_path: Path) -> None:
    import signal

    with daemon(tmp_path, base) as running:
        kept = running.connect("catalog")
        running.settings["users"]["late"] = {"password": "l4te"}
        running.write(base)
        running.signal(signal.SIGHUP)
        running.logged("msg=reloaded")
        running.connect("catalog", "late", "l4te").close()
        assert kept.execute("select 1").fetchone() == (1,)
        running.config.write_text("switchboard: {pool: {size: many}}")
        running.signal(signal.SIGHUP)
        running.logged("the old configuration stays")
        running.connect("catalog", "late", "l4te").close()
        kept.close()


@pytest.mark.parametrize("method", ["md5", "password", "trust"])
def test_other_methods(base: dict[str, Any], tmp_path: Path, method: str) -> None:
    with daemon(tmp_path, base, users={"backstage": {"password": "s3cret", "method": method}}) as running:
        running.connect("catalog").close()
        if method != "trust":
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                running.connect("catalog", password="wrong")


def test_schema_mode(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    shared = {**base, "pluginDivisionMode": "schema", "connection": {**base["connection"], "database": "backstage_shared"}}
    with daemon(tmp_path, shared, pool={"mode": "transaction"}) as running:
        for plugin in ("catalog", "search"):
            with running.connect("backstage_shared", application_name=f"backstage_plugin_{plugin}") as connection:
                connection.execute("create table if not exists mine (a text)")
                connection.execute("insert into mine values (current_schema())")
                assert connection.execute("select distinct a from mine").fetchall() == [(plugin,)]
                connection.execute("set search_path to public")
                connection.execute("reset search_path")
                assert connection.execute("select current_schema()").fetchone() == (plugin,)
    assert "backstage_shared" in postgres.databases()


def test_idle_connections_never_block_drop_database(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    with daemon(tmp_path, base, pool={"mode": "transaction"}) as running:
        for connection in (running.connect("doomed"),):
            connection.execute("select 1")
            connection.close()
        with running.connect("catalog") as connection:
            connection.execute("drop database backstage_plugin_doomed")
        assert "backstage_plugin_doomed" not in postgres.databases()
        with running.connect("doomed") as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        assert "backstage_plugin_doomed" in postgres.databases()


def test_missing_rights_are_told_with_the_grant(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    postgres.sql("do $$ begin create role poor login password 'p00r'; exception when duplicate_object then null; end $$")
    poor = {**base, "connection": {**base["connection"], "user": "poor", "password": "p00r"}}
    with daemon(tmp_path, poor) as running:
        with pytest.raises(psycopg.OperationalError, match="permission denied to create database") as caught:
            running.connect("forbidden-fruit")
        assert 'ALTER ROLE "poor" CREATEDB;' in str(caught.value)
    helped = {"credentials": [{"server": f"127.0.0.1:{postgres.port}", "user": "postgres", "password": postgres.password}]}
    (tmp_path / "again").mkdir()
    with daemon(tmp_path / "again", poor, provisioning=helped) as running, running.connect("poor-plugin") as connection:
        assert connection.execute("select current_user").fetchone() == ("poor",)
        connection.execute("create table mine (a int)")
    postgres.sql('drop database "backstage_plugin_poor-plugin"')
