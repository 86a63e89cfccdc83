"""A PostgreSQL connection string as JavaScript's pg-connection-string reads it (not as libpq does).

    postgresql://user:pw@host:5432/db?sslmode=require     parts that are missing become ""
    postgresql:///db?host=/run/pg&port=5433               the query overrides the authority
    /run/postgresql mydb          socket:/run/pg?db=x     unix sockets
    mydb                                                  a database on the host `base`: that is what it does
    postgres://h1:1,h2:2/db                               refused: not a URL

A bad % escape is taken literally.  `sslmode=prefer|require|verify-ca` all mean verify-full there; only
`uselibpqcompat=true` gives libpq's meaning.  Golden answers: tests/golden/pg_connection_string_golden.txt.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

_BAD_ESCAPE = re.compile(r" |%[^a-f0-9]|%[a-f0-9][^a-f0-9]", re.IGNORECASE)
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")
_FORBIDDEN_HOST = re.compile(r"[\0\t\n\r #/:<>?@\[\\\]^|]")
_URI = ";,/?:@&=+$-_.!~*'()#"     # what JavaScript's encodeURI leaves alone
ESCAPES = "; in a user name or password write # / ? @ : as %23 %2F %3F %40 %3A"
HOST_ESCAPES = "; the folder of a unix socket is written with %2F for each /"
_V6 = re.compile(r"\[[0-9a-fA-F:.]+\]")


class BadConnectionString(ValueError):
    """The text is what follows "the connection string"; it never quotes the string, which has a password in it."""


def parse(text: str) -> dict[str, Any]:
    """Connection keys and values.  Raises BadConnectionString."""
    if text.startswith("/"):
        host, _, database = text.partition(" ")
        return {"host": host, "database": database.split(" ")[0]} if database else {"host": host}
    if _BAD_ESCAPE.search(text):
        text = re.sub(r"%25(\d\d)", r"%\1", quote(text, safe=_URI))
    dummy = False
    try:
        scheme, user, password, host, port, path, query = _url(text)
    except BadConnectionString:
        scheme, user, password, host, port, path, query = _url(text.replace("@/", "@___DUMMY___/", 1))
        dummy = True
    found: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    found["user"] = found.get("user") or _decode(user)
    found["password"] = found.get("password") or _decode(password)
    if scheme == "socket":
        found["host"] = _decode(path)
        found["database"] = dict(parse_qsl(query)).get("db")
        found["client_encoding"] = dict(parse_qsl(query)).get("encoding")
        return found
    host = "" if dummy else host
    if not found.get("host"):
        found["host"] = _decode(host)
    elif host.lower().startswith("%2f"):
        path = f"/{host}{path}"               # a socket's folder in the authority, and another host in the query
    if not found.get("port"):
        found["port"] = port
    found["database"] = _decode_uri(path[1:]) or None
    _ssl(found)
    return found


def _decode(text: str) -> str:
    """decodeURIComponent."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise BadConnectionString("has a % escape that is not UTF-8") from None


def _decode_uri(text: str) -> str:
    """decodeURI: what would mean something in a URL stays as it is."""
    return _decode(re.sub(r"%(?=2[346bcf]|3[abdf]|40)", "%25", text, flags=re.IGNORECASE))


def _url(text: str) -> tuple[str, str, str, str, str, str, str]:
    """new URL(text, "postgres://base"), for schemes that the URL standard does not know."""
    text = text.strip()
    match = _SCHEME.match(text)
    scheme, rest = (match[0][:-1].lower(), text[match.end():]) if match else ("postgres", text)
    rest, _, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    if not match and not rest.startswith("//"):
        return scheme, "", "", "base", "", "/" + rest if rest and not rest.startswith("/") else rest, query
    if not rest.startswith("//"):
        return scheme, "", "", "", "", rest, query
    authority, slash, path = rest[2:].partition("/")
    userinfo, at, place = authority.rpartition("@")
    user, _, password = userinfo.partition(":")
    host, port = place, ""
    if not place.startswith("["):
        host, _, port = place.partition(":")
    elif (v6 := _V6.match(place)) is not None:
        host, port = v6[0], place[v6.end():].removeprefix(":")
    cut = "" if at or "@" not in fragment + query + path else ESCAPES
    if not host and (at or port):
        raise BadConnectionString(f"names no host{cut}")
    if port and not (port.isascii() and port.isdigit()):
        raise BadConnectionString(f"has a port that is no number{cut}")
    if len(port.lstrip("0")) > 5 or (port and int(port) > 65535):
        raise BadConnectionString(f"has a port above 65535{cut}")
    if _FORBIDDEN_HOST.search(host.strip("[]") if host.startswith("[") and host.endswith("]") and ":" not in host
                              else host if not host.startswith("[") else ""):
        raise BadConnectionString(f"is not a URL: its host cannot be one{cut or HOST_ESCAPES}")
    return scheme, user, password, host.strip("[]"), str(int(port)) if port else "", slash + path, query


def _ssl(found: dict[str, Any]) -> None:
    if found.get("ssl") in ("true", "1"):
        found["ssl"] = True
    elif found.get("ssl") == "0":
        found["ssl"] = False
    mode = found.get("sslmode")
    if any(found.get(key) for key in ("sslcert", "sslkey", "sslrootcert", "sslmode")):
        found["ssl"] = {}
    if mode == "disable":
        found["ssl"] = False
    elif mode == "no-verify" and found.get("uselibpqcompat") != "true":
        found["ssl"]["rejectUnauthorized"] = False
    elif found.get("uselibpqcompat") == "true":
        if mode in ("prefer", "require"):
            if mode == "prefer" or not found.get("sslrootcert"):
                found["ssl"]["rejectUnauthorized"] = False
        elif mode == "verify-ca" and not found.get("sslrootcert"):
            raise BadConnectionString("has sslmode=verify-ca, which requires sslrootcert")
