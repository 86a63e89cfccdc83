"""The whole configuration: read once, frozen, asked by everybody.

`read` collects every mistake before it raises.  `route` is the map from what a client asks for to a Target; the names
of the maintenance database are not its business (server/client looks first).
"""

from __future__ import annotations

import difflib
import getpass
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from proxy.config.database import PLUGIN_ID, SECRET_KEYS, Misconfigured, shown
from proxy.config.load import default_files, load
from proxy.config.resolve import EMBEDDED, Resolved, resolve
from proxy.config.resolve import target as make_target
from proxy.config.settings import Section, Settings
from proxy.config.target import Credential, Engine, Secret, Server, Target
from proxy.config.yaml12 import Node
from proxy.errors import ConfigProblems, ProxyError, SharedDatabase, UnknownDatabase

MAX_NAME = 63                 # NAMEDATALEN - 1 (PostgreSQL manual, "Identifiers and Key Words")
APPLICATION_PREFIX = "backstage_plugin_"
_DATABASE_KEYS = ("client", "connection", "prefix", "schemaPrefix", "plugin", "pluginDivisionMode", "role", "ensureExists",
                  "ensureSchemaExists", "skipMigrations", "knexConfig")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    settings: Settings
    root: Node = field(repr=False)              # backend.database
    tree: Node = field(repr=False)              # everything, with origins
    paths: tuple[Path, ...] = ()
    user: str = "postgres"                      # the OS user: what pg falls back to
    warnings: tuple[str, ...] = ()
    own: tuple[Server, Credential] | None = None

    @property
    def listed(self) -> tuple[str, ...]:
        node = self.root.get("plugin")
        return tuple(node.value) if node is not None and isinstance(node.value, dict) else ()

    @property
    def schema_mode(self) -> bool:
        node = self.root.get("pluginDivisionMode")
        return node is not None and node.value == "schema"

    @property
    def needs_embedded(self) -> bool:
        base = self.root.get("client")
        if base is not None and base.value == EMBEDDED:
            return True
        return any(self.target(plugin).engine in (Engine.EMBEDDED, Engine.MEMORY) for plugin in ("catalog", *self.listed))

    @property
    def fingerprint(self) -> str:
        """Equal for equal content; says nothing of it."""
        return hashlib.sha256(repr((self.root.plain(), self.settings.model_dump_json())).encode()).hexdigest()[:12]

    def placed(self, server: Server, credential: Credential) -> Configuration:
        """The same, with our own PostgreSQL running there."""
        return replace(self, own=(server, credential))

    def resolved(self, plugin: str) -> Resolved:
        return resolve(self.root, plugin)

    def target(self, plugin: str) -> Target:
        """Raises OperatorFault for a plugin that cannot be resolved."""
        target = make_target(resolve(self.root, plugin), self.user)
        if target.engine in (Engine.EMBEDDED, Engine.MEMORY):
            if self.own is not None:
                target = replace(target, server=self.own[0], credential=self.own[1], provisioner=self.own[1])
            return target
        if target.engine is Engine.POSTGRES:
            return replace(target, provisioner=self._provisioner(target))
        return target

    def _provisioner(self, target: Target) -> Credential | None:
        """Who may create on the target's server: configured for it, else the base's credential there, else its own."""
        for entry in self.settings.provisioning.credentials:
            if entry.server == str(target.server):
                word = entry.password.get_secret_value() if entry.password is not None else None
                return Credential(user=entry.user, password=Secret(word) if word else None)
        try:
            base = make_target(resolve(_without_plugins(self.root), "base"), self.user)
        except ProxyError:
            return target.credential
        same = base.server is not None and target.server is not None and str(base.server) == str(target.server)
        return base.credential if same and base.credential is not None else target.credential

    # -- routing ------------------------------------------------------------------------------------------

    def route(self, database: str, application_name: str = "") -> Target:
        """The Target that answers to this name: a plugin id, a full database name, or an explicitly configured
        database; where several plugins share the database, application_name decides."""
        if database in self.listed:
            return self.target(database)
        named = [target for target in self.targets() if target.database == database
                 and (target.configured_database or self.schema_mode)]
        hinted = self._by_application(database, application_name)
        if hinted is not None:
            return hinted
        found = self._by_prefix(database)
        claims = {target.plugin: target for target in [*named, *([found] if found is not None else [])]}
        if len(claims) == 1 and not self.schema_mode:
            return next(iter(claims.values()))
        # Two plugins may give one name to databases on two servers: guessing would show one the other's data.
        if claims or (self.schema_mode and self._shared_database() == database):
            fault = SharedDatabase if self.schema_mode else UnknownDatabase
            raise fault(
                f'database "{database}" does not say which plugin is meant', detail="Several plugins share this database.",
                hint="Connect to the plugin's id, or set application_name to backstage_plugin_<id>.")
        if self._open(database) and not database.startswith(self._prefix):
            return self._allowed(database)
        raise _unknown(database)

    def sharing(self, database: str) -> Target | None:
        """Any target in a database that several plugins share: for what concerns the database, not its plugins."""
        return next((target for target in [*self.targets(), *self._base()] if target.database == database), None)

    def by_schema(self, database: str, schema: str) -> Target | None:
        """Schema mode: the plugin whose schema of the shared database has this name."""
        plugin = schema.removeprefix(str(node.value) if (node := self.root.get("schemaPrefix")) is not None else "")
        if not self.schema_mode or not self._open(plugin):
            return None
        target = self.target(plugin)
        return target if (target.database, target.schema) == (database, schema) else None

    @property
    def role(self) -> str | None:
        """The role of backend.database, which Backstage names as the owner of schemas."""
        node = self.root.get("role")
        return str(node.value) if node is not None else None

    def _base(self) -> list[Target]:
        try:
            return [self.target("base")] if self.schema_mode else []
        except ProxyError:
            return []

    @property
    def _prefix(self) -> str:
        node = self.root.get("prefix")
        return str(node.value) if node is not None else "backstage_plugin_"

    def targets(self) -> list[Target]:
        """Of all plugins that are configured and can be resolved."""
        found = []
        for plugin in self.listed:
            try:
                found.append(self.target(plugin))
            except ProxyError:
                continue
        return found

    def _shared_database(self) -> str | None:
        try:
            return self.target("base").database
        except ProxyError:
            return None

    def _by_application(self, database: str, application_name: str) -> Target | None:
        plugin = application_name.removeprefix(APPLICATION_PREFIX)
        if plugin == application_name or not self._open(plugin):
            return None
        try:
            target = self.target(plugin)
        except ProxyError:
            return None
        return target if target.database == database else None

    def _by_prefix(self, database: str) -> Target | None:
        plugin = database.removeprefix(self._prefix)
        if plugin == database or self.schema_mode or not self._open(plugin):
            return None
        target = self._allowed(plugin)
        # A plugin with a database of another name does not answer to the generated one.
        return target if target.database == database or target.engine is Engine.SQLITE else None

    def _open(self, plugin: str) -> bool:
        """May this plugin id have a target?"""
        if not PLUGIN_ID.fullmatch(plugin) or len(plugin) > MAX_NAME:
            return False
        return plugin in self.listed or self.settings.plugins == "any"

    def _allowed(self, plugin: str) -> Target:
        target = self.target(plugin)
        if len(target.database.encode()) > MAX_NAME:
            # PostgreSQL would cut the name, and two plugins could meet in one database.
            raise UnknownDatabase(f'database name "{target.database}" exceeds {MAX_NAME} bytes')
        return target


