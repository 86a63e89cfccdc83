"""Joins SQLite files to the daemon: one Store a file, one gateway session a client."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from proxy.config.target import Target
from proxy.errors import TooManyConnections
from proxy.gateway.inflow import Inflow
from proxy.gateway.maintenance import Maintenance
from proxy.gateway.session import Session
from proxy.gateway.sqlite.catalog import Catalog
from proxy.gateway.sqlite.file import File
from proxy.gateway.sqlite.store import Store
from proxy.server.cancel import Standing
from proxy.server.maintenance import UserPlaces
from proxy.server.pools import MAX_UNLISTED

if TYPE_CHECKING:
    from proxy.net.stream import Stream
    from proxy.server.client import Client
    from proxy.server.worker import Worker
    from proxy.wire.startup import Startup

log = logging.getLogger(__name__)
VERSION = "16.0"
SWITCH = 0.0005               # seconds that the thread of a file may keep the relay from its turn


class Files:
    """`version`: of the PostgreSQL that answers for catalogs; "" where there is none."""

    def __init__(self) -> None:
        self.stores: dict[str, Store] = {}
        self.catalogs: dict[str, Catalog] = {}
        self.version = ""

    def catalog(self, worker: Worker, target: Target) -> Catalog | None:
        own = worker.configuration.own
        if own is None or not self.version or not worker.settings.sqlite.catalog:
            return None
        if target.plugin not in self.catalogs:
            self.catalogs[target.plugin] = Catalog(f"sqlite:{target.plugin}", *own)
        return self.catalogs[target.plugin]

    def store(self, worker: Worker, target: Target) -> Store:
        """The one of this file: plugins may share one.  Raises TooManyConnections."""
        path = str(Path(target.filename).absolute()) if target.filename is not None else None
        key = f"{path or target.plugin}{' read-only' if target.read_only else ''}"
        store = self.stores.get(key)
        if store is None:
            self._make_room(worker)
            sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH))
            store = self.stores[key] = Store(path, name=target.plugin, read_only=target.read_only, create=target.ensure_exists,
                                             busy=worker.settings.sqlite.busy_timeout)
        return store

    def _make_room(self, worker: Worker) -> None:
        """Plugins that nobody listed are named by clients: their threads, and their labels, have an end."""
        if len(self.stores) < MAX_UNLISTED + len(worker.configuration.listed):
            return
        unused = next((key for key, store in self.stores.items() if not store.clients and store.path is not None), None)
        if unused is None:
            raise TooManyConnections("too many plugins are in use", limit="plugins", hint="List them under backend.database.plugin.")
        gone = self.stores.pop(unused)
        gone.stop()
        for key in [key for key in worker.tallies if key[0] == gone.name]:
            del worker.tallies[key]

    async def serve(self, worker: Worker, stream: Stream, client: Client, hello: Startup, target: Target) -> None:
        """Answer a client of a plugin that lives in a file, until it leaves."""
        from proxy.server.client import welcome

        client.plugin = target.plugin
        name = hello.parameters.get("application_name", "")
        version = self.version or VERSION
        told = {"server_version": version, "server_encoding": "UTF8", "client_encoding": "UTF8", "application_name": name,
                "DateStyle": "ISO, MDY", "TimeZone": "UTC", "IntervalStyle": "postgres", "integer_datetimes": "on",
                "standard_conforming_strings": "on", "is_superuser": "off", "session_authorization": hello.user,
                "default_transaction_read_only": "on" if target.read_only else "off", "in_hot_standby": "off"}
        shown = {key.lower(): value for key, value in told.items()} | {
            "transaction_isolation": "serializable", "search_path": "public", "server_version_num": f"{version.partition('.')[0]}0000",
            "transaction_read_only": "on" if target.read_only else "off", "max_identifier_length": "63"}
        session = {"version": f"PostgreSQL {version} (Switchboard, SQLite {apsw.sqlite_lib_version()})",
                   "current_database": hello.database, "current_user": hello.user, "session_user": hello.user,
                   "current_schema": "public"}
        assert client.account is not None
        databases = Maintenance(user=hello.user, pid=0, version=version, database=hello.database,
                                places=UserPlaces(worker, hello.user, client.account, hello.database, name))
        store = self.store(worker, target)
        store.clients += 1
        key: tuple[int, bytes] | None = None
        file: File | None = None
        try:
            file = await File.connect(store, settings=shown, session=session, catalog=self.catalog(worker, target), databases=databases)
            key = worker.keys.invent(Standing(file.interrupt), hello.secret_length)
            file.constant("pg_backend_pid", key[0])
            client.tally = worker.tally(target, hello.user)
            client.tally.clients += 1
            client.tally.connections += 1
            if worker.settings.log.connections:
                log.info("client let in", extra={"fields": worker.line(client)})
            await stream.write(welcome(told, key))
            client.session = Session(Inflow(stream), file, client.tally)
            await client.session.run()
            client.reason = "client said goodbye"
        finally:
            if key is not None:
                worker.keys.forget(key)
            if file is not None:
                await file.leave()
            store.clients -= 1

    async def stop(self) -> None:
        for store in self.stores.values():
            store.stop()
        for catalog in self.catalogs.values():
            await catalog.close()
