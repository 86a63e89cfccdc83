"""Where plugins' data lives, as rows: `switchboard config`.

    PLUGIN   DATABASE                  HOST     USER  MODE     FROM
    auth     unwitting_fox             db:5433  fort  session  app-config.yaml:8:16
    catalog  backstage_plugin_catalog  db:5433  bs    session  app-config.yaml:5:17 from ${POSTGRES_HOST}
    *        backstage_plugin_*        db:5433  bs    session  app-config.yaml:5:17

The origin is that of the server: its `host`, else the connection that leaves it out.  `*` is every plugin without a
section of its own.  No row holds a secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proxy.config.configuration import Configuration
from proxy.config.resolved import Resolved
from proxy.config.target import Target
from proxy.errors import ProxyError

HEADS = ("PLUGIN", "DATABASE", "SCHEMA", "HOST", "USER", "MODE", "FROM")
_SERVER = ("connectionString", "host", "instance", "filename", "directory", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    plugin: str
    target: Target
    mode: str
    origins: dict[str, str]
    """Of server, user, database and schema, where they are configured: file:line:column, and `from ${NAME}`."""

    def cells(self) -> tuple[object, ...]:
        target = self.target
        return (self.plugin, self._named(target.filename or target.database), self._named(target.schema),
                target.server or f"({target.engine})", target.credential.user if target.credential else None, self.mode,
                self.origins.get("server"))

    def as_json(self) -> dict[str, Any]:
        target = self.target
        return {"pluginId": self.plugin, "client": str(target.engine), "database": self._named(target.filename or target.database),
                "schema": self._named(target.schema), "host": str(target.server) if target.server else None,
                "user": target.credential.user if target.credential else None, "mode": self.mode, "from": self.origins}

    def _named(self, name: str | None) -> str | None:
        """With `*` where the id of any plugin stands."""
        if name is None or self.plugin != "*":
            return name
        return name.replace(self.target.plugin, "*") if name.endswith((self.target.plugin, f"{self.target.plugin}.sqlite")) else name


def rows(configuration: Configuration) -> list[Row]:
    """Every plugin with a section, and `*` for the others."""
    found = [_row(configuration, plugin, plugin) for plugin in configuration.listed]
    if configuration.settings.plugins == "any":
        other = next(name for name in ("anyother", *(f"anyother{at}" for at in range(1000))) if name not in configuration.listed)
        try:
            found.append(_row(configuration, other, "*"))
        except ProxyError:
            pass
    return found


def _row(configuration: Configuration, plugin: str, shown: str) -> Row:
    target, resolved = configuration.target(plugin), configuration.resolved(plugin)
    return Row(plugin=shown, target=target, mode=str(configuration.settings.pool_for(plugin).mode),
               origins=_origins(configuration, resolved))


def _origins(configuration: Configuration, resolved: Resolved) -> dict[str, str]:
    """The origin of a schema is its prefix's; of a database that nobody names too."""
    found = {}
    for name, keys in (("server", _SERVER), ("user", ("user",)), ("database", ("database",))):
        key = next((key for key in keys if key in resolved.origins), None)
        if key is not None and (key != "database" or resolved.explicit):
            place, _, via = resolved.origins[key]
            found[name] = place + (f" from {via}" if via and via != place else "")
    for name, setting in (("database", "prefix"), ("schema", "schemaPrefix")):
        node = configuration.root.get(setting)
        if node is not None and name not in found and (name == "schema") == (resolved.schema is not None):
            found[name] = node.place + (f" from {node.via}" if node.via and node.via != node.place else "")
    return found