def _unknown(database: str) -> UnknownDatabase:
    return UnknownDatabase(f'database "{database}" does not exist',
                           hint="Use a plugin id, such as catalog, or the plugin's full database name.")


def _without_plugins(root: Node) -> Node:
    return Node({key: node for key, node in root.value.items() if key != "plugin"}, root.file, root.line, root.column)


def read(paths: Sequence[str | Path] | None = None, *, environ: Mapping[str, str] | None = None,
         cwd: Path | None = None) -> Configuration:
    """Read and check everything.  Raises ConfigProblems with all mistakes."""
    environ = os.environ if environ is None else environ
    folder = cwd or Path.cwd()
    files = [folder / path for path in paths] if paths else default_files(folder, environ)
    tree = load(files, environ)
    problems: list[str] = []
    warnings: list[str] = []
    section = tree.get("switchboard") or Node({})
    settings = Settings()
    try:
        settings = Settings.model_validate(section.plain())
    except ValidationError as error:
        problems += [_worded(section, item) for item in error.errors()]
    root = tree.get("backend", "database")
    if root is None or not isinstance(root.value, dict):
        problems.append(f"{files[0]}: backend.database: is missing; it is where Backstage says where plugins keep their data")
        raise ConfigProblems(problems)
    configuration = Configuration(settings=settings, root=root, tree=tree, paths=tuple(files), user=_os_user(environ))
    warnings += [f"{root.place}: backend.database.{key}: is not a key that Backstage knows{_suggest(key, _DATABASE_KEYS)}"
                 for key in root.value if key not in _DATABASE_KEYS]
    seen: set[str] = set()
    for plugin in ("base", *configuration.listed):
        try:
            configuration.target(plugin)
        except ProxyError as fault:
            if str(fault) not in seen:
                seen.add(str(fault))
                problems.append(str(fault))
    for name in settings.plugin:
        if name not in configuration.listed and settings.plugins == "listed":
            warnings.append(f"switchboard.plugin.{name}: no such plugin under backend.database.plugin")
    if not settings.users:
        warnings.append("switchboard.users: is empty, so nobody can log in")
    for name, user in settings.users.items():
        if user.password is None and (user.method or settings.auth.method) != "trust":
            node = section.get("users", name)
            problems.append(f"{node.place if node else ''}: switchboard.users.{name}: has no password; set one, or a "
                            "verifier made by `switchboard hash-password`, or method: trust")
    if problems:
        raise ConfigProblems(problems)
    return replace(configuration, warnings=tuple(warnings))


