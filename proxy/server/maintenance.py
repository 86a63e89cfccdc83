"""Joins the maintenance gateway to the daemon: whose plugins, which rights, which pid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.config.target import Target
from proxy.errors import ProxyError
from proxy.gateway.maintenance import Maintenance
from proxy.gateway.session import Session
from proxy.server.client import welcome

if TYPE_CHECKING:
    from proxy.net.stream import Stream
    from proxy.server.worker import Worker
    from proxy.wire.startup import Startup

VERSION = "16.0"


async def maintain(worker: Worker, stream: Stream, hello: Startup) -> None:
    """Answer a client of the database `postgres` until it leaves."""
    plugins = worker.settings.users[hello.user].plugins
    pid, secret = worker.keys.invent()

    def allowed(name: str) -> Target | None:
        target: Target | None
        try:
            target = worker.configuration.route(name, hello.parameters.get("application_name", ""))
        except ProxyError:
            target = worker.configuration.sharing(name)
        if target is None:
            return None
        mine = ("*" in plugins or target.plugin in plugins) and target.engine.speaks_postgres
        return target if mine else None

    targets = [target for target in worker.configuration.targets()
               if target.engine.speaks_postgres and ("*" in plugins or target.plugin in plugins)]
    engine = Maintenance(user=hello.user, pid=pid, version=VERSION, targets=targets, allowed=allowed,
                         exists=worker.provision.exists, create=worker.provision.create)
    parameters = {"server_version": VERSION, "server_encoding": "UTF8", "client_encoding": "UTF8",
                  "DateStyle": "ISO, MDY", "TimeZone": "UTC", "IntervalStyle": "postgres", "integer_datetimes": "on",
                  "standard_conforming_strings": "on", "is_superuser": "off", "session_authorization": hello.user,
                  "application_name": hello.parameters.get("application_name", "")}
    await stream.write(welcome(parameters, (pid, secret)))
    await Session(stream, engine).run()
