"""What is allowed and most likely not meant: told as warnings, because nothing of it is wrong for certain.

Two kinds are elsewhere: keys below backend.database that nobody reads (`passed_over`), and what cannot be (`mistakes`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator

from proxy.config.routing import MAX_NAME, Routing
from proxy.config.settings import Settings
from proxy.config.target import Engine, Target
from proxy.config.yaml12 import Node

_VERIFIER = re.compile(r"SCRAM-SHA-256\$\d+:[A-Za-z0-9+/]+=*\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=")


def doubts(tree: Node, routing: Routing) -> Iterator[str]:
    """file:line:column: key: what is odd."""
    section = tree.get("switchboard") or Node({})
    yield from _misspelt(tree)
    yield from _plugins(section, routing)
    yield from _users(section, routing)
    yield from _divided(routing.root)
    targets = routing.targets()
    yield from _names(routing.root, targets)
    yield from _provisioners(section, routing.settings, targets)


def missing_database(tree: Node, file: str) -> str:
    """The mistake, when backend.database is not there."""
    backend = tree.get("backend")
    near = _near("backend", tree) if backend is None else _near("database", backend)
    place, hint = near if near is not None else (file, "")
    return f"{place}: backend.database: is missing{hint}; it is where Backstage says where plugins keep their data"


def _near(word: str, node: Node) -> tuple[str, str] | None:
    """A key that may be a misspelt `word`: its place, and words about it."""
    for key in difflib.get_close_matches(word, list(node.value) if isinstance(node.value, dict) else [], 1, 0.75):
        return _place(node, key), f' (is "{key}" meant for "{word}"?)'
    return None


def _place(node: Node | None, key: str) -> str:
    if node is None:
        return ""
    line, column = node.key_marks.get(key, (0, 0))
    inner = node.get(key)
    return f"{inner.file}:{line}:{column}" if inner is not None and line else node.place


def _misspelt(tree: Node) -> Iterator[str]:
    near = _near("switchboard", tree) if tree.get("switchboard") is None else None
    if near is not None:
        yield f"{near[0]}: there is no section switchboard{near[1]}"


def _plugin(name: str, known: Collection[str], settings: Settings) -> str | None:
    """What is odd about a plugin's id, when it is."""
    close = difflib.get_close_matches(name, known, 1)
    if name in known or name in ("*", "all", "postgres") or not (close or settings.plugins == "listed"):
        return None
    return "no such plugin under backend.database.plugin" + (f'; did you mean "{close[0]}"?' if close else "")


def _plugins(section: Node, routing: Routing) -> Iterator[str]:
    for name in routing.settings.plugin:
        odd = _plugin(name, routing.listed, routing.settings)
        if odd is not None:
            yield f"{_place(section.get('plugin'), name)}: switchboard.plugin.{name}: {odd}"


def _users(section: Node, routing: Routing) -> Iterator[str]:
    settings = routing.settings
    if not settings.users and settings.auth.query.connection is None:
        yield "switchboard.users: is empty, so nobody can log in"
    for name, user in settings.users.items():
        node = section.get("users", name, "plugins")
        for plugin in user.plugins:
            odd = _plugin(plugin, routing.listed, settings)
            if odd is not None:
                yield f"{node.place if node is not None else ''}: switchboard.users.{name}.plugins: {plugin}: {odd}"
        word = user.password.get_secret_value() if user.password is not None else ""
        if word.startswith("SCRAM-SHA-256$") and not _VERIFIER.fullmatch(word):
            node = section.get("users", name, "password")
            yield (f"{node.place if node is not None else ''}: switchboard.users.{name}.password: begins as a verifier and is none, "
                   "so it is taken for a password; was it cut, or a $ of it replaced by a shell?")


def _divided(root: Node) -> Iterator[str]:
    mode = root.get("pluginDivisionMode")
    if mode is None:
        return
    if mode.value not in ("schema", "database"):
        yield f"{mode.place}: backend.database.pluginDivisionMode: only schema and database mean something; this is taken for database"
    connection = root.get("connection")
    if mode.value == "schema" and connection is not None and isinstance(connection.value, dict) and not any(
            connection.get(key) for key in ("database", "connectionString", "filename")):
        yield (f"{connection.place}: backend.database.connection.database: is missing; with pluginDivisionMode: schema all plugins "
               "share the database of the user's name")


def _names(root: Node, targets: Collection[Target]) -> Iterator[str]:
    for target in targets:
        if target.engine is Engine.POSTGRES and len(target.database.encode()) > MAX_NAME:
            prefix = root.get("prefix")
            yield (f"{prefix.place if prefix is not None else root.place}: backend.database.prefix: the database of plugin "
                   f"{target.plugin} would have a name of more than {MAX_NAME} bytes, which PostgreSQL cuts; clients that ask for it "
                   "are refused (3D000)")


def _provisioners(section: Node, settings: Settings, targets: Collection[Target]) -> Iterator[str]:
    known = {str(target.server) for target in targets if target.server is not None}
    node = section.get("provisioning", "credentials")
    for at, entry in enumerate(settings.provisioning.credentials):
        if known and entry.server not in known:
            place = node.value[at].place if node is not None and isinstance(node.value, list) and at < len(node.value) else ""
            yield (f"{place}: switchboard.provisioning.credentials[{at}].server: no listed plugin's connection names this server; "
                   f"they name {', '.join(sorted(known))}")
