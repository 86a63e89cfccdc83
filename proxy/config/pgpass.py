"""Where a password comes from when nobody configured one: PGPASSWORD, as for every client, else the password file
(PostgreSQL manual, "The Password File").

    host:port:database:user:password          `*` matches anything; `\\` makes the next `:` or `\\` an ordinary character

The first line that matches counts.  A unix socket in the default folder matches `localhost`.  The file is read at each
dial, so that a changed password is found; one that others may read is ignored, with one warning for each state of it.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from proxy.config.target import Secret

log = logging.getLogger(__name__)
DEFAULT_SOCKETS = ("/tmp", "/var/run/postgresql", "/run/postgresql")   # upstream's, Debian's and Fedora's default
MAX_FILE = 1 << 20
_told: set[tuple[str, int, int]] = set()


def path(environ: Mapping[str, str]) -> Path | None:
    """PGPASSFILE, else ~/.pgpass."""
    if environ.get("PGPASSFILE"):
        return Path(environ["PGPASSFILE"])
    try:
        return Path(environ["HOME"]) / ".pgpass" if environ.get("HOME") else Path.home() / ".pgpass"
    except RuntimeError:
        return None                           # an account without a home


def lookup(host: str, port: int, database: str, user: str, *, environ: Mapping[str, str] | None = None) -> Secret | None:
    """The password for one place, or None."""
    environ = os.environ if environ is None else environ
    if environ.get("PGPASSWORD"):
        return Secret(environ["PGPASSWORD"])
    file = path(environ)
    text = _read(file) if file is not None else None
    if text is None:
        return None
    if host in ("", *DEFAULT_SOCKETS):
        host = "localhost"
    word = find(text, (host, str(port), database, user))
    return Secret(word) if word else None


def find(text: str, wanted: tuple[str, str, str, str]) -> str | None:
    """The password of the first line that matches (host, port, database, user)."""
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        if not line or line.startswith("#"):
            continue
        rest: str | None = line
        for field in wanted:
            rest = _after(rest, field) if rest is not None else None
        if rest is not None:
            return _word(rest)
    return None


def _after(text: str, field: str) -> str | None:
    """What follows a field that matches and its colon; None when it does not."""
    if text.startswith("*:"):
        return text[2:]
    at = 0
    for wanted in field:
        if text[at:at + 1] == "\\":
            at += 1
        if text[at:at + 1] != wanted:
            return None
        at += 1
    return text[at + 1:] if text[at:at + 1] == ":" else None


def _word(text: str) -> str:
    """The last field: to the end, or to a colon without a backslash."""
    out, at = [], 0
    while at < len(text) and text[at] != ":":
        if text[at] == "\\" and at + 1 < len(text):
            at += 1
        out.append(text[at])
        at += 1
    return "".join(out)


def _read(file: Path) -> str | None:
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            why = "is not a plain file"
        elif found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            why = "has group or world access; permissions should be u=rw (0600) or less"
        elif found.st_size > MAX_FILE:
            why = f"is larger than {MAX_FILE} bytes"
        else:
            return file.read_text("utf-8")
    except UnicodeDecodeError:
        why = "is not UTF-8"
    except OSError:
        return None                           # libpq says nothing either: there need not be one
    state = (str(file), found.st_mode, found.st_mtime_ns)
    if state not in _told:
        _told.add(state)
        log.warning("password file ignored", extra={"fields": {"file": str(file), "reason": why}})
    return None
