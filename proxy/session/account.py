"""What a client of mode `auto` does, message by message, while its messages could leave something in the session.

Dry: whole messages in, bytes out.  An account knows what the server still owes (`dues`, one for each message that is
answered), applies a statement's consequences when the server says that it has succeeded, keeps the client's settings
beside those of the upstream it rides, gives prepared statements the names that all clients share, and swallows the answers
to what we have asked ourselves.  What cannot be replayed is a reason to keep the upstream: `pins`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from proxy.session import prepared, roster
from proxy.session.asking import Asking
from proxy.session.consequences import (
    Authorization,
    Bound,
    Change,
    Configure,
    Deallocate,
    Defaults,
    Discard,
    Doubt,
    Execute,
    Listen,
    Names,
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
from proxy.session.doubts import Doubts
from proxy.session.dues import (
    ASKED,
    COPY_DONE,
    COPY_FAIL,
    MARKS,
    UNTIL_READY,
    B,
    C,
    D,
    Due,
    E,
    Effects,
    F,
    P,
    Q,
    S,
    packed,
)
from proxy.session.extended import FORGET
from proxy.session.neutral import changes_schema
from proxy.session.parameters import Parameters, State
from proxy.session.pids import Whose
from proxy.session.prepared import NOWHERE
from proxy.session.returning import woven
from proxy.session.routines import Routines
from proxy.session.statements import read, statements
from proxy.session.wording import nothing_of_that_name, placed, renamed, unread
from proxy.wire import messages

Prepareds = OrderedDict[bytes, None]
_SETTINGS = (Set, Configure, Reset, ResetAll, Role, Authorization, Discard)
_CODE = frozenset((Reason.CODE,))
_ODD = frozenset((Reason.OBSCURE, Reason.UNKNOWN))
_OPAQUE = frozenset((Reason.SETTING, Reason.CODE, Reason.UNKNOWN, Reason.OBSCURE, Reason.LENGTH))
# What DISCARD ALL ends
_DISCARDED = frozenset((*ASKED, Reason.SETTING, Reason.SEQUENCE, Reason.CODE, Reason.UNKNOWN, Reason.OBSCURE, Reason.LENGTH))


class Account(Asking):
    """One client's.  `pid`: what it takes for the process id of its server."""

    def __init__(self, parameters: Parameters, pid: int, whose: Whose, client_of: Callable[[int], int | None],
                 routines: Routines) -> None:
        super().__init__(parameters, pid, whose)
        self.doubts = Doubts(routines)        # about functions
        self.client_of = client_of            # whom a server process serves, or served last
        self.overhears: Callable[[bytes], bytes] | None = None        # where a notification goes first (relay/hearing)
        self.mirror = Parameters()            # what the upstream's session has
        self.sql_prepared: dict[str, Effects] = {}
        self.pins: dict[Reason, str] = {}
        self.doubtful = False                 # a reason may have gone: ask
        self.blemished = False                # nobody else may have this upstream (`opaque`)
        self.stale = False                    # what sessions begin with has changed
        self.status = b"I"
        self.readies = 0                      # how often the client was told that it has no transaction
        self.schema_changing = False          # in this transaction
        self.lost: bytes | None = None        # why the upstream could not be brought to where the client is
        self.told: dict[str, str] = {}        # ParameterStatus, as the client knows it
        self._news: dict[str, bytes] = {}     # ParameterStatus that it should know
        self._withheld = b""                  # a ReadyForQuery, until the upstream is where the client is

    def ride(self, has: State, on_server: Prepareds) -> None:
        """A new lease, of an upstream whose session has this."""
        self.mirror = Parameters()
        self.mirror.become(has)
        self.on_server = on_server
        self.arriving.clear()
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
            return packed(tag, body)         # to be discarded
        take = _FROM_CLIENT.get(tag)
        return take(self, body) if take is not None else packed(tag, body)

    def _query(self, body: bytes) -> bytes:
        text = body[:-1]
        self.unnamed = None                   # a simple Query ends it
        found = read(text, conforming=self.conforming)
        there = () if not found else statements(text, conforming=self.conforming)
        each, more = tuple(one.effects for one in there), None
        if there and self.parameters.beginning:
            more = woven(text, there, self.parameters.beginning, within=self.status == b"T")
            if more.ours:
                text, each = more.text, more.each
                found = read(text, conforming=self.conforming)
            else:
                more = None
        before = tuple(self.pins)
        self._beware(found)
        if len(found) == 1 and isinstance(found[0], Deallocate) and found[0].name is not None:
            gone = self._forget(found[0].name)
            if gone is not None:              # one of the shared: it stays, but must look gone
                self.dues.append(Due(Q, ((), ()), hidden=1, undo=gone))
                return messages.query(f'PREPARE "{NOWHERE.decode()}" AS SELECT; DEALLOCATE "{NOWHERE.decode()}"')
        ahead = b""
        if len(found) == 1 and isinstance(found[0], Execute):
            known, ahead, text = self._by_its_name(text, found[0].name)
            if known is not None and ahead:
                self.dues.append(Due(S, ours=True))
                ahead += packed(S, b"")
        if Reason.SEQUENCE in self.pins and Reason.SEQUENCE not in before and not self.own_sequences:
            ahead += packed(Q, FORGET + b"\0")
            self.dues.append(Due(Q, ours=True))
        if roster.asked(found) and self.status != b"E" and (own := self._everything()):
            for due in self.dues:
                due.spare = due.spare or (due.ours and due.tag == P)
            self.dues.append(Due(S, ours=True))
            ahead += own + packed(S, b"")
        self.dues.append(Due(Q, each, schema=changes_schema(text), pins=tuple(reason for reason in self.pins if reason not in before),
                             woven=more))
        sent = self._as_sent(text, found)
        if sent != text or more is not None:
            self.dues[-1].texts = text, sent
        return ahead + packed(Q, sent + b"\0")

    def _sync(self, body: bytes) -> bytes:
        self.skipping = False
        self.ends += 1
        self.dues.append(Due(S))
        return packed(S, body)

    def _call(self, body: bytes) -> bytes:
        self._beware((Pin(Reason.CODE, "function call by its number"),))
        self.dues.append(Due(F))
        return packed(F, body)

    def _copy_end(self, tag: int, body: bytes) -> bytes:
        if self.dues:
            self.dues.append(Due(tag))
        return packed(tag, body)

    # -- consequences -------------------------------------------------------------------------------------

    def pin(self, reason: Reason, why: str) -> None:
        self.pins.setdefault(reason, why)

    def _beware(self, effects: Effects) -> None:
        """What must be assumed from the moment a statement is sent."""
        for effect in effects:
            match effect:
                case Doubt(Reason.CODE, why) if self.doubts.none_about(why):
                    pass
                case Pin(reason, why) | Doubt(reason, why):
                    self.doubts.opaque = self.doubts.opaque or effect == Pin(Reason.CODE, why)
                    self.pin(reason, why)
                    self.doubtful = self.doubtful or reason in ASKED
                case Bound():
                    self.pin(Reason.SETTING, "set_config() of what no Bind message tells")
                case Listen(channel):
                    self.pin(Reason.LISTEN, channel)
                case Prepare(name, _, text):
                    self.pin(Reason.PREPARED, name)
                    self.sql_prepared[name] = read(text.encode("utf-8", "surrogateescape"), conforming=self.conforming)
                case Execute(name) if (driven := self.named.get(name.encode("utf-8", "surrogateescape"))) is not None:
                    self._beware(driven.effects)
                case Execute(name):
                    self._beware(self.sql_prepared.get(name, (Pin(Reason.CODE, "execute"),)))
                case Unpin() | Unlisten() | Deallocate() | Discard():
                    self.doubtful = True
        if (any(isinstance(effect, _SETTINGS) for effect in effects)
                or (self.changing and any(isinstance(effect, Transaction) for effect in effects))):
            self.parameters.begin_implicit()
            self.mirror.begin_implicit()

    @property
    def opaque(self) -> bool:
        """Something has run of which nobody knows what it left: settings of its own making outlast even DISCARD ALL."""
        return not _OPAQUE.isdisjoint(self.pins)

    def has_called(self, name: str) -> None:
        """A function that is known."""
        customs = tuple(map(Names, self.doubts.routines.customs(name)))
        self.parameters.apply(customs)
        self.mirror.apply(customs)

    def _apply(self, effects: Effects) -> None:
        """A statement has succeeded."""
        for effect in effects:
            match effect:
                case Execute(name):
                    self._apply(self.sql_prepared.get(name, ()))
                case Doubt(Reason.CODE, why):
                    self.has_called(why)
                case Discard(What.ALL):
                    self.named.clear()
                    self.quick.clear()
                    self.on_server.clear()
                    self.unnamed_there = False
                    self.blemished = self.blemished or self.opaque
                    self.pins = {reason: why for reason, why in self.pins.items() if reason not in _DISCARDED}
                    self.doubts.clear()
                case ResetAll():
                    self.blemished = self.pins.pop(Reason.SETTING, None) is not None or self.blemished
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
        if self.parameters.too_much:
            self.pin(Reason.SETTING, "too many settings to keep")

    # -- from the server ----------------------------------------------------------------------------------

    def notification(self, process: int, whole: bytes) -> bytes:
        """As the client is told it: of processes it knows those that clients have."""
        client = self.client_of(process)
        return whole if client is None else whole[:5] + client.to_bytes(4) + whole[9:]

    def server(self, tag: bytes, body: bytes, whole: bytes) -> bytes:
        """One whole message of the server's (of a long one only the beginning may be in `body`): what the client gets."""
        while self.dues and self.dues[0].tag in MARKS:
            self.dues.popleft()
        due = self.dues[0] if self.dues else None
        if tag == b"Z":
            return self._ready(body, whole)
        if tag == b"E":
            return self._error(due, body, whole)
        if tag == b"S":
            return self._status(due, body, whole)
        if tag == b"A":
            return self.notification(int.from_bytes(body[:4]), whole) if self.overhears is None else self.overhears(whole)
        if due is None:
            return whole
        if tag == b"G":
            self._copy_in(due)
        elif tag in b"CIs":
            return self._complete(due, tag, whole)
        elif (tag == b"1" and due.tag == P) or (tag == b"2" and due.tag == B) or (tag == b"3" and due.tag == C) or (
                tag in b"Tn" and due.tag == D):
            self.dues.popleft()
            if due.makes:
                self.arriving.discard(due.makes)
            return b"" if due.ours else whole if due.answer is None else due.answer
        elif tag == b"D" and due.ours:
            due.rows.append(body)
        return b"" if due.silent else whole

    def _complete(self, due: Due, tag: bytes, whole: bytes) -> bytes:
        if due.schema and tag == b"C":
            prepared.schema_changed()
            self.schema_changing = self.doubts.made = True
        if due.tag == E:
            self.dues.popleft()
            if tag in b"Cs" and due.ours:
                self.mirror.apply(due.statements[0])
            elif tag in b"Cs":
                self._apply(due.statements[0])
            if tag == b"s" and due.known is not None and self.portals.get(due.portal) is due.known:
                self.portals[due.portal] = replace(due.known, effects=())   # it has run; what is left is to fetch its rows
        elif due.tag == Q and tag == b"C":
            if due.woven is not None and due.silent:
                self.mirror.apply(due.statements[due.at])
                due.at += 1
                return b""
            if due.at < len(due.statements):
                self._apply(due.statements[due.at])
            due.at += 1
            if due.at <= due.hidden:
                return b""
        return b"" if due.ours else whole

    def _status(self, due: Due | None, body: bytes, whole: bytes) -> bytes:
        name, value = messages.parse_parameter_status(body)
        self.mirror.learn(name, value)
        if (due is None or not due.ours) and self._comes_back(name.lower()):
            # The server goes back to what its session began with, not to what the client's did: that is told when it is so, and
            # if it is no change any more, then this.
            self._news[name] = whole
            self.parameters.unreport((name.lower(),))
            return b""
        self.parameters.learn(name, value)
        if name == "standard_conforming_strings":
            self.conforming = value == "on"
        if due is not None and due.ours:
            self._news[name] = whole
            return b""
        self.told[name] = value
        return whole

    def _comes_back(self, name: str) -> bool:
        """Has the client what its session began with, while the upstream has something else?"""
        began, lasting = self.parameters.beginning.get(name), self.parameters.settings.get(name)
        return began is not None and lasting == began and name not in self.parameters.local and self.mirror.settings.get(name) != began

    def _copy_in(self, due: Due) -> None:
        """A COPY of the extended protocol eats the Syncs that were sent ahead of the end of its data."""
        if due.tag != E:
            return
        del self.dues[0]
        while self.dues and self.dues[0].tag == S:
            self.dues.popleft()
            self.ended += 1
        if self.dues and self.dues[0].tag in MARKS:
            self.dues.popleft()
        self.dues.appendleft(due)

    def _error(self, due: Due | None, body: bytes, whole: bytes) -> bytes:
        if due is not None and due.ours and due.tag == Q:
            due.error = body
            return b""
        self.parameters.failed()
        self.mirror.failed()
        if due is not None and due.known is not None and b"\0C0A000\0" in body and b"RevalidateCachedQuery\0" in body:
            prepared.is_stale(due.known)
        if due is not None and due.tag not in UNTIL_READY:
            given_up = []
            while self.dues and self.dues[0].tag not in UNTIL_READY:
                given_up.append(self.dues.popleft())
            for each in reversed(given_up):
                undo = each.fails if each is due and each.fails is not None else each.undo
                if undo is not None:
                    undo()
            for each in given_up[1:]:
                self._unpin(each)
            self.skipping = not self.dues
            if due.spare:
                return b""
        elif due is not None:
            if due.undo is not None:
                due.undo()
            if unread(due, body):
                self._unpin(due, _ODD)
        if due is not None and nothing_of_that_name(due, body):
            self._unpin(due, _CODE)
        return whole if due is None else renamed(placed(whole, due), due, self.named)

    def _unpin(self, due: Due, which: frozenset[Reason] = frozenset(Reason)) -> None:
        """It was not carried out.  If something else is on its way, that may have the same reason."""
        if not any(other is not due and other.tag in (Q, E, F) for other in self.dues):
            for reason in which.intersection(due.pins):
                self.pins.pop(reason, None)
                if reason is Reason.CODE:
                    self.doubts.clear()

    def _ready(self, body: bytes, whole: bytes) -> bytes:
        due = None
        while self.dues:
            due = self.dues.popleft()
            if due.tag in UNTIL_READY:
                break
        while self.dues and self.dues[0].tag in MARKS:
            self.dues.popleft()              # of this request's COPY
        self.ended += due is not None and due.tag == S
        if not self.dues:
            self.ended = self.ends
            self.unsure.clear()
        self.status = body[:1]
        self.parameters.ended(self.status)
        self.mirror.ended(self.status)
        if self.status == b"I":
            self.own_sequences = None
            self.portals.clear()
            self.doubts.made = self.doubts.made and bool(self.doubts.unknown)
            if self.schema_changing:
                self.schema_changing = False
                prepared.schema_changed()      # what was prepared meanwhile may belong to what was rolled back
        if due is not None and due.then is not None:
            due.then(due)
        if due is None or not due.ours:
            if self.astray and self.status != b"E" and not self.dues:
                self._withheld = whole
                return b""
            self.readies += self.status == b"I"
            return whole
        news = b"".join(self._tell(name, told) for name, told in self._news.items())
        self._news.clear()
        withheld, self._withheld = self._withheld, b""
        self.readies += bool(withheld) and self.status == b"I"
        return news + withheld

    def _tell(self, name: str, whole: bytes) -> bytes:
        value = messages.parse_parameter_status(whole[5:])[1]
        if self.told.get(name) == value:
            return b""
        self.told[name] = value
        return whole

    def follows(self, tag: int, body: bytes) -> bool:
        """May this message go out behind a `lead` that is not answered yet, or behind what may have made or closed its statement?"""
        if self.unsure and self._in_doubt(tag, body):
            return False
        if not (self.dues and self.dues[0].leads):
            return True
        return tag == B or all(isinstance(effect, Transaction) and effect.change is Change.BEGIN for effect in self.meant(tag, body))

    def meant(self, tag: int, body: bytes) -> Effects:
        """What a message is about: of a Bind the names suffice."""
        if tag == Q:
            return read(body[:-1], conforming=self.conforming)
        if tag == P:
            return read(body.partition(b"\0")[2].partition(b"\0")[0], conforming=self.conforming)
        if tag == E:
            known = self.portals.get(body.partition(b"\0")[0])
        elif tag == B:
            name = body.partition(b"\0")[2].partition(b"\0")[0]
            known = self.named.get(name) if name else self.unnamed
        else:
            return (Pin(Reason.CODE, "function call by its number"),) if tag == F else ()
        return known.effects if known is not None else ()


_FROM_CLIENT: dict[int, Callable[[Account, bytes], bytes]] = {
    Q: Account._query, P: Account._parse, B: Account._bind, D: Account._describe, E: Account._execute, C: Account._close,
    S: Account._sync, F: Account._call, COPY_DONE: lambda self, body: self._copy_end(COPY_DONE, body),
    COPY_FAIL: lambda self, body: self._copy_end(COPY_FAIL, body)}
