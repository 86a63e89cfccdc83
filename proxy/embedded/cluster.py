"""A PostgreSQL cluster of our own: found, initialised, run as a child, stopped with us, adopted after a crash.

Its data lies in a folder that only its owner can read, locked for as long as we serve from it; it listens on a unix socket
inside, never on TCP; its superuser has a random password.  PostgreSQL refuses to run as root, so then the child becomes
`nobody`, and never anybody new.  All calls block; they are made before the loop starts and after it has ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import fcntl
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from proxy.config.target import Credential, Secret, Server
from proxy.embedded import places
from proxy.embedded.binaries import copied, find_binaries, major_version
from proxy.embedded.initialise import initialise
from proxy.embedded.owner import Owner, as_owner, reachable
from proxy.embedded.server_log import ServerLog
from proxy.errors import OperatorFault

PORT = 5432                 # only names the socket file
STARTUP = 60.0              # seconds to wait for the server's own recovery
DEFAULTS = {"listen_addresses": "", "password_encryption": "scram-sha-256", "max_connections": "200",
            "shared_buffers": "64MB", "logging_collector": "off", "log_min_messages": "warning"}


class Cluster:
    def __init__(self, state_dir: Path, binaries: Path | None = None, *, settings: Mapping[str, str] | None = None) -> None:
        self.state = Path(state_dir).resolve()
        self.data = self.state / "data"
        self.sockets = self.state / "run"
        self.asked = binaries
        self.binaries = binaries or find_binaries()
        self.log = ServerLog(self.state / "postgres.log")
        self.settings = {**DEFAULTS, **(settings or {})}
        self.port = int(self.settings.pop("port", PORT))
        self.process: subprocess.Popen[bytes] | None = None
        self.pid: int | None = None
        self._lock: int | None = None

    @property
    def server(self) -> Server:
        return Server(host=str(self.sockets), port=self.port)

    @property
    def credential(self) -> Credential:
        return Credential(user="postgres", password=Secret((self.state / "password").read_text().strip()))

    # -- life ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Initialise if new, start or adopt.  Raises OperatorFault with the server's own last words."""
        owner = self._owner()
        self._folders(owner)
        self._take()
        try:
            if not (self.data / "PG_VERSION").exists():
                initialise(self.state, self._program("initdb", owner), owner, self._environment())
            self._match()
            if (pid := self._running()) is not None:
                self.pid = pid                # ours, left by a crash
            else:
                self._launch(owner)
            self._wait(owner)
            self.log.watch()
        except BaseException:
            self.let_go()
            raise

    def _take(self) -> None:
        """One daemon at a time: another would adopt a server that is in use, and stop it when it goes."""
        fd = os.open(self.state / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise OperatorFault(f"our own PostgreSQL in {self.state} is in use by another Switchboard",
                                hint="Stop that one, or set switchboard.embedded.state_dir to another folder.") from None
        self._lock = fd

    def let_go(self) -> None:
        """Give the folder up without stopping the server, as a crash does."""
        self.log.leave()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def stop(self) -> None:
        """A fast shutdown; returns when it has ended."""
        try:
            self._stop()
            if self.sockets != self.state / "run":
                places.remove_short_folder(self.state, self.sockets)
        finally:
            self.let_go()

    def _stop(self) -> None:
        pid = self.process.pid if self.process is not None else self._running()
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        if self.process is not None:
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGQUIT)
                self.process.wait(10)
        else:
            end = time.monotonic() + 30
            while self._running() is not None and time.monotonic() < end:
                time.sleep(0.05)
        self.process = self.pid = None

    def alive(self) -> bool:
        return self.process.poll() is None if self.process is not None else self._running() is not None

    def version(self) -> str:
        with self._connect() as connection:
            return connection.info.parameter_status("server_version") or ""

    def databases(self) -> list[str]:
        with self._connect() as connection:
            return [row[0] for row in connection.execute("SELECT datname FROM pg_database WHERE NOT datistemplate")]

    def drop_database(self, name: str) -> None:
        with self._connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    # -- steps --------------------------------------------------------------------------------------------

    def _owner(self) -> Owner:
        """Who the server runs as; None: as we do."""
        if os.geteuid() != 0:
            return None
        if self.state.exists() and self.state.lstat().st_uid != 0:
            raise OperatorFault(f"{self.state} belongs to another user, and we are root",
                                hint="Run as its owner, or set switchboard.embedded.state_dir to another folder.")
        return pwd.getpwnam("nobody")

    def _folders(self, owner: Owner) -> None:
        """As root the state folder stays root's, so that the account below cannot put a link where we chown; it may only
        pass through to the two folders that are its own."""
        self.state.parent.mkdir(parents=True, exist_ok=True)
        if owner is not None and not reachable(self.state.parent, owner):
            raise OperatorFault(f"{self.state.parent} cannot be entered by user {owner.pw_name}, who runs our own PostgreSQL",
                                hint="Set switchboard.embedded.state_dir to a folder below one that anybody may enter, "
                                     "such as /var/lib/switchboard.")
        self.state.mkdir(exist_ok=True, mode=0o700)
        if owner is not None:
            os.chown(self.state, 0, owner.pw_gid)
        self.state.chmod(0o700 if owner is None else 0o710)
        self.sockets = self.state / "run"
        if places.fits(self.sockets, self.port):
            self._private(self.sockets, owner)
        else:
            self.sockets = places.short_folder(self.state, self.port, owner)

    def _private(self, folder: Path, owner: Owner) -> None:
        folder.mkdir(exist_ok=True, mode=0o700)
        if owner is not None:
            os.chown(folder, owner.pw_uid, owner.pw_gid)

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key in ("PATH", "TZ", "TMPDIR")}
        return kept | {"LC_ALL": "C", "HOME": str(self.state)}

    def _match(self) -> None:
        """A cluster is served by the major version that made it: by other binaries than the first, if need be."""
        have = (self.data / "PG_VERSION").read_text()[:20].strip()
        version = major_version(self.binaries)
        if have == version:
            return
        if self.asked is not None:
            raise OperatorFault(f"{self.data} was made by PostgreSQL {have}, but {self.binaries} is PostgreSQL {version or 'unknown'}",
                                hint=f"Set switchboard.embedded.binaries to PostgreSQL {have}, or move the folder away.")
        try:
            self.binaries = find_binaries(major=have)
        except OperatorFault as fault:
            raise OperatorFault(f"{self.data} was made by PostgreSQL {have}: {fault.message}",
                                hint=f"{fault.hint} Or move the folder away, and a new one is made.") from None

    def _program(self, name: str, owner: Owner) -> str:
        """The binary; a copy of its tree when the account that runs it may not reach the original."""
        if owner is None or reachable(self.binaries, owner):
            return str(self.binaries / name)
        return str(copied(self.binaries, self.state) / name)

    def _running(self) -> int | None:
        """The pid of a server on our data, if one is alive: a pid alone may be somebody else's by now."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            os.kill(pid, 0)
        except (OSError, ValueError, IndexError):
            return None
        return pid if _works_in(pid, self.data) else None

    def _launch(self, owner: Owner) -> None:
        options = [f"--{key}={value}" for key, value in self.settings.items()]
        self.log.bound()
        with self.log.path.open("ab") as out:
            self.log.path.chmod(0o600)
            self.process = subprocess.Popen(
                [self._program("postgres", owner), "-D", str(self.data), "-p", str(self.port),
                 f"--unix_socket_directories={self.sockets}", *options],
                stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd="/", env=self._environment(),
                preexec_fn=_die_with_parent, **as_owner(owner))

    def _wait(self, owner: Owner) -> None:
        end = time.monotonic() + STARTUP
        while True:
            try:
                with self._connect():
                    return
            except psycopg.OperationalError as error:
                if self.process is None and not self.alive():
                    self.pid = None           # the one we adopted was on its way out
                    self._launch(owner)
                    continue
                if not self.alive() or time.monotonic() > end:
                    raise OperatorFault(f"our own PostgreSQL did not start: {self.log.last_line() or error}") from None
            time.sleep(0.05)

    def _connect(self) -> psycopg.Connection[tuple[str, ...]]:
        word = self.credential.password
        return psycopg.connect(host=str(self.sockets), port=self.port, user="postgres", dbname="postgres", autocommit=True,
                               password=word.reveal() if word else None, connect_timeout=5)


def _works_in(pid: int, folder: Path) -> bool:
    """Is `folder` the working directory of a process?  A PostgreSQL server stays in its data folder."""
    if Path("/proc/self").exists():
        try:
            return os.readlink(f"/proc/{pid}/cwd") == str(folder)
        except OSError:
            return False
    told = subprocess.run(["ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False)
    return f"-D {folder}" in told.stdout


def _prctl() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(ctypes.util.find_library("c") or None, use_errno=True)
    found: Callable[..., int] = library.prctl
    return found


_PRCTL = _prctl()           # looked up before any fork: the child may only call


def _die_with_parent() -> None:
    """SIGINT (fast shutdown) when we are gone; elsewhere the next start adopts it."""
    os.setsid()
    if _PRCTL is not None:
        _PRCTL(1, signal.SIGINT)              # PR_SET_PDEATHSIG
