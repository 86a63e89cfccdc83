"""Rules in the manner of pg_hba.conf: the table, and each method by real clients."""

from __future__ import annotations

import getpass
import signal
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import ValidationError

from proxy.auth.password import md5_hash
from proxy.auth.rules import Caller, Rules, may_be
from proxy.auth.scram import make_verifier
from proxy.config.rule import MapLine, Rule
from proxy.config.settings import Settings
from proxy.errors import AuthorizationFailed
from tests import certificates
from tests.raw import Raw
from tests.servers import Daemon, daemon

RULES = Rules([Rule.model_validate(line) for line in (
    {"type": "local", "users": "backup", "method": "peer"},
    {"type": "hostssl", "address": ["10.0.0.0/8", "fd00::/8"], "users": [r"/^bs_\d+$", "app"], "plugins": ["catalog", "postgres"],
     "method": "scram-sha-256-plus"},
    {"type": "hostnossl", "address": "10.9.0.0/16", "method": "reject"},
    {"type": "host", "address": "samehost", "method": "trust"},
    {"address": ["192.0.2.7", "2001:db8::7"], "method": "md5"},
    {"type": "local", "method": "scram-sha-256"})])


@pytest.mark.parametrize(("user", "plugin", "address", "tls", "method"), [
    ("backup", "catalog", None, False, "peer"),
    ("other", "catalog", None, False, "scram-sha-256"),
    ("app", "catalog", "10.1.2.3", True, "scram-sha-256-plus"),
    ("app", "postgres", "fd00::1", True, "scram-sha-256-plus"),
    ("bs_17", "catalog", "10.1.2.3", True, "scram-sha-256-plus"),
    ("bs_17x", "catalog", "10.1.2.3", True, None),
    ("app", "search", "10.1.2.3", True, None),
    ("app", None, "10.1.2.3", True, None),
    ("app", "catalog", "10.1.2.3", False, None),
    ("app", "catalog", "10.9.2.3", False, "reject"),
    ("app", "catalog", "11.1.2.3", True, None),
    ("app", None, "127.0.0.1", False, "trust"),
    ("app", "search", "192.0.2.7", True, "md5"),
    ("app", "search", "2001:db8::7", False, "md5"),
    ("app", "search", "2001:db8::8", False, None),
])
def test_the_first_match_decides(user: str, plugin: str | None, address: str | None, tls: bool, method: str | None) -> None:
    caller = Caller(user=user, database="d", plugin=plugin, tls=tls, near=address == "127.0.0.1",
                    address=ip_address(address) if address else None)
    if method in ("reject", None):
        words = "rejects connection" if method else "no pg_hba.conf entry"
        encryption = "SSL encryption" if tls else "no encryption"
        with pytest.raises(AuthorizationFailed) as caught:
            RULES.decide(caller)
        assert words in str(caught.value)
        assert str(caught.value).endswith(f'for host "{address}", user "{user}", database "d", {encryption}')
        assert caught.value.sqlstate == "28000"
    else:
        assert RULES.decide(caller).method == method


NAMED = Rules([Rule.model_validate(line) for line in (
    {"address": "10.0.0.0/8", "users": "early", "method": "trust"},
    {"address": ["bad.example.org", "samenet"], "users": "/^n", "method": "reject"},
    {"address": ["App.Example.org", ".plugins.example.org"], "plugins": "catalog", "method": "md5"},
    {"type": "hostssl", "address": "samehost", "method": "password"},
    {"address": ["10.2.0.0/16", "late.example.org"], "method": "scram-sha-256"})])


@pytest.mark.parametrize(("user", "host", "method"), [
    ("x", "app.example.org", "md5"), ("x", "sub.app.example.org", "scram-sha-256"), ("x", "a.plugins.example.org", "md5"),
    ("x", "a.b.plugins.example.org", "md5"), ("x", "plugins.example.org", "scram-sha-256"),
    ("x", "aplugins.example.org", "scram-sha-256"), ("n", "bad.example.org", "reject"), ("x", "bad.example.org", "scram-sha-256"),
    ("x", "", "scram-sha-256"), ("early", None, "trust")])
