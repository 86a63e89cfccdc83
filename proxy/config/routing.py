"""From the name that a client asks for to a Target: a plugin id, a full database name, a configured database.

The names of the maintenance database are not its business (server/client looks first).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.config.database import PLUGIN_ID
from proxy.config.settings import Settings
from proxy.config.target import Engine, Target
from proxy.config.yaml12 import Node
from proxy.errors import ProxyError, SharedDatabase, UnknownDatabase

MAX_NAME = 63                 # NAMEDATALEN - 1 (PostgreSQL manual, "Identifiers and Key Words")
APPLICATION_PREFIX = "backstage_plugin_"


class Routing:
    """The half of Configuration that answers for names."""

    settings: Settings
    root: Node

    @property
    def listed(self) -> tuple[str, ...]:
        """Plugin ids that have a section of their own."""
        node = self.root.get("plugin")
        return tuple(node.value) if node is not None and isinstance(node.value, dict) else ()

    @property
    def schema_mode(self) -> bool:
        node = self.root.get("pluginDivisionMode")
        return node is not None and node.value == "schema"

    if TYPE_CHECKING:                          # the Configuration's
        def target(self, plugin: str) -> Target: ...

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
