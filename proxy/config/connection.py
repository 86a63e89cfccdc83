"""The `connection` of the base or of a plugin, as an object, and where each of its keys stands."""

from __future__ import annotations

from typing import Any

from proxy.config.connection_string import BadConnectionString, parse
from proxy.config.database import Reader
from proxy.config.libpq import parse_hosts

RIVALS = ((("passwordCommand",), ("password", "type")), (("password", "type"), ("passwordCommand",)), (("ssl",), ("sslmode",)))


def connection_of(reader: Reader) -> dict[str, Any]:
    """The `connection` of the base or of a plugin, as an object."""
    node = reader.child("connection")
    if node is None or node.value is None:
        return {}
    if isinstance(node.value, str):
        try:
            return parsed(node.value)
        except BadConnectionString as error:
            reader.wrong("connection", f"the connection string {error}")
            return {}
    if not isinstance(node.value, dict):
        reader.wrong("connection", "expected an object or a connection string")
        return {}
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
    """Of each key: file:line:column, path, and what the value came from.  "" is the connection itself."""
    node = reader.child("connection")
    if node is None:
        return {}
    path = f"{reader.path}.connection"
    found = {"": (node.place, path, node.via)}
    if isinstance(node.value, str):
        try:
            found |= {key: (node.place, f"{path}.{key}", node.via) for key in parsed(node.value)}
        except BadConnectionString:
            pass
    elif isinstance(node.value, dict):
        for key, inner in node.value.items():
            found[key] = (inner.place, f"{path}.{key}", inner.via)
            if isinstance(inner.value, dict):            # ssl.ca, tokenCredential.clientId
                found |= {f"{key}.{name}": (deep.place, f"{path}.{key}.{name}", deep.via) for name, deep in inner.value.items()}
    return found


def inherited(base: Reader, own: Reader) -> tuple[dict[str, Any], dict[str, Any], dict[str, tuple[str, str, str]]]:
    """The base's connection without what the plugin's own contradicts, the plugin's, and the origins of both together.

    Backstage merges key by key.  Of ours, two may say one thing in different words, and the plugin's word counts.  `ssl` is merged
    too, as knex does it in the end: certificates of the base are good for its plugins.  But an unverified base does not
    make a plugin unverified that has an `ssl` of its own.
    """
    shared, mine = connection_of(base), connection_of(own)
    for keys, losers in RIVALS:
        if any(mine.get(key) not in (None, "") for key in keys):
            for loser in losers:
                if loser not in mine:
                    shared.pop(loser, None)
    theirs, ssl = shared.get("ssl"), mine.get("ssl")
    if isinstance(theirs, dict) and isinstance(ssl, dict):
        mine["ssl"] = {key: value for key, value in theirs.items() if key != "rejectUnauthorized"} | ssl
    if mine.get("sslmode") and "ssl" not in mine and "ssl" in shared:
        # Its sslmode counts, with the certificates of the base's ssl.
        if mine["sslmode"] == "no-verify":
            shared["ssl"] = (theirs if isinstance(theirs, dict) else {}) | {"rejectUnauthorized": False}
        else:
            mine["uselibpqcompat"] = "true"
    origins = {key: origin for key, origin in origins_of(base).items() if key.partition(".")[0] not in mine}
    return shared, mine, origins | origins_of(own)