def test_host_names(user: str, host: str | None, method: str) -> None:
    """As hostname_match of PostgreSQL's hba.c."""
    caller = Caller(user=user, database="d", plugin="catalog", address=ip_address("10.2.3.4"))
    assert NAMED.hinges_on_a_name(caller) is (host is not None)
    caller = replace(caller, host=host)
    assert not NAMED.hinges_on_a_name(caller)
    if method == "reject":
        with pytest.raises(AuthorizationFailed, match="rejects connection"):
            NAMED.decide(caller)
    else:
        assert NAMED.decide(caller).method == method


def test_nobody_asks_for_a_name_that_changes_nothing() -> None:
    away = Caller(user="x", database="d", plugin="search", address=ip_address("11.2.3.4"))
    assert NAMED.hinges_on_a_name(away)                                                        # late.example.org may fit
    assert not NAMED.hinges_on_a_name(replace(away, address=ip_address("10.2.3.4")))
    assert not NAMED.hinges_on_a_name(replace(away, address=None))
    assert NAMED.speak_of("late.example.org")
    assert not NAMED.speak_of("example.org")


def test_near_and_beside() -> None:
    caller = Caller(user="nobody", database="d", plugin="search", address=ip_address("192.0.2.9"), host="", tls=True)
    for where, method in ({"neighbour": True}, "reject"), ({"near": True, "neighbour": True}, "reject"), ({}, None):
        with pytest.raises(AuthorizationFailed, match="rejects" if method else "no pg_hba.conf entry"):
            NAMED.decide(replace(caller, **where))  # type: ignore[arg-type]
    assert NAMED.decide(replace(caller, user="x", near=True)).method == "password"
    assert NAMED.neighbourly
    assert not Rules([Rule(address=["localhost"], method="trust")]).neighbourly


