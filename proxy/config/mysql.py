"""mysql2's words in a plugin's `connection`: where the server is, and TLS towards it.

    host   port (3306)   socketPath   user   password   database
    ssl: {ca, cert, key, rejectUnauthorized (true), verifyIdentity (false), servername, minVersion, maxVersion}

Without `ssl` there is no TLS.  As in mysql2 a certificate is verified unless rejectUnauthorized is false, and the server's
name only where verifyIdentity is true.  Of the pool, types and charset of mysql2 the app's own driver takes care.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxy.config.libpq import places
from proxy.config.target import CloudSqlToken, Server, SslMode, Tls, TokenSource
from proxy.config.token_source import token_source
from proxy.config.upstream_tls import tls
from proxy.config.words import BadKey, Note, got, refuse

PORT = 3306
CLOUDSQL = BadKey("type", "cloudsql is not supported for MySQL here; run Google's own Auth Proxy and name its host or socketPath")
_OFF = (None, False, "", "false")


def mysql_server(connection: Mapping[str, Any], note: Note = refuse) -> Server:
    """Raises BadKey, or notes each mistake and answers with what can be read."""
    path = connection.get("socketPath")
    if path not in (None, ""):
        if not isinstance(path, str) or not path.startswith("/"):
            note(BadKey("socketPath", f"expected the path of the server's unix socket{got(path)}"))
        return Server(host=str(path), port=PORT, tls=Tls(mode=SslMode.DISABLE))
    (host, port), *others = places({"port": PORT} | {key: connection[key] for key in ("host", "port") if connection.get(key)}, note)
    return Server(host=host, port=port, others=tuple(others), tls=mysql_tls(connection, note))


def mysql_tls(connection: Mapping[str, Any], note: Note = refuse) -> Tls:
    """mysql2's `ssl`."""
    ssl = connection.get("ssl")
    if ssl in _OFF:
        return Tls(mode=SslMode.DISABLE)
    if not isinstance(ssl, dict):
        profile = f'; mysql2 knows a profile {ssl!r}: write its certificates as {{ca: {{$file: name}}}}' if isinstance(ssl, str) else ""
        note(BadKey("ssl", f"expected an object with ca, cert, key, rejectUnauthorized or verifyIdentity{profile}"))
        return Tls(mode=SslMode.REQUIRE)
    whole = ssl.get("verifyIdentity")
    if whole not in (None, True, False):
        note(BadKey("ssl.verifyIdentity", f"expected true or false{got(whole)}"))
    found = tls({"ssl": {key: value for key, value in ssl.items() if key != "verifyIdentity"}}, note)
    if found.mode is SslMode.VERIFY_FULL and whole is not True:
        return replace(found, mode=SslMode.VERIFY_CA)
    return found


def mysql_source(connection: Mapping[str, Any], note: Note = refuse) -> TokenSource | None:
    """Where a password comes from, if it is not written there: our passwordCommand."""
    source = token_source({key: value for key, value in connection.items() if key in ("passwordCommand", "password")}, note)
    return None if isinstance(source, CloudSqlToken) else source
