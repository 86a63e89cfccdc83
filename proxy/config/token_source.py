"""Who makes the password of a plugin's `connection`: Backstage's `type: rds | azure | cloudsql`, and `passwordCommand`.

    connection: {type: rds, host: h, port: 5432, user: u, region: eu-west-1}
    connection: {type: azure, ..., tokenCredential: {clientId, tenantId, clientSecret, tokenRenewableOffsetTime}}
    connection: {type: cloudsql, instance: 'project:region:name', user: u, ipAddressType: PUBLIC | PRIVATE | PSC}
    connection: {..., passwordCommand: [pass, show, db]}          or text, split as a shell would, but run by none
    connection: {..., passwordCommand: {command: [...], lifetime: 15min, timeout: 10s}}

The keys are Backstage's (backend-defaults, connectors/postgres); passwordCommand is ours.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from proxy.config.declare import seconds
from proxy.config.target import AzureToken, CloudSqlToken, PasswordCommand, RdsToken, Secret, TokenSource
from proxy.config.words import BadKey, Note, got, refuse

KINDS = ("default", "rds", "azure", "cloudsql")
_INSTANCE = re.compile(r"[a-z0-9.:-]+:[a-z0-9-]+:[a-z0-9-]+")
_UNITS = {"milliseconds": 0.001, "seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0, "weeks": 604800.0}
_ISO = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
_SHORT = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|milliseconds?|seconds?|minutes?|hours?|days?)")


def token_source(connection: Mapping[str, Any], note: Note = refuse) -> TokenSource | None:
    """None: `password`, or the password file.  Raises BadKey, or notes it."""
    try:
        return _token_source(connection, note)
    except BadKey as fault:
        note(fault)
        return None


def _token_source(connection: Mapping[str, Any], note: Note) -> TokenSource | None:
    kind = str(connection.get("type") or "default")
    command = connection.get("passwordCommand")
    if kind not in KINDS:
        raise BadKey("type", f'expected {", ".join(KINDS)}{got(connection["type"], KINDS)}')
    if command is not None:
        if kind != "default":
            note(BadKey("passwordCommand", f"type {kind} makes its own passwords; leave one of the two out"))
        if connection.get("password"):
            note(BadKey("passwordCommand", "password is set too; leave one of the two out"))
        return _command(command)
    if kind == "rds":
        return _rds(connection, note)
    if kind == "azure":
        return _azure(connection, note)
    if kind == "cloudsql":
        return _cloudsql(connection, note)
    return None


def _command(value: object) -> PasswordCommand:
    options: Mapping[str, Any] = value if isinstance(value, dict) else {"command": value}
    unknown = set(options) - {"command", "lifetime", "timeout"}
    if unknown:
        raise BadKey("passwordCommand", f"unknown key {min(unknown)}; known are command, lifetime, timeout")
    words = options.get("command")
    try:
        arguments = shlex.split(words) if isinstance(words, str) else [str(word) for word in words or ()]
    except (TypeError, ValueError):
        raise BadKey("passwordCommand", "expected a list of words, or text that a shell would split into words") from None
    if not arguments or not arguments[0]:
        raise BadKey("passwordCommand", "is empty")
    return PasswordCommand(arguments=tuple(arguments), lifetime=_seconds(options, "lifetime", 0.0),
                           timeout=_seconds(options, "timeout", 10.0))


def _seconds(options: Mapping[str, Any], key: str, default: float) -> float:
    value = options.get(key)
    if value is None:
        return default
    try:
        found = float(seconds(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = -1.0
    if not 0 <= found < 1e9:
        raise BadKey("passwordCommand", f"{key} must be a duration such as 30, 30s or 15min")
    return found


def _needs(connection: Mapping[str, Any], note: Note, kind: str, *keys: str) -> None:
    for key in keys:
        if connection.get(key) in (None, ""):
            note(BadKey(key, f"is missing; type {kind} needs {', '.join(keys)} (is an environment variable unset?)"))


def _rds(connection: Mapping[str, Any], note: Note) -> RdsToken:
    _needs(connection, note, "rds", "host", "port", "user")
    if not connection.get("ssl") and connection.get("sslmode") in (None, "", "disable"):
        note(BadKey("ssl", "is missing; RDS takes tokens over TLS only, so set ssl (with the CA bundle of the region in ssl.ca)"))
    region = connection.get("region")
    return RdsToken(region=str(region) if region else None)


def _azure(connection: Mapping[str, Any], note: Note) -> AzureToken:
    _needs(connection, note, "azure", "host", "user")
    given = connection.get("tokenCredential") or {}
    if not isinstance(given, dict):
        raise BadKey("tokenCredential", "expected an object with clientId, tenantId, clientSecret, tokenRenewableOffsetTime")
    client, tenant, secret = (str(given[key]) if given.get(key) else None for key in ("clientId", "tenantId", "clientSecret"))
    offset = given.get("tokenRenewableOffsetTime")
    return AzureToken(client_id=client, tenant_id=tenant, client_secret=Secret(secret) if secret else None,
                      ahead=300.0 if offset is None else duration(offset))


def duration(value: object) -> float:
    """A duration as Backstage's readDurationFromConfig takes it, in seconds: {minutes: 5}, "PT5M", "5m"."""
    if isinstance(value, dict) and value and set(value) <= set(_UNITS):
        try:
            return sum(float(amount) * _UNITS[unit] for unit, amount in value.items())
        except (TypeError, ValueError):
            pass
    if isinstance(value, str):
        iso, short = _ISO.fullmatch(value), _SHORT.fullmatch(value)
        if iso and any(iso.groups()):
            days, hours, minutes, rest = (float(part or 0) for part in iso.groups())
            return days * 86400 + hours * 3600 + minutes * 60 + rest
        if short:
            unit = short[2]
            factor = 0.001 if unit in ("ms", "millisecond", "milliseconds") else {
                "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}[unit[0]]
            return float(short[1]) * factor
    raise BadKey("tokenCredential", 'tokenRenewableOffsetTime must be a duration such as {minutes: 5}, "PT5M" or "5m"')


def _cloudsql(connection: Mapping[str, Any], note: Note) -> CloudSqlToken:
    instance = connection.get("instance")
    if not instance:
        raise BadKey("instance", "is missing; type cloudsql needs it, as project:region:name")
    if not _INSTANCE.fullmatch(str(instance)):
        raise BadKey("instance", f'expected project:region:name, got "{instance}"')
    kind = str(connection.get("ipAddressType") or "PUBLIC")
    if kind not in ("PUBLIC", "PRIVATE", "PSC"):
        raise BadKey("ipAddressType", f'expected PUBLIC, PRIVATE or PSC, got "{kind}"')
    _needs(connection, note, "cloudsql", "user")
    return CloudSqlToken(instance=str(instance), locate=None if connection.get("host") else kind)
