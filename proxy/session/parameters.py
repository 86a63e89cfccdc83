"""A client's settings as mode `auto` keeps them, and the one text that turns another's into them.

A transaction's changes go with it: BEGIN and SAVEPOINT remember what was, ROLLBACK brings it back, SET LOCAL was never
anything lasting.  A message of several statements (or a pipeline up to its Sync) is a transaction of its own, `implicit`.
Effects are told when their statement has succeeded.

Rights have no gap: `difference` goes back to the rights of the login first, changes settings with these, and takes on
session authorization and role last, all in one text, which the server runs as one transaction.  The relay sends it
ahead of the client's first message; if it fails, the upstream is as it was, and must not serve this client.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from proxy.session.assignments import identifier, literal
from proxy.session.consequences import (
    Authorization,
    Change,
    Configure,
    Discard,
    Effect,
    Names,
    Reset,
    ResetAll,
    Role,
    Set,
    Transaction,
    What,
)
from proxy.session.datestyle import joined, partial
from proxy.session.tokens import encode

MOST_BYTES = 1 << 16       # of names and values that one client may have us keep
MOST_CUSTOMS = 500         # names of settings of its own making
_LISTS = {"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries", "shared_preload_libraries"}
_CONSTANT = re.compile(r"'((?:[^']|'')*+)'|([a-z_][a-z0-9_]*+|-?[0-9][0-9.]*+)")
_NAMING = (Set, Configure, Reset, Names)
_SIMPLE = re.compile(r"[a-z_][a-z0-9_]*+")


@dataclass(frozen=True, slots=True)
class Value:
    """`written`: SQL as behind SET x TO; otherwise the value as SHOW tells it and set_config() takes it."""

    text: str
    written: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """What a session has, or a client wants: the settings that differ from those it began with, and whose rights hold."""

    settings: tuple[tuple[str, Value], ...] = ()       # by name
    role: str | None = None
    authorization: str | None = None
    customs: frozenset[str] = frozenset()    # settings of one's own making (`app.tenant`): once set, a session knows them for ever
    digest: bytes = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        told = repr((self.settings, self.role, self.authorization)).encode("ascii", "backslashreplace")
        object.__setattr__(self, "digest", hashlib.blake2b(told, digest_size=16).digest())


NOTHING = State()


def fits(has: State, wants: State) -> bool:
    """Can the one be brought to the other?  A session does not forget that it knows a setting, which then reads '' and not NULL."""
    return not has.customs or has.customs <= wants.customs


@dataclass(slots=True)
class _Mark:
    """What was, when a transaction or savepoint began.  Dictionaries are never changed, but replaced."""

    savepoint: str | None
    settings: dict[str, Value]
    local: dict[str, bool]
    role: str | None
    authorization: str | None


class Parameters:
    """One client's.  `beginning`: what its startup packet set, which RESET brings back."""

    __slots__ = ("_bytes", "_known", "authorization", "beginning", "broken", "customs", "explicit", "implicit", "local", "marks",
                 "reported", "role", "settings")

    def __init__(self, beginning: Mapping[str, str] | None = None) -> None:
        self.beginning = {name: Value(text) for name, text in (beginning or {}).items()}
        self.settings: dict[str, Value] = self.beginning
        self.customs = frozenset(name for name in self.beginning if "." in name)
        self.role: str | None = None
        self.authorization: str | None = None
        self.marks: list[_Mark] = []
        # Names with a SET LOCAL in force: what the server tells of these does not last.  True: it is the default, which
        # RESET ALL then leaves alone together with the lasting value below it (guc.c, ResetAllOptions).
        self.local: dict[str, bool] = {}
        self.reported: dict[str, str] = {}
        self.broken = self.explicit = self.implicit = False
        self._known: State | None = None
        self._bytes = 0

    @property
    def too_much(self) -> bool:
        """More is kept for this client than it may ask for: pin it."""
        return self._bytes > MOST_BYTES or len(self.customs) > MOST_CUSTOMS

    def wanted(self) -> State:
        if self._known is None:
            self._known = State(tuple(sorted(self.settings.items())), self.role, self.authorization, self.customs)
        return self._known

    def become(self, state: State) -> None:
        """Have what `state` says, from here on."""
        self._change(dict(state.settings))
        self.role, self.authorization, self.customs = state.role, state.authorization, state.customs

    def apply(self, effects: Iterable[Effect]) -> None:
        """The effects of a statement that has succeeded."""
        for effect in effects:
            if isinstance(effect, _NAMING) and effect.name is not None and "." in effect.name and effect.name not in self.customs:
                self.customs, self._known = self.customs | {effect.name}, None      # whatever becomes of the transaction
            match effect:
                case Set(name, value, True) | Configure(str(name), value, True):
                    self.local = {**self.local, name: value is None}
                case Set(name, None):
                    self._reset(name)
                case Set(name, str(value)):
                    self._put(name, constant(name, value))
                case Configure(str(name), str(value)):
                    self._put(name, Value(value))
                case Reset(name):
                    self._reset(name)
                case ResetAll():
                    spared = {name: self.settings[name] for name, default in self.local.items() if default and name in self.settings}
                    self._change({**self.beginning, **spared})
                    self.unreport(self.beginning.keys() - spared.keys())
                    self.local = {name: True for name, default in self.local.items() if default}
                case Role(name, False):
                    self.role, self._known = name, None
                case Authorization(name, False):
                    self.authorization, self.role, self._known = name, "none" if name is not None else None, None
                case Discard(What.ALL):
                    self._change(self.beginning)
                    self.unreport(self.beginning)
                    self.role = self.authorization = None
                case Transaction(change, savepoint):
                    self._transaction(change, savepoint)

    def begin_implicit(self) -> None:
        """A message comes whose statements stand or fall together, unless a transaction is open."""
        self.implicit = True
        if not self.marks:
            self.marks.append(self._mark(None))

    def failed(self) -> None:
        """An ErrorResponse."""
        self.broken = True

    def ended(self, status: bytes) -> None:
        """ReadyForQuery: b"I", b"T" or b"E"."""
        self.implicit = False
        if status == b"I":
            self._finish(rolled=self.broken)
            for name in self.settings.keys() & self.reported.keys():
                self._put(name, Value(self.reported[name]))
        elif status == b"T":
            self.broken, self.explicit = False, True

    def learn(self, name: str, value: str) -> None:
        """The server's own form of a value, as ParameterStatus tells it: told of every change, so what it told last is so.

        Without it DateStyle could not be kept: SET DateStyle TO SQL changes one half of what was there.
        """
        name = name.lower()
        self.reported[name] = value
        if name in self.settings and name not in self.local:
            self._put(name, Value(value))

    def unreport(self, names: Iterable[str]) -> None:
        """Back to what the client began with: what was told of the value before is over, and another need not be told."""
        for name in names:
            self.reported.pop(name, None)

    def _lasts(self, name: str) -> None:
        if name in self.local:
            self.local = {other: default for other, default in self.local.items() if other != name}

    def _put(self, name: str, value: Value) -> None:
        self._lasts(name)
        if self.settings.get(name) != value:
            self._change({**self.settings, name: value})

    def _reset(self, name: str) -> None:
        self._lasts(name)
        self.unreport((name,))
        if self.settings.get(name) != self.beginning.get(name):
            kept = {other: value for other, value in self.settings.items() if other != name}
            self._change({**kept, name: self.beginning[name]} if name in self.beginning else kept)

    def _change(self, settings: dict[str, Value]) -> None:
        self.settings, self._known = settings, None
        self._bytes = sum(len(name) + len(value.text) for name, value in settings.items())

    def _mark(self, savepoint: str | None) -> _Mark:
        return _Mark(savepoint, self.settings, self.local, self.role, self.authorization)

    def _back(self, mark: _Mark) -> None:
        self.local, self.role, self.authorization = mark.local, mark.role, mark.authorization
        self._change(mark.settings)

    def _finish(self, *, rolled: bool) -> None:
        if self.marks and rolled:
            self._back(self.marks[0])
        self.marks.clear()
        self.local = {}
        self.broken = self.explicit = False

    def _transaction(self, change: Change, savepoint: str | None) -> None:
        if change is Change.BEGIN:
            if not self.marks:
                self.marks.append(self._mark(None))
            self.explicit = True
        elif change is Change.SAVEPOINT:
            self.marks.append(self._mark(savepoint))
        elif change is Change.RELEASE or change is Change.ROLLBACK_TO:
            at = next((at for at in range(len(self.marks) - 1, -1, -1) if self.marks[at].savepoint == savepoint), None)
            if at is None:
                # Made before anything was changed in this transaction, when nobody kept account.
                if change is Change.ROLLBACK_TO and self.marks:
                    self._back(self.marks[0])
                    self.broken = False
                del self.marks[1:]
            elif change is Change.RELEASE:
                del self.marks[at:]
            else:
                self._back(self.marks[at])
                del self.marks[at + 1:]
                self.broken = False
        elif change is not Change.FINISH_PREPARED:
            self._finish(rolled=self.broken or change in (Change.ROLLBACK, Change.ROLLBACK_CHAIN))
            if change in (Change.COMMIT_CHAIN, Change.ROLLBACK_CHAIN):
                self.explicit = True
            if self.implicit or self.explicit:
                self.marks.append(self._mark(None))


