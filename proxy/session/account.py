"""What a client of mode `auto` does, message by message, while its messages could leave something in the session.

Dry: whole messages in, bytes out.  An account knows what the server still owes (`dues`, one for each message that is
answered), applies a statement's consequences when the server says that it has succeeded, keeps the client's settings
beside those of the upstream it rides, gives prepared statements the names that all clients share, and swallows the answers
to what we have asked ourselves.  What cannot be replayed is a reason to keep the upstream: `pins`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.errors import ClientFault
from proxy.session import prepared
from proxy.session.consequences import (
    Authorization,
    Configure,
    Deallocate,
    Defaults,
    Discard,
    Doubt,
    Effect,
    Execute,
    Listen,
    Pin,
    Prepare,
    Reason,
    Reset,
    ResetAll,
    Role,
    Set,
    Transaction,
    Unlisten,
    Unpin,
    What,
)
from proxy.session.neutral import harmless
from proxy.session.parameters import Parameters, State, difference
from proxy.session.pids import Whose, bound, translated
from proxy.session.prepared import NOWHERE, Statement, statement
from proxy.session.statements import read, statements
from proxy.wire import messages

Effects = tuple[Effect, ...]
Prepareds = OrderedDict[bytes, None]
_SETTINGS = (Set, Configure, Reset, ResetAll, Role, Authorization, Discard)
Q, S, F, P, B, D, E, C, COPY_DONE, COPY_FAIL = b"QSFPBDECcf"
_UNTIL_READY = frozenset((Q, S, F))
_MARKS = frozenset((COPY_DONE, COPY_FAIL))

# Reasons that the server can be asked about, in the order of ASK's columns
ASKED = (Reason.ADVISORY, Reason.TEMPORARY, Reason.LISTEN, Reason.HOLD, Reason.PREPARED)
ASK = messages.query(
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()),"
    " EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema())"
    " OR EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace = pg_catalog.pg_my_temp_schema())"
    " OR EXISTS (SELECT FROM pg_catalog.pg_type WHERE typnamespace = pg_catalog.pg_my_temp_schema()),"
    " EXISTS (SELECT FROM pg_catalog.pg_listening_channels()),"
    " EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable),"
    " EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql)")
# What DISCARD ALL ends
_DISCARDED = frozenset((*ASKED, Reason.SETTING, Reason.SEQUENCE, Reason.CODE, Reason.UNKNOWN, Reason.OBSCURE, Reason.LENGTH))


@dataclass(slots=True)
class Due:
    """What the server owes for one message."""

    tag: int
    statements: tuple[Effects, ...] = ()
    at: int = 0                               # how many of the statements are done
    hidden: int = 0                           # how many of the first are ours
    ours: bool = False                        # nobody else is to see the answers
    missing: bytes | None = None              # the name of a statement that the client does not have
    answer: bytes | None = None               # instead of the server's acknowledgement
    undo: Callable[[], object] | None = None  # when the message was not carried out
    rows: list[bytes] = field(default_factory=list)
    error: bytes | None = None
    then: Callable[[Due], None] | None = None

    @property
    def resets(self) -> bool:
        """May the settings of the session's beginning come back?"""
        return any(isinstance(effect, Reset | ResetAll | Discard) or (isinstance(effect, Set) and effect.value is None)
                   for effects in self.statements for effect in effects)


