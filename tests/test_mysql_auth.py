"""Proofs and TLS on MySQL's wire, on both sides.

MariaDB has no caching_sha2_password of its own before 12, so that half is asked of ourselves: one daemon is the server of
another.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from proxy.auth.scram import make_verifier
from proxy.wire.mysql import OURS, packets
from proxy.wire.mysql_login import Answer, pack_answer
from tests import certificates, mariadb, slapd
from tests.mariadb import MariaDB, OperationalError, Through, through

pytestmark = mariadb.needed
VERIFIER = str(make_verifier("s3cret", 4096))
USERS = {"backstage": {"password": "s3cret"}, "verified": {"password": VERIFIER}, "trusted": {"method": "trust"}}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    certificates.make(folder)
    return folder


@pytest.fixture(scope="module")
def guarded(mysql: MariaDB, places: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("guarded")
    with through(mysql, folder, users=USERS, tls={"certificate": str(places / "server.pem")},
                 mysql={"listen": ["127.0.0.1:0", str(folder)]}) as found:
        yield found


def who(connection: mariadb.Connection) -> Any:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone()


@pytest.mark.parametrize("user", ["backstage", "verified", "trusted"])
@pytest.mark.parametrize("tls", [True, False])
def test_every_user_gets_in(guarded: Through, places: Path, user: str, tls: bool) -> None:
    more = {"ssl_ca": str(places / "ca.pem"), "ssl_verify_identity": True} if tls else {"ssl_disabled": True}
    for _ in range(2):                         # the second time the digest is known
        assert who(guarded.connect("catalog", user=user, **more)) == (1,)
    guarded.daemon.logged(rf'msg="client let in".*user={user} database=catalog plugin=catalog tls={str(tls).lower()}')
    for word in ("wrong", ""):
        if user != "trusted":
            with pytest.raises(OperationalError, match=r"1045"):
                guarded.connect("catalog", user=user, password=word, **more)


def test_a_unix_socket_is_safe(guarded: Through) -> None:
    path = str(guarded.daemon.folder / "mysql.sock")
    for user in USERS:
        assert who(guarded.connect("catalog", user=user, unix_socket=path)) == (1,)


def test_native_passwords_of_old_clients(guarded: Through, mysql: MariaDB, tmp_path: Path) -> None:
    """The command-line client of MariaDB, told to begin with that plugin."""
    assert mariadb.run_client(guarded, "SELECT 1", "--default-auth=mysql_native_password").stdout == "1\n"
    with through(mysql, tmp_path, mysql={"native_password": False}) as strict:
        assert mariadb.run_client(strict, "SELECT 1").stdout == "1\n"
        assert mariadb.run_client(strict, "SELECT 1", "--default-auth=mysql_native_password").stdout == "1\n"
        assert "1045" in mariadb.run_client(strict, "SELECT 1", password="wrong").stderr


def test_tls_may_be_required(mysql: MariaDB, places: Path, tmp_path: Path) -> None:
    with through(mysql, tmp_path, tls={"mode": "require", "certificate": str(places / "server.pem")}) as strict:
        with pytest.raises(OperationalError, match=r"1045.*insecure transport"):
            strict.connect("catalog", ssl_disabled=True)
        assert who(strict.connect("catalog", ssl_ca=str(places / "ca.pem"))) == (1,)


def test_rules(mysql: MariaDB, places: Path, tmp_path: Path) -> None:
    rules = [{"users": ["backstage"], "plugins": ["catalog"], "method": "scram-sha-256"},
             {"type": "hostssl", "users": ["cert"], "method": "cert"},
             {"users": ["open"], "method": "trust"}]
    with through(mysql, tmp_path, auth={"rules": rules}, users={"backstage": {"password": "s3cret"}, "cert": {}, "open": {}},
                 tls={"certificate": str(places / "server.pem"), "client_ca": str(places / "ca.pem")}) as strict:
        assert who(strict.connect("catalog")) == (1,)
        assert who(strict.connect("search", user="open")) == (1,)
        with pytest.raises(OperationalError, match=r'1045.*no pg_hba.conf entry for host .*, database "search"'):
            strict.connect("search")
        certificate = {"ssl_ca": str(places / "ca.pem"), "ssl_cert": str(places / "client.crt"), "ssl_key": str(places / "client.key")}
        assert who(strict.connect("catalog", user="cert", **certificate)) == (1,)
        with pytest.raises(OperationalError, match=r"1045"):
            strict.connect("catalog", user="cert")


def test_rules_hold_for_who_chooses_later(mysql: MariaDB, tmp_path: Path) -> None:
    """`postgres` stands for no database, as on the other wire; what is chosen then has a rule of its own."""
    rules = [{"plugins": ["postgres", "catalog"], "method": "scram-sha-256"}, {"plugins": ["open"], "method": "trust"},
             {"plugins": ["closed"], "method": "reject"}, {"plugins": ["other"], "method": "pam"}]
    with through(mysql, tmp_path, auth={"rules": rules}) as strict:
        for name in ("catalog", "open"):
            chosen = strict.connect(None)
            chosen.select_db(name)
            assert who(chosen) == (1,)
        for name, told in (("closed", "rejects"), ("search", "no pg_hba.conf entry"), ("other", "another proof")):
            with strict.connect(None) as connection, pytest.raises(OperationalError, match=rf"1045.*{told}"):
                connection.select_db(name)
    with through(mysql, tmp_path, auth={"rules": rules[1:]}) as strict, pytest.raises(OperationalError, match=r"1045"):
        strict.connect(None)


# -- towards servers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ssl", ["none", "verified", "named", "unverified", "wrong-ca", "wrong-name"])
def test_tls_towards_the_server(mysql: MariaDB, tmp_path: Path, ssl: str) -> None:
    authority = (mysql.folder / "ca.pem").read_text()
    other = tmp_path / "other"
    other.mkdir()
    certificates.make(other)
    asked: dict[str, Any] = {
        "none": None, "verified": {"ca": authority}, "named": {"ca": authority, "verifyIdentity": True},
        "unverified": {"rejectUnauthorized": False}, "wrong-ca": {"ca": (other / "ca.pem").read_text()},
        "wrong-name": {"ca": authority, "verifyIdentity": True, "servername": "elsewhere.example"}}
    base = mysql.base()
    base["connection"] |= {"ssl": asked[ssl]} if asked[ssl] else {}
    with through(mysql, tmp_path, base) as found:
        if ssl.startswith("wrong"):
            with pytest.raises(OperationalError, match=r"1105.*TLS handshake failed"):
                found.connect("catalog")
            return
        with found.connect("catalog") as connection, connection.cursor() as cursor:
            cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
            row = cursor.fetchone()
            assert row is not None
            assert bool(row[1]) == (ssl != "none")


def test_much_under_tls_on_both_sides(mysql: MariaDB, places: Path, tmp_path: Path) -> None:
    base = mysql.base()
    base["connection"]["ssl"] = {"ca": (mysql.folder / "ca.pem").read_text()}
    with (through(mysql, tmp_path, base, tls={"certificate": str(places / "server.pem")}) as found,
          found.connect("catalog", ssl_ca=str(places / "ca.pem")) as connection, connection.cursor() as cursor):
        for size in (10, 16_000, 16_384, 70_000, 5_000_000):
            cursor.execute(f"SELECT '{'x' * size}', 1 UNION ALL SELECT repeat('y', {size}), 2")
            assert cursor.fetchall() == (("x" * size, 1), ("y" * size, 2))


def test_accounts_and_sockets_of_the_server(mysql: MariaDB, tmp_path: Path) -> None:
    mysql.sql("CREATE DATABASE IF NOT EXISTS accounts")
    for user, word in (("p_word", "IDENTIFIED BY 'x'"), ("p_none", "")):
        mysql.sql(f"DROP USER IF EXISTS {user}@'localhost'")
        mysql.sql(f"CREATE USER {user}@'localhost' {word}")
        mysql.sql(f"GRANT ALL ON accounts.* TO {user}@'localhost'")
    shared = {"socketPath": str(mysql.socket), "database": "accounts"}
    plugins = {"word": {"connection": {**shared, "user": "p_word", "password": "x"}},
               "none": {"connection": {**shared, "user": "p_none"}},
               "wrong": {"connection": {**shared, "user": "p_word", "password": "y"}}}
    database = {"client": "mysql2", "connection": {"user": "unused", "password": "unused"}, "plugin": {
        name: {**plugin, "ensureExists": False} for name, plugin in plugins.items()}}
    database["plugin"]["none"]["connection"]["password"] = ""
    with through(mysql, tmp_path, database) as found:
        for plugin in ("word", "none"):
            assert who(found.connect(plugin)) == (1,)
        with pytest.raises(OperationalError, match=r"1045.*Access denied for user 'p_word'@'localhost'"):
            found.connect("wrong")


@pytest.mark.parametrize("user", ["backstage", "verified"])
@pytest.mark.parametrize("ssl", [False, True])
def test_caching_sha2_as_a_client(guarded: Through, places: Path, tmp_path: Path, user: str, ssl: bool) -> None:
    """By digest, by RSA, and whole under TLS."""
    connection: dict[str, Any] = {"host": "127.0.0.1", "port": guarded.daemon.mysql_port, "user": user, "password": "s3cret"}
    if ssl:
        connection["ssl"] = {"ca": (places / "ca.pem").read_text()}
    with through(guarded.server, tmp_path, {"client": "mysql2", "connection": connection, "ensureExists": False}) as second:
        assert who(second.connect("catalog")) == (1,)
    assert "s3cret" not in second.daemon.log + guarded.daemon.log


@pytest.mark.skipif(slapd.program() is None, reason="no slapd (Debian's package slapd; or SLAPD=<program>)")
def test_a_directory_judges(mysql: MariaDB, places: Path, tmp_path: Path) -> None:
    """The password itself is asked for, under TLS or on a unix socket only."""
    with slapd.directory(tmp_path, {"alice": "s3cret"}) as directory:
        rule = {"method": "ldap", "ldapserver": "127.0.0.1", "ldapport": directory.port, "ldapprefix": "cn=",
                "ldapsuffix": f", ou=people, {slapd.BASE}"}
        tls = {"certificate": str(places / "server.pem")}
        with through(mysql, tmp_path, auth={"rules": [rule]}, users={"*": {}}, tls=tls) as found:
            safe = {"user": "alice", "ssl_ca": str(places / "ca.pem")}
            assert who(found.connect("catalog", **safe)) == (1,)
            for user, password in (("alice", "wrong"), ("nobody", "s3cret")):
                with pytest.raises(OperationalError, match=rf"1045.*'{user}'@"):
                    found.connect("catalog", user=user, password=password, ssl_ca=safe["ssl_ca"])
            with pytest.raises(OperationalError, match=r"1045.*over TLS or a unix socket only"):
                found.connect("catalog", user="alice", ssl_disabled=True)


def test_behind_a_load_balancer(mysql: MariaDB, tmp_path: Path) -> None:
    """A PROXY header comes before the greeting, and the client that it names counts."""
    with through(mysql, tmp_path, proxy_protocol={"from": ["127.0.0.1"]}) as found:
        for header in (b"PROXY TCP4 10.9.8.7 127.0.0.1 1 2\r\n",
                       b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\x09\x08\x07\x7f\0\0\1\0\1\0\2"):
            with socket.create_connection(("127.0.0.1", found.daemon.mysql_port), 10) as sock:
                sock.sendall(header)
                greeting = sock.recv(4096)
                assert greeting[4] == 10
                answer = Answer(OURS, 1 << 24, 45, "backstage", b"wrong", "catalog", "caching_sha2_password")
                sock.sendall(packets(pack_answer(answer), 1))
                assert b"Access denied for user 'backstage'@'10.9.8.7'" in sock.recv(4096)
