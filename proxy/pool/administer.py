"""An administrative connection by psycopg: provisioning and its questions go to the same servers as the plugins' clients do.

libpq does the reaching here; what a Server says is told to it in its own words.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from proxy.config.settings import Upstream as UpstreamSettings
from proxy.config.target import Credential, Server, Session, SslMode
from proxy.tokens.mint import Mint

FAREWELL = 5.0                # seconds in which a server closes its end
FILES = ("sslrootcert", "sslcert", "sslkey")


async def administer(server: Server, who: Credential, database: str, settings: UpstreamSettings,
                     mint: Mint) -> psycopg.AsyncConnection[Any]:
    """A connection in autocommit mode.  Raises psycopg.Error, NoCredential."""
    if who.source is None:
        return await _connect(server, who, database, settings)               # the password file is read by libpq itself
    server = await mint.locate(server, who)
    filled = await mint.fill(who, server.host, server.port, database)
    try:
        return await _connect(server, filled, database, settings)
    except psycopg.OperationalError as error:
        # libpq gives no SQLSTATE for a login that failed.
        if "authentication failed" not in str(error) or not mint.spoil(filled, server.host, server.port, database):
            raise
    return await _connect(server, await mint.fill(who, server.host, server.port, database), database, settings)


@asynccontextmanager
async def to_its_end(connection: psycopg.AsyncConnection[Any]) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Closes it, and waits until the server has too: up to then it is one of the server's connections, and in a database's way."""
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.setblocking(False)
        async with connection:
            yield connection
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(FAREWELL):
                while await asyncio.get_running_loop().sock_recv(line, 4096):
                    pass


async def _connect(server: Server, who: Credential, database: str, settings: UpstreamSettings) -> psycopg.AsyncConnection[Any]:
    options = words(server, settings)
    files: list[str] = []
    try:
        for name in FILES:
            text = options.get(name)
            if text and text != "system":
                fd, path = tempfile.mkstemp()             # libpq reads files only; 0600
                files.append(path)
                with os.fdopen(fd, "w") as file:
                    file.write(text)
                options[name] = path
        return await psycopg.AsyncConnection.connect(
            user=who.user, password=who.password.reveal() if who.password else None, dbname=database, autocommit=True,
            connect_timeout=max(2, int(settings.connect_timeout)), application_name="switchboard", **options)
    finally:
        for path in files:
            Path(path).unlink()


def words(server: Server, settings: UpstreamSettings) -> dict[str, Any]:
    """libpq's keys; FILES hold PEM text here."""
    tls, proof = server.tls, server.proof
    local = all(host.startswith("/") for host, _ in server.places)
    session = server.session
    if session is Session.ANY and server.others:
        session = Session.READ_WRITE                      # what is to be created can only be created there
    options: dict[str, Any] = {
        "host": ",".join(host for host, _ in server.places), "port": ",".join(str(port) for _, port in server.places),
        "target_session_attrs": str(session), "load_balance_hosts": "random" if server.shuffle else "disable",
        "sslmode": "disable" if local else str(tls.mode), "gssencmode": "disable", "sslsni": "1" if tls.sni else "0",
        "channel_binding": str(proof.channel_binding)}
    if tls.direct and not local:
        options["sslnegotiation"] = "direct"
    options |= {name: value for name, value in (
        ("sslrootcert", tls.ca), ("sslcert", tls.cert), ("sslkey", tls.key and tls.key.reveal()),
        ("ssl_min_protocol_version", tls.minimum), ("ssl_max_protocol_version", tls.maximum)) if value}
    if tls.mode is SslMode.VERIFY_FULL and not tls.ca:
        options["sslrootcert"] = "system"
    if proof.methods is not None:
        options["require_auth"] = ",".join(sorted(proof.methods))
    elif not (local or settings.cleartext_passwords) and tls.mode in (SslMode.DISABLE, SslMode.ALLOW, SslMode.PREFER):
        options["require_auth"] = "!password"             # it might go in the open
    return options