def _os_user(environ: Mapping[str, str]) -> str:
    if environ.get("PGUSER"):
        return environ["PGUSER"]
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "postgres"


def _worded(section: Node, item: Any) -> str:
    """A pydantic error as file:line:column: key: problem (origin)."""
    location = [str(part) for part in item["loc"]]
    node: Node | None = section
    parent = section
    for at, part in enumerate(location):
        if node is None:
            break
        if isinstance(node.value, list) and part.isdigit() and int(part) < len(node.value):
            parent, node = node, node.value[int(part)]
        else:
            parent, node = node, node.get(part)
        if node is None and at < len(location) - 1:
            break
    path = ".".join(["switchboard", *location])
    place = (node or parent).place
    via = f" (from {node.via})" if node is not None and node.via else ""
    if item["type"] == "extra_forbidden":
        if node is not None and location[-1] in parent.key_marks:
            line, column = parent.key_marks[location[-1]]
            place = f"{node.file}:{line}:{column}"
        return f"{place}: {path}: unknown key{_suggest(location[-1], _keys_at(location[:-1]))}"
    got = ""
    # A password is easily written one level too high: nothing below these is ever shown.
    secret = location[0] in ("users", "provisioning") or bool(SECRET_KEYS.search(location[-1]))
    if node is not None and not secret:
        got = f", got {shown(location[-1], node.value)}"
    elif node is not None:
        got = ", got ***"
    message = item["msg"].removeprefix("Value error, ")
    return f"{place}: {path}: {message[:1].lower()}{message[1:]}{got}{via}"


def _suggest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return f'; did you mean "{close[0]}"?' if close else f"; known are {', '.join(sorted(known))}" if known else ""


def _keys_at(location: Sequence[str]) -> list[str]:
    """The keys of the section at `location`."""
    model: Any = Settings
    for part in location:
        if not (isinstance(model, type) and issubclass(model, Section)):
            return []
        entry = model.model_fields.get(part)
        if entry is None:
            continue                          # the name of a user or plugin
        model = entry.annotation
        inner = [item for item in getattr(model, "__args__", ()) if isinstance(item, type) and issubclass(item, Section)]
        if inner:
            model = inner[0]
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, Section) else []


__all__ = ["Configuration", "Misconfigured", "read"]
