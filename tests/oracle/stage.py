"""A server, proxies of several widths in front of it, and a script played on both."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from proxy.auth.scram_client import PLAIN, ScramClient
from proxy.config.target import Secret
from proxy.wire.messages import message
from proxy.wire.startup import pack_cancel
from tests.oracle.player import PATIENCE, Message, Player, Transcript, compared, read
from tests.oracle.steps import Script
from tests.raw import Raw
from tests.servers import Daemon, Postgres, daemon, until

PLUGIN, DATABASE = "oracle", "backstage_plugin_oracle"
SETUP = """
    create table t0 (id serial primary key, a int, b text); create table t1 (id serial primary key, a int, b text);
    create table t2 (id serial primary key, a int, b text); create table log (a int, b text);
    create schema s1; create schema s2;
    create table place (at text); insert into place values ('public');
    create table s1.place (at text); insert into s1.place values ('s1');
    create table s2.place (at text); insert into s2.place values ('s2');
    create function sets(text) returns text language sql as $$ select set_config('work_mem', $1, false) $$;
    create function plain(int) returns int language sql as $$ select $1 + 1 $$;
    grant all on all tables in schema public, s1, s2 to public; grant all on all sequences in schema public to public;
    grant usage on schema s1, s2 to public;
    alter database backstage_plugin_oracle set app.tenant to '';
"""
ROLES = "do $$ begin create role oracle_a; create role oracle_b; exception when duplicate_object then null; end $$"


class Blocked(Exception):
    """A script that tells nothing: with connections of their own, too, its clients wait for each other."""


class Stage:
    """A server, and proxies of several widths in front of it."""

    def __init__(self, postgres: Postgres, proxies: Mapping[int, Daemon]) -> None:
        self.postgres, self.proxies = postgres, proxies
        self.admin = psycopg.connect(postgres.dsn(DATABASE), autocommit=True)
        for text in SETUP.split(";"):
            if text.strip():
                self.admin.execute(text.encode())

    def close(self) -> None:
        self.admin.close()

    def _anew(self) -> None:
        """The data as they were, and nobody's connection."""
        found = self.admin.execute("select pid, pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
                                   " and pid <> pg_backend_pid()").fetchall()
        there = ", ".join(str(pid) for pid, _ in found)
        until(lambda: not found or self._one(f"select count(*) from pg_stat_activity where pid in ({there})") == 0, "their end")
        self.admin.execute("truncate t0, t1, t2, log restart identity")
        for schema in ("public", "s1", "s2"):
            for number in range(3):
                self.admin.execute(f"drop table if exists {schema}.u{number}; drop routine if exists {schema}.f{number};"
                                   f" drop routine if exists {schema}.g{number}".encode())

    def direct(self, script: Script) -> Transcript:
        self._anew()
        return Player(self._connect_directly, partial(_cancel, self.postgres.port), self._sleeps, self._gone, self._locks).play(script)

    def through(self, script: Script, width: int, like: Transcript) -> Transcript:
        self._anew()
        proxy = self.proxies[width]

        def connect(options: dict[str, str]) -> tuple[Raw, list[Message]]:
            raw = _raw(proxy.port)
            raw.hello(user="backstage", database=PLUGIN, **options)
            return raw, _welcome(raw)

        return Player(connect, partial(_cancel, proxy.port), self._sleeps, lambda pid: None, self._locks).play(script, like)

    def differences(self, script: Script, width: int) -> str:
        """Empty, if there are none."""
        real = self.direct(script)
        if any((b"timeout", b"") in answer for answer in real.answers):
            raise Blocked(f"clients that wait for each other: {script}")
        ours = self.through(script, width, real)
        return compared(script, real, ours)

    def _connect_directly(self, options: dict[str, str]) -> tuple[Raw, list[Message]]:
        raw = _raw(self.postgres.port)
        raw.hello(user="postgres", database=DATABASE, **options)
        before = [read(raw)]
        if before[0][0] == b"v":
            read(raw)
        else:
            before.clear()
        client = ScramClient(Secret(self.postgres.password))
        first = client.first()
        raw.send(message(b"p", PLAIN.encode() + b"\0" + struct.pack("!i", len(first)) + first))
        raw.send(message(b"p", client.final(read(raw)[1][4:])))
        return raw, before + _welcome(raw)

    def _gone(self, pid: int) -> None:
        until(lambda: self._one(f"select count(*) from pg_stat_activity where pid = {pid}") == 0, "a connection's end")

    def _sleeps(self) -> bool:
        return self._one("select count(*) from pg_stat_activity where wait_event = 'PgSleep'") > 0

    def _locks(self, expected: int | None) -> int:
        end = time.monotonic() + PATIENCE
        while True:
            found = self._one("select count(*) from pg_locks where locktype = 'advisory'")
            if expected is None or found == expected or time.monotonic() > end:
                return found

    def _one(self, text: str) -> int:
        row = self.admin.execute(text.encode()).fetchone()
        assert row is not None
        return int(row[0])


def _raw(port: int) -> Raw:
    raw = Raw(port)
    raw.sock.settimeout(PATIENCE)
    return raw


def _cancel(port: int, key: bytes) -> None:
    """Until it has been passed on: the server closes then."""
    raw = _raw(port)
    raw.send(pack_cancel(int.from_bytes(key[:4]), key[4:]))
    while raw.sock.recv(64):
        continue
    raw.sock.close()


def _welcome(raw: Raw) -> list[Message]:
    told = []
    try:
        while not told or told[-1][0] not in (b"Z", b"closed"):
            told.append(read(raw))
    except (EOFError, ConnectionError):
        told.append((b"closed", b""))
    return told


@contextmanager
def stage(postgres: Postgres, folder: Path, widths: tuple[int, ...] = (1, 2, 3)) -> Iterator[Stage]:
    postgres.sql(f"create database {DATABASE}")
    postgres.sql(ROLES)
    connection: dict[str, Any] = {"host": "127.0.0.1", "port": postgres.port, "user": "postgres", "password": postgres.password}
    running: dict[int, Daemon] = {}
    opened = []
    try:
        for width in widths:
            (folder / str(width)).mkdir()
            one = daemon(folder / str(width), {"client": "pg", "connection": connection}, auth={"method": "trust"},
                         users={"backstage": {}}, pool={
                             "mode": "auto", "size": width, "query_wait_timeout": "2s", "query_wait_notify": "0s"})
            running[width] = one.__enter__()
            opened.append(one)
        found = Stage(postgres, running)
        try:
            yield found
        finally:
            found.close()
    finally:
        for one in opened:
            one.__exit__(None, None, None)
        postgres.sql(f"drop database {DATABASE} with (force)")
