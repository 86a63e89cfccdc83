"""Logins that an LDAP server judges: a real slapd, asked through the daemon by real clients."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from pydantic import ValidationError

from proxy.auth.ldap import Directory, escaped_in_dn, escaped_in_filter
from proxy.config.configuration import read
from proxy.config.ldap import LdapUrl
from proxy.config.rule import Rule
from tests import certificates, slapd
from tests.servers import Daemon, daemon, free_port

PEOPLE = {"alice": "s3cret", "we(i)rd*": "s3cret", "a,b=c": "s3cret", "Ünï": "pässwörd"}
STRANGERS = ["nobody", "*", "a*", "alice)(uid=*", "alice,ou=people", "twin", "cn=alice"]
needs_slapd = pytest.mark.skipif(slapd.program() is None, reason="no slapd (Debian's package slapd; or SLAPD=<program>)")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slapd.Slapd]:
    with slapd.directory(tmp_path_factory.mktemp("slapd"), PEOPLE) as running:
        yield running


def rules(server: slapd.Slapd) -> dict[str, dict[str, Any]]:
    """One way of asking for each plugin."""
    plain = {"ldapserver": "127.0.0.1", "ldapport": server.port}
    finder = {"ldapbinddn": f"cn=finder,{slapd.BASE}", "ldapbindpasswd": "finder-s3cret"}
    bind = {"ldapprefix": "cn=", "ldapsuffix": f", ou=people, {slapd.BASE}"}
    search = {"ldapbasedn": slapd.BASE, **finder}
    trusted = {"ldaprootcert": str(server.folder / "ca.pem")}
    url = f"://localhost:{server.port}/{slapd.BASE}?uid?sub"
    return {
        "bind": {**plain, **bind}, "bind-tls": {**plain, **bind, **trusted, "ldaptls": True},
        "search": {**plain, **search},
        "search-ldaps": {**plain, **search, **trusted, "ldapport": server.tls_port, "ldapscheme": "ldaps"},
        "attribute": {**plain, **search, "ldapsearchattribute": "cn"},
        "filter": {**plain, **search, "ldapsearchfilter": "(&(objectClass=inetOrgPerson)(|(uid=$username)(mail=$username)))"},
        "url": {"ldapurl": f"ldap{url}", **finder, **trusted, "ldaptls": True},
        "url-filter": {"ldapurl": f"ldap://127.0.0.1:{server.port}/ou=people,{slapd.BASE}??one?(uid=$username)", **finder},
        "second": {**plain, **bind, "ldapserver": "127.0.0.2 127.0.0.1"},
        "away": {**plain, **bind, "ldapport": free_port()},
        "stranger": {**plain, **bind, "ldaptls": True},                                     # an authority that nobody knows
        "misnamed": {**plain, **search, **trusted, "ldaptls": True, "ldapserver": "127.0.0.3"},
        "misbound": {**plain, **search, "ldapbindpasswd": "wrong"},
        "misfiltered": {**plain, **search, "ldapsearchfilter": "(uid=$username"}}


WORKING = ["bind", "bind-tls", "search", "search-ldaps", "attribute", "filter", "url", "url-filter", "second"]


@pytest.fixture(scope="module")
def judged(directory: slapd.Slapd, base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("judged")
    certificates.make(folder)
    lines = [{"plugins": plugin, "method": "ldap", **options} for plugin, options in rules(directory).items()]
    users = {"*": {"maintenance": False}, "listed": {"plugins": ["catalog"]}}
    with daemon(folder, base, listen=["127.0.0.1:0", str(folder)], users=users, auth={"rules": lines, "throttle_failures": 0},
                tls={"certificate": str(folder / "server.pem")}) as running:
        yield running
        for word in ("s3cret", "pässwörd", "CANARY"):
            assert word not in running.log


def enter(running: Daemon, plugin: str, user: str, password: str, **more: str) -> None:
    words = {"host": "127.0.0.1", "port": str(running.port), "sslmode": "require", **more}
    with psycopg.connect(" ".join(f"{key}={value}" for key, value in words.items()), dbname=plugin, user=user,
                         password=password) as connection:
        assert connection.execute("select current_database()").fetchone() == (f"backstage_plugin_{plugin}",)


def refused(running: Daemon, plugin: str, user: str, password: str, words: str, **more: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=words):
        enter(running, plugin, user, password, **more)


@needs_slapd
@pytest.mark.parametrize("plugin", WORKING)
def test_right_and_wrong(judged: Daemon, plugin: str) -> None:
    for user, password in PEOPLE.items():
        enter(judged, plugin, user, password, require_auth="password")
    for user, password in (("alice", "CANARY"), ("alice", "s3cret "), *((stranger, "s3cret") for stranger in STRANGERS)):
        if (plugin, user) != ("url-filter", "twin") and not (user == "twin" and plugin in ("bind", "bind-tls", "second")):
            refused(judged, plugin, user, password, 'FATAL: +LDAP authentication failed for user "')


@needs_slapd
def test_the_password_goes_over_tls_or_a_unix_socket_only(judged: Daemon) -> None:
    refused(judged, "bind", "alice", "CANARY", "over TLS or a unix socket only", sslmode="disable")
    enter(judged, "bind", "alice", "s3cret", host=str(judged.folder), port="6432", sslmode="disable")


@needs_slapd
def test_an_empty_password_is_nobodys(judged: Daemon) -> None:
    """It would be an anonymous bind, which succeeds.  libpq sends none, so this asks for a prompt that nobody answers."""
    refused(judged, "bind", "alice", "", "no password supplied|empty password")


@needs_slapd
@pytest.mark.parametrize("plugin", ["away", "stranger", "misnamed", "misbound", "misfiltered"])
def test_a_directory_that_cannot_tell(judged: Daemon, plugin: str) -> None:
    """The log says why; the client, a stranger yet, only that."""
    before = judged.log.count("LDAP authentication cannot be done")
    refused(judged, plugin, "alice", "s3cret", "FATAL: +LDAP could not be asked")
    assert judged.log.count("LDAP authentication cannot be done") == before + 1
    told = judged.log.rpartition("LDAP authentication cannot be done")[2].partition("\n")[0]
    assert {"away": "refused", "stranger": "unable to get local issuer certificate", "misnamed": "not valid for '127.0.0.3'",
            "misbound": "invalidCredentials", "misfiltered": "filter"}[plugin] in told


@needs_slapd
def test_rights_are_the_proxys(judged: Daemon) -> None:
    """Who is proven has the rights of `users`, or of its star."""
    refused(judged, "bind", "listed", "s3cret", "LDAP authentication failed")               # has an entry here, and none there
    refused(judged, "catalog", "alice", "s3cret", "no pg_hba.conf entry")


@needs_slapd
def test_who_is_known_there_alone_is_refused_in_the_same_words(
        directory: slapd.Slapd, base: dict[str, Any], tmp_path: Path) -> None:
    certificates.make(tmp_path)
    line = {"method": "ldap", **rules(directory)["bind"]}
    with daemon(tmp_path, base, users={"bob": {}}, auth={"rules": [line]},
                tls={"certificate": str(tmp_path / "server.pem")}) as running:
        for user, password in (("alice", "s3cret"), ("bob", "s3cret")):
            refused(running, "catalog", user, password, f'LDAP authentication failed for user "{user}"')
        assert directory.log.count('BIND dn="cn=bob,ou=people') >= 1


def test_a_directory_that_says_nothing_has_its_time(base: dict[str, Any], tmp_path: Path) -> None:
    certificates.make(tmp_path)
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
        line = {"plugins": "search", "method": "ldap", "ldapserver": "127.0.0.1", "ldapport": silent.getsockname()[1],
                "ldapprefix": "cn="}
        with daemon(tmp_path, base, auth={"rules": [line, {"method": "scram-sha-256"}], "ask_timeout": "300ms"},
                    tls={"certificate": str(tmp_path / "server.pem")}) as running:
            refused(running, "search", "backstage", "s3cret", "LDAP could not be asked")
            running.logged("no answer in time.* method=ldap")
            enter(running, "catalog", "backstage", "s3cret")


NONSENSE = [
    b"", b"\0" * 10, b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes.fromhex("300c02010761070a010004000400"),
    bytes.fromhex("30050201016100"), bytes.fromhex("300c02010161070a010004000400")[:-1], bytes.fromhex("3084ffffffff"),
    bytes.fromhex("300c02010161070a01ff04000400"),
    bytes.fromhex("300c020101640704056e6f7065"), bytes.fromhex("30800201"), bytes.fromhex("0c") + b"x" * 12, bytes(range(256))]


@pytest.mark.parametrize("options", [{"ldapprefix": "cn="}, {"ldapbasedn": "dc=x"}, {"ldapprefix": "cn=", "ldaptls": True},
                                     {"ldapprefix": "cn=", "ldapscheme": "ldaps"}], ids=str)
def test_a_directory_that_talks_nonsense_lets_nobody_in(
        base: dict[str, Any], tmp_path: Path, options: dict[str, Any]) -> None:
    certificates.make(tmp_path)
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        def talk() -> None:
            for answer in NONSENSE:
                talker, _ = listening.accept()
                with talker, contextlib.suppress(OSError):
                    talker.recv(1000)
                    talker.sendall(answer)

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        line = {"method": "ldap", "ldapserver": "127.0.0.1", "ldapport": listening.getsockname()[1], **options}
        with daemon(tmp_path, base, auth={"rules": [line], "throttle_failures": 0, "ask_timeout": "5s"},
                    tls={"certificate": str(tmp_path / "server.pem")}) as running:
            for _ in NONSENSE:
                refused(running, "catalog", "backstage", "CANARY", "LDAP could not be asked|LDAP authentication failed")
            thread.join(60)
            assert "CANARY" not in running.log


@pytest.mark.parametrize(("options", "words"), [
    ({}, "needs ldapserver or ldapurl"), ({"ldapserver": "a"}, "needs ldapprefix, ldapsuffix, ldapbasedn or ldapurl"),
    ({"ldapserver": "a", "ldapprefix": "cn=", "ldapbasedn": "dc=x"}, "ldapprefix is for a simple bind, ldapbasedn for search"),
    ({"ldapserver": "a", "ldapbinddn": "dc=x"}, "needs ldapprefix, ldapsuffix, ldapbasedn or ldapurl"),
    ({"ldapserver": "a", "ldapbasedn": "x", "ldapsearchattribute": "a", "ldapsearchfilter": "(a=$username)"}, "exclude each other"),
    ({"ldapserver": "a", "ldapbasedn": "x", "ldapsearchfilter": "(a=b)"}, "has no [$]username"),
    ({"ldapserver": "a", "ldapprefix": "x", "ldapscheme": "ldaps", "ldaptls": True}, "is inside TLS anyway"),
    ({"ldapurl": "http://a/"}, "expected an LDAP URL"), ({"ldapurl": "ldap:///dc=x"}, "must name a host"),
    ({"ldapurl": "ldap://u:p@a/dc=x"}, "must name a host"), ({"ldapurl": "ldap://a/dc=x?uid?near"}, "scope in ldapurl"),
    ({"ldapurl": "ldap://a/dc=x?uid?sub?(uid=$username)"}, "exclude each other"), ({"ldapurl": "ldap://a:x/"}, "[Pp]ort"),
    ({"ldapurl": "ldap://a/dc=x???(uid=x)"}, "has no [$]username"),
    ({"ldapurl": "ldap://a/dc=x", "ldapport": 1}, "ldapport stands in ldapurl"),
    ({"method": "md5", "ldapprefix": "x"}, "ldapprefix is for method ldap"),
    ({"type": "hostnossl", "ldapserver": "a"}, "would show passwords")])
def test_mistakes(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Rule.model_validate({"method": "ldap", **options})


def test_what_is_doubtful_is_told_at_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [{"method": "ldap", "ldapserver": "127.0.0.1 dc1.example.org dc2.example.org", "ldapprefix": "cn="},
             {"method": "ldap", "ldapserver": "dc1.example.org", "ldapprefix": "cn=", "ldaptls": True},
             {"method": "ldap", "ldapurl": "ldaps://dc1.example.org/dc=x"}, {"method": "ldap", "ldapurl": "ldap://dc3.example.org/dc=x"},
             {"method": "ldap", "ldapserver": "localhost", "ldapsuffix": "@x"}]
    file = tmp_path / "app-config.yaml"
    database = {"client": "pg", "connection": {"host": "db", "user": "u"}}
    file.write_text(yaml.safe_dump({"backend": {"database": database}, "switchboard": {"users": {"*": {}}, "auth": {"rules": rules}}}))
    told = [text for text in read([file], environ={}).warnings if "auth.rules" in text]
    assert told == ["switchboard.auth.rules[0]: passwords go in clear to dc1.example.org dc2.example.org; set ldaptls: true or "
                    "ldapscheme: ldaps",
                    "switchboard.auth.rules[3]: passwords go in clear to dc3.example.org; set ldaptls: true or ldapscheme: ldaps"]
    monkeypatch.setattr("proxy.config.configuration.find_spec", lambda _: None)
    assert "switchboard.auth.rules[4]: method ldap lets nobody in without its library: pip install 'pg-switchboard[ldap]'" in read(
        [file], environ={}).warnings


def test_urls() -> None:
    """PostgreSQL's manual and RFC 4516."""
    assert LdapUrl.parse("ldap://ldap.example.net/dc=example,dc=net?uid?sub") == LdapUrl(
        "ldap", "ldap.example.net", None, "dc=example,dc=net", "uid", "sub", "")
    assert LdapUrl.parse("ldaps://[::1]:6636/o=An%20Example%5C2C%20Inc.??one?(cn=$username%3f)") == LdapUrl(
        "ldaps", "::1", 6636, "o=An Example\\2C Inc.", "", "one", "(cn=$username?)")
    asked = Directory.of(Rule(method="ldap", ldapurl="ldaps://h/dc=x?cn,sn?sub", ldapbindpasswd="CANARY"))  # type: ignore[arg-type]
    assert (asked.hosts, asked.port, asked.base, asked.filter, asked.scope) == (("h",), 636, "dc=x", "(cn=$username)", "sub")
    assert "CANARY" not in repr(asked)


def test_a_name_is_never_more_than_a_value() -> None:
    """RFC 4515 section 4 and RFC 4514 section 4."""
    assert escaped_in_filter("Parens R Us (for all your parenthetical needs)") == "Parens R Us \\28for all your parenthetical needs\\29"
    assert escaped_in_filter("*\\\0") == "\\2a\\5c\\00"
    assert escaped_in_dn('James "Jim" Smith, III') == "James \\22Jim\\22 Smith\\2c III"
    assert escaped_in_dn(" #a b# ") == "\\20#a b#\\20"
    assert escaped_in_dn("#a") == "\\23a"
    windows = Directory.of(Rule(method="ldap", ldapserver="a", ldapprefix="CORP\\"))
    assert windows.name_of("a,b") == "CORP\\a,b"
