"""libpq's words in a plugin's `connection`: several hosts, which of them will do, and how we may be asked who we are.

Backstage hands `connection` to node-postgres, which knows one host and its own `ssl`.  Where that has an answer it holds;
these keys are ours on top (PostgreSQL manual, "Parameter Key Words"):

    host: a,b (or a list)   port: 1,2 (or one for all)   target_session_attrs   load_balance_hosts
    channel_binding   require_auth   (and those of TLS: upstream_tls)

A URL with several hosts, which JavaScript's parser refuses, is read as libpq reads it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

from proxy.config.target import ChannelBinding, Proof, Server, Session
from proxy.config.upstream_tls import tls
from proxy.config.words import BadKey, Note, choice, got, member, refuse, word

METHODS = ("none", "password", "md5", "gss", "sspi", "scram-sha-256", "oauth")
DEFAULT_PORT = 5432
_HOSTS = re.compile(r"postgres(?:ql)?://(?:(?P<user>[^:@/?]*)(?::(?P<password>[^@/?]*))?@)?(?P<hosts>[^/?]*)"
                    r"(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?", re.DOTALL)
_HOST = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>\d*))?")


def server(connection: Mapping[str, Any], note: Note = refuse) -> Server:
    """Where, and under what conditions.  Raises BadKey, or notes each and answers with what can be read."""
    (host, port), *others = places(connection, note)
    shuffle = choice(connection, "load_balance_hosts", ("disable", "random"), "disable", note) == "random"
    return Server(host=host, port=port, others=tuple(others), tls=tls(connection, note), proof=_proof(connection, note),
                  session=member(Session, connection, "target_session_attrs", Session.ANY, note), shuffle=shuffle)


def places(connection: Mapping[str, Any], note: Note = refuse) -> list[tuple[str, int]]:
    """Every (host, port) in order.  An empty host is localhost, an empty port 5432; one port serves all hosts."""
    hosts = _list(connection, "host", note) or [""]
    for host in hosts:
        if "://" in host:
            note(BadKey("host", "expected a name or an address, and this is a URL; write it as `connection` itself"))
        elif re.fullmatch(r"[^:/\[\]]+:\d{1,5}", host):
            note(BadKey("host", "expected a name or an address; the port has a key of its own, `port`"))
    numbers = [_port(port, note) for port in _list(connection, "port", note)] or [DEFAULT_PORT]
    if len(numbers) not in (1, len(hosts)):
        note(BadKey("port", f"cannot match {len(numbers)} port numbers to {len(hosts)} hosts"))
        numbers = numbers[:1]
    numbers = numbers * len(hosts) if len(numbers) == 1 else numbers
    return [(host.strip("[]") or "localhost", port) for host, port in zip(hosts, numbers, strict=True)]


def _list(connection: Mapping[str, Any], key: str, note: Note) -> list[str]:
    value = connection.get(key)
    if value is None or value == "":
        return []
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, (dict, list, bool)) for item in items):
        note(BadKey(key, f"expected {'a port' if key == 'port' else 'text'}{got(value)}"))
        return []
    return [str(item).strip() for item in items] if isinstance(value, list) else [part.strip() for part in str(value).split(",")]


def _port(text: str, note: Note) -> int:
    if not text:
        return DEFAULT_PORT
    number = int(text) if re.fullmatch(r"\d{1,7}", text, re.ASCII) else 0
    if not 0 < number < 65536:
        # A password in the wrong line would be shown else.
        written = f", got {text}" if re.fullmatch(r"-?\d{1,7}", text, re.ASCII) else ", and this is no number"
        note(BadKey("port", f"expected a port from 1 to 65535{written}"))
        return DEFAULT_PORT
    return number


def _proof(connection: Mapping[str, Any], note: Note) -> Proof:
    asked = [one.strip() for one in word(connection, "require_auth", "").split(",") if one.strip()]
    negated = [one.removeprefix("!") for one in asked if one.startswith("!")]
    if negated and len(negated) != len(asked):
        note(BadKey("require_auth", "names with and without ! cannot be mixed"))
    else:
        for one in negated or asked:
            if one not in METHODS:
                note(BadKey("require_auth", f'expected {", ".join(METHODS)}{got(one, METHODS)}'))
    methods = frozenset(METHODS) - frozenset(negated) if negated else frozenset(asked) if asked else None
    return Proof(channel_binding=member(ChannelBinding, connection, "channel_binding", ChannelBinding.PREFER, note), methods=methods)


# -- URLs with several hosts ------------------------------------------------------------------------------


def parse_hosts(text: str) -> dict[str, Any] | None:
    """A connection URL with several hosts as libpq reads it; None for any other text."""
    found = _HOSTS.fullmatch(text.strip())
    if not found or "," not in found["hosts"]:
        return None
    hosts, ports = [], []
    for part in found["hosts"].split(","):
        place = _HOST.fullmatch(part)
        if not place:
            return None
        hosts.append(unquote(place["host"]))
        ports.append(place["port"] or "")
    connection: dict[str, Any] = {"sslmode": "prefer"}
    connection |= dict(parse_qsl(found["query"] or "", keep_blank_values=True))
    connection |= {"host": ",".join(hosts), "port": ",".join(ports) if any(ports) else "", "uselibpqcompat": "true"}
    for key in ("user", "password", "database"):
        connection[key] = unquote(found[key] or "") or (None if key == "database" else "")
    return connection
