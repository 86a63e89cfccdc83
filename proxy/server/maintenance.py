"""Joins the maintenance gateway to the daemon: whose plugins, which rights, which pid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from proxy.config.clients import User
from proxy.config.target import Engine, Target
from proxy.errors import Forbidden, ProxyError
from proxy.gateway.inflow import Inflow
from proxy.gateway.maintenance import Maintenance
from proxy.gateway.session import Session
from proxy.server.client import welcome

if TYPE_CHECKING:
    from proxy.net.stream import Stream
    from proxy.server.worker import Worker
    from proxy.wire.startup import Startup

VERSION = "16.0"


class UserPlaces:
    """The gateway's Places for one user, in `database`."""

    def __init__(self, worker: Worker, user: str, account: User, database: str, application_name: str) -> None:
        self.configuration, self.provision = worker.configuration, worker.provision
        self.user, self.database, self.application_name = user, database, application_name
        self.plugins = account.plugins
        self.targets = [target for target in self.configuration.targets() if self._mine(target)]
        self.create, self.has_schema = self.provision.create, self.provision.has_schema

    async def exists(self, target: Target) -> bool:
        if target.engine is Engine.SQLITE:
            return target.filename is None or Path(target.filename).exists()
        return await self.provision.exists(target)

    def _mine(self, target: Target) -> bool:
        served = target.engine.speaks_postgres or target.engine is Engine.SQLITE
        return served and ("*" in self.plugins or target.plugin in self.plugins)

    def by_database(self, name: str) -> Target | None:
        target: Target | None
        try:
            target = self.configuration.route(name, self.application_name)
        except ProxyError:
            target = self.configuration.sharing(name)
        return target if target is not None and self._mine(target) else None

    def by_schema(self, name: str) -> Target | None:
        target = self.configuration.by_schema(self.database, name)
        return target if target is not None and self._mine(target) else None

    async def create_schema(self, target: Target, role: str | None) -> bool:
        owners = {target.role, self.configuration.role, self.user, target.credential.user if target.credential else None}
        if role is not None and role not in owners:
            raise Forbidden(f'must be able to SET ROLE "{role}"',
                            detail=f"The schema of plugin {target.plugin} belongs to the role that its configuration names.")
        return await self.provision.create_schema(target)


async def maintain(worker: Worker, stream: Stream, hello: Startup, account: User) -> None:
    """Answer a client of `postgres`, or of a database that plugins share, until it leaves."""
    pid, secret = worker.keys.invent(length=hello.secret_length)
    name = hello.parameters.get("application_name", "")
    engine = Maintenance(user=hello.user, pid=pid, version=VERSION, database=hello.database,
                         places=UserPlaces(worker, hello.user, account, hello.database, name))
    parameters = {"server_version": VERSION, "server_encoding": "UTF8", "client_encoding": "UTF8",
                  "DateStyle": "ISO, MDY", "TimeZone": "UTC", "IntervalStyle": "postgres", "integer_datetimes": "on",
                  "standard_conforming_strings": "on", "is_superuser": "off", "session_authorization": hello.user,
                  "application_name": name}
    await stream.write(welcome(parameters, (pid, secret)))
    await Session(Inflow(stream), engine).run()
