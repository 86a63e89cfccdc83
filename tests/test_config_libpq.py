"""libpq's words in a plugin's connection; where it can be asked, libpq itself says what a URL means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from proxy.config.libpq import parse_hosts, places, server
from proxy.config.target import ChannelBinding, Proof, Secret, Server, Session, SslMode, Tls
from proxy.config.upstream_tls import tls
from proxy.config.words import BadKey


@pytest.mark.parametrize(("host", "port", "want"), [
    (None, None, [("localhost", 5432)]),
    ("", "", [("localhost", 5432)]),
    ("db", 5433, [("db", 5433)]),
    ("a,b", "1,2", [("a", 1), ("b", 2)]),
    ("a, b", 7, [("a", 7), ("b", 7)]),
    ("a,,/run/pg", None, [("a", 5432), ("localhost", 5432), ("/run/pg", 5432)]),
    (["a", "::1"], ["", 2], [("a", 5432), ("::1", 2)]),
    ("[::1],b", "1,2", [("::1", 1), ("b", 2)]),
])
def test_places(host: object, port: object, want: list[tuple[str, int]]) -> None:
    assert places({"host": host, "port": port}) == want


@pytest.mark.parametrize(("connection", "key", "problem"), [
    ({"host": "a,b", "port": "1,2,3"}, "port", "cannot match 3 port numbers to 2 hosts"),
    ({"port": "1,2"}, "port", "cannot match"),
    ({"port": "x"}, "port", "expected a port from 1 to 65535, and this is no number"),
    ({"port": 70000}, "port", "expected a port"),
    ({"target_session_attrs": "writer"}, "target_session_attrs", "expected any, read-write, read-only, primary, standby"),
    ({"load_balance_hosts": "yes"}, "load_balance_hosts", "expected disable or random"),
    ({"channel_binding": "maybe"}, "channel_binding", "expected disable, prefer, require"),
    ({"require_auth": "scram"}, "require_auth", "scram-sha-256"),
    ({"require_auth": "!md5,password"}, "require_auth", "cannot be mixed"),
    ({"sslmode": "always"}, "sslmode", "expected disable, allow"),
    ({"sslmode": "prefer", "sslnegotiation": "direct"}, "sslnegotiation", 'weak sslmode "prefer"'),
    ({"sslmode": "require", "sslrootcert": "system"}, "sslmode", "weak sslmode"),
    ({"sslmode": "verify-ca"}, "sslmode", "requires sslrootcert"),
    ({"sslnegotiation": "fast"}, "sslnegotiation", "expected postgres or direct"),
    ({"sslmode": "verify-full", "sslrootcert": "/nowhere/ca.pem"}, "sslrootcert", "cannot read /nowhere/ca.pem: No such file"),
    ({"ssl_min_protocol_version": "SSLv3"}, "ssl_min_protocol_version", "expected TLSv1.2 or TLSv1.3"),
    ({"sslsni": "no"}, "sslsni", "expected 0 or 1"),
    ({"sslmode": "verify"}, "sslmode", 'expected disable, .*verify-full, no-verify, got "verify"'),
    ({"sslmode": "verify", "ssl": {}}, "sslmode", "expected disable"),       # as JavaScript makes it of a URL
    ({"sslmode": "requires", "ssl": True}, "sslmode", "expected disable"),
    ({"sslmode": ["require"]}, "sslmode", "expected disable, .*, got a list"),
    ({"ssl": "require"}, "ssl", "expected true, .* or an object .*, got \"require\"; for libpq's modes write sslmode: require"),
    ({"ssl": ["x"]}, "ssl", "expected true, false, no-verify or an object with ca, cert, key, rejectUnauthorized, got a list"),
    ({"ssl": 2}, "ssl", "expected true"),
    ({"ssl": {"ca": "/etc/ca.crt"}}, "ssl.ca", "expected PEM text, and this is the name of a file; write"),
    ({"ssl": {"key": "client.key"}}, "ssl.key", "expected PEM text"),
    ({"ssl": {"cert": True}}, "ssl.cert", "expected PEM text, got true"),
    ({"ssl": {"minVersion": "SSLv3"}}, "ssl.minVersion", "expected TLSv1.2 or TLSv1.3"),
    ({"ssl": {"minVersion": "TLSv1.3", "maxVersion": "TLSv1.2"}}, "ssl.minVersion", "above the newest"),
    ({"ssl": {"rejectUnauthorized": "no"}}, "ssl.rejectUnauthorized", 'expected true or false, got "no"'),
    ({"ssl": {"servername": 5}}, "ssl.servername", "expected text"),
    ({"host": {"a": "b"}}, "host", "expected text, got an object"),
    ({"port": True}, "port", "expected a port, got true"),
])
def test_mistakes(connection: dict[str, Any], key: str, problem: str) -> None:
    with pytest.raises(BadKey, match=problem) as caught:
        server(connection)
    assert caught.value.key == key


def test_a_word_is_shown_if_it_could_be_meant() -> None:
    shown = {"verify": True, "Requires": True, "on": True, "swordfish": False, "preferred-by-nobody": False, "s3cret": False}
    for word, seen in shown.items():
        with pytest.raises(BadKey) as caught:
            tls({"sslmode": word})
        assert (word in caught.value.problem) is seen


def test_every_mistake_is_noted() -> None:
    found: list[BadKey] = []
    server({"host": ["a", "b"], "port": "x,0,1", "target_session_attrs": "rw", "load_balance_hosts": "yes",
            "channel_binding": "maybe", "require_auth": "scram,md4", "sslmode": "verify", "ssl": "on", "sslsni": "no",
            "sslnegotiation": "fast", "sslcert": "/nowhere"}, found.append)
    assert [fault.key for fault in found] == [
        "port", "port", "port", "load_balance_hosts", "sslnegotiation", "sslmode", "ssl", "sslcert", "sslsni", "require_auth",
        "require_auth", "channel_binding", "target_session_attrs"]


def test_a_cluster() -> None:
    found = server({"host": "a,b,c", "port": 5, "target_session_attrs": "read-write", "load_balance_hosts": "random",
                    "channel_binding": "require", "require_auth": "!password,!md5"})
    assert found == Server(host="a", port=5, others=(("b", 5), ("c", 5)), tls=Tls(mode=SslMode.DISABLE),
                           session=Session.READ_WRITE, shuffle=True,
                           proof=Proof(channel_binding=ChannelBinding.REQUIRE,
                                       methods=frozenset({"none", "gss", "sspi", "scram-sha-256", "oauth"})))
    assert str(found) == "a:5,b:5,c:5"


@pytest.mark.parametrize(("connection", "want"), [
    ({}, Tls(mode=SslMode.DISABLE)),                                   # node-postgres has no TLS unless asked
    ({"ssl": True}, Tls(mode=SslMode.VERIFY_FULL)),
    ({"ssl": False, "sslmode": "require"}, Tls(mode=SslMode.DISABLE)),
    ({"ssl": {}, "sslmode": "require"}, Tls(mode=SslMode.VERIFY_FULL)),     # as JavaScript reads a URL
    ({"ssl": {"rejectUnauthorized": False}, "sslmode": "prefer", "uselibpqcompat": "true"}, Tls(mode=SslMode.PREFER)),
    ({"ssl": "no-verify"}, Tls(mode=SslMode.REQUIRE)),
    ({"sslmode": "no-verify"}, Tls(mode=SslMode.REQUIRE)),
    ({"ssl": "true"}, Tls(mode=SslMode.VERIFY_FULL)),
    ({"ssl": {"ca": ["A", "B"], "servername": "x", "minVersion": "TLSv1.3"}},
     Tls(mode=SslMode.VERIFY_FULL, ca="A\nB", server_name="x", minimum="TLSv1.3")),
    ({"ssl": {"cert": "C", "key": "K"}}, Tls(mode=SslMode.VERIFY_FULL, cert="C", key=Secret("K"))),
    ({"sslmode": "allow"}, Tls(mode=SslMode.ALLOW)),
    ({"sslmode": "verify-full", "sslrootcert": "system", "sslsni": "0"}, Tls(mode=SslMode.VERIFY_FULL, sni=False)),
    ({"sslmode": "require", "sslnegotiation": "direct", "ssl_max_protocol_version": "TLSv1.2"},
     Tls(mode=SslMode.REQUIRE, direct=True, maximum="TLSv1.2")),
    ({"sslnegotiation": "direct"}, Tls(mode=SslMode.VERIFY_FULL, direct=True)),
])
def test_tls(connection: dict[str, Any], want: Tls) -> None:
    assert tls(connection) == want


def test_files(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text(f"the {name}")
    files = {"sslrootcert": str(tmp_path / "ca"), "sslcert": str(tmp_path / "cert"), "sslkey": str(tmp_path / "key")}
    want = Tls(mode=SslMode.VERIFY_CA, ca="the ca", cert="the cert", key=Secret("the key"))
    assert tls({"sslmode": "verify-ca", **files}) == want
    assert tls({"ssl": {}, "sslmode": "verify-full", **files}) == Tls(
        mode=SslMode.VERIFY_FULL, ca="the ca", cert="the cert", key=Secret("the key"))
    assert "the key" not in repr(want)


URLS = [
    "postgres://h1:1,h2:2/db?target_session_attrs=read-write",
    "postgresql://u:p%40ss@h1,h2:2,[::1]:3/db",
    "postgresql://u@h1,h2",
    "postgresql://h1,h2/?sslmode=verify-full&load_balance_hosts=random",
    "postgresql://%2Frun%2Fpg,h2/my%20db?application_name=x%20y",
    "postgresql://:pw@,h2:5433/db",
]


@pytest.mark.parametrize("url", URLS)
def test_urls_with_several_hosts_as_libpq_reads_them(url: str) -> None:
    ours, theirs = parse_hosts(url), conninfo_to_dict(url)
    assert ours is not None
    assert ours.pop("uselibpqcompat") == "true"
    if "sslmode" not in theirs:
        assert ours.pop("sslmode") == "prefer"
    theirs["database"] = theirs.pop("dbname", None)
    assert {key: value for key, value in ours.items() if value} == {
        key: value.replace("[", "").replace("]", "") if key == "host" else value
        for key, value in theirs.items() if value and value.strip(",")} | (
            {"host": ours["host"]} if "[" in ours["host"] else {})


@pytest.mark.parametrize("text", ["", "mydb", "postgresql://h/db", "postgresql://u:a,b@h/db", "postgresql://h/a,b", "mysql://a,b/c",
                                  "postgresql://a]b,c/d"])
def test_other_text_is_left_to_javascript(text: str) -> None:
    assert parse_hosts(text) is None
