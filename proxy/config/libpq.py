"""libpq's words in a plugin's `connection`: several hosts, which of them will do, TLS, and how we may be asked who we are.

Backstage hands `connection` to node-postgres, which knows one host and its own `ssl`.  Where that has an answer it holds;
these keys are ours on top (PostgreSQL manual, "Parameter Key Words"):

    host: a,b (or a list)   port: 1,2 (or one for all)   target_session_attrs   load_balance_hosts
    sslmode (where `ssl` is not set, or uselibpqcompat is true)   sslrootcert   sslcert   sslkey   sslnegotiation   sslsni
    ssl_min_protocol_version   ssl_max_protocol_version   channel_binding   require_auth

A URL with several hosts, which JavaScript's parser refuses, is read as libpq reads it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

from proxy.config.target import ChannelBinding, Proof, Secret, Server, Session, SslMode, Tls

METHODS = ("none", "password", "md5", "gss", "sspi", "scram-sha-256", "oauth")
VERSIONS = ("TLSv1.2", "TLSv1.3")           # older ones are not spoken any more (RFC 8996)
DEFAULT_PORT = 5432
_WORDS = {True: "1", False: "0"}
_HOSTS = re.compile(r"postgres(?:ql)?://(?:(?P<user>[^:@/?]*)(?::(?P<password>[^@/?]*))?@)?(?P<hosts>[^/?]*)"
                    r"(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?", re.DOTALL)
_HOST = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>\d*))?")
E = TypeVar("E", bound=enum.StrEnum)


class BadKey(ValueError):
    """A key of `connection` that cannot mean what it says.  The text never quotes a secret."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem)
        self.key = key
        self.problem = problem


def _got(word: object) -> str:
    """What was written, if it could be meant: a password in the wrong variable is not shown."""
    plain = re.fullmatch(r"[a-z.,!-]{1,20}|[A-Za-z]{1,8}|TLSv[\d.]{1,4}|\d", str(word))
    return f', got "{word}"' if plain else ", and this is none of them"



def server(connection: Mapping[str, Any]) -> Server:
    """Where, and under what conditions.  Raises BadKey."""
    (host, port), *others = places(connection)
    shuffle = _word(connection, "load_balance_hosts", "disable")
    if shuffle not in ("disable", "random"):
        raise BadKey("load_balance_hosts", f'expected disable or random{_got(shuffle)}')
    return Server(host=host, port=port, others=tuple(others), tls=tls(connection), proof=_proof(connection),
                  session=_enum(Session, connection, "target_session_attrs", Session.ANY), shuffle=shuffle == "random")


