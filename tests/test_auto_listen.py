"""Mode `auto`: LISTEN without a connection of one's own."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from tests.servers import Daemon, Postgres, daemon, until
from tests.test_auto import POOL, TRUST

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def narrow(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One connection for everybody."""
    with daemon(tmp_path_factory.mktemp("listen"), base, **TRUST, pool=POOL | {"size": 1}) as running:
        yield running


def client(proxy: Daemon) -> Connection:
    return proxy.connect("catalog", autocommit=True)


def away(proxy: Daemon, count: int = 1) -> None:
    """So many clients listen, and keep no connection."""
    until(lambda: proxy.metric("switchboard_clients_listening", plugin="catalog") == count
          and proxy.metric("switchboard_upstreams", plugin="catalog", state="active") == 0, "listeners are at rest")


def hears(connection: Connection, count: int) -> list[tuple[str, str, int]]:
    return [(each.channel, each.payload, each.pid) for each in connection.notifies(timeout=20, stop_after=count)]


def hears_nothing(connection: Connection) -> bool:
    """What was committed before a request is told before its end."""
    connection.execute("select 1")
    return not list(connection.notifies(timeout=0))


def channels(connection: Connection) -> list[str]:
    return sorted(row[0] for row in connection.execute("select pg_listening_channels()"))


def test_listeners_keep_no_connection(narrow: Daemon) -> None:
    listeners = [client(narrow) for _ in range(6)]
    with client(narrow) as other:
        for number, each in enumerate(listeners):
            each.execute(f"listen own_{number}")
            each.execute("listen shared")
        away(narrow, 6)
        for number in range(6):
            other.execute(f"notify own_{number}, 'yours'")
        other.execute("begin; notify shared, 'a'; notify shared, 'b'; notify shared, 'a'; commit")
        for number, each in enumerate(listeners):
            assert hears(each, 3) == [(f"own_{number}", "yours", other.info.backend_pid), ("shared", "a", other.info.backend_pid),
                                      ("shared", "b", other.info.backend_pid)]
            assert hears_nothing(each)
    for each in listeners:
        each.close()
    away(narrow, 0)


def test_ones_own_notifications_come_before_the_end_of_the_request(narrow: Daemon) -> None:
    with client(narrow) as first:
        first.execute("listen news")
        away(narrow)
        for sent in ("notify news, 'mine'", "select pg_notify('news', 'mine')"):
            first.execute(sent)
            assert [(each.payload, each.pid) for each in first.notifies(timeout=0)] == [("mine", first.info.backend_pid)]
        with first.transaction():
            first.execute("notify news, 'in'")
            assert not list(first.notifies(timeout=0))
        assert [each.payload for each in first.notifies(timeout=0)] == ["in"]
        away(narrow)


def test_what_others_have_committed_is_told_with_the_next_answer(narrow: Daemon) -> None:
    with client(narrow) as first, client(narrow) as second:
        first.execute("listen news")
        away(narrow)
        for number in range(50):
            second.execute("select pg_notify('news', %s)", (str(number),))
            first.execute("select 1")
            assert [each.payload for each in first.notifies(timeout=0)] == [str(number)]


def test_channels_are_the_clients_own(narrow: Daemon) -> None:
    with client(narrow) as first, client(narrow) as second:
        for name in ('"We""ird"', "news", "schöner_kanal"):
            first.execute(f"listen {name}")
        away(narrow)
        assert channels(second) == []
        assert channels(first) == ['We"ird', "news", "schöner_kanal"]
        away(narrow)
        second.execute("""notify "We""ird", 'ü'""")
        assert hears(first, 1)[0][:2] == ('We"ird', "ü")
        first.execute("unlisten news")
        away(narrow)
        second.execute("notify news")
        second.execute("notify schöner_kanal")
        assert hears(first, 1)[0][0] == "schöner_kanal"
        assert channels(first) == ['We"ird', "schöner_kanal"]
        first.execute("discard all")
        away(narrow, 0)
        second.execute("notify schöner_kanal")
        assert hears_nothing(first)
        assert channels(first) == []


