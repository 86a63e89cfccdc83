"""PostgreSQL is the judge: its pg_hba.conf and our rules of the same words let in the same callers.

LDAP needs a server that is built with it (Debian's is) and a slapd.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.wire.messages import parse_fields
from proxy.wire.startup import pack
from tests import certificates, slapd
from tests.servers import Daemon, Postgres, daemon, until
from tests.test_ldap import PEOPLE, STRANGERS

ADDRESSES = ("all", "samehost", "samenet", "127.0.0.1/32", "127.0.0.0/30", "127.0.0.2/32", "192.0.2.0/24", "::1/128", "localhost",
             "LOCALHOST", "localhost.example.org", ".localhost", ".ocalhost", "ocalhost", "localhos")
SOURCES = ("127.0.0.1", "127.0.0.2", "127.0.0.5")


def configured(server: Postgres, lines: list[str]) -> None:
    """`lines` are the rules for everybody but `postgres`; back when they hold."""
    (server.cluster.data / "pg_hba.conf").write_text("\n".join((
        "local all all scram-sha-256", "host all postgres 127.0.0.1/32 scram-sha-256", *lines,
        "host all applied 127.0.0.1/32 trust", "")))
    assert server.sql("select error from pg_hba_file_rules where error is not null") == []
    server.sql("select pg_reload_conf()")
    until(lambda: "pg_hba.conf" not in answer(server.port, "applied"), "the new rules")


def answer(port: int, user: str, source: str = "127.0.0.1") -> str:
    """The error that a caller gets who has no password; empty: in, or asked for one."""
    with socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0)) as sock:
        sock.sendall(pack({"user": user, "database": "catalog"}))
        stream = sock.makefile("rb")
        head = stream.read(5)
        return parse_fields(stream.read(int.from_bytes(head[1:]) - 4))["M"] if head[:1] == b"E" else ""


@pytest.fixture(scope="module")
def callers(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, Daemon]]:
    """One user for each address word."""
    server = Postgres()
    users = {f"u{number}": word for number, word in enumerate(ADDRESSES)}
    try:
        configured(server, [f"host all {user} {word} trust" for user, word in users.items()])
        rules = [{"type": "host", "users": user, "address": word, "method": "trust"} for user, word in users.items()]
        with daemon(tmp_path_factory.mktemp("callers"), base, users={user: {} for user in users}, auth={"rules": rules}) as running:
            yield server, running
    finally:
        server.remove()


@pytest.mark.parametrize("source", SOURCES)
def test_addresses(callers: tuple[Postgres, Daemon], source: str) -> None:
    server, running = callers
    let_in = []
    for number, word in enumerate(ADDRESSES):
        if source != SOURCES[0] and word[:1].isalpha() and word not in ("all", "samehost", "samenet", "localhost"):
            continue                          # a name server that is asked for these may take its time
        theirs, ours = (answer(port, f"u{number}", source) for port in (server.port, running.port))
        assert ("no pg_hba.conf entry" in theirs) == ("no pg_hba.conf entry" in ours), (word, theirs, ours)
        let_in += [word] if not ours else []
    assert "all" in let_in
    assert ("samehost" in let_in) is (source == SOURCES[0])


def with_ldap() -> Path | None:
    """Binaries of a PostgreSQL that speaks LDAP."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if b"ldap_search" in (folder / "postgres").read_bytes():
            return folder
    found = shutil.which("postgres")
    return Path(found).parent if found and b"ldap_search" in Path(found).read_bytes() else None


# Names that PostgreSQL does not look for in a directory, or pastes into a name there: we escape them.
OURS_ALONE = {("bind", "a,b=c"), *((way, "we(i)rd*") for way in ("search", "attribute", "filter", "url"))}


@pytest.mark.skipif(slapd.program() is None, reason="no slapd (Debian's package slapd; or SLAPD=<program>)")
@pytest.mark.skipif(with_ldap() is None, reason="no PostgreSQL with LDAP (Debian's package postgresql)")
def test_directories(base: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "slapd"
    folder.mkdir()
    certificates.make(tmp_path)
    server = Postgres(with_ldap())
    try:
        with slapd.directory(folder, PEOPLE) as directory:
            plain = {"ldapserver": "127.0.0.1", "ldapport": directory.port}
            search = {**plain, "ldapbasedn": slapd.BASE, "ldapbinddn": f"cn=finder,{slapd.BASE}", "ldapbindpasswd": "finder-s3cret"}
            ways: dict[str, dict[str, Any]] = {
                "bind": {**plain, "ldapprefix": "cn=", "ldapsuffix": f",ou=people,{slapd.BASE}"}, "search": search,
                "attribute": {**search, "ldapsearchattribute": "cn"},
                "filter": {**search, "ldapsearchfilter": "(&(objectClass=inetOrgPerson)(|(uid=$username)(sn=$username)))"},
                "unbound": {**plain, "ldapbasedn": slapd.BASE}, "elsewhere": {**search, "ldapbasedn": f"ou=others,{slapd.BASE}"},
                "url": {**{key: search[key] for key in ("ldapbinddn", "ldapbindpasswd")},
                        "ldapurl": f"ldap://127.0.0.1:{directory.port}/{slapd.BASE}?uid?sub"},
                "base": {"ldapurl": f"ldap://127.0.0.1:{directory.port}/{slapd.BASE}?uid"}}
            names = [*PEOPLE, *STRANGERS, "finder"]
            for name in names:
                with psycopg.connect(server.dsn(), autocommit=True) as connection:
                    connection.execute(psycopg.sql.SQL("create role {} login").format(psycopg.sql.Identifier(name)))
            for way in ways:
                server.sql(f"create database {way}")
            configured(server, [f"host {way} all 127.0.0.1/32 ldap " + " ".join(f'{key}="{value}"' for key, value in options.items())
                                for way, options in ways.items()])
            rules = [{"plugins": way, "method": "ldap", **options} for way, options in ways.items()]
            with daemon(tmp_path, base, users={"*": {}}, tls={"certificate": str(tmp_path / "server.pem")},
                        auth={"rules": rules, "throttle_failures": 0}) as running:
                let_in = [way for way in ways if not said(running.port, way, "alice", "s3cret", "require")]
                assert let_in == ["bind", "search", "attribute", "filter", "url"]
                for way in ways:
                    for name in names:
                        for word in (PEOPLE.get(name, "s3cret"), "wrong", "finder-s3cret"):
                            theirs = said(server.port, way, name, word, "disable")
                            ours = said(running.port, way, name, word, "require")
                            if (way, name) in OURS_ALONE:
                                assert (theirs, ours == "") == ("refused", word == PEOPLE[name])
                            else:
                                assert theirs == ours or (theirs, ours) == ("refused", "cannot"), (way, name, word, theirs, ours)
    finally:
        server.remove()


def said(port: int, database: str, user: str, password: str, mode: str) -> str:
    """Empty: let in; refused; cannot: the directory did not serve."""
    try:
        psycopg.connect(host="127.0.0.1", port=port, dbname=database, user=user, password=password, sslmode=mode).close()
    except psycopg.OperationalError as error:
        assert "LDAP" in str(error), error
        return "refused" if f'LDAP authentication failed for user "{user}"' in str(error) else "cannot"
    return ""
