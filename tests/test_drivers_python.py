"""What Python programs do besides plain queries: async, server-side cursors, kept statements, reflection, 100 MB values.

Each runs in both pool modes; in transaction mode whatever outlives a transaction keeps its upstream.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from tests.servers import Daemon, Postgres, daemon, until

pytestmark = pytest.mark.drivers

HUNDRED_MEGABYTES = 100 * 1024 * 1024


async def test_psycopg_async_and_its_pipeline(proxy: Daemon) -> None:
    async with await psycopg.AsyncConnection.connect(proxy.dsn("catalog")) as connection:
        await connection.execute("create temp table seen (a int) on commit drop")
        async with connection.pipeline():
            for number in range(200):
                await connection.execute("insert into seen values (%s)", (number,))
        cursor = await connection.execute("select count(*), sum(a) from seen")
        assert await cursor.fetchone() == (200, 19_900)


async def test_psycopg_async_cancel(proxy: Daemon, postgres: Postgres) -> None:
    """`cancel_safe` dials the proxy again with the key that it gave; the connection lives on."""
    def runs() -> bool:
        return bool(postgres.sql("select 1 from pg_stat_activity where query like '%as napped' and state = 'active' "
                                 "and pid <> pg_backend_pid()"))
    async with await psycopg.AsyncConnection.connect(proxy.dsn("catalog"), autocommit=True) as connection:
        async def cancel() -> None:
            await asyncio.to_thread(until, runs, "the query")
            await connection.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await asyncio.gather(connection.execute("select pg_sleep(60) as napped"), cancel())
        cursor = await connection.execute("select 1")
        assert await cursor.fetchone() == (1,)


@pytest.mark.parametrize("hold", [False, True])
def test_server_side_cursors(proxy: Daemon, hold: bool) -> None:
    with proxy.connect("catalog", autocommit=False) as connection:
        with connection.cursor("reader", withhold=hold, scrollable=True) as cursor:
            cursor.itersize = 100
            cursor.execute("select generate_series(1, 1000)")
            if hold:
                connection.commit()           # WITH HOLD outlives its transaction, so its upstream has to stay
            assert sum(row[0] for row in cursor) == 500_500
            cursor.scroll(0, mode="absolute")
            assert cursor.fetchone() == (1,)
        connection.rollback()


def test_prepared_statements_of_two_clients(proxy: Daemon) -> None:
    """Both call theirs by the same name, on what may be the same upstream."""
    with proxy.connect("catalog", prepare_threshold=0) as one, proxy.connect("catalog", prepare_threshold=0) as two:
        for number in range(20):
            assert one.execute("select %s::int + 1", (number,)).fetchone() == (number + 1,)
            assert two.execute("select %s::int * 2", (number,)).fetchone() == (number * 2,)


async def test_asyncpg_cursor_and_prepared(proxy: Daemon) -> None:
    connection = await asyncpg.connect(proxy.dsn("catalog"))
    try:
        prepared = await connection.prepare("select $1::int + 1")
        assert [await prepared.fetchval(number) for number in range(5)] == [1, 2, 3, 4, 5]
        async with connection.transaction():
            assert [row[0] async for row in connection.cursor("select generate_series(1, 300)", prefetch=50)] == list(range(1, 301))
    finally:
        await connection.close()


@pytest.mark.parametrize("binary", [False, True])
def test_a_hundred_megabytes_both_ways(proxy: Daemon, binary: bool) -> None:
    with proxy.connect("catalog") as connection:
        value: Any = bytes(range(256)) * (HUNDRED_MEGABYTES // 256) if binary else "x" * HUNDRED_MEGABYTES
        row = connection.execute("select %b" if binary else "select %s::text", (value,), binary=binary).fetchone()
        assert row is not None
        assert row[0] == value                # `assert row == ...` would print it
        assert connection.execute("select 1").fetchone() == (1,)


class Table(orm.DeclarativeBase):
    pass


class Owner(Table):
    __tablename__ = "orm_owner"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(40), unique=True)
    parts: orm.Mapped[list[Part]] = orm.relationship(back_populates="owner", cascade="all, delete-orphan")


class Part(Table):
    __tablename__ = "orm_part"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    owner_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("orm_owner.id"))
    owner: orm.Mapped[Owner] = orm.relationship(back_populates="parts")


def test_sqlalchemy_reflection_and_orm(proxy: Daemon) -> None:
    engine = sa.create_engine(proxy.dsn("scaffolder").replace("postgresql://", "postgresql+psycopg://"))
    try:
        Table.metadata.drop_all(engine)
        Table.metadata.create_all(engine)
        with orm.Session(engine) as session:
            session.add(Owner(name="exchange", parts=[Part(), Part()]))
            session.commit()
        with orm.Session(engine) as session:
            owner = session.scalars(sa.select(Owner).where(Owner.name == "exchange")).one()
            assert len(owner.parts) == 2
            session.delete(owner)
            session.commit()
        found = sa.inspect(engine)
        assert {"orm_owner", "orm_part"} <= set(found.get_table_names())
        assert found.get_foreign_keys("orm_part")[0]["referred_table"] == "orm_owner"
        assert found.get_unique_constraints("orm_owner")[0]["column_names"] == ["name"]
    finally:
        engine.dispose()


@pytest.mark.parametrize("mode", ["session", "transaction", "auto"])
def test_a_plugin_with_its_own_credentials(base: dict[str, Any], postgres: Postgres, tmp_path: Path, mode: str) -> None:
    """The client's user is the proxy's affair; upstream it is the plugin's own."""
    postgres.sql("do $$ begin create role billing_app login password 'b1ll'; exception when duplicate_object then null; end $$")
    own = {"billing": {"connection": {"user": "billing_app", "password": "b1ll"}}}
    maker = {"server": f"127.0.0.1:{postgres.port}", "user": "postgres", "password": postgres.password}
    with daemon(tmp_path, {**base, "plugin": own}, pool={"mode": mode}, provisioning={"credentials": [maker]}) as running, \
            running.connect("billing") as billing, running.connect("catalog") as other:
        assert billing.execute("select current_user, current_database()").fetchone() == ("billing_app", "backstage_plugin_billing")
        assert other.execute("select current_user").fetchone() == ("postgres",)
    postgres.sql('drop database "backstage_plugin_billing"')
