"""A real MariaDB (or MySQL) as a child, on a port and a socket of its own, with data of its own.

Debian's packages would make a user and start a server: their files are enough.  `MARIADBD` names the program, in a folder to
which the packages were unpacked or in the system's own; `MYSQLD` names a mysqld of MySQL 8, against which the same tests
run too.  Without any, tests that need one skip.  As root it runs as `nobody`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.connections import Connection as Connection
from pymysql.err import Error as Error
from pymysql.err import OperationalError as OperationalError
from pymysql.err import ProgrammingError as ProgrammingError

from proxy.embedded.owner import as_owner, reachable
from tests import certificates
from tests.servers import Daemon, daemon, free_port, until

PLACES = "/usr/sbin:/usr/libexec:/usr/local/sbin:/usr/local/libexec:/opt/mariadb/bin"
ROOT_WORD = "root-s3cret"


def program() -> Path | None:
    named = os.environ.get("MARIADBD") or shutil.which("mariadbd") or shutil.which("mariadbd", path=PLACES)
    return Path(named) if named else None


def mysqld() -> Path | None:
    return Path(os.environ["MYSQLD"]) if os.environ.get("MYSQLD") else None


def client() -> str | None:
    """The command-line client: beside the server's unpacked files, or the system's."""
    found = program()
    beside = root_of(found) / "usr/bin/mariadb" if found else None
    if beside is not None and beside.exists():
        return str(beside)
    return shutil.which("mariadb") or shutil.which("mysql")


def root_of(binary: Path) -> Path:
    return binary.parents[2] if binary.parent.name == "sbin" and binary.parents[1].name == "usr" else binary.parents[1]


def environment() -> dict[str, str]:
    """For programs whose libraries were unpacked beside them."""
    found = program()
    root = root_of(found) if found else Path("/")
    libraries = [str(path) for path in (root / "usr/lib").glob("*-linux-gnu")] if root != Path("/") else []
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)} if libraries else dict(os.environ)


def plugin_dir() -> str | None:
    """Where the client library's authentication plugins were unpacked; None: where it was built to look."""
    found = program()
    root = root_of(found) if found else Path("/")
    return next((str(path) for path in (root / "usr/lib").glob("*-linux-gnu/libmariadb3/plugin") if root != Path("/")), None)


needed = pytest.mark.skipif(program() is None and mysqld() is None, reason="needs mariadbd (Debian: mariadb-server), or MYSQLD")


