"""Where suites come from, pinned, and where they are kept: the user's cache folder."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "switchboard-suites"


class Unavailable(Exception):
    """The suite could not be had here; says why."""


def command(*words: str | Path, cwd: Path | None = None) -> str:
    """Its output.  Raises Unavailable with the last words of a program that failed."""
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=1200, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise Unavailable(f"{words[0]}: {fault}") from None
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Unavailable(f"{' '.join(map(str, words[:4]))}... ended with {done.returncode}: {' / '.join(said[-3:])}")
    return done.stdout


@contextlib.contextmanager
def made(name: str) -> Iterator[tuple[Path, bool]]:
    """A folder of the cache and whether it is still to be filled; one that could not be filled does not stay."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / name
    with (CACHE / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / ".ready").exists():
            yield folder, False
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder, True
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        (folder / ".ready").touch()


def verified(path: Path, sha256: str) -> Path:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise Unavailable(f"{path.name} has sha256 {found}, not {sha256}")
    return path


def unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


@dataclasses.dataclass(frozen=True)
class Sdist:
    """A source distribution, from the package index that pip is set up for."""

    name: str
    version: str
    sha256: str

    def folder(self) -> Path:
        with made(f"{self.name}-{self.version}") as (home, empty):
            if empty:
                # Without its metadata being built, which may want a compiler, nothing but `download` fetches an sdist.
                command(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", home,
                        f"{self.name}=={self.version}")
                unpack(verified(next(home.glob("*.tar.gz")), self.sha256), home)
            return next(path for path in home.iterdir() if path.is_dir())


@dataclasses.dataclass(frozen=True)
class Git:
    """A commit.  For a mirror, tell git itself (`url.<mirror>.insteadOf`)."""

    url: str
    commit: str

    def folder(self) -> Path:
        with made(f"{Path(self.url).name}-{self.commit[:12]}") as (home, empty):
            if empty:
                command("git", "clone", "-q", "--no-checkout", self.url, home / "tree")
                command("git", "-C", home / "tree", "checkout", "-q", "--detach", self.commit)
            return home / "tree"


@dataclasses.dataclass(frozen=True)
class Debian:
    """The upstream part of a Debian source package, by apt as it is set up here, with deb-src for each of its deb."""

    name: str
    version: str
    sha256: str

    def folder(self) -> Path:
        with made(f"{self.name}-{self.version}") as (home, empty):
            if empty:
                self._fetch(home)
            return next(path for path in home.iterdir() if path.is_dir() and path.name != "apt")

    def _fetch(self, home: Path) -> None:
        apt = _apt(home / "apt", "deb-src")
        command(*apt, "source", "--download-only", f"{self.name}={self.version}", cwd=home)
        unpack(verified(next(home.glob("*.orig.tar.*")), self.sha256), home)
        shutil.rmtree(home / "apt")


def _apt(home: Path, kind: str) -> tuple[str, ...]:
    """apt-get with lists of its own, of packages (deb) or of sources (deb-src), from where apt is set up to find its packages."""
    parts = home / "parts"
    parts.mkdir(parents=True)
    (home / "lists").mkdir()
    for path in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]:
        if path.is_file() and path.suffix in (".list", ".sources"):
            text = path.read_text().replace("Types: deb\n", f"Types: {kind}\n").replace("deb http", f"{kind} http")
            (parts / path.name).write_text(text)
    apt = ("apt-get", "-q", "-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={parts}",
           "-o", f"Dir::State::lists={home / 'lists'}", "-o", "APT::Sandbox::User=")
    command(*apt, "update")
    return apt


def packages(name: str, *wanted: str) -> Path:
    """Debian packages (`name` or `name=version`), unpacked side by side and not installed; apt has checked whose they are."""
    with made(f"debian-{name}") as (home, empty):
        if empty:
            apt = _apt(home / "apt", "deb")
            command(*apt, "download", *wanted, cwd=home)
            for package in home.glob("*.deb"):
                command("dpkg-deb", "-x", package, home / "root")
                package.unlink()
            shutil.rmtree(home / "apt")
        return home / "root"


def python_with(name: str, requirements: Sequence[str]) -> Path:
    """A Python in an environment of its own, with these packages."""
    digest = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:12]
    with made(f"python-{name}-{digest}") as (home, empty):
        if empty:
            command(sys.executable, "-m", "venv", home)
            command(home / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements)
        return home / "bin" / "python"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """For what one comparison writes, passwords included; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="suites-") as name:
        yield Path(name)
