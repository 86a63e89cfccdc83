"""What a statement may leave behind in a session: the few kinds, and nothing else.

    replayed    Set Reset ResetAll Configure Role Authorization Discard Transaction    (session/parameters keeps them)
    bound       Bound: one of these as soon as its parameters are known (session/bound)
    served      Listen Unlisten Notify Prepare Execute Deallocate OwnPid OwnState      (the relay decides how)
    pinned      Pin: the lease stays, for a reason; Unpin: ask, when the transaction ends, whether the reason is gone
    in doubt    Doubt: the text cannot tell; ask the server before the lease goes back
    Defaults    what sessions start with has changed: upstreams that logged in before are stale

A consequence is what happens *if* its statement succeeds, when it is executed.  Names are folded and without quotes;
a value is SQL, normalised so that it means the same under every standard_conforming_strings.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Reason(enum.StrEnum):
    """Why a lease is kept, or might have to be: labels of a metric, so few and fixed."""

    TEMPORARY = "temporary object"
    ADVISORY = "advisory lock"
    LISTEN = "listen"
    PREPARED = "prepared statement"
    HOLD = "cursor with hold"
    SETTING = "setting not understood"       # set_config() of what the text does not tell, UPDATE pg_settings
    SEQUENCE = "sequence state"              # currval(), lastval()
    SEED = "random seed"
    LIBRARY = "loaded library"
    EXTENSION = "extension with session state"   # dblink_connect() and its kind
    REPLICATION = "replication state"        # origins, temporary slots
    BACKUP = "backup"
    CODE = "code"                            # functions that we do not know, DO, CALL, triggers of DDL
    UNKNOWN = "unknown statement"
    OBSCURE = "not understood"               # a text that we do not cut as surely as the server does
    LENGTH = "too long to read"


class Change(enum.StrEnum):
    """What a statement does to the transaction."""

    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    COMMIT_CHAIN = "commit and chain"
    ROLLBACK_CHAIN = "rollback and chain"
    SAVEPOINT = "savepoint"
    RELEASE = "release"
    ROLLBACK_TO = "rollback to"
    PREPARE = "prepare transaction"
    FINISH_PREPARED = "finish prepared"     # COMMIT PREPARED, ROLLBACK PREPARED: another session's, no change here


class What(enum.StrEnum):
    """What DISCARD throws away; what a question about the own session asks for."""

    ALL = "all"
    PLANS = "plans"
    SEQUENCES = "sequences"
    TEMPORARY = "temporary"
    CHANNELS = "channels"
    PREPARED = "prepared statements"
    CURSORS = "cursors"
    BACKEND = "backend"                     # pg_stat_activity, pg_locks, pg_stat_get_backend_...(): rows of backends


@dataclass(frozen=True, slots=True)
class Set:
    name: str
    value: str | None                       # SQL behind TO; None is DEFAULT
    local: bool = False


@dataclass(frozen=True, slots=True)
class Configure:
    """A set_config() whose result is known from the text.  Of one with is_local = true even the name may be None."""

    name: str | None
    value: str | None                       # the text itself, not SQL
    local: bool = False


@dataclass(frozen=True, slots=True)
class Names:
    """A set_config() for the transaction, of this name and whatever value."""

    name: str


@dataclass(frozen=True, slots=True)
class Bound:
    """A set_config() some of whose arguments are parameters, by their numbers from 0: what it does is in the Bind message."""

    name: str | int
    value: str | int
    local: bool | int


@dataclass(frozen=True, slots=True)
class Reset:
    name: str


@dataclass(frozen=True, slots=True)
class ResetAll:
    """RESET ALL: every setting but role and session authorization."""


@dataclass(frozen=True, slots=True)
class Role:
    name: str | None                        # None: DEFAULT or RESET; "none": NONE
    local: bool = False


@dataclass(frozen=True, slots=True)
class Authorization:
    name: str | None
    local: bool = False


@dataclass(frozen=True, slots=True)
class Discard:
    what: What


@dataclass(frozen=True, slots=True)
class Transaction:
    change: Change
    name: str | None = None                 # the savepoint's


@dataclass(frozen=True, slots=True)
class Listen:
    channel: str


@dataclass(frozen=True, slots=True)
class Unlisten:
    channel: str | None                     # None: *


@dataclass(frozen=True, slots=True)
class Notify:
    channel: str | None                     # None: pg_notify() of what the text does not tell


@dataclass(frozen=True, slots=True)
class Prepare:
    name: str
    types: str
    statement: str


@dataclass(frozen=True, slots=True)
class Execute:
    """EXECUTE: what it does is in the text of its PREPARE."""

    name: str


@dataclass(frozen=True, slots=True)
class Deallocate:
    name: str | None                        # None: ALL


@dataclass(frozen=True, slots=True)
class OwnPid:
    """Process ids are asked for, or meant by an argument."""

    function: str
    start: int                              # offsets in the bytes of the text: the call's name, with its schema
    end: int


@dataclass(frozen=True, slots=True)
class OwnState:
    """A view or function that shows the state of the session which asks."""

    what: What


@dataclass(frozen=True, slots=True)
class Defaults:
    """ALTER ROLE / DATABASE / SYSTEM ... SET."""


@dataclass(frozen=True, slots=True)
class Pin:
    reason: Reason
    why: str = ""                           # the word that tells, for people


@dataclass(frozen=True, slots=True)
class Unpin:
    reason: Reason
    why: str = ""


@dataclass(frozen=True, slots=True)
class Doubt:
    reason: Reason
    why: str = ""


Effect = (Set | Configure | Names | Bound | Reset | ResetAll | Role | Authorization | Discard | Transaction | Listen | Unlisten | Notify
          | Prepare | Execute | Deallocate | OwnPid | OwnState | Defaults | Pin | Unpin | Doubt)