class Account:
    """One client's.  `pid`: what it takes for the process id of its server."""

    def __init__(self, parameters: Parameters, pid: int, whose: Whose) -> None:
        self.parameters = parameters
        self.pid = pid
        self.whose = whose
        self.mirror = Parameters()            # what the upstream's session has
        self.on_server: Prepareds = OrderedDict()
        self.dues: deque[Due] = deque()
        self.named: dict[bytes, Statement] = {}
        self.quick: dict[bytes, bytes] = {}   # of these the ones that leave nothing: what the servers call them
        self.unnamed: Statement | None = None
        self.unnamed_there = False            # on this upstream
        self.portals: dict[bytes, Effects] = {}
        self.sql_prepared: dict[str, Effects] = {}
        self.pins: dict[Reason, str] = {}
        self.doubtful = False                 # a reason may have gone: ask
        self.skipping = False                 # the server discards until Sync
        self.stale = False                    # what sessions begin with has changed
        self.status = b"I"
        self.conforming = True
        self.told: dict[str, str] = {}        # ParameterStatus, as the client knows it
        self._news: dict[str, bytes] = {}     # ParameterStatus that it should know
        self._withheld = b""                  # a ReadyForQuery, until the upstream is where the client is

    def ride(self, has: State, on_server: Prepareds) -> None:
        """A new lease, of an upstream whose session has this."""
        self.mirror = Parameters()
        self.mirror.become(has)
        self.on_server = on_server
        self.unnamed_there = False

    @property
    def quiet(self) -> bool:
        """Nothing is owed and no batch is open."""
        return not self.dues and not self.skipping

    @property
    def changing(self) -> bool:
        """A transaction has changed settings, and may take that back."""
        return bool(self.parameters.marks)

    # -- from the client ----------------------------------------------------------------------------------

    def client(self, tag: int, body: bytes) -> bytes:
        """One whole message of the client's: what the server gets instead."""
        if self.skipping and tag != S:
            return _packed(tag, body)         # to be discarded
        take = _FROM_CLIENT.get(tag)
        return take(self, body) if take is not None else _packed(tag, body)

    def _query(self, body: bytes) -> bytes:
        text = body[:-1]
        self.unnamed = None                   # a simple Query ends it
        found = read(text, conforming=self.conforming)
        each = () if not found else tuple(one.effects for one in statements(text, conforming=self.conforming))
        self._beware(found)
        if len(found) == 1 and isinstance(found[0], Deallocate) and found[0].name is not None:
            gone = self._forget(found[0].name)
            if gone is not None:              # one of the shared: it stays, but must look gone
                self.dues.append(Due(Q, ((), ()), hidden=1, undo=gone))
                return messages.query(f'PREPARE "{NOWHERE.decode()}" AS SELECT; DEALLOCATE "{NOWHERE.decode()}"')
        self.dues.append(Due(Q, each))
        return _packed(Q, translated(text, found, self.pid, self.whose) + b"\0")

    def _forget(self, name: str) -> Callable[[], object] | None:
        key = name.encode("utf-8", "surrogateescape")
        known = self._drop(key)
        return None if known is None else lambda: self._remember(key, known)

    def _remember(self, name: bytes, known: Statement) -> None:
        self.named[name] = known
        if not known.pids and harmless(known.effects):
            self.quick[name] = known.server

    def _drop(self, name: bytes) -> Statement | None:
        self.quick.pop(name, None)
        return self.named.pop(name, None)

    def _parse(self, body: bytes) -> bytes:
        name, _, rest = body.partition(b"\0")
        text, zero, types = rest.partition(b"\0")
        if not zero:
            self.dues.append(Due(P))
            return _packed(P, body)           # the server knows what to say
        text = translated(text, read(text, conforming=self.conforming), self.pid, self.whose)
        found = statement(text, types, self._meaning(), conforming=self.conforming)
        ahead = b""
        if len(found.effects) == 1 and isinstance(found.effects[0], Deallocate) and found.effects[0].name is not None:
            gone = self._forget(found.effects[0].name)
            if gone is not None:
                self.dues.append(Due(P, ours=True, undo=gone))
                ahead = _packed(P, NOWHERE + b"\0SELECT\0\0\0")
                text = b'DEALLOCATE "%s"' % NOWHERE
        if not name:
            self.unnamed, self.unnamed_there = found, True
            self.dues.append(Due(P, undo=self._unnamed_gone))
            return ahead + _packed(P, b"\0" + text + b"\0" + types)
        if name in self.named:
            # Duplicate: let the server say so, of the name that it knows.
            there = self._ensure(self.named[name])
            self.dues.append(Due(P))
            return there + self.named[name].parse()
        if len(self.named) >= prepared.MOST_OF_A_CLIENT:
            raise ClientFault("too many prepared statements", hint="DEALLOCATE what is not used any more.")
        self._remember(name, found)
        if found.server in self.on_server:
            self.on_server.move_to_end(found.server)
            self.dues.append(Due(C, answer=b"1\0\0\0\4", undo=lambda: self._drop(name)))
            return ahead + _packed(C, b"S" + NOWHERE + b"\0")
        closing = self._make_room()
        self.on_server[found.server] = None

        def undo() -> None:
            self._drop(name)
            self.on_server.pop(found.server, None)

        self.dues.append(Due(P, undo=undo))
        return ahead + closing + found.parse()

    def _unnamed_gone(self) -> None:
        self.unnamed, self.unnamed_there = None, False

    def _ensure(self, wanted: Statement) -> bytes:
        """What makes the server know it: nothing, if it does."""
        if wanted.server in self.on_server:
            self.on_server.move_to_end(wanted.server)
            return b""
        closing = self._make_room()
        self.on_server[wanted.server] = None
        self.dues.append(Due(P, ours=True, undo=lambda: self.on_server.pop(wanted.server, None)))
        return closing + wanted.parse()

    def _make_room(self) -> bytes:
        if len(self.on_server) < prepared.MOST_ON_A_SERVER:
            return b""
        oldest, _ = self.on_server.popitem(last=False)
        self.dues.append(Due(C, ours=True, undo=lambda: self.on_server.setdefault(oldest)))
        return _packed(C, b"S" + oldest + b"\0")

    def _find(self, name: bytes) -> tuple[bytes, bytes, Effects]:
        """What goes ahead, the name on the server, the consequences; NOWHERE for what the client does not have."""
        if name:
            known = self.named.get(name)
            return (b"", NOWHERE, ()) if known is None else (self._ensure(known), known.server, known.effects)
        if self.unnamed is None:
            return b"", NOWHERE, ()
        if self.unnamed_there:
            return b"", b"", self.unnamed.effects
        self.unnamed_there = True
        self.dues.append(Due(P, ours=True, undo=lambda: setattr(self, "unnamed_there", False)))
        return self.unnamed.parse(b""), b"", self.unnamed.effects

    def _known(self, name: bytes) -> Statement | None:
        return self.named.get(name) if name else self.unnamed

    def whole_bind(self, name: bytes) -> bool:
        """Must the parameters of this Bind be looked at?"""
        known = self._known(name)
        return known is not None and bool(known.pids)

    def bind(self, portal: bytes, name: bytes) -> tuple[bytes, bytes]:
        """A Bind of which only the names matter: what goes ahead, and the statement's name on the server."""
        if self.skipping:
            return b"", name
        ahead, there, effects = self._find(name)
        self.portals[portal] = effects
        self.dues.append(Due(B, missing=name if there == NOWHERE else None))
        return ahead, there

    def _bind(self, body: bytes) -> bytes:
        portal, _, rest = body.partition(b"\0")
        name, _, rest = rest.partition(b"\0")
        wanted = self._known(name)
        ahead, there = self.bind(portal, name)
        if wanted is not None and wanted.pids:
            rest = bound(rest, wanted.pids, self.whose)
        return ahead + _packed(B, portal + b"\0" + there + b"\0" + rest)

    def _describe(self, body: bytes) -> bytes:
        ahead, missing = b"", None
        if body[:1] == b"S":
            ahead, there, _ = self._find(body[1:-1])
            missing = body[1:-1] if there == NOWHERE else None
            body = b"S" + there + b"\0"
        self.dues.append(Due(D, missing=missing))
        return ahead + _packed(D, body)

    def _execute(self, body: bytes) -> bytes:
        effects = self.portals.get(body.partition(b"\0")[0], ())
        self._beware(effects)
        self.dues.append(Due(E, (effects,)))
        return _packed(E, body)

    def _close(self, body: bytes) -> bytes:
        undo = None
        if body[:1] == b"S":
            name = body[1:-1]
            known = self._drop(name)
            if known is not None:
                kept = known
                undo = lambda: self._remember(name, kept)  # noqa: E731
            elif not name:
                self.unnamed, self.unnamed_there = None, False
            body = b"S" + (NOWHERE if name else b"") + b"\0"
        self.dues.append(Due(C, undo=undo))
        return _packed(C, body)

    def _sync(self, body: bytes) -> bytes:
        self.skipping = False
        self.dues.append(Due(S))
        return _packed(S, body)

    def _call(self, body: bytes) -> bytes:
        self.pin(Reason.CODE, "function call by its number")
        self.dues.append(Due(F))
        return _packed(F, body)

    def _copy_end(self, tag: int, body: bytes) -> bytes:
        if self.dues:
            self.dues.append(Due(tag))
        return _packed(tag, body)

    # -- consequences -------------------------------------------------------------------------------------

    def pin(self, reason: Reason, why: str) -> None:
        self.pins.setdefault(reason, why)

    def _beware(self, effects: Effects) -> None:
        """What must be assumed from the moment a statement is sent."""
        for effect in effects:
            match effect:
                case Pin(reason, why) | Doubt(reason, why):
                    self.pin(reason, why)
                    self.doubtful = self.doubtful or reason in ASKED
                case Listen(channel):
                    self.pin(Reason.LISTEN, channel)
                case Prepare(name, _, text):
                    self.pin(Reason.PREPARED, name)
                    self.sql_prepared[name] = read(text.encode("utf-8", "surrogateescape"), conforming=self.conforming)
                case Execute(name):
                    self._beware(self.sql_prepared.get(name, (Pin(Reason.CODE, "execute"),)))
                case Unpin() | Unlisten() | Deallocate() | Discard():
                    self.doubtful = True
        if (any(isinstance(effect, _SETTINGS) for effect in effects)
                or (self.changing and any(isinstance(effect, Transaction) for effect in effects))):
            self.parameters.begin_implicit()
            self.mirror.begin_implicit()

    def _apply(self, effects: Effects) -> None:
        """A statement has succeeded."""
        for effect in effects:
            match effect:
                case Execute(name):
                    self._apply(self.sql_prepared.get(name, ()))
                case Discard(What.ALL):
                    self.named.clear()
                    self.quick.clear()
                    self.on_server.clear()
                    self.unnamed_there = False
                    self.pins = {reason: why for reason, why in self.pins.items() if reason not in _DISCARDED}
                case ResetAll():
                    self.pins.pop(Reason.SETTING, None)
                case Discard(What.SEQUENCES):
                    self.pins.pop(Reason.SEQUENCE, None)
                case Deallocate(None):
                    self.named.clear()
                    self.quick.clear()
                    self.on_server.clear()
                case Defaults():
                    self.stale = True
        self.parameters.apply(effects)
        self.mirror.apply(effects)

    def _meaning(self) -> bytes:
        wanted = self.parameters.wanted()
        said = [(name, value) for name, value in wanted.settings if name in ("search_path", "standard_conforming_strings")]
        return State(tuple(said), wanted.role, wanted.authorization).digest

    # -- from the server ----------------------------------------------------------------------------------

    def server(self, tag: bytes, body: bytes, whole: bytes) -> bytes:
        """One whole message of the server's (of a long one only the beginning may be in `body`): what the client gets."""
        while self.dues and self.dues[0].tag in _MARKS:
            self.dues.popleft()
        due = self.dues[0] if self.dues else None
        if tag == b"Z":
            return self._ready(body, whole)
        if tag == b"E":
            return self._error(due, body, whole)
        if tag == b"S":
            return self._status(due, body, whole)
        if due is None:
            return whole
        if tag == b"G":
            self._copy_in(due)
        elif tag in b"CIs":
            return self._complete(due, tag, whole)
        elif (tag == b"1" and due.tag == P) or (tag == b"2" and due.tag == B) or (tag == b"3" and due.tag == C) or (
                tag in b"Tn" and due.tag == D):
            self.dues.popleft()
            return b"" if due.ours else whole if due.answer is None else due.answer
        elif tag == b"D" and due.ours:
            due.rows.append(body)
        return b"" if due.ours or due.at < due.hidden else whole

    def _complete(self, due: Due, tag: bytes, whole: bytes) -> bytes:
        if due.tag == E:
            self.dues.popleft()
            if tag == b"C":
                self._apply(due.statements[0])
        elif due.tag == Q and tag == b"C":
            if due.at < len(due.statements):
                self._apply(due.statements[due.at])
            due.at += 1
            if due.at <= due.hidden:
                return b""
        return b"" if due.ours else whole

    def _status(self, due: Due | None, body: bytes, whole: bytes) -> bytes:
        name, value = messages.parse_parameter_status(body)
        self.mirror.learn(name, value)
        if due is not None and not due.ours and name.lower() in self.parameters.beginning and due.resets:
            return b""                        # the server goes back to what its session began with, not to what the client's did
        self.parameters.learn(name, value)
        if name == "standard_conforming_strings":
            self.conforming = value == "on"
        if due is not None and due.ours:
            self._news[name] = whole
            return b""
        self.told[name] = value
        return whole

    def _copy_in(self, due: Due) -> None:
        """A COPY of the extended protocol eats the Syncs that were sent ahead of the end of its data."""
        if due.tag != E:
            return
        del self.dues[0]
        while self.dues and self.dues[0].tag == S:
            self.dues.popleft()
        if self.dues and self.dues[0].tag in _MARKS:
            self.dues.popleft()
        self.dues.appendleft(due)

    def _error(self, due: Due | None, body: bytes, whole: bytes) -> bytes:
        self.parameters.failed()
        self.mirror.failed()
        if due is not None and due.ours and due.tag == Q:
            due.error = body
            return b""
        if due is not None and due.tag not in _UNTIL_READY:
            while self.dues and self.dues[0].tag not in _UNTIL_READY:
                given_up = self.dues.popleft()
                if given_up.undo is not None:
                    given_up.undo()
            self.skipping = not self.dues
        elif due is not None and due.undo is not None:
            due.undo()
        return _renamed(whole, self.named, due.missing if due is not None else None)

    def _ready(self, body: bytes, whole: bytes) -> bytes:
        due = None
        while self.dues:
            due = self.dues.popleft()
            if due.tag in _UNTIL_READY:
                break
        self.status = body[:1]
        self.parameters.ended(self.status)
        self.mirror.ended(self.status)
        if self.status == b"I":
            self.portals.clear()
        if due is not None and due.then is not None:
            due.then(due)
        if due is None or not due.ours:
            if self.astray and self.status != b"E" and not self.dues:
                self._withheld = whole
                return b""
            return whole
        news = b"".join(self._tell(name, told) for name, told in self._news.items())
        self._news.clear()
        withheld, self._withheld = self._withheld, b""
        return news + withheld

    def _tell(self, name: str, whole: bytes) -> bytes:
        value = messages.parse_parameter_status(whole[5:])[1]
        if self.told.get(name) == value:
            return b""
        self.told[name] = value
        return whole

    # -- of our own ---------------------------------------------------------------------------------------

    def ask(self) -> bytes:
        """The question whether the reasons still hold."""
        self.doubtful = False
        self.dues.append(Due(Q, ours=True, then=self._answered))
        return ASK

    def _answered(self, due: Due) -> None:
        row = due.rows[0] if due.rows and due.error is None else b""
        held = _booleans(row) if row else (True,) * len(ASKED)
        for reason, holds in zip(ASKED, held, strict=True):
            if not holds:
                self.pins.pop(reason, None)
            elif row:
                self.pins.setdefault(reason, "the server says so")
        if Reason.PREPARED not in self.pins:
            self.sql_prepared.clear()

    @property
    def astray(self) -> bool:
        """The upstream does not have what the client wants."""
        return self.mirror.wanted() != self.parameters.wanted()

    def adjust(self) -> bytes:
        """What brings the upstream to where the client is, with its answers swallowed."""
        wanted = self.parameters.wanted()
        text = difference(self.mirror.wanted(), wanted)

        def done(due: Due) -> None:
            if due.error is None:
                self.mirror.become(wanted)
            else:
                self.mirror.become(wanted)     # not again
                self.pin(Reason.SETTING, "settings could not be brought back")

        self.dues.append(Due(Q, ours=True, then=done))
        return b"Q" + (len(text) + 5).to_bytes(4) + text + b"\0"


