"""A real Backstage backend as an object with verbs: installed from its lock file, started as a child, asked over HTTP."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import yaml

from tests.servers import free_port, until

HERE = Path(__file__).parent
PATIENCE = 60.0
"""Seconds for one start or one answer: a cold start migrates eight databases on a busy machine."""


class Unavailable(Exception):
    """This machine cannot run Backstage; the text is the reason to skip with."""


def install() -> Path:
    """The `node_modules` that our lock file describes: SWITCHBOARD_NODE_MODULES, or beside this file (git-ignored, kept).

    Raises Unavailable without Node, npm, or a registry to install from.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Unavailable("no Node on this machine")
    given = os.environ.get("SWITCHBOARD_NODE_MODULES")
    if given:
        if not (Path(given) / "@backstage/backend-defaults").is_dir():
            raise Unavailable("SWITCHBOARD_NODE_MODULES holds no Backstage")
        return Path(given)
    modules = HERE / "node_modules"
    stamp, lock = modules / ".installed", hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != lock:
        # No scripts: nothing that this backend loads has native code of its own, so nothing is downloaded or compiled.
        command = ["npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False, timeout=600)
        except subprocess.TimeoutExpired:
            raise Unavailable("npm did not install Backstage within 600 s") from None
        if done.returncode:
            raise Unavailable(f"npm could not install Backstage: {done.stderr.strip().splitlines()[-1:]}")
        stamp.write_text(lock)
    return modules


class Backstage:
    """One running backend.  `token` speaks for a service, `guest()` for the guest user."""

    token = "a-static-token-of-the-tests"

    def __init__(self, folder: Path, database: Mapping[str, Any], modules: Path, **variables: str) -> None:
        self.port = free_port()
        self.logfile = folder / "backstage.log"
        local = folder / "app-config.local.yaml"
        local.write_text(yaml.safe_dump({"backend": {"database": dict(database)}}))
        environment = {**os.environ, "NODE_PATH": str(modules), "NODE_ENV": "production", "BACKSTAGE_PORT": str(self.port),
                       "BACKSTAGE_TOKEN": self.token, "BACKSTAGE_CATALOG": str(HERE / "catalog-info.yaml"), **variables}
        command = ["node", "--no-node-snapshot", str(HERE / "index.cjs"), "--config", str(HERE / "app-config.yaml"),
                   "--config", str(local)]
        with self.logfile.open("wb") as out:
            self.process = subprocess.Popen(command, cwd=HERE, stdout=out, stderr=out, env=environment)

    @property
    def log(self) -> str:
        return self.logfile.read_text(errors="replace")

    def request(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        """(status, decoded JSON or text); status 0 while nobody listens."""
        headers = {"authorization": f"Bearer {token or self.token}", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(f"http://127.0.0.1:{self.port}{path}", data, headers, method=method), timeout=30) as answer:
                status, text = answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                status, text = error.code, error.read().decode()
        except (URLError, OSError):
            return 0, None
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        """The answer; anything but 2xx fails the test with both sides' words."""
        status, answer = self.request(method, path, body, token)
        assert 200 <= status < 300, f"{method} {path}: {status} {answer}\n{self.log[-4000:]}"
        return answer

    def ready(self) -> None:
        """Wait for readiness, or fail with the log as soon as the process ends."""
        def answers() -> bool:
            assert self.process.poll() is None, self.log[-8000:]
            return self.request("GET", "/.backstage/health/v1/readiness")[0] == 200
        try:
            until(answers, "readiness", PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log[-8000:]}") from None

    def guest(self) -> str:
        """A user's token from the guest provider; its key pair lives in the auth plugin's database."""
        return str(self.ask("GET", "/api/auth/guest/refresh")["backstageIdentity"]["token"])

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def backstage(folder: Path, database: Mapping[str, Any], modules: Path, **variables: str) -> Iterator[Backstage]:
    """`variables`: more of the environment."""
    running = Backstage(folder, database, modules, **variables)
    try:
        running.ready()
        yield running
        assert running.process.poll() is None, running.log[-8000:]
    finally:
        running.stop()
    assert "OUTSIDE" not in running.log, running.log