def places(connection: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Every (host, port) in order.  An empty host is localhost, an empty port 5432; one port serves all hosts."""
    hosts = _list(connection.get("host")) or [""]
    numbers = [_port(port) for port in _list(connection.get("port"))] or [DEFAULT_PORT]
    if len(numbers) not in (1, len(hosts)):
        raise BadKey("port", f"cannot match {len(numbers)} port numbers to {len(hosts)} hosts")
    numbers = numbers * len(hosts) if len(numbers) == 1 else numbers
    return [(host.strip("[]") or "localhost", port) for host, port in zip(hosts, numbers, strict=True)]


def _list(value: object) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, list):
        return [str(item).strip() for item in value]
    return [part.strip() for part in str(value).split(",")]


def _port(text: str) -> int:
    if not text:
        return DEFAULT_PORT
    number = int(text) if re.fullmatch(r"\d{1,7}", text, re.ASCII) else 0
    if not 0 < number < 65536:
        # A password in the wrong line would be shown else.
        got = f", got {text}" if re.fullmatch(r"-?\d{1,7}", text, re.ASCII) else ", and this is no number"
        raise BadKey("port", f"expected a port from 1 to 65535{got}")
    return number


def _word(connection: Mapping[str, Any], key: str, default: str) -> str:
    value = connection.get(key)
    if value in (None, ""):
        return default
    return _WORDS[value] if isinstance(value, bool) else str(value)


def _enum(kind: type[E], connection: Mapping[str, Any], key: str, default: E) -> E:
    word = _word(connection, key, default)
    try:
        return kind(word)
    except ValueError:
        raise BadKey(key, f'expected {", ".join(kind)}{_got(word)}') from None


def _proof(connection: Mapping[str, Any]) -> Proof:
    asked = [word.strip() for word in _word(connection, "require_auth", "").split(",") if word.strip()]
    negated = [word.removeprefix("!") for word in asked if word.startswith("!")]
    if negated and len(negated) != len(asked):
        raise BadKey("require_auth", "names with and without ! cannot be mixed")
    for word in negated or asked:
        if word not in METHODS:
            raise BadKey("require_auth", f'expected {", ".join(METHODS)}{_got(word)}')
    methods = frozenset(METHODS) - frozenset(negated) if negated else frozenset(asked) if asked else None
    return Proof(channel_binding=_enum(ChannelBinding, connection, "channel_binding", ChannelBinding.PREFER), methods=methods)


# -- TLS --------------------------------------------------------------------------------------------------


def tls(connection: Mapping[str, Any]) -> Tls:
    """node-postgres' `ssl` where it is set, else `sslmode` as libpq means it."""
    ssl, sslmode = connection.get("ssl"), connection.get("sslmode")
    compatible = str(connection.get("uselibpqcompat", "")).lower() == "true"
    direct = _word(connection, "sslnegotiation", "postgres")
    if direct not in ("postgres", "direct"):
        raise BadKey("sslnegotiation", f'expected postgres or direct{_got(direct)}')
    if sslmode not in (None, "", "no-verify") and (ssl is None or compatible):
        found = _by_libpq(connection)
        weak = found.mode in (SslMode.DISABLE, SslMode.ALLOW, SslMode.PREFER)
        if direct == "direct" and weak:
            raise BadKey("sslnegotiation", f'weak sslmode "{found.mode}" may not be used with sslnegotiation=direct '
                                           '(use "require", "verify-ca" or "verify-full")')
        options = found
    else:
        if direct == "direct" and ssl is None:
            ssl = True
        options = _by_node(ssl, connection)
    sni = _word(connection, "sslsni", "1")
    if sni not in ("0", "1"):
        raise BadKey("sslsni", f'expected 0 or 1{_got(sni)}')
    return Tls(mode=options.mode, ca=options.ca, cert=options.cert, key=options.key, server_name=options.server_name,
               direct=direct == "direct" and options.mode is not SslMode.DISABLE, sni=sni == "1",
               minimum=_version(connection, "ssl_min_protocol_version") or options.minimum,
               maximum=_version(connection, "ssl_max_protocol_version") or options.maximum)


def _by_libpq(connection: Mapping[str, Any]) -> Tls:
    mode = _enum(SslMode, connection, "sslmode", SslMode.PREFER)
    system = connection.get("sslrootcert") == "system"
    if system and mode is not SslMode.VERIFY_FULL:
        raise BadKey("sslmode", f'weak sslmode "{mode}" may not be used with sslrootcert=system (use "verify-full")')
    if mode is SslMode.VERIFY_CA and not connection.get("sslrootcert"):
        # With public authorities it would verify nothing: anybody can have a certificate of theirs.
        raise BadKey("sslmode", "verify-ca requires sslrootcert")
    return Tls(mode=mode, ca=None if system else _file(connection, "sslrootcert"), cert=_file(connection, "sslcert"),
               key=_secret(_file(connection, "sslkey")))


def _by_node(ssl: object, connection: Mapping[str, Any]) -> Tls:
    if ssl in (None, False, "", "false", "0", "disable"):
        return Tls(mode=SslMode.DISABLE)
    if ssl == "no-verify":
        return Tls(mode=SslMode.REQUIRE)
    given: Mapping[str, Any] = ssl if isinstance(ssl, dict) else {}
    verify = given.get("rejectUnauthorized", True) not in (False, "false")
    return Tls(mode=SslMode.VERIFY_FULL if verify else SslMode.REQUIRE,
               ca=(_pem(given.get("ca")) or _file(connection, "sslrootcert")) if verify else None,
               cert=_pem(given.get("cert")) or _file(connection, "sslcert"),
               key=_secret(_pem(given.get("key")) or _file(connection, "sslkey")), server_name=given.get("servername"),
               minimum=_version(given, "minVersion"), maximum=_version(given, "maxVersion"))


def _pem(value: object) -> str | None:
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return str(value) if value else None


def _secret(text: str | None) -> Secret | None:
    return Secret(text) if text else None


def _file(connection: Mapping[str, Any], key: str) -> str | None:
    """The text of the PEM file that a key names."""
    name = connection.get(key)
    if not name or name == "system":
        return None
    try:
        return Path(str(name)).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a PEM file"
        raise BadKey(key, f"cannot read {name}: {reason}") from None


def _version(connection: Mapping[str, Any], key: str) -> str | None:
    word = _word(connection, key, "")
    if word and word not in VERSIONS:
        raise BadKey(key, f'expected {", ".join(VERSIONS)}{_got(word)}')
    return word or None


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
