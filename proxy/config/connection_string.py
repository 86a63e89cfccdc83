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
_V6 = re.compile(r"\[[0-9a-fA-F:.]+\]")


class BadConnectionString(ValueError):
    pass


def parse(text: str) -> dict[str, Any]:
    """Connection keys and values.  Raises BadConnectionString; its text never quotes the string (it has a password)."""
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
    found["user"] = found.get("user") or unquote(user)
    found["password"] = found.get("password") or unquote(password)
    if scheme == "socket":
        found["host"] = unquote(path)
        found["database"] = dict(parse_qsl(query)).get("db")
        found["client_encoding"] = dict(parse_qsl(query)).get("encoding")
        return found
    host = "" if dummy else host
    if not found.get("host"):
        found["host"] = unquote(host)
    if not found.get("port"):
        found["port"] = port
    found["database"] = unquote(path[1:]) or None
    _ssl(found)
    return found


def _url(text: str) -> tuple[str, str, str, str, str, str, str]:
    """new URL(text, "postgres://base"), for schemes that the URL standard does not know."""
    text = text.strip()
    match = _SCHEME.match(text)
    scheme, rest = (match[0][:-1].lower(), text[match.end():]) if match else ("postgres", text)
    rest, _, _ = rest.partition("#")
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
    if (not host and (at or port)) or (port and not (port.isascii() and port.isdigit() and int(port) < 65536)):
        raise BadConnectionString("not a URL")
    if _FORBIDDEN_HOST.search(host.strip("[]") if host.startswith("[") and host.endswith("]") and ":" not in host
                              else host if not host.startswith("[") else ""):
        raise BadConnectionString("not a URL")
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
    elif mode == "no-verify":
        found["ssl"]["rejectUnauthorized"] = False
    elif found.get("uselibpqcompat") == "true":
        if mode in ("prefer", "require"):
            if mode == "prefer" or not found.get("sslrootcert"):
                found["ssl"]["rejectUnauthorized"] = False
        elif mode == "verify-ca" and not found.get("sslrootcert"):
            raise BadConnectionString("sslmode=verify-ca requires specifying a CA with sslrootcert")