def test_transactions_and_savepoints_hold_for_channels(narrow: Daemon) -> None:
    with client(narrow) as first, client(narrow) as second:
        first.execute("listen kept")
        away(narrow)
        first.execute("begin; listen lost; unlisten kept")
        first.execute("rollback")
        away(narrow)
        assert channels(first) == ["kept"]
        first.execute("begin")
        first.execute("listen one")
        first.execute("savepoint s")
        first.execute("listen two; unlisten kept")
        first.execute("rollback to s")
        first.execute("commit")
        away(narrow)
        assert channels(first) == ["kept", "one"]
        second.execute("notify two; notify lost; notify one; notify kept")
        assert [each[0] for each in hears(first, 2)] == ["one", "kept"]
        first.execute("unlisten *")
        away(narrow, 0)


def test_none_is_lost_or_told_twice_while_channels_move(narrow: Daemon, postgres: Postgres) -> None:
    """Somebody counts aloud all the while."""
    most = 3000
    with client(narrow) as first:
        first.execute("listen numbers")

        def count() -> None:
            with psycopg.connect(postgres.dsn("backstage_plugin_catalog"), autocommit=True) as direct:
                for number in range(most):
                    direct.execute("select pg_notify('numbers', %s)", (str(number),))

        counting = threading.Thread(target=count)
        counting.start()
        heard: list[int] = []
        turns = 0
        while not heard or heard[-1] < most - 1:
            heard += [int(each.payload) for each in first.notifies(timeout=0.3 if turns % 3 == 0 else 0, stop_after=400)]
            with first.transaction():
                first.execute("listen others" if turns % 2 else "select 1")
            turns += 1
        counting.join()
        assert heard == list(range(most))
        assert turns > 5


def test_a_lost_listening_connection_is_made_again_and_told_of(narrow: Daemon, postgres: Postgres) -> None:
    with client(narrow) as first, client(narrow) as second:
        notices: list[str] = []
        first.add_notice_handler(lambda diagnostic: notices.append(str(diagnostic.message_primary)))
        first.execute("listen news")
        away(narrow)
        with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as direct:
            direct.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = 'backstage_plugin_catalog'"
                           " and query ~ '^(LISTEN|UNLISTEN|$)'")

        def told() -> bool:
            first.execute("select 1")
            return bool(notices)

        until(told, "the client is told")
        assert notices == ["notifications may have been lost"]
        second.execute("notify news, 'again'")
        assert hears(first, 1)[0][:2] == ("news", "again")
        assert channels(first) == ["news"]


async def test_drivers_that_prepare_everything(narrow: Daemon) -> None:
    first, second = [await asyncpg.connect(narrow.dsn("catalog")) for _ in "ab"]
    heard: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
    await first.add_listener("news", lambda _c, pid, _channel, payload: heard.put_nowait((pid, str(payload))))
    await asyncio.to_thread(away, narrow)
    notify = await first.prepare("select pg_notify('news', $1)")
    for number in range(5):
        await notify.fetch(str(number))
        assert heard.get_nowait() == (first.get_server_pid(), str(number))
        await second.execute("select pg_notify('news', $1)", f"{number} too")
        async with first.transaction():
            assert await first.fetchval("select $1::int", number) == number
        assert heard.get_nowait() == (second.get_server_pid(), f"{number} too")
    assert await first.fetch("select * from pg_listening_channels()") == [("news",)]
    await first.close()
    await second.close()
    await asyncio.to_thread(away, narrow, 0)


def test_pipelines_of_who_listens(narrow: Daemon) -> None:
    with client(narrow) as first:
        first.execute("listen news")
        away(narrow)
        with first.pipeline():
            cursors = [first.execute("select %s::int", (number,)) for number in range(20)]
            first.execute("select pg_notify('news', 'in a pipeline')")
        assert [cursor.fetchone() for cursor in cursors] == [(number,) for number in range(20)]
        assert hears(first, 1) == [("news", "in a pipeline", first.info.backend_pid)]
        with first.pipeline():
            first.execute("select 1")
            first.execute("listen more")
            first.execute("notify more, 'and more'")
        assert hears(first, 1) == [("more", "and more", first.info.backend_pid)]
        assert channels(first) == ["more", "news"]


