"""Session mode: the server goes away under clients that have asked it for nothing, and under others."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from proxy.wire.messages import query
from tests.raw import TERMINATE, Raw
from tests.servers import Daemon, Postgres, daemon, until


def settings(hold: str = "30s") -> dict[str, Any]:
    return {"pool": {"mode": "session"}, "auth": {"method": "trust"}, "users": {"backstage": {}},
            "upstream": {"retry_delay": "100ms", "hold_timeout": hold}}


def base(server: Postgres) -> dict[str, Any]:
    return {"client": "pg", "connection": {"host": "127.0.0.1", "port": server.port, "user": "postgres", "password": server.password}}


def ended(running: Daemon) -> None:
    until(lambda: running.metric("switchboard_upstreams", plugin="catalog") == 0, "the upstreams to end")


def test_who_has_asked_for_nothing_keeps_its_place_in_session_mode(tmp_path: Path) -> None:
    """A restart under idle clients, one of which has used its session: only that one is told."""
    server = Postgres()
    try:
        with daemon(tmp_path, base(server), **settings()) as running, Raw(running.port) as used, Raw(running.port) as unused, \
                Raw(running.port) as hasty, Raw(running.port) as leaving, ThreadPoolExecutor(1) as threads:
            for raw in (used, unused, hasty, leaving):
                raw.enter(options="-c work_mem=5MB")
            assert used.shown("show work_mem") == "5MB"
            server.stop()
            fault = used.refusal()
            assert (fault["S"], fault["C"], fault["M"]) == (
                "FATAL", "57P01", "terminating connection due to administrator command")
            ended(running)
            leaving.send(TERMINATE)
            assert leaving.closed()
            waiting = threads.submit(hasty.shown, "show work_mem")
            running.logged("cannot connect to upstream")
            assert not waiting.done()
            server.start()
            assert waiting.result(60) == "5MB"
            assert unused.shown("show work_mem") == "5MB"
            assert unused.shown("select 1") == "1"
            assert running.metric("switchboard_clients", plugin="catalog") == 2
    finally:
        server.remove()


@pytest.mark.parametrize("crash", [False, True])
def test_an_unused_session_outlives_its_backend(tmp_path: Path, crash: bool) -> None:
    """Ended by an administrator, or with all others because one of them died (then a warning comes first)."""
    server = Postgres()
    try:
        with daemon(tmp_path, base(server), **settings()) as running, Raw(running.port) as unused, Raw(running.port) as victim:
            unused.enter()
            victim.enter()
            pid = int(victim.shown("select pg_backend_pid()"))
            if crash:
                os.kill(pid, signal.SIGKILL)
            else:
                server.sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'backstage_plugin_catalog'")
            fault = victim.refusal()
            assert (fault["S"], fault["C"]) == ("FATAL", "08006" if crash else "57P01")
            ended(running)
            assert [tag for tag, _ in unused.ask("select 1")] == [b"T", b"D", b"C", b"Z"]
            assert int(unused.shown("select pg_backend_pid()")) != pid
    finally:
        server.remove()


def test_patience_ends_for_unused_sessions_too(tmp_path: Path) -> None:
    server = Postgres()
    try:
        with daemon(tmp_path, base(server), **settings("500ms")) as running, Raw(running.port) as unused:
            unused.enter()
            server.stop()
            ended(running)
            unused.send(query("select 1"))
            assert "Connection refused" in str(unused.refusal())
    finally:
        server.remove()


def test_what_else_a_server_says_to_an_unused_session_is_passed_on(tmp_path: Path) -> None:
    """A time limit of its own: it means this client, and the end is the server's own word."""
    server = Postgres(idle_session_timeout="200ms")
    try:
        with daemon(tmp_path, base(server), **settings()) as running, Raw(running.port) as unused:
            unused.enter()
            assert unused.refusal()["C"] == "57P05"
    finally:
        server.remove()