_FROM_CLIENT: dict[int, Callable[[Account, bytes], bytes]] = {
    Q: Account._query, P: Account._parse, B: Account._bind, D: Account._describe, E: Account._execute, C: Account._close,
    S: Account._sync, F: Account._call, COPY_DONE: lambda self, body: self._copy_end(COPY_DONE, body),
    COPY_FAIL: lambda self, body: self._copy_end(COPY_FAIL, body)}


def _packed(tag: int, body: bytes) -> bytes:
    return b"%c%s%s" % (tag, (len(body) + 4).to_bytes(4), body)


def _booleans(row: bytes) -> tuple[bool, ...]:
    """The columns of a DataRow of texts."""
    count, at = int.from_bytes(row[:2]), 2
    found = []
    for _ in range(count):
        length = int.from_bytes(row[at:at + 4], signed=True)
        found.append(row[at + 4:at + 4 + max(0, length)] == b"t")
        at += 4 + max(0, length)
    return tuple(found) if len(found) == len(ASKED) else (True,) * len(ASKED)


def _renamed(error: bytes, named: dict[bytes, Statement], missing: bytes | None) -> bytes:
    """Our names of statements, as the client knows them."""
    if prepared.PREFIX not in error:
        return error
    if missing is not None:
        told = b'prepared statement "%s" does not exist' % missing if missing else b"unnamed prepared statement does not exist"
        body = error[5:].replace(b'prepared statement "%s" does not exist' % NOWHERE, told)
    else:
        body = error[5:]
    for name, known in named.items():
        body = body.replace(b'"%s"' % known.server, b'"%s"' % name)
    return _packed(error[0], body)
