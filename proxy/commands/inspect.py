"""`switchboard routes`, `config`, `check` and `provision`: what is configured, and whether it works."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator

from proxy.commands import targets
from proxy.commands.table import table
from proxy.config.configuration import Configuration, read
from proxy.config.generate import reference, schema
from proxy.config.settings import Settings
from proxy.config.target import Engine, Target
from proxy.config.yaml12 import Node
from proxy.errors import ProxyError
from proxy.gateway.sqlite.check import check as check_file
from proxy.mysql.check import check as check_mysql
from proxy.mysql.provision import MysqlProvision
from proxy.mysql.reach import MysqlReach
from proxy.pool.check import Finding, check
from proxy.pool.provision import Provision


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _plugins(configuration: Configuration, asked: list[str]) -> list[str]:
    return asked or list(configuration.listed) or ["catalog"]


def _as_backstage_names(target: Target) -> dict[str, object]:
    places = target.server.places if target.server else ()
    ports: int | str | None = places[0][1] if len(places) == 1 else ",".join(str(port) for _, port in places) or None
    return {"pluginId": target.plugin, "client": str(target.engine), "host": ",".join(host for host, _ in places) or None,
            "port": ports,
            "database": target.database, "schema": target.schema,
            "user": target.credential.user if target.credential else None, "role": target.role,
            "ensureExists": target.ensure_exists, "filename": target.filename}


def routes(arguments: argparse.Namespace) -> int:
    configuration = read(arguments.config)
    found = [configuration.target(plugin) for plugin in _plugins(configuration, arguments.plugin)]
    if arguments.json:
        say(json.dumps([_as_backstage_names(target) for target in found], indent=2))
    else:
        say(table(("PLUGIN", "ENGINE", "SERVER", "DATABASE", "SCHEMA", "USER", "ROLE", "MODE"), [
            (t.plugin, t.engine, t.server, t.filename or t.database, t.schema, t.credential.user if t.credential else None,
             t.role, configuration.settings.pool_for(t.plugin).mode) for t in found]))
    return 0


def config(arguments: argparse.Namespace) -> int:
    if arguments.reference:
        say(reference().rstrip())
    elif arguments.schema:
        say(schema().rstrip())
    else:
        configuration = read(arguments.config)
        for warning in configuration.warnings:
            sys.stderr.write(f"warning: {warning}\n")
        if arguments.check:
            say(f"ok: {', '.join(map(str, configuration.paths))} ({configuration.fingerprint})")
            return 0
        rows = list(_settings(configuration.settings.model_dump(mode="json"), configuration.tree.get("switchboard"), "switchboard"))
        places = targets.rows(configuration)
        if arguments.json:
            say(json.dumps({"targets": [row.as_json() for row in places],
                            "settings": [{"key": key, "value": value, "from": origin} for key, value, origin in rows]}, indent=2))
        else:
            say(table(targets.HEADS, [row.cells() for row in places]) + "\n")
            say(table(("SETTING", "VALUE", "FROM"), [(key, json.dumps(value), origin) for key, value, origin in rows]))
    return 0


def _settings(value: object, node: Node | None, path: str) -> Iterator[tuple[str, object, str]]:
    """Every setting in force, and where it comes from.  Passwords are masked by their type."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _settings(item, node.get(key) if node is not None else None, f"{path}.{key}")
    elif node is None:
        yield path, value, "default"
    else:
        yield path, value, node.place + (f" from {node.via}" if node.via and node.via != node.place else "")


def check_all(arguments: argparse.Namespace) -> int:
    configuration = read(arguments.config)
    findings = asyncio.run(_check(configuration, _plugins(configuration, arguments.plugin)))
    if arguments.json:
        say(json.dumps([finding.as_json() for finding in findings], indent=2))
    else:
        say(table(("PLUGIN", "TARGET", "RESULT", "STEP", "WHAT TO DO"), [
            (f.plugin, f.target, "ok" if f.ok else "FAILED", f.step, f.remedy if not f.ok else f.note) for f in findings]))
        for finding in findings:
            if not finding.ok:
                say(f"\n{finding.plugin}: {finding.problem}")
    return 0 if all(finding.ok for finding in findings) else 1


async def _check(configuration: Configuration, plugins: list[str]) -> list[Finding]:
    found = [configuration.target(plugin) for plugin in plugins]
    return list(await asyncio.gather(*(_checked(target, configuration.settings) for target in found)))


async def _checked(target: Target, settings: Settings) -> Finding:
    if target.engine in (Engine.SQLITE, Engine.REJECTED):
        return check_file(target)
    return await (check_mysql if target.engine is Engine.MYSQL else check)(target, settings)


def provision(arguments: argparse.Namespace) -> int:
    configuration = read(arguments.config)
    rows = asyncio.run(_provision(configuration, _plugins(configuration, arguments.plugin)))
    if arguments.json:
        say(json.dumps(rows, indent=2))
    else:
        say(table(("PLUGIN", "TARGET", "RESULT"), [
            (row["pluginId"], row["target"], row["result"] if not row["sqlstate"] else
             f"FAILED {row['sqlstate']}: {row['problem']}. {row['remedy'] or ''}") for row in rows]))
    return 1 if any(row["sqlstate"] for row in rows) else 0


async def _provision(configuration: Configuration, plugins: list[str]) -> list[dict[str, str | None]]:
    """One row per plugin: what was done, or why not."""
    work = Provision(configuration.settings)
    of_mysql = MysqlProvision(work, MysqlReach())
    rows: list[dict[str, str | None]] = []
    for at, plugin in enumerate(plugins, 1):
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{at}/{len(plugins)} {plugin}\033[K")
        target = configuration.target(plugin)
        row: dict[str, str | None] = {"pluginId": plugin, "target": str(target), "sqlstate": None, "problem": None, "remedy": None}
        try:
            await (of_mysql if target.engine is Engine.MYSQL else work).ensure(target)
            row["result"] = next((outcome for (of, outcome), count in work.outcomes.items() if of == plugin and count), "left alone")
        except ProxyError as fault:
            row |= {"result": "failed", "sqlstate": fault.sqlstate, "problem": fault.message, "remedy": fault.hint}
        rows.append(row)
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    return rows
