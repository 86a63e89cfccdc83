"""What is made from the declarations in settings.py: the reference, the JSON Schema, and what a reload cannot change."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import yaml
from pydantic_core import PydanticUndefined

from proxy.config.clients import User
from proxy.config.declare import Section
from proxy.config.passed_over import CONNECTION_KEYS, SSL_KEYS
from proxy.config.rule import MapLine, Rule
from proxy.config.settings import PluginSettings, Provisioner, Settings

HEAD = """\
# Every setting of Switchboard, with its default.  Made from proxy/config/settings.py: `switchboard config --reference`.
# It is a section of app-config.yaml, or of a file of its own given with a second --config.
"""
_EXAMPLES: dict[str, tuple[str, type[Section]]] = {"users": ("backstage", User), "plugin": ("catalog", PluginSettings)}
_ITEMS: dict[str, tuple[str, str, type[Section]]] = {
    "credentials": ("", "[]", Provisioner), "rules": ("", "[]", Rule), "maps": ("staff", "{}", MapLine)}


def reference() -> str:
    """config/reference.yaml."""
    return HEAD + "switchboard:\n" + "\n".join(_section(Settings, "  ")) + "\n"


def _section(model: type[Section], indent: str) -> list[str]:
    lines = []
    for field, info in model.model_fields.items():
        name = info.alias or field
        extra: dict[str, Any] = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        notes = [str(info.description or "")]
        if extra.get("unit"):
            notes.append(f"Unit: {extra['unit']}.")
        if extra.get("reload") is False:
            notes.append("Needs a restart.")
        lines += [f"{indent}# {line}" for line in textwrap.wrap(" ".join(filter(None, notes)), 110 - len(indent))]
        default = info.get_default(call_default_factory=True)
        if isinstance(default, Section):
            lines += [f"{indent}{name}:", *_section(type(default), indent + "  ")]
        elif name in _EXAMPLES and model is Settings:
            key, inner = _EXAMPLES[name]
            lines += [f"{indent}{name}: {{}}", f"{indent}#  {key}:",
                      *(f"{indent}#    {line}" for line in _section(inner, ""))]
        elif name in _ITEMS:
            key, opening, inner = _ITEMS[name]
            lines += [f"{indent}{name}: {opening}", *([f"{indent}#  {key}:"] if key else []),
                      *(f"{indent}#  {line.strip()}" for line in _section(inner, ""))]
        else:
            lines.append(f"{indent}{name}: {_plain(default)}")
    return lines


def _plain(value: Any) -> str:
    if value is PydanticUndefined:
        return "..."
    text = yaml.safe_dump(value if not hasattr(value, "value") else value.value, default_flow_style=True).strip()
    return text.removesuffix("\n...").removesuffix("...").strip()


def schema() -> str:
    """config/schema.json: an app-config file with our section, for editors."""
    ours = Settings.model_json_schema(ref_template="#/$defs/{model}")
    defs = ours.pop("$defs", {})
    defs |= {"connection": _connection(), "pluginDatabase": _plugin()}
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "app-config with Switchboard",
             "type": "object", "$defs": defs, "properties": {
                 "backend": {"type": "object", "properties": {"database": _database()}}, "switchboard": ours}}
    return json.dumps(whole, indent=2, sort_keys=True) + "\n"


_BOOLEAN = {"type": ["boolean", "string"]}
_CLIENT = {"enum": ["pg", "better-sqlite3", "mysql2", "embedded-postgres"]}
_NOTES = {
    "host": "Host name, address, or the folder of a unix socket; several by commas.",
    "port": "Port; 5432 when it is missing (MySQL: 3306).",
    "user": "Who Switchboard is there.", "password": "Best as ${VARIABLE} or $file.",
    "database": "The database's name, instead of prefix and plugin id.", "ssl": "true, false, or node-postgres' options.",
    "statement_timeout": "Milliseconds.", "lock_timeout": "Milliseconds.", "idle_in_transaction_session_timeout": "Milliseconds.",
    "type": "default, rds, azure or cloudsql: who makes the password.",
    "passwordCommand": "A program that prints the password: words, or {command, lifetime, timeout}.",
    "target_session_attrs": "Which of several hosts will do: any, read-write, read-only, primary, standby, prefer-standby.",
    "load_balance_hosts": "disable: in order; random.", "sslmode": "libpq's, where `ssl` is not set.",
    "channel_binding": "disable, prefer or require.", "require_auth": "Methods that the server may ask for, by commas.",
    "filename": "SQLite: the file, or :memory:.", "directory": "SQLite: the folder of the plugins' files."}


def _database() -> dict[str, Any]:
    """backend.database, as Backstage's guide tells it."""
    return {
        "type": "object", "required": ["client"], "description": "Where plugins keep their data; see Backstage's guide.",
        "properties": {
            "client": _CLIENT, "connection": {"$ref": "#/$defs/connection"}, "prefix": {"type": "string", "minLength": 1},
            "schemaPrefix": {"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"},
            "pluginDivisionMode": {"enum": ["database", "schema"]}, "role": {"type": "string", "minLength": 1},
            "ensureExists": _BOOLEAN, "ensureSchemaExists": _BOOLEAN, "skipMigrations": _BOOLEAN, "knexConfig": {"type": "object"},
            "plugin": {"type": "object", "additionalProperties": {"$ref": "#/$defs/pluginDatabase"}}}}


def _plugin() -> dict[str, Any]:
    return {"type": "object", "description": "One plugin's own; what is missing comes from backend.database.", "properties": {
        "client": _CLIENT, "connection": {"$ref": "#/$defs/connection"}, "role": {"type": "string", "minLength": 1},
        "ensureExists": _BOOLEAN, "skipMigrations": _BOOLEAN, "knexConfig": {"type": "object"}}}


def _connection() -> dict[str, Any]:
    keys: dict[str, Any] = {key: {"description": _NOTES[key]} if key in _NOTES else {} for key in CONNECTION_KEYS}
    keys["ssl"] = {**keys["ssl"], "anyOf": [{"type": ["boolean", "string"]}, {
        "type": "object", "properties": {key: {} for key in SSL_KEYS}}]}
    return {"anyOf": [{"type": "string", "description": "A connection string, as node-postgres reads it."},
                      {"type": "object", "properties": keys}]}


def changes_needing_restart(old: Section, new: Section, path: str = "switchboard") -> list[str]:
    """Keys that differ and that a reload does not apply."""
    found = []
    for name, info in type(old).model_fields.items():
        before, after = getattr(old, name), getattr(new, name)
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        if isinstance(before, Section) and isinstance(after, Section):
            found += changes_needing_restart(before, after, f"{path}.{name}")
        elif before != after and extra.get("reload") is False:
            found.append(f"{path}.{name}")
    return found
