"""Who is compared: a direct connection, Switchboard, PgBouncer.  All face the same server and the same clients.

Both proxies run at their defaults but for what a Setup names.  Clients come over TCP as user `bench` to database `bench`.
PgBouncer will not run as root: then it becomes `nobody`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.processes import found, free_port, listens, output, running, until

ROOT = Path(__file__).parent.parent
USER, PASSWORD = "bench", "bench-password"
DATABASE = "backstage_plugin_bench"
PROXY_CORE, OTHER_CORE = 0, 1


@dataclass(frozen=True)
class Behind:
    """The server behind the proxies."""

    port: int
    user: str = USER
    password: str = PASSWORD


@dataclass(frozen=True)
class Setup:
    mode: str = "transaction"     # or session, auto
    theirs: str = ""              # PgBouncer's mode, if another
    their_size: int = 0           # and size
    reset: bool = False           # PgBouncer resets a connection behind each transaction
    size: int = 16                # upstream connections
    method: str = "trust"         # how clients prove themselves: trust or scram-sha-256
    tls: bool = False             # towards clients
    core: int | None = PROXY_CORE


@dataclass(frozen=True)
class Peer:
    name: str
    port: int
    pid: int | None               # of the proxy; None: direct
    user: str = USER
    password: str = PASSWORD
    database: str = "bench"
    sslmode: str = "disable"

    def cpu(self) -> float:
        return processes.cpu_seconds(self.pid) if self.pid else 0.0

    def resident(self) -> int:
        assert self.pid
        return processes.resident_bytes(self.pid)

    @property
    def environment(self) -> dict[str, str]:
        """For libpq."""
        return {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": self.user, "PGPASSWORD": self.password,
                "PGDATABASE": self.database, "PGSSLMODE": self.sslmode}


def direct(behind: Behind) -> Peer:
    return Peer("direct", behind.port, None, behind.user, behind.password, DATABASE)


def verifier(password: str, iterations: int = 4096) -> str:
    """A SCRAM-SHA-256 verifier: what a careful operator stores, and what spares both proxies the key derivation."""
    salt = b"benchmark-salt--"
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    return "SCRAM-SHA-256$" + f"{iterations}:" + "$".join(
        (_base64(salt), _base64(stored) + ":" + _base64(server)))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@contextlib.contextmanager
def switchboard(folder: Path, behind: Behind, setup: Setup) -> Iterator[Peer]:
    folder.mkdir(parents=True)
    settings = {
        "listen": ["127.0.0.1:0"], "metrics": {"listen": "off"}, "max_clients": 20_000, "provisioning": {"enabled": False},
        "users": {USER: {"method": setup.method, "password": verifier(PASSWORD)}},
        "pool": {"mode": setup.mode, "size": setup.size}}
    if setup.tls:
        certificate, key = _certificate(folder)
        settings["tls"] = {"mode": "require", "certificate": str(certificate), "key": str(key)}
    connection = {"host": "127.0.0.1", "port": behind.port, "user": behind.user, "password": behind.password}
    config = folder / "app-config.yaml"      # JSON is YAML
    config.write_text(json.dumps({"backend": {"database": {"client": "pg", "connection": connection}}, "switchboard": settings}))
    log = folder / "log"
    command = [sys.executable, "-m", "proxy", "run", "--config", str(config)]
    with contextlib.chdir(ROOT), running(command, log, setup.core) as process:
        until(lambda: "msg=ready" in log.read_text() or process.poll() is not None, "Switchboard")
        ready = re.search(r"msg=ready listen=\S*?127\.0\.0\.1:(\d+)", log.read_text())
        if not ready:
            raise SystemExit(f"Switchboard did not start:\n{log.read_text()}")
        yield Peer("switchboard", int(ready[1]), process.pid)


@contextlib.contextmanager
def pgbouncer(folder: Path, behind: Behind, setup: Setup) -> Iterator[Peer]:
    folder.mkdir(parents=True)
    port = free_port()
    # PgBouncer needs the plain password for its own login at the server.
    stored = PASSWORD if setup.method == "trust" else verifier(PASSWORD)
    (folder / "users").write_text(f'"{USER}" "{stored}"\n')
    upstream = f"host=127.0.0.1 port={behind.port} dbname={DATABASE} user={behind.user} password={behind.password}"
    lines = ["[databases]", f"bench = {upstream}", "[pgbouncer]", "listen_addr = 127.0.0.1", f"listen_port = {port}",
             "unix_socket_dir =", f"auth_type = {setup.method}", f"auth_file = {folder}/users",
             f"pool_mode = {setup.theirs or setup.mode}",
             f"default_pool_size = {setup.their_size or setup.size}", "max_client_conn = 20000"]
    if keeps_statements("pgbouncer"):
        lines.append("max_prepared_statements = 200")
    if setup.reset:
        lines += ["server_reset_query = DISCARD ALL", "server_reset_query_always = 1"]
    if setup.tls:
        certificate, key = _certificate(folder)
        lines += ["client_tls_sslmode = require", f"client_tls_cert_file = {certificate}", f"client_tls_key_file = {key}"]
    (folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
    command = [found("pgbouncer", "PGBOUNCER"), str(folder / "pgbouncer.ini")]
    if os.geteuid() == 0:
        command[1:1] = ["-u", "nobody"]
    with running(command, folder / "log", setup.core) as process:
        until(lambda: listens(port) or process.poll() is not None, "PgBouncer")
        if process.poll() is not None:
            raise SystemExit(f"PgBouncer did not start:\n{(folder / 'log').read_text()}")
        yield Peer("pgbouncer", port, process.pid)


@contextlib.contextmanager
def proxies(folder: Path, behind: Behind, setup: Setup, names: Sequence[str]) -> Iterator[list[Peer]]:
    """The proxies asked for, side by side: the one that is not measured sleeps."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(start(folder / f"{name}-{free_port()}", behind, setup))
               for name, start in (("switchboard", switchboard), ("pgbouncer", pgbouncer)) if name in names]


def pgbouncer_version() -> tuple[int, ...]:
    text = output([found("pgbouncer", "PGBOUNCER"), "--version"])
    return tuple(map(int, re.findall(r"PgBouncer (\d+)\.(\d+)", text)[0]))


def keeps_statements(name: str) -> bool:
    """Does a named statement outlive its transaction without keeping the upstream?  PgBouncer: since 1.21."""
    if name == "pgbouncer":
        return pgbouncer_version() >= (1, 21)
    return False                  # Switchboard pins the client to its upstream


def _certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "server.crt", folder / "server.key"
    output([found("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-out", str(certificate), "-keyout", str(key)])
    key.chmod(0o644)              # PgBouncer reads it as `nobody`; it guards nothing
    return certificate, key
