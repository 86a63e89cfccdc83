"""The `connection` of the base or of a plugin, as an object, and where each of its keys stands."""

from __future__ import annotations

from typing import Any

from proxy.config.connection_string import BadConnectionString, parse
from proxy.config.database import Reader
from proxy.config.libpq import parse_hosts


def connection_of(reader: Reader) -> dict[str, Any]:
    """The `connection` of the base or of a plugin, as an object."""
    node = reader.child("connection")
    if node is None or node.value is None:
        return {}
    if isinstance(node.value, str):
        try:
            return parsed(node.value)
        except BadConnectionString as error:
            raise reader.fault("connection", f"the connection string {error}") from None
    if not isinstance(node.value, dict):
        raise reader.fault("connection", "expected an object or a connection string")
    return dict(node.plain())


def parsed(text: str) -> dict[str, Any]:
    """As JavaScript reads it; what it refuses may still be libpq's (several hosts)."""
    try:
        return parse(text)
    except BadConnectionString:
        several = parse_hosts(text)
        if several is None:
            raise
        return several


def origins_of(reader: Reader) -> dict[str, tuple[str, str, str]]:
    node = reader.child("connection")
    if node is None:
        return {}
    path = f"{reader.path}.connection"
    found = {"": (node.place, path, node.via)}           # of a connection string, and of keys that are missing
    if isinstance(node.value, dict):
        found |= {key: (inner.place, f"{path}.{key}", inner.via) for key, inner in node.value.items()}
    return found