@pytest.mark.parametrize("text", ["10.0.0.256", "10.0.0.0/33", "localhost/8", "10.0.0", ".", "a..b", "-a.org", "a b", "fe80::1::",
                                  "ho$t", "example.org.", "10.0.0.1/8"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ValidationError, match="a host name, samehost, samenet or all"):
        Rule(address=[text], method="trust")


@pytest.mark.parametrize(("system", "user", "fits"), [
    ("root", "admin", True), ("root", "root", False), ("bryan@example.com", "bryan", True), ("bryan@example.com", "ann", False),
    ("bryan@example.org", "bryan", False), ("all@example.com", "bryan", False), ("/x@example.com", "x", False),
    ("dba", "anybody", True), ("ops", "bs_1", True), ("ops", "app", False)])
def test_maps(system: str, user: str, fits: bool) -> None:
    lines = [MapLine(system="root", user="admin"), MapLine(system=r"/^(.*)@example\.com$", user=r"\1"),
             MapLine(system="dba", user="all"), MapLine(system="ops", user="/^bs_")]
    assert may_be(system, user, lines) is fits
    assert may_be(system, system, None)
    assert not may_be(system, system + "x", None)


@pytest.mark.parametrize(("settings", "words"), [
    ({"auth": {"rules": [{"type": "host", "method": "peer"}]}}, "peer needs type: local"),
    ({"auth": {"rules": [{"method": "cert"}]}}, "cert needs type: hostssl"),
    ({"auth": {"rules": [{"type": "hostnossl", "method": "password"}]}}, "would show passwords"),
    ({"auth": {"rules": [{"address": "10.0.0.1/8", "method": "md5"}]}}, "has host bits set"),
    ({"auth": {"rules": [{"address": "10.0.0.300", "method": "md5"}]}}, "expected a network"),
    ({"auth": {"rules": [{"users": "/(", "method": "md5"}]}}, "not a regular expression"),
    ({"auth": {"rules": [{"type": "hostssl", "method": "md5"}]}}, "never matches without tls.certificate"),
    ({"auth": {"rules": [{"type": "local", "method": "peer", "map": "x"}]}}, "no map 'x'"),
    ({"auth": {"rules": [{"type": "local", "method": "md5", "map": "x"}]}}, "map is for"),
    ({"auth": {"rules": [{"type": "hostssl", "method": "cert"}]}, "tls": {"certificate": "x"}}, "need tls.client_ca"),
])
def test_rules_that_cannot_work_are_told_at_once(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Settings.model_validate(settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rules")
    certificates.make(folder)
    return folder


@pytest.fixture(scope="module")
def ruled(base: dict[str, Any], folder: Path) -> Iterator[Daemon]:
    me = getpass.getuser()
    rules = [
        {"type": "local", "users": ["mapped", "nobody else"], "method": "peer", "map": "staff"},
        {"type": "local", "users": me, "method": "peer"},
        {"type": "local", "users": "word", "method": "password"},
        {"type": "hostssl", "users": ["mapped", "cert", "ghost"], "method": "cert", "map": "staff"},
        {"type": "hostssl", "users": "bound", "method": "scram-sha-256-plus"},
        {"type": "hostssl", "users": "both", "method": "scram-sha-256", "clientcert": "verify-ca"},
        {"users": "refused", "method": "reject"},
        {"users": ["trusted", "unlisted"], "plugins": "catalog", "method": "trust"},
        {"type": "host", "users": ["word", "verified"], "method": "password"},
        {"users": ["hashed", "verified"], "plugins": ["catalog"], "method": "md5"},
        {"users": "hashed", "address": "samehost", "plugins": ["search"], "method": "scram-sha-256"}]
    users = {name: {"password": "s3cret"} for name in ("mapped", "word", "cert", "bound", "both", "refused")}
    users |= {"trusted": {}, me: {}, "hashed": {"password": md5_hash("hashed", "s3cret")},
              "verified": {"password": str(make_verifier("s3cret"))}, "narrow": {"password": "s3cret", "plugins": ["search"]}}
    maps = {"staff": [{"system": me, "user": "mapped"}, {"system": "cert", "user": "mapped"}, {"system": "/^cert$", "user": "ghost"}]}
    with daemon(folder, base, listen=["127.0.0.1:0", str(folder)], users=users, auth={"rules": rules, "maps": maps},
                tls={"certificate": str(folder / "server.pem"), "client_ca": str(folder / "ca.pem")}) as running:
        yield running


def dial(ruled: Daemon, user: str, database: str = "catalog", password: str = "s3cret", **more: str) -> None:
    words = {"host": "127.0.0.1", "port": str(ruled.port), "sslmode": "disable", **more}
    with psycopg.connect(" ".join(f"{key}={value}" for key, value in words.items()), user=user, dbname=database,
                         password=password) as connection:
        assert connection.execute("select current_database()").fetchone() == (f"backstage_plugin_{database}",)


def fails(ruled: Daemon, user: str, words: str, database: str = "catalog", password: str = "s3cret", **more: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=words):
        dial(ruled, user, database, password, **more)


def test_peer(ruled: Daemon, folder: Path) -> None:
    unix = {"host": str(folder), "port": "6432"}
    dial(ruled, getpass.getuser(), **unix)
    dial(ruled, "mapped", **unix)
    fails(ruled, "nobody else", 'Peer authentication failed for user "nobody else"', **unix)
    fails(ruled, "bound", r'no pg_hba.conf entry for host "\[local\]", user "bound", database "catalog", no encryption', **unix)


def test_password_needs_tls_or_a_unix_socket(ruled: Daemon, folder: Path) -> None:
    dial(ruled, "word", host=str(folder), port="6432")
    dial(ruled, "word", sslmode="require")
    dial(ruled, "verified", sslmode="require", require_auth="password")
    fails(ruled, "word", "over TLS or a unix socket only")
    fails(ruled, "word", 'password authentication failed for user "word"', password="wrong", sslmode="require")


def test_certificates(ruled: Daemon, folder: Path) -> None:
    mine = {"sslmode": "require", "sslcert": str(folder / "client.crt"), "sslkey": str(folder / "client.key")}
    dial(ruled, "mapped", password="", **mine)
    fails(ruled, "cert", 'certificate authentication failed for user "cert"', **mine)          # the map does not name it
    fails(ruled, "ghost", 'certificate authentication failed for user "ghost"', **mine)        # mapped, but nobody
    fails(ruled, "mapped", "connection requires a valid client certificate", sslmode="require", sslcertmode="disable")
    dial(ruled, "both", **mine)
    fails(ruled, "both", "password authentication failed", password="wrong", **mine)
    fails(ruled, "both", "connection requires a valid client certificate", sslmode="require", sslcertmode="disable")


def test_a_certificate_of_another_authority_ends_the_handshake(ruled: Daemon, tmp_path: Path) -> None:
    certificates.make(tmp_path)
    fails(ruled, "mapped", "SSL|closed", sslmode="require", sslcert=str(tmp_path / "client.crt"), sslkey=str(tmp_path / "client.key"))


def test_channel_binding(ruled: Daemon) -> None:
    dial(ruled, "bound", sslmode="require", channel_binding="require", require_auth="scram-sha-256")
    fails(ruled, "bound", "channel binding is disabled|SASL", sslmode="require", channel_binding="disable")
    fails(ruled, "bound", "password authentication failed", password="wrong", sslmode="require")


def test_the_first_match_is_the_only_one(ruled: Daemon) -> None:
    fails(ruled, "refused", 'pg_hba.conf rejects connection for host "127.0.0.1", user "refused", database "catalog", no encryption')
    dial(ruled, "trusted")
    fails(ruled, "trusted", "no pg_hba.conf entry", "search")
    fails(ruled, "unlisted", '"trust" authentication failed for user "unlisted"')
    fails(ruled, "narrow", "no pg_hba.conf entry")


def test_md5_means_scram_for_a_scram_verifier(ruled: Daemon) -> None:
    dial(ruled, "hashed", require_auth="md5")
    fails(ruled, "hashed", "password authentication failed", "search")     # an md5 hash cannot answer SCRAM


def test_unknown_plugins_match_all_only(ruled: Daemon) -> None:
    fails(ruled, "trusted", "no pg_hba.conf entry", "no such")
    with Raw(ruled.port) as raw:
        raw.hello(user="refused", database="no such")
        assert raw.refusal()["C"] == "28000"


def test_everybody_else(base: dict[str, Any], tmp_path: Path) -> None:
    """`*` is who a rule lets in without a password of ours; nobody logs in by that name."""
    with daemon(tmp_path, base, users={"*": {"plugins": ["catalog"], "maintenance": False}},
                auth={"rules": [{"users": "robot", "method": "trust"}, {"method": "scram-sha-256"}]}) as running:
        dial(running, "robot")
        fails(running, "robot", "permission denied", "search")
        fails(running, "robot", "permission denied", "postgres")
        fails(running, "clerk", "password authentication failed")
        fails(running, "*", "password authentication failed")


def test_the_names_of_real_addresses(base: dict[str, Any], tmp_path: Path) -> None:
    """127.0.0.1 is localhost by this machine's own files, and localhost is 127.0.0.1."""
    rules = [{"address": "localhost.example.org", "users": "named", "method": "reject"},
             {"address": "LOCALHOST", "users": "named", "method": "trust"},
             {"address": ".example.org", "users": "other", "method": "trust"},
             {"address": "samenet", "users": "net", "method": "trust"}, {"address": "samehost", "users": "host", "method": "trust"}]
    with daemon(tmp_path, base, users={name: {} for name in ("named", "other", "net", "host")}, auth={"rules": rules}) as running:
        for user in ("named", "net", "host"):
            dial(running, user)
        fails(running, "other", "no pg_hba.conf entry")
        del running.settings["auth"]["rules"][1]
        running.write(base)
        running.signal(signal.SIGHUP)
        running.logged("msg=reloaded")
        fails(running, "named", "no pg_hba.conf entry")


def test_a_balancer_near_its_client_is_not_near_us(base: dict[str, Any], tmp_path: Path) -> None:
    rules = [{"address": ["samehost", "samenet"], "users": "near", "method": "trust"},
             {"address": "localhost", "users": "named", "method": "trust"}]
    with daemon(tmp_path, base, users={"near": {}, "named": {}}, auth={"rules": rules},
                proxy_protocol={"from": "127.0.0.0/8"}) as running:
        for source, user in (("127.0.0.1", "near"), ("169.254.0.1", "near"), ("192.0.2.200", "named")):
            with Raw(running.port) as raw:
                raw.send(f"PROXY TCP4 {source} 192.0.2.1 5000 5432\r\n".encode())
                raw.hello(user=user, database="catalog")
                assert raw.refusal()["M"].startswith(f'no pg_hba.conf entry for host "{source}"')
