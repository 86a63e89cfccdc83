"""A pool's life on a real server: how long connections live, how many come at once, who waits, what a reload moves."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.servers import Daemon, Postgres, daemon, until
from tests.tap import tapped

PID = "select pg_backend_pid()"


def pid(running: Daemon, database: str = "catalog") -> int:
    with running.connect(database) as connection:
        row = connection.execute(PID).fetchone()
        assert row is not None
        return int(row[0])


def upstreams(running: Daemon, state: str) -> float:
    return running.metric("switchboard_upstreams", plugin="catalog", state=state)


def test_lifetime(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, pool={"mode": "transaction", "lifetime": "1s", "lifetime_jitter": 0.5}) as running:
        first = pid(running)
        until(lambda: pid(running) != first, "another connection")
        assert running.metric("switchboard_upstreams_closed_total", plugin="catalog") >= 1


def test_idle_connections_go_and_min_size_stays(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, pool={"mode": "session", "min_size": 2, "idle_timeout": "500ms"}) as running:
        with contextlib.ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(running.connect("catalog"))
            assert upstreams(running, "active") == 5
        until(lambda: upstreams(running, "idle") == 2, "all but two to go")


def test_min_size_is_made_again(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    with daemon(tmp_path, base, pool={"mode": "session", "min_size": 3}) as running:
        pid(running, "warmed")
        kept = "select pid from pg_stat_activity where datname = 'backstage_plugin_warmed'"
        until(lambda: len(postgres.sql(kept)) == 3, "three connections")
        before = set(postgres.sql(kept))
        postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'backstage_plugin_warmed'")
        until(lambda: len(now := set(postgres.sql(kept))) == 3 and not now & before, "three others")


class Barrier:
    """A relay in front of a server that lets nobody through before `count` have come: who dials one by one never gets in."""

    def __init__(self, port: int, count: int) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.target, self.count = port, count
        self.come = self.frozen = 0
        self.all_here = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listening.accept()
                self.come += 1
                if self.come >= self.count:
                    self.all_here.set()
                threading.Thread(target=self._serve, args=(client, self.come), daemon=True).start()

    def _serve(self, client: socket.socket, number: int) -> None:
        self.all_here.wait(60)
        server = socket.create_connection(("127.0.0.1", self.target))
        other = threading.Thread(target=self._pump, args=(server, client, number), daemon=True)
        other.start()
        self._pump(client, server, number)
        other.join()
        client.close()
        server.close()

    def freeze(self) -> None:
        """Those who are through hear nothing any more, not even an end; others come through as before."""
        self.frozen = self.come

    def _pump(self, source: socket.socket, sink: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if number > self.frozen:
                    sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def barrier(port: int, count: int) -> Iterator[Barrier]:
    made = Barrier(port, count)
    try:
        yield made
    finally:
        made.all_here.set()
        made.listening.close()


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_cold_pool_dials_all_at_once(base: dict[str, Any], postgres: Postgres, tmp_path: Path, mode: str) -> None:
    with barrier(postgres.port, 20) as gate:
        through = {**base, "connection": {**base["connection"], "port": gate.port}}
        with daemon(tmp_path, through, pool={"mode": mode, "size": 20}, provisioning={"enabled": False}) as running:
            postgres.sql("drop database if exists backstage_plugin_cold")
            postgres.sql("create database backstage_plugin_cold")

            def ask(_: int) -> int:
                with running.connect("cold", autocommit=False) as connection:
                    row = connection.execute(PID).fetchone()
                    met.wait(60)              # all twenty hold a lease at once
                    assert row is not None
                    return int(row[0])

            met = threading.Barrier(20)
            with ThreadPoolExecutor(20) as workers:
                pids = list(workers.map(ask, range(20)))
            assert len(set(pids)) == 20


def test_first_come_first_served(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, pool={"mode": "transaction", "size": 1}) as running:
        waiting = "switchboard_clients_waiting"
        with running.connect("catalog") as setup:
            setup.execute("drop table if exists turns")
            setup.execute("create table turns (id serial, who int)")
        holder = running.connect("catalog", autocommit=False)
        holder.execute("select 1")
        threads = []
        for number in range(6):
            def turn(number: int = number) -> None:
                with running.connect("catalog") as connection:
                    connection.execute("insert into turns (who) values (%s)", (number,))

            threads.append(threading.Thread(target=turn))
            threads[-1].start()
            until(lambda number=number: running.metric(waiting, plugin="catalog") == number + 1, f"client {number} in the queue")
        holder.commit()
        for thread in threads:
            thread.join()
        holder.close()
        with running.connect("catalog") as reader:
            assert [row[0] for row in reader.execute("select who from turns order by id")] == list(range(6))


def test_a_waiter_that_leaves_takes_no_turn(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, pool={"mode": "session", "size": 1}) as running:
        def waiting() -> float:
            return running.metric("switchboard_clients_waiting", plugin="catalog")

        holder = running.connect("catalog")
        leaving = psycopg.pq.PGconn.connect_start(running.dsn("catalog").encode())
        until(lambda: leaving.connect_poll() and waiting() == 1, "a client in the queue")
        leaving.finish()
        until(lambda: waiting() == 0, "its end")
        thread = threading.Thread(target=lambda: pid(running))
        thread.start()
        until(lambda: waiting() == 1, "another one in the queue")
        holder.close()
        thread.join(60)
        assert not thread.is_alive()


def test_a_full_server_is_waited_for_while_one_of_ours_lives(tmp_path: Path) -> None:
    server = Postgres(max_connections="6", superuser_reserved_connections="0")
    try:
        connection = {"host": "127.0.0.1", "port": server.port, "user": "postgres", "password": server.password}
        with daemon(tmp_path, {"client": "pg", "connection": connection}, pool={"mode": "transaction", "size": 20},
                    upstream={"retry_delay": "200ms"}) as running:
            def ask(_: int) -> None:
                with running.connect("catalog") as client:
                    for _ in range(20):
                        client.execute("select pg_sleep(0.001)")

            with ThreadPoolExecutor(16) as workers:
                list(workers.map(ask, range(16)))
    finally:
        server.remove()


def test_a_reload_moves_transaction_clients_to_the_new_pool(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    with daemon(tmp_path, base, pool={"mode": "transaction", "size": 2}) as running:
        client = running.connect("catalog")
        before = client.execute(PID).fetchone()
        held = running.connect("catalog", autocommit=False)
        held.execute("select 1")
        running.settings["pool"]["size"] = 3
        running.write(base)
        running.signal(signal.SIGHUP)
        running.logged("msg=reloaded")
        assert client.execute(PID).fetchone() != before
        assert running.metric("switchboard_pool_size", plugin="catalog") == 3
        assert running.metric("switchboard_upstreams", plugin="catalog", state="retiring") == 1
        held.execute("select 2")                         # the transaction in progress stays where it is
        held.commit()
        until(lambda: running.metric("switchboard_upstreams", plugin="catalog", state="retiring") == 0, "the old pool's end")
        assert held.execute("select 1").fetchone() == (1,)
        held.commit()
        held.close()
        client.close()


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_plugin_that_is_gone_after_a_reload(base: dict[str, Any], postgres: Postgres, tmp_path: Path, mode: str) -> None:
    """Who is in stays in, as with PostgreSQL and a changed pg_hba.conf; nobody else gets there."""
    listed = {**base, "plugin": {"catalog": {}, "leaving": {}}}
    with daemon(tmp_path, listed, plugins="listed", pool={"mode": mode, "size": 2}) as running:
        kept, resting = running.connect("leaving"), running.connect("leaving")
        assert kept.execute("select 1").fetchone() == resting.execute("select 1").fetchone() == (1,)
        kept.execute("begin")
        running.write({**base, "plugin": {"catalog": {}}})
        running.signal(signal.SIGHUP)
        running.logged("msg=reloaded")
        with pytest.raises(psycopg.OperationalError, match='database "leaving" does not exist'):
            running.connect("leaving")
        for client in (kept, resting):
            assert client.execute("select current_database()").fetchone() == ("backstage_plugin_leaving",)
            client.execute("rollback")
            assert client.execute("select 1").fetchone() == (1,)
            client.close()
        ours = "select pid from pg_stat_activity where datname = 'backstage_plugin_leaving'"
        until(lambda: not postgres.sql(ours), "the last connection to end")
        pid(running)


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_size_is_the_limit_however_many_wait(base: dict[str, Any], postgres: Postgres, tmp_path: Path, mode: str) -> None:
    """What a reserve pool is for elsewhere: none is needed where whoever waits gets the next one that comes back."""
    with daemon(tmp_path, base, pool={"mode": mode, "size": 2}) as running, ThreadPoolExecutor(10) as threads:
        holders = [running.connect("limited", autocommit=False) for _ in range(2)]
        for holder in holders:
            holder.execute("select 1")
        waiting = [threads.submit(pid, running, "limited") for _ in range(10)]
        until(lambda: running.metric("switchboard_clients_waiting", plugin="limited") == 10, "ten who wait")
        ours = "select pid from pg_stat_activity where datname = 'backstage_plugin_limited'"
        before = {row[0] for row in postgres.sql(ours)}
        assert len(before) == 2
        holders.pop().close()
        assert {future.result(60) for future in waiting} < before
        holders.pop().close()


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_full_pool_makes_room_for_other_startup_parameters(
        base: dict[str, Any], postgres: Postgres, tmp_path: Path, mode: str) -> None:
    """The connection that was idle for longest goes, and only when there is no place: `min_size` sends nobody away."""
    with daemon(tmp_path, base, pool={"mode": mode, "size": 3, "min_size": 3}) as running:
        def use(memory: int) -> int:
            with running.connect("crowded", options=f"-c work_mem={memory}MB") as connection:
                assert connection.execute("show work_mem").fetchone() == (f"{memory}MB",)
                row = connection.execute(PID).fetchone()
                assert row is not None
                return int(row[0])

        def there() -> set[int]:
            return {row[0] for row in postgres.sql("select pid from pg_stat_activity where datname = 'backstage_plugin_crowded'")}

        def rests() -> bool:
            return running.metric("switchboard_upstreams", plugin="crowded", state="idle") == len(there())

        first = use(5)
        until(lambda: len(there()) == 3 and rests(), "three connections, two of them warmed")
        warmed = there() - {first}
        second, third = use(6), use(7)
        until(lambda: len(there()) == 3 and rests(), "no more than three")
        gone = (warmed | {first}) - there()
        assert len(gone) == 2, (first, second, third, warmed, there())
        assert {second, third} <= there()
        last = use(8)
        until(lambda: len(there()) == 3 and rests(), "no more than three")
        assert there() == {second, third, last}          # the third of the oldest; later ones stay


def test_two_daemons_create_one_database(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    with daemon(folders[0], base) as one, daemon(folders[1], base) as two, ThreadPoolExecutor(16) as workers:
        for number in range(4):
            name = f"race-{number}"
            found = list(workers.map(lambda which, name=name: pid(which, name), [one, two] * 8))
            assert len(found) == 16
            assert f"backstage_plugin_{name}" in postgres.databases()


def test_ensure_exists_false_is_the_servers_to_tell(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, {**base, "ensureExists": False}) as running, pytest.raises(
            psycopg.OperationalError, match='database "backstage_plugin_never-made" does not exist'):
        running.connect("never-made")


@pytest.mark.parametrize("name", ['We"ird Ünï', "UPPER", "x" * 63, "with space", "semi;colon", "a'b"])
def test_names_are_quoted(base: dict[str, Any], postgres: Postgres, tmp_path: Path, name: str) -> None:
    plugin = {"catalog": {"connection": {"database": name}}}
    with daemon(tmp_path, {**base, "plugin": plugin}) as running, running.connect("catalog") as connection:
        assert connection.execute("select current_database()").fetchone() == (name,)
    assert name in postgres.databases()
    postgres.sql('drop database "' + name.replace('"', '""') + '"')


def test_settings_are_honoured_beyond_what_is_remembered(base: dict[str, Any], tmp_path: Path) -> None:
    """Clients make startup parameters up: what a pool remembers of them has an end, what it does not."""
    with daemon(tmp_path, base, pool={"mode": "transaction", "size": 2}) as running:
        for number in range(1005):
            options = f"-c statement_timeout={number + 1000}"
            with psycopg.connect(running.dsn("catalog"), options=options, application_name=f"n{number}") as connection:
                if number % 200 == 0 or number > 998:
                    row = connection.execute("select current_setting('application_name')").fetchone()
                    assert row == (f"n{number}",)


def test_a_half_dead_connection_is_not_waited_for(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    """No FIN, no RST: only silence.  The check before reuse has a deadline."""
    with barrier(postgres.port, 1) as gate:
        through = {**base, "connection": {**base["connection"], "port": gate.port}}
        pool = {"mode": "transaction", "check_delay": 0}
        with daemon(tmp_path, through, pool=pool, upstream={"connect_timeout": "1s"}) as running, running.connect("catalog") as client:
            first = client.execute(PID).fetchone()
            gate.freeze()
            assert client.execute(PID).fetchone() != first


def test_who_waits_at_a_reload_waits_in_the_new_pool(base: dict[str, Any], tmp_path: Path) -> None:
    with daemon(tmp_path, base, pool={"mode": "session", "size": 1}) as running, running.connect("catalog"):
        thread = threading.Thread(target=lambda: pid(running))
        thread.start()
        until(lambda: running.metric("switchboard_clients_waiting", plugin="catalog") == 1, "a client in the queue")
        running.settings["pool"]["size"] = 2
        running.write(base)
        running.signal(signal.SIGHUP)
        thread.join(60)
        assert not thread.is_alive()


def test_templates_are_not_pooled(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    plugin = {"mould": {"connection": {"database": "template1"}}}
    held = "select count(*) from pg_stat_activity where datname = 'template1'"
    with daemon(tmp_path, {**base, "plugin": plugin}, pool={"mode": "transaction", "min_size": 1}) as running:
        with running.connect("mould") as client:
            assert client.execute("select current_database()").fetchone() == ("template1",)
            until(lambda: postgres.sql(held) == [(0,)], "nobody in the template")
        postgres.sql("create database copied")
        postgres.sql("drop database copied")


def test_no_way_is_blocked_by_what_is_on_its_way(base: dict[str, Any], postgres: Postgres, tmp_path: Path) -> None:
    """DROP DATABASE while upstreams of it are reset for the next client."""
    with daemon(tmp_path, base, pool={"mode": "session", "size": 8}) as running, running.connect("catalog") as client:
        for number in range(5):
            with contextlib.ExitStack() as stack:
                for _ in range(8):
                    stack.enter_context(running.connect(f"passing-{number}")).execute("create temporary table t (a int)")
            client.execute(f'drop database "backstage_plugin_passing-{number}"')  # type: ignore[arg-type]
            assert f"backstage_plugin_passing-{number}" not in postgres.databases()


def test_who_waits_for_a_dial_keeps_nobody_back(base: dict[str, Any], tmp_path: Path) -> None:
    """Each has startup parameters of its own, so each needs a connection of its own: the one that came later is not thrown
    away to make room for the one that was asked for earlier and hangs."""
    with tapped(base["connection"]["port"]) as tap, ThreadPoolExecutor(1) as threads:
        through = {**base, "connection": {**base["connection"], "port": tap.port}}
        with daemon(tmp_path, through, pool={"mode": "session", "size": 2}) as running:
            with running.connect("catalog") as first:                  # provisioned; the server has been there
                before = len(tap.pairs)
                tap.freeze_new.set()
                late = threads.submit(running.connect, "catalog", application_name="late", connect_timeout=60)
                until(lambda: len(tap.pairs) > before, "the dial that hangs")
                tap.freeze_new.clear()
                first.close()
                with running.connect("catalog", application_name="early", connect_timeout=10) as early:
                    assert early.execute("show application_name").fetchone() == ("early",)
            tap.cut()
            late.result(60).close()


def test_a_server_that_does_not_answer_a_reset_is_given_up(base: dict[str, Any], tmp_path: Path) -> None:
    """Else it would take up its place in the pool for ever."""
    with tapped(base["connection"]["port"]) as tap:
        through = {**base, "connection": {**base["connection"], "port": tap.port}}
        with daemon(tmp_path, through, pool={"mode": "session", "size": 1}, upstream={"connect_timeout": "1s"}) as running:
            with running.connect("catalog") as connection:
                connection.execute("select 1")
                tap.open.clear()
            until(lambda: b"DISCARD ALL" in tap.sent, "the reset")
            until(lambda: not upstreams(running, "active") and not upstreams(running, "resetting"), "the place to be free", 20)
            tap.open.set()
            assert pid(running)
