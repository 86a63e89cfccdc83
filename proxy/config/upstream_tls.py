"""TLS towards a plugin's server: node-postgres' `ssl` where it is set, else `sslmode` as libpq means it.

    ssl: true | false | no-verify | {ca, cert, key, rejectUnauthorized, servername, minVersion, maxVersion}
    sslmode: disable | allow | prefer | require | verify-ca | verify-full | no-verify
    sslrootcert   sslcert   sslkey   sslnegotiation   sslsni   ssl_min_protocol_version   ssl_max_protocol_version

A connection URL has both: JavaScript's parser makes `ssl` of its `sslmode`, so that prefer, require and verify-ca all mean
verify-full there, unless uselibpqcompat=true.  A wrong `sslmode` is a mistake even where `ssl` counts: somebody meant it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxy.config.target import Secret, SslMode, Tls
from proxy.config.words import BadKey, Note, choice, got, refuse, word

VERSIONS = ("TLSv1.2", "TLSv1.3")           # older ones are not spoken any more (RFC 8996)
MODES = (*(str(mode) for mode in SslMode), "no-verify")
_PATH = re.compile(r"(?:~?/|\.\.?/)[^\n]*|[^\n]+\.(?:pem|crt|cer|key)")
_OFF, _ON = (None, False, "", "false", "0", "disable"), (True, "true", "1")


def tls(connection: Mapping[str, Any], note: Note = refuse) -> Tls:
    """Raises BadKey, or notes it; of a connection with mistakes the answer is for looking on only."""
    ssl = connection.get("ssl")
    compatible = str(connection.get("uselibpqcompat", "")).lower() == "true"
    direct = choice(connection, "sslnegotiation", ("postgres", "direct"), "postgres", note) == "direct"
    sslmode = choice(connection, "sslmode", MODES, "", note)
    wrong = not sslmode and word(connection, "sslmode", "") != ""
    if sslmode == "no-verify" and ssl is None:
        ssl = sslmode
    if sslmode not in ("", "no-verify") and (ssl is None or compatible):
        options = _by_libpq(SslMode(sslmode), connection, note)
        if direct and options.mode in (SslMode.DISABLE, SslMode.ALLOW, SslMode.PREFER):
            note(BadKey("sslnegotiation", f'weak sslmode "{options.mode}" may not be used with sslnegotiation=direct '
                                          '(use "require", "verify-ca" or "verify-full")'))
    else:
        options = _by_node(True if ssl is None and (direct or wrong) else ssl, connection, note)
    sni = choice(connection, "sslsni", ("0", "1"), "1", note)
    found = Tls(mode=options.mode, ca=options.ca, cert=options.cert, key=options.key, server_name=options.server_name,
                direct=direct and options.mode is not SslMode.DISABLE, sni=sni == "1",
                minimum=choice(connection, "ssl_min_protocol_version", VERSIONS, "", note) or options.minimum,
                maximum=choice(connection, "ssl_max_protocol_version", VERSIONS, "", note) or options.maximum)
    if found.minimum and found.maximum and found.minimum > found.maximum:
        note(BadKey("ssl_min_protocol_version" if connection.get("ssl_min_protocol_version") else "ssl.minVersion",
                    "the oldest protocol version is above the newest"))
    return found


def _by_libpq(mode: SslMode, connection: Mapping[str, Any], note: Note) -> Tls:
    system = connection.get("sslrootcert") == "system"
    if system and mode is not SslMode.VERIFY_FULL:
        note(BadKey("sslmode", f'weak sslmode "{mode}" may not be used with sslrootcert=system (use "verify-full")'))
    inner = _Inner(connection.get("ssl"), note)
    ca = None if system else _file(connection, "sslrootcert", note) or inner.ca
    if mode is SslMode.VERIFY_CA and not (ca or connection.get("sslrootcert")):
        # With public authorities it would verify nothing: anybody can have a certificate of theirs.
        note(BadKey("sslmode", "verify-ca requires sslrootcert"))
    return Tls(mode=mode, ca=ca, cert=_file(connection, "sslcert", note) or inner.cert,
               key=_secret(_file(connection, "sslkey", note) or inner.key), server_name=inner.server_name)


def _by_node(ssl: object, connection: Mapping[str, Any], note: Note) -> Tls:
    if ssl in _OFF:
        return Tls(mode=SslMode.DISABLE)
    if ssl == "no-verify":
        return Tls(mode=SslMode.REQUIRE)
    if ssl not in _ON and not isinstance(ssl, dict):
        hint = f"; for libpq's modes write sslmode: {ssl}" if ssl in MODES else ""
        note(BadKey("ssl", "expected true, false, no-verify or an object with ca, cert, key, rejectUnauthorized"
                           f"{got(ssl, MODES)}{hint}"))
    given: Mapping[str, Any] = ssl if isinstance(ssl, dict) else {}
    inner = {f"ssl.{key}": value for key, value in given.items()}
    verify = given.get("rejectUnauthorized", True) not in (False, "false")
    if verify and given.get("rejectUnauthorized") not in (None, True, "true", ""):
        note(BadKey("ssl.rejectUnauthorized", f"expected true or false{got(given['rejectUnauthorized'])}"))
    parts = _Inner(ssl, note)
    return Tls(mode=SslMode.VERIFY_FULL if verify else SslMode.REQUIRE,
               ca=(parts.ca or _file(connection, "sslrootcert", note)) if verify else None,
               cert=parts.cert or _file(connection, "sslcert", note), key=_secret(parts.key or _file(connection, "sslkey", note)),
               server_name=parts.server_name,
               minimum=choice(inner, "ssl.minVersion", VERSIONS, "", note) or None,
               maximum=choice(inner, "ssl.maxVersion", VERSIONS, "", note) or None)


class _Inner:
    """The certificates and the name of an `ssl` object."""

    def __init__(self, ssl: object, note: Note) -> None:
        given = {f"ssl.{key}": value for key, value in ssl.items()} if isinstance(ssl, dict) else {}
        self.ca, self.cert, self.key = (_pem(given, f"ssl.{part}", note) for part in ("ca", "cert", "key"))
        self.server_name = given.get("ssl.servername")
        if self.server_name is not None and not isinstance(self.server_name, str):
            note(BadKey("ssl.servername", f"expected text{got(self.server_name)}"))
            self.server_name = None


def _pem(given: Mapping[str, Any], key: str, note: Note) -> str | None:
    """PEM text, or a list of it.  A path is what people write instead."""
    value = given.get(key)
    if isinstance(value, (dict, bool, int, float)):
        note(BadKey(key, f"expected PEM text{got(value)}"))
        return None
    text = "\n".join(map(str, value)) if isinstance(value, list) else str(value) if value else None
    if text is not None and _PATH.fullmatch(text.strip()):
        note(BadKey(key, "expected PEM text, and this is the name of a file; write {$file: name}"))
        return None
    return text


def _secret(text: str | None) -> Secret | None:
    return Secret(text) if text else None


def _file(connection: Mapping[str, Any], key: str, note: Note) -> str | None:
    """The text of the PEM file that a key names."""
    name = connection.get(key)
    if not name or name == "system":
        return None
    try:
        return Path(str(name)).expanduser().read_text()
    except (OSError, ValueError, RuntimeError) as error:
        note(BadKey(key, f"cannot read {name}: {getattr(error, 'strerror', None) or 'not a PEM file'}"))
        return None