def test_other_encodings_keep_their_connection(narrow: Daemon) -> None:
    with client(narrow) as first:
        first.execute("listen news")
        away(narrow)
        first.execute("set client_encoding to latin1")
        until(lambda: narrow.metric("switchboard_upstreams", plugin="catalog", state="active") == 1, "it stays")
        first.execute("notify news, 'ü'")
        assert hears(first, 1)[0][1] == "ü"


def test_state_of_other_kinds_and_channels_stay_together(narrow: Daemon) -> None:
    with client(narrow) as first:
        first.execute("listen news")
        away(narrow)
        first.execute("select pg_advisory_lock(7)")
        assert channels(first) == ["news"]
        first.execute("select pg_advisory_unlock(7)")
        away(narrow)
        first.execute("set work_mem = '7MB'")
        assert first.execute("show work_mem").fetchone() == ("7MB",)
        first.execute("notify news, 'there'")
        assert [each.payload for each in first.notifies(timeout=0)] == ["there"]


def test_a_reload_takes_listeners_along(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, **TRUST, pool=POOL | {"size": 1}) as proxy, client(proxy) as first:
        first.execute("listen news")
        away(proxy)
        proxy.settings["pool"] = POOL | {"size": 2}
        proxy.write(base)
        proxy.signal(signal.SIGHUP)
        until(lambda: proxy.metric("switchboard_pool_size", plugin="catalog") == 2, "the new size holds")
        with client(proxy) as second:
            second.execute("notify news, 'after'")
            assert hears(first, 1)[0][:2] == ("news", "after")
            assert channels(first) == ["news"]


def test_a_spent_budget_has_room_for_who_listens(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    """Two connections for everything: the first listener's own becomes the one that listens for all."""
    ours = "select count(*) from pg_stat_activity where datname like 'backstage_plugin_spent%'"
    with daemon(tmp_path, base, **TRUST, pool=POOL, upstream={"budget": 2}) as proxy:
        first, second = proxy.connect("spent1"), proxy.connect("spent1")
        for name, each in (("first", first), ("second", second)):
            each.execute("set application_name = 'somebody'")
            each.execute(f"listen {name}")
        until(lambda: proxy.metric("switchboard_clients_listening", plugin="spent1") == 2, "both are at rest")
        with proxy.connect("spent2") as other, proxy.connect("spent1") as teller:
            for number in range(10):
                assert other.execute("select current_database()").fetchone() == ("backstage_plugin_spent2",)
                teller.execute("select pg_notify('first', %s), pg_notify('second', %s)", (str(number), str(number)))
                for name, each in (("first", first), ("second", second)):
                    assert hears(each, 1) == [(name, str(number), teller.info.backend_pid)]
                assert postgres.sql(ours)[0][0] <= 2
            assert channels(first) == ["first"]
            first.execute("unlisten *")
            teller.execute("notify first")
            assert hears_nothing(first)
        assert second.execute("show application_name").fetchone() == ("somebody",)
        first.close()
        second.close()


def test_each_plugin_that_listens_counts(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    """Three databases are listened to on four connections, and one is left for all else."""
    ours = "select count(*) from pg_stat_activity where datname like 'backstage_plugin_ears%'"
    with daemon(tmp_path, base, **TRUST, pool=POOL, upstream={"budget": 4}) as proxy:
        listeners = {plugin: proxy.connect(plugin) for plugin in ("ears1", "ears2", "ears3")}
        for each in listeners.values():
            each.execute("listen news")
        until(lambda: sum(proxy.metric("switchboard_clients_listening", plugin=plugin) for plugin in listeners) == 3, "all rest")
        for plugin, each in listeners.items():
            with proxy.connect(plugin) as teller:
                teller.execute("select pg_notify('news', %s)", (plugin,))
                assert hears(each, 1) == [("news", plugin, teller.info.backend_pid)]
            assert postgres.sql(ours)[0][0] <= 4
        for each in listeners.values():
            each.close()