class MariaDB:
    """`root` with a password from 127.0.0.1 and the socket; TLS with a certificate of tests/certificates."""

    def __init__(self, binary: Path, **settings: str) -> None:
        self.binary, self.settings = binary, settings
        self.mysql = binary == mysqld()
        self.folder = Path(tempfile.mkdtemp(prefix="sb-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.port, self.socket = free_port(), self.folder / "mysqld.sock"
        certificates.make(self.folder)
        (self.folder / "server.pem").chmod(0o644)
        self.data = self.folder / "data"
        self.owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if self.owner is not None and not reachable(binary.parent, self.owner):
            self.owner = None                 # it is where nobody else may look: then as root
        if self.owner is not None:
            os.chown(self.folder, self.owner.pw_uid, self.owner.pw_gid)
        self.user = pwd.getpwuid(self.owner.pw_uid if self.owner else os.geteuid()).pw_name
        self._initialise()
        self.start()

    def _initialise(self) -> None:
        root = root_of(self.binary)
        if self.mysql:
            (self.folder / "init.sql").write_text(f"ALTER USER root@localhost IDENTIFIED BY '{ROOT_WORD}'; "
                                                  f"CREATE USER root@'127.0.0.1' IDENTIFIED BY '{ROOT_WORD}'; "
                                                  "GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n")
            words = [str(self.binary), "--no-defaults", "--initialize-insecure", f"--datadir={self.data}", f"--user={self.user}",
                     f"--init-file={self.folder / 'init.sql'}"]
        else:
            script = next(path for path in (root / "usr/bin/mariadb-install-db", root / "usr/bin/mysql_install_db",
                                            self.binary.parent / "mariadb-install-db") if path.exists())
            words = [str(script), "--no-defaults", f"--basedir={root / 'usr'}", f"--datadir={self.data}", "--skip-test-db",
                     "--auth-root-authentication-method=normal", f"--user={self.user}", "--skip-name-resolve"]
        done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment(), cwd=self.folder,
                              **(as_owner(self.owner)))
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        root = root_of(self.binary)
        options = {
            "user": self.user, "datadir": self.data, "socket": self.socket, "port": self.port, "bind-address": "127.0.0.1",
            "pid-file": self.folder / "mysqld.pid", "tmpdir": self.folder, "log-error": self.folder / "error.log",
            "ssl-cert": self.folder / "server.pem", "ssl-key": self.folder / "server.pem", "ssl-ca": self.folder / "ca.pem",
            "max-allowed-packet": "64M", "local-infile": "1", "innodb-flush-log-at-trx-commit": "0", "max-connections": "200",
            "skip-name-resolve": "1", "innodb-buffer-pool-size": "64M", **self.settings}
        if self.mysql:
            options |= {"mysqlx": "OFF"}
        else:
            options |= {"basedir": root / "usr", "lc-messages-dir": root / "usr/share/mysql"}
        words = [str(self.binary), "--no-defaults", *(f"--{name}={value}" for name, value in options.items())]
        with (self.folder / "out.log").open("ab") as out:
            self.process = subprocess.Popen(words, stdout=out, stderr=out, env=environment(), cwd=self.folder, **as_owner(self.owner))
        until(lambda: self.process.poll() is not None or self._listens(), "MariaDB")
        assert self.process.poll() is None, self.log
        if not self.mysql and not (self.folder / "named").exists():
            local = pymysql.connect(unix_socket=str(self.socket), user="root", autocommit=True)
            with local as connection, connection.cursor() as cursor:
                cursor.execute(f"CREATE OR REPLACE USER root@'127.0.0.1' IDENTIFIED BY '{ROOT_WORD}'")
                cursor.execute("GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION")
            (self.folder / "named").touch()

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(str(self.socket)) == 0

    @property
    def log(self) -> str:
        return (self.folder / "error.log").read_text(errors="replace") + (self.folder / "out.log").read_text(errors="replace")

    def connect(self, database: str | None = None, user: str = "root", password: str = ROOT_WORD,
                **more: Any) -> pymysql.Connection[Any]:
        return pymysql.connect(**{"host": "127.0.0.1", "port": self.port, "user": user, "password": password,
                                  "database": database, "autocommit": True, **more})

    def sql(self, text: str, database: str | None = None) -> list[tuple[Any, ...]]:
        with self.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(text)
            return list(cursor.fetchall())

    def databases(self) -> set[str]:
        return {row[0] for row in self.sql("SHOW DATABASES")}

    def base(self) -> dict[str, Any]:
        """backend.database with everything on this server."""
        return {"client": "mysql2", "connection": {"host": "127.0.0.1", "port": self.port, "user": "root", "password": ROOT_WORD}}

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def running(binary: Path, **settings: str) -> Iterator[MariaDB]:
    server = MariaDB(binary, **settings)
    try:
        yield server
    finally:
        server.remove()


class Bare:
    """A daemon with a listener for MySQL, and how its clients connect."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    def connect(self, database: str | None, user: str = "backstage", password: str = "s3cret", **more: Any) -> pymysql.Connection[Any]:
        return pymysql.connect(**{"host": "127.0.0.1", "port": self.daemon.mysql_port, "user": user, "password": password,
                                  "database": database, "autocommit": True, **more})


class Through(Bare):
    """With everything on one MySQL server."""

    def __init__(self, daemon: Daemon, server: MariaDB) -> None:
        super().__init__(daemon)
        self.server = server


@contextmanager
def bare(folder: Path, database: Mapping[str, Any], **settings: Any) -> Iterator[Bare]:
    listen = {"listen": ["127.0.0.1:0"], **settings.pop("mysql", {})}
    with daemon(folder, database, mysql=listen, **settings) as found:
        yield Bare(found)


@contextmanager
def through(server: MariaDB, folder: Path, database: dict[str, Any] | None = None, **settings: Any) -> Iterator[Through]:
    with bare(folder, database or server.base(), **settings) as found:
        yield Through(found.daemon, server)


def run_client(found: Through, text: str, *words: str, database: str = "catalog",
               password: str = "s3cret") -> subprocess.CompletedProcess[str]:
    """MariaDB's command-line client, batch mode, without names of columns."""
    program = client()
    if program is None:
        pytest.skip("needs the mariadb client (Debian: mariadb-client)")
    plugins = plugin_dir()
    return subprocess.run(
        [program, "--no-defaults", "-h127.0.0.1", f"-P{found.daemon.mysql_port}", "-ubackstage", "-BN",
         *([f"--plugin-dir={plugins}"] if plugins else []), *words, *([database] if database else [])],
        input=text, capture_output=True, text=True, check=False, timeout=60, env=environment() | {"MYSQL_PWD": password})
