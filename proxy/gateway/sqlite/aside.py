"""What is about the session and touches no table: transactions, settings, SHOW.

A file has its settings in common with nobody, and most of them mean nothing to it: those that drivers set when they connect are
taken if they ask for what is so anyway, and refused if not.
"""

from __future__ import annotations

import re

from proxy.gateway.engine import Column, Result
from proxy.gateway.sqlite.faults import refused, unsupported

_SETTING = re.compile(r"set\s+(?:session\s+|local\s+)?(?:time\s+(zone)\s+|names\s+(?=')|([\w.]+)\s*(?:=|\s+to\s+))(.+)",
                      re.IGNORECASE | re.DOTALL)
_SHOW = re.compile(r"show\s+([\w.]+|transaction\s+isolation\s+level|time\s+zone|all)", re.IGNORECASE)
_SAVEPOINT = re.compile(r"(savepoint|release(?:\s+savepoint)?|rollback\s+(?:work\s+|transaction\s+)?to(?:\s+savepoint)?)\s+"
                        r'("(?:[^"]|"")+"|[a-z_]\w*)', re.IGNORECASE)
_TRANSACTION = re.compile(r"(?P<verb>begin|start\s+transaction|commit|end|rollback|abort)(?:\s+(?:work|transaction))?(?P<modes>.*)",
                          re.IGNORECASE | re.DOTALL)
_MODES = re.compile(r"(?:\s*,?\s*(?:isolation\s+level\s+(?:serializable|repeatable\s+read|read\s+committed|read\s+uncommitted)"
                    r"|read\s+write|(?P<readonly>read\s+only)|(?:not\s+)?deferrable|and\s+no\s+chain))*\s*", re.IGNORECASE)
_ASIDE = frozenset(("set", "reset", "discard", "deallocate", "unlisten", "show", "begin", "start", "commit", "end", "rollback",
                    "abort", "savepoint", "release"))
_FIXED = {"client_encoding": ("utf8", "utf-8", "unicode"), "standard_conforming_strings": ("on", "true"),
          "timezone": ("utc", "gmt", "etc/utc"),
          "datestyle": ("iso", "iso, mdy", "iso,mdy"), "bytea_output": ("hex",), "intervalstyle": ("postgres",),
          "default_transaction_read_only": ("off", "false"), "row_security": ("on", "off"), "transform_null_equals": ("off",),
          "statement_timeout": ("0",), "lock_timeout": ("0",), "idle_in_transaction_session_timeout": ("0",)}
_FREE = frozenset(("application_name", "extra_float_digits", "search_path", "client_min_messages", "jit", "work_mem",
                   "random_page_cost", "escape_string_warning", "synchronous_commit", "geqo", "cursor_tuple_fraction"))


def is_aside(sql: str) -> bool:
    words = sql.split(maxsplit=1)
    return bool(words) and words[0].lower() in _ASIDE


class Transactions:
    """What `aside` needs of a connection: `in_transaction`, and a way to say something to SQLite."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.settings = settings
        self.first = dict(settings)

    @property
    def in_transaction(self) -> bool:
        raise NotImplementedError

    async def say(self, sql: str) -> None:
        raise NotImplementedError

    def take_over(self) -> bool:
        """What was begun of our own accord is the client's own now.  Was there such?"""
        raise NotImplementedError

    def columns(self, sql: str) -> tuple[Column, ...] | None:
        found = _SHOW.fullmatch(sql)
        return (Column(_shown(found[1])),) if found is not None else None

    async def aside(self, sql: str) -> Result:
        """Raises NotSupported, Refused."""
        if (savepoint := _SAVEPOINT.fullmatch(sql)) is not None:
            return await self._savepoint(" ".join(savepoint[1].upper().split()), savepoint[2])
        if (found := _TRANSACTION.fullmatch(sql)) is not None:
            return await self._transaction(found["verb"].lower().split()[0], found["modes"])
        if (found := _SHOW.fullmatch(sql)) is not None:
            name = _shown(found[1])
            if name not in self.settings:
                raise refused("42704", f'unrecognized configuration parameter "{name}"')
            return Result("SHOW", (Column(name),), [[self.settings[name]]])
        return self._other(sql)

    async def _savepoint(self, verb: str, name: str) -> Result:
        if not self.in_transaction:
            raise refused("25P01", f"{verb} can only be used in transaction blocks")
        self.take_over()
        name = name if name.startswith('"') else f'"{name.lower()}"'
        await self.say(f"{'ROLLBACK TO' if verb.startswith('ROLLBACK') else verb.split()[0]} {name}")
        return Result(verb.split()[0], status="T" if verb.startswith("ROLLBACK") else None)

    async def _transaction(self, verb: str, modes: str) -> Result:
        found = _MODES.fullmatch(modes)
        if found is None:
            raise unsupported(f"{verb.upper()}{modes[:40]}") if "prepare" not in modes.lower() else unsupported("two-phase commit")
        begins = verb in ("begin", "start")
        there, ours = self.in_transaction, self.take_over()
        if begins:
            if not there:
                await self.say("BEGIN")
            return Result("START TRANSACTION" if verb == "start" else "BEGIN", status="T",
                          notice=("WARNING", "there is already a transaction in progress", "25001") if there and not ours else None)
        tag = "COMMIT" if verb in ("commit", "end") else "ROLLBACK"
        if there:
            await self.say(tag)
        missing = ("WARNING", "there is no transaction in progress", "25P01")
        return Result(tag, status="I", notice=None if there and not ours else missing)

    def _other(self, sql: str) -> Result:
        word = sql.split(maxsplit=1)[0].lower()
        if word == "set":
            found = _SETTING.fullmatch(sql)
            if found is None:
                raise unsupported(" ".join(sql.split()[:4])[:60])
            name = (found[2] or ("timezone" if found[1] else "client_encoding")).lower()
            self._set(name, found[3].strip())
        elif word == "reset" or (word == "discard" and "all" in sql.lower()):
            self.settings.update(self.first)
        tags = {"deallocate": "DEALLOCATE", "discard": "DISCARD ALL"}
        return Result(tags.get(word, word.upper()))

    def _set(self, name: str, text: str) -> None:
        value = ", ".join(part.strip().strip("'\"") for part in text.split(","))
        if value.lower() == "default":
            value = self.first.get(name, "")
        elif name not in _FREE and value.lower() not in _FIXED.get(name, ()):
            if name not in self.settings and name not in _FIXED and "." not in name:
                raise refused("42704", f'unrecognized configuration parameter "{name}"')
            raise unsupported(f"SET {name} TO {value[:40]}")
        self.settings[name] = value


def _shown(name: str) -> str:
    words = " ".join(name.lower().split())
    return {"transaction isolation level": "transaction_isolation", "time zone": "timezone"}.get(words, words)