# Settings that only a new connection can have (GucContext BACKEND and SU_BACKEND); and whose rights it begins with, which
# nobody else is to come back to
_FOR_LIFE = frozenset((
    "role", "session_authorization",
    "ignore_system_indexes", "post_auth_delay", "local_preload_libraries", "log_connections", "log_disconnections", "jit_provider",
    "jit_debugging_support", "jit_profiling_support", "replication", "session_preload_libraries", "client_connection_check_interval"))


def beginnings(asked: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What a startup packet asks for: what SET can give any session, by lower-case name, and what only a new one can have."""
    settings: dict[str, str] = {}
    rest = {}
    for name, value in asked.items():
        if name == "options":
            found = _options(value)
            if found is None or not _FOR_LIFE.isdisjoint(found):
                rest[name] = value
            else:
                settings = _begun(found, settings)
        elif name.lower() in _FOR_LIFE or name.startswith("_pq_."):
            rest[name] = value
        else:
            settings = _begun(settings, {name.lower(): value})
    return settings, rest


def _begun(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """Of one name the last value counts; of DateStyle each may name a half."""
    found = {**before, **after}
    if "datestyle" in before and "datestyle" in after:
        found["datestyle"] = joined(before["datestyle"], after["datestyle"])
    return found


def _options(text: str) -> dict[str, str] | None:
    """`-c name=value` and `--name=value`, as PostgreSQL splits them (pg_split_opts in postinit.c); None: something else is there."""
    words = [re.sub(r"\\(.)", r"\1", word, flags=re.DOTALL) for word in re.findall(r"(?:[^\s\\]|\\.)+", text, re.DOTALL)]
    found: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if word == "-c":
            if not words:
                return None
            word = words.pop(0)
        elif word.startswith(("-c", "--")):
            word = word[2:]
        else:
            return None
        name, equals, value = word.partition("=")
        if not equals:
            return None
        found = _begun(found, {name.replace("-", "_").lower(): value})
    return found


def constant(name: str, written: str) -> Value:
    """A single constant is the same value however it is quoted; what else was written is kept as it is."""
    found = _CONSTANT.fullmatch(written)
    if found is None:
        return Value(written, True)
    text = found[2] if found[1] is None else found[1].replace("''", "'")
    return Value(text) if name not in _LISTS or _SIMPLE.fullmatch(text) else Value(written, True)


# Settings that every role may change, and that mean the same whoever does.
_ANYBODYS = frozenset((
    "application_name", "bytea_output", "client_encoding", "client_min_messages", "datestyle", "extra_float_digits",
    "idle_in_transaction_session_timeout", "intervalstyle", "lock_timeout", "search_path", "standard_conforming_strings",
    "statement_timeout", "timezone", "work_mem"))


def difference(has: State, wants: State) -> bytes:
    """One SQL text that makes a session which has the one have the other; empty where nothing is to be done."""
    if has == wants:
        return b""
    had, wanted = dict(has.settings), dict(wants.settings)
    changed = sorted((name for name in wanted if had.get(name) != wanted[name]), key=_order)
    gone = [name for name in had if name not in wanted]
    unheard = sorted(wants.customs - has.customs - wanted.keys())
    if wants.role is not None and has.authorization is wants.authorization is None and _ANYBODYS.issuperset((*changed, *gone)):
        texts, left = [], False               # SET ROLE asks what the login may, not the role that is left
    else:
        texts, left = list(_leave(has)), True
    texts += (f"SET {_name(name)} TO ''; RESET {_name(name)}" for name in unheard)
    texts += (f"RESET {_name(name)}" for name in gone)
    texts += (_assignment(name, wanted[name]) for name in changed)
    if wants.authorization is not None:
        texts.append(f"SET SESSION AUTHORIZATION {identifier(wants.authorization)}")
    if wants.role is not None and (left or has.role != wants.role) and not (wants.role == "none" and wants.authorization is not None):
        texts.append("SET ROLE NONE" if wants.role == "none" else f"SET ROLE {identifier(wants.role)}")
    return encode("; ".join(texts))


def _leave(has: State) -> Iterator[str]:
    """Back to the rights of the login."""
    if has.role is not None:
        yield "RESET ROLE"
    if has.authorization is not None:
        yield "SET SESSION AUTHORIZATION DEFAULT"


def _order(name: str) -> tuple[int, str]:
    """Values may be looked up in search_path; a timeout may strike what follows it."""
    return (0 if name == "search_path" else 2 if name.endswith("_timeout") else 1, name)


def _name(name: str) -> str:
    return ".".join(identifier(part) for part in name.split("."))


def _assignment(name: str, value: Value) -> str:
    if value.written:
        if name == "timezone" and value.text.startswith("interval"):
            return f"SET TIME ZONE {value.text}"
        return f"SET {_name(name)} TO {value.text}"
    if name in _LISTS:
        return f"SELECT pg_catalog.set_config({literal(name)}, {literal(value.text)}, false)"
    said = f"SET {_name(name)} TO {literal(value.text)}"
    return f"RESET datestyle; {said}" if name == "datestyle" and partial(value.text) else said
