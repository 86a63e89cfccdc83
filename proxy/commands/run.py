"""`switchboard run`: the daemon."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from proxy.commands.table import table
from proxy.config.address import split_address
from proxy.config.configuration import Configuration, read
from proxy.config.target import Engine, Target
from proxy.embedded.binaries import find_binaries
from proxy.embedded.cluster import Cluster
from proxy.embedded.places import state_dir
from proxy.errors import OperatorFault
from proxy.server.log import set_up
from proxy.server.web import Web
from proxy.server.worker import Worker

log = logging.getLogger(__name__)


def run(arguments: argparse.Namespace) -> int:
    configuration = read(arguments.config)
    set_up(configuration.settings.log)
    for warning in configuration.warnings:
        log.warning("configuration", extra={"fields": {"warning": warning}})
    cluster = start_embedded(configuration) if configuration.needs_embedded else _for_catalogs(configuration)
    try:
        def placed(found: Configuration) -> Configuration:
            return found.placed(cluster.server, cluster.credential) if cluster is not None else found

        uvloop.run(_serve(placed(configuration), lambda: placed(read(arguments.config)), cluster, banner=arguments.banner))
    finally:
        if cluster is not None:
            cluster.stop()
    return 0


async def _serve(configuration: Configuration, reread: object, cluster: Cluster | None, *, banner: bool) -> None:
    worker = Worker(configuration, reread=reread)  # type: ignore[arg-type]
    if cluster is not None:
        worker.embedded_alive = cluster.alive
        worker.files.version = cluster.version()
    addresses, for_mysql = worker.listen(), worker.mysql.listen()
    # What lives now lives for ever; what a query makes dies with it and needs no collector every 700 objects.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    web = Web(worker.snapshot)
    asked = configuration.settings.metrics.listen
    metrics = await web.start(asked) if asked != "off" else None
    log.info("ready", extra={"fields": {"listen": " ".join(addresses), **({"mysql": " ".join(for_mysql)} if for_mysql else {}),
                                        "metrics": metrics or "off",
                                        "fingerprint": configuration.fingerprint}})
    if banner or sys.stdout.isatty():
        print(welcome_text(configuration, addresses, metrics, for_mysql), flush=True)
    try:
        await worker.run()
    finally:
        await web.stop()


def start_embedded(configuration: Configuration) -> Cluster:
    """Start the PostgreSQL of our own; databases of SQLite-in-memory plugins begin empty."""
    embedded = configuration.settings.embedded
    cluster = Cluster(state_dir(embedded.state_dir), find_binaries(embedded.binaries) if embedded.binaries else None)
    cluster.start()
    try:
        memory = {configuration.target(plugin).engine for plugin in ("catalog", *configuration.listed)}
        if Engine.MEMORY in memory:
            for name in cluster.databases():
                if name.startswith("backstage_plugin_") and _in_memory(configuration, name):
                    cluster.drop_database(name)
        log.info("our own PostgreSQL is up", extra={"fields": {
            "folder": str(Path(cluster.state)), "serves": "client: embedded-postgres and better-sqlite3 in memory"}})
    except BaseException:
        cluster.stop()
        raise
    return cluster


def _for_catalogs(configuration: Configuration) -> Cluster | None:
    """SQLite files have PostgreSQL's catalog if the package for it is there; their plugins are served without."""
    if not (configuration.settings.sqlite.catalog and configuration.has_files):
        return None
    try:
        return start_embedded(configuration)
    except OperatorFault as fault:
        log.warning("SQLite files have no catalog", extra={"fields": {"reason": fault.message, "hint": fault.hint}})
        return None


def _in_memory(configuration: Configuration, database: str) -> bool:
    return configuration.target(database.removeprefix("backstage_plugin_")).engine is Engine.MEMORY


def _one_of_each(configuration: Configuration, plugins: Sequence[str]) -> list[Target]:
    """The first plugin of each wire."""
    found: dict[bool, Target] = {}
    for plugin in plugins:
        target = configuration.target(plugin)
        found.setdefault(target.engine is Engine.MYSQL, target)
    return list(found.values())


def _how(target: Target, user: str, address: str, for_mysql: Sequence[str]) -> str:
    """What to type to get there."""
    if target.engine is not Engine.MYSQL:
        return f"    psql postgresql://{user}@{address}/{target.plugin}"
    host, port = split_address(next((place for place in for_mysql if not place.startswith("/")), "127.0.0.1:3307"), 3307)
    return f"    mysql -h {host} -P {port} -u {user} -p {target.plugin}"


def welcome_text(configuration: Configuration, addresses: list[str], metrics: str | None, for_mysql: Sequence[str] = ()) -> str:
    plugins = configuration.listed or ("catalog",)
    rows = [(plugin, configuration.target(plugin)) for plugin in plugins]
    user = next(iter(configuration.settings.users), "USER")
    address = next((item for item in addresses if not item.startswith("/")), addresses[0])
    lines = [table(("PLUGIN", "TARGET"), rows), "",
             f"Any other plugin id: {configuration.settings.plugins}.", "",
             *(_how(target, user, address, for_mysql) for target in _one_of_each(configuration, plugins)), ""]
    if metrics:
        lines.append(f"Metrics: http://{metrics}/metrics   Status: http://{metrics}/")
    return "\n".join(lines)
