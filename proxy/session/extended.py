"""The extended protocol in mode `auto`: a client's prepared statements and portals, by the names that all share on the servers.

What a client prepares, another may have prepared before: then its Parse is answered from here, in its order - a Close of
what nobody has takes its place in the stream, and its answer becomes the ParseComplete.  What this upstream lacks is
prepared ahead of the message that needs it, with the answer swallowed.  A message behind an error is not carried out, and
what was noted for it is undone.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from time import time
from typing import TYPE_CHECKING

from proxy.errors import ClientFault
from proxy.session import prepared, roster
from proxy.session.bound import resolved
from proxy.session.consequences import Deallocate, Execute, Reason
from proxy.session.dues import B, C, D, Due, E, Effects, P, Q, packed
from proxy.session.neutral import changes_schema, harmless
from proxy.session.parameters import Parameters, State
from proxy.session.pids import STRIKE, Whose, bound, translated
from proxy.session.prepared import NOWHERE, Statement, statement
from proxy.session.returning import behind
from proxy.session.statements import read
from proxy.session.tokens import encode

_EXECUTE = re.compile(rb'\s*+execute\s++("[^"]++"|[\w$]++)', re.IGNORECASE)

FORGET = b"DISCARD SEQUENCES"
"""Ahead of a client's first currval() or lastval(), from which on it keeps its connection: what others left is not its own.
Not where the transaction itself has asked for values (session/sequences)."""


def _in_a_batch(text: bytes) -> bytes:
    """A statement of ours, five messages."""
    return (packed(P, NOWHERE + b"\0" + text + b"\0\0\0") + packed(B, NOWHERE + b"\0" + NOWHERE + b"\0" + bytes(6))
            + packed(E, NOWHERE + b"\0" + bytes(4)) + packed(C, b"P" + NOWHERE + b"\0") + packed(C, b"S" + NOWHERE + b"\0"))



class Extended:
    """One client's."""

    def __init__(self, parameters: Parameters, pid: int, whose: Whose) -> None:
        self.parameters = parameters
        self.pid = pid
        self.whose = whose
        self.on_server: OrderedDict[bytes, None] = OrderedDict()       # what the upstream has
        self.arriving: set[bytes] = set()     # of these what it has been sent, and has not acknowledged
        self.unsure: dict[bytes, int] = {}    # names that a message makes or closes: the number of Syncs before it
        self.ends = self.ended = 0            # Syncs sent, and answered
        self.dues: deque[Due] = deque()
        self.named: dict[bytes, Statement] = {}
        self.since: dict[bytes, float] = {}   # when they were prepared
        self.quick: dict[bytes, bytes] = {}   # of these the ones that leave nothing: what the servers call them
        self.unnamed: Statement | None = None
        self.unnamed_there = False            # on this upstream
        self.portals: dict[bytes, Statement | None] = {}
        self.skipping = False                 # the server discards until Sync
        self.conforming = True
        self.own_sequences: bool | None = None         # what currval() tells is of this transaction; None: not asked yet

    pins: dict[Reason, str]
    status: bytes
    told: dict[str, str]

    if TYPE_CHECKING:                          # the Account's
        def _beware(self, effects: Effects) -> None: ...

    def _in_doubt(self, tag: int, body: bytes) -> bool:
        """Does it speak of a statement of which only the answer to an earlier Sync will tell whether there is one?"""
        if tag == P:
            name = body.partition(b"\0")[0]
        elif tag == B:
            name = body.partition(b"\0")[2].partition(b"\0")[0]
        elif tag in (C, D) and body[:1] == b"S":
            name = body[1:-1]
        else:
            return False
        since = self.unsure.get(name)
        return since is not None and self.ended <= since < self.ends

    def _forget(self, name: str) -> Callable[[], object] | None:
        key = name.encode("utf-8", "surrogateescape")
        self.unsure[key] = self.ends
        known = self._drop(key)
        return None if known is None else lambda: self._remember(key, known)

    def _remember(self, name: bytes, known: Statement) -> None:
        self.named[name] = known
        self.since[name] = time()
        if not known.pids and harmless(known.effects) and not changes_schema(known.text):
            self.quick[name] = known.server

    def _as_sent(self, text: bytes, effects: Effects) -> bytes:
        """What the server is to see, at this moment."""
        sent = translated(text, effects, self.pid, self.whose)
        if roster.asked(effects):
            version = self.told.get("server_version", "").partition(".")[0]
            sent = roster.rewritten(sent, self.named, self.since, int(version) if version.isdigit() else 0, conforming=self.conforming)
        return sent

    def _everything(self) -> bytes:
        """What makes the server know all that the client has prepared."""
        return b"".join([self._ensure(known) for known in list(self.named.values())[:prepared.MOST_ON_A_SERVER // 2]])

    def _drop(self, name: bytes) -> Statement | None:
        self.quick.pop(name, None)
        return self.named.pop(name, None)

    def _parse(self, body: bytes) -> bytes:
        name, _, rest = body.partition(b"\0")
        text, zero, types = rest.partition(b"\0")
        if not zero:
            self.dues.append(Due(P))
            return packed(P, body)           # the server knows what to say
        effects = read(text, conforming=self.conforming)
        written, text = text, self._as_sent(text, effects)
        texts = (written, text) if written != text else None
        found = self._statement(written, text, types, effects)
        ahead = b""
        if len(found.effects) == 1 and isinstance(found.effects[0], Execute):
            known, ahead, text = self._by_its_name(text, found.effects[0].name)
            if known is not None:
                found = replace(statement(text, types, self._meaning(), conforming=self.conforming), effects=known.effects)
        if len(found.effects) == 1 and isinstance(found.effects[0], Deallocate) and found.effects[0].name is not None:
            gone = self._forget(found.effects[0].name)
            if gone is not None:
                self.dues.append(Due(P, ours=True, undo=gone))
                ahead = packed(P, NOWHERE + b"\0SELECT\0\0\0")
                text = b'DEALLOCATE "%s"' % NOWHERE
        if not name:
            before = self.unnamed, self.unnamed_there
            self.unnamed, self.unnamed_there = found, True
            self.dues.append(Due(P, undo=lambda: self._unnamed_again(*before), fails=self._unnamed_gone, texts=texts))
            return ahead + packed(P, b"\0" + text + b"\0" + types)
        if name in self.named:
            # Duplicate: let the server say so, of the name that it knows.
            there = self._ensure(self.named[name])
            self.dues.append(Due(P, name=name, there=self.named[name].server))
            return ahead + there + found.parse(self.named[name].server)
        if len(self.named) >= prepared.MOST_OF_A_CLIENT:
            raise ClientFault("too many prepared statements", hint="DEALLOCATE what is not used any more.")
        self._remember(name, found)
        self.unsure[name] = self.ends
        if found.server in self.arriving or (found.server in self.on_server and self.status == b"E"):
            # Prepared a moment ago, and not known whether that succeeds, or in a failed transaction, where a Parse fails and a
            # Close does not: once more, from the beginning.
            self.dues.append(Due(C, ours=True))
            ahead += packed(C, b"S" + found.server + b"\0")
        elif found.server in self.on_server:
            self.on_server.move_to_end(found.server)
            self.dues.append(Due(C, answer=b"1\0\0\0\4", undo=lambda: self._drop(name)))
            return ahead + packed(C, b"S" + NOWHERE + b"\0")
        closing = self._make_room()

        def undo() -> None:
            self._drop(name)
            self._not_there(found.server)

        self._arrives(found.server)
        self.dues.append(Due(P, undo=undo, makes=found.server, texts=texts))
        return ahead + closing + found.parse()

    def _statement(self, written: bytes, text: bytes, types: bytes, effects: Effects) -> Statement:
        found = statement(text, types, self._meaning(), conforming=self.conforming)
        if written == text or not (roster.asked(effects) or translated(written, effects, self.pid, lambda _pid: None) != text):
            return found
        return replace(found, written=written, effects=effects)

    def _up_to_date(self, name: bytes) -> bytes:
        """A statement whose text means something else from time to time is prepared anew: what goes ahead."""
        known = self._known(name)
        if known is None or known.written is None:
            return b""
        ahead = self._everything() if roster.asked(known.effects) else b""
        text = self._as_sent(known.written, known.effects)
        if text != known.text:
            new = self._statement(known.written, text, known.types, known.effects)
            if name:
                self.named[name] = new
            else:
                self.unnamed, self.unnamed_there = new, False
        return ahead

    def _arrives(self, server: bytes) -> None:
        self.on_server[server] = None
        self.arriving.add(server)

    def _not_there(self, server: bytes) -> None:
        self.on_server.pop(server, None)
        self.arriving.discard(server)

    def _unnamed_again(self, known: Statement | None, there: bool) -> None:
        self.unnamed, self.unnamed_there = known, there

    def _unnamed_gone(self) -> None:
        self.unnamed, self.unnamed_there = None, False

    def _by_its_name(self, text: bytes, name: str) -> tuple[Statement | None, bytes, bytes]:
        """EXECUTE of what the driver has prepared: which one, what goes ahead, and the text with its name on the servers."""
        known = self.named.get(name.encode("utf-8", "surrogateescape"))
        spoken = _EXECUTE.match(text)
        if known is None or spoken is None:
            return None, b"", text
        return known, self._ensure(known), text[:spoken.start(1)] + known.server + text[spoken.end(1):]

    def _ensure(self, wanted: Statement) -> bytes:
        """What makes the server know it: nothing, if it does."""
        if wanted.server in self.on_server:
            self.on_server.move_to_end(wanted.server)
            return b""
        closing = self._make_room()
        self._arrives(wanted.server)
        self.dues.append(Due(P, ours=True, undo=lambda: self._not_there(wanted.server), makes=wanted.server))
        return closing + wanted.parse()

    def _make_room(self) -> bytes:
        if len(self.on_server) < prepared.MOST_ON_A_SERVER:
            return b""
        oldest, _ = self.on_server.popitem(last=False)
        self.dues.append(Due(C, ours=True, undo=lambda: self.on_server.setdefault(oldest)))
        return packed(C, b"S" + oldest + b"\0")

    def _find(self, name: bytes) -> tuple[bytes, bytes]:
        """What goes ahead, the name on the server; NOWHERE for what the client does not have."""
        if name:
            known = self.named.get(name)
            return (b"", NOWHERE) if known is None else (self._ensure(known), known.server)
        if self.unnamed is None:
            return b"", NOWHERE
        if self.unnamed_there:
            return b"", b""
        self.unnamed_there = True
        self.dues.append(Due(P, ours=True, undo=lambda: setattr(self, "unnamed_there", False)))
        return self.unnamed.parse(b""), b""

    def _known(self, name: bytes) -> Statement | None:
        return self.named.get(name) if name else self.unnamed

    def whole_bind(self, name: bytes) -> bool:
        """Must the parameters of this Bind be looked at?"""
        known = self._known(name)
        return known is not None and (bool(known.pids) or known.bound or known.written is not None)

    def strikes(self, tag: int, body: bytes) -> set[int]:
        """The process ids that this message speaks of."""
        found: set[int] = set()

        def note(pid: int) -> None:
            found.add(pid)

        if tag in (Q, P) and STRIKE.search(body) is not None:
            text = body[:-1] if tag == Q else body.partition(b"\0")[2].partition(b"\0")[0]
            translated(text, read(text, conforming=self.conforming), self.pid, note)
        elif tag == B:
            _, _, rest = body.partition(b"\0")
            name, _, rest = rest.partition(b"\0")
            known = self._known(name)
            if known is not None and known.pids and STRIKE.search(known.text) is not None:
                bound(rest, known.pids, note)
        return found

    def bind(self, portal: bytes, name: bytes) -> tuple[bytes, bytes]:
        """A Bind of which only the names matter: what goes ahead, and the statement's name on the server."""
        if self.skipping:
            return b"", name
        before = self._up_to_date(name)
        ahead, there = self._find(name)
        ahead = before + ahead
        known = self._known(name)
        self.portals[portal] = known
        self.dues.append(Due(B, known=known, name=name, there=there))
        return ahead, there

    def _bind(self, body: bytes) -> bytes:
        portal, _, rest = body.partition(b"\0")
        name, _, rest = rest.partition(b"\0")
        wanted = self._known(name)
        ahead, there = self.bind(portal, name)
        if wanted is not None and wanted.pids:
            rest = bound(rest, wanted.pids, self.whose)
        if wanted is not None and wanted.bound and not self.skipping:
            self.portals[portal] = replace(wanted, effects=resolved(wanted.effects, wanted.types, rest))
        return ahead + packed(B, portal + b"\0" + there + b"\0" + rest)

    def _describe(self, body: bytes) -> bytes:
        ahead, name, there = b"", None, b""
        if body[:1] == b"S":
            name = body[1:-1]
            ahead, there = self._find(name)
            body = b"S" + there + b"\0"
        self.dues.append(Due(D, name=name, there=there))
        return ahead + packed(D, body)

    def _execute(self, body: bytes) -> bytes:
        portal = body.partition(b"\0")[0]
        known = self.portals.get(portal)
        effects = known.effects if known is not None else ()
        before = tuple(self.pins)
        self._beware(effects)
        ahead = b""
        if Reason.SEQUENCE in self.pins and Reason.SEQUENCE not in before and not self.own_sequences:
            ahead = self._in_a_batch(FORGET)
        self.dues.append(Due(E, (effects,), known=known, schema=known is not None and changes_schema(known.text), portal=portal,
                             pins=tuple(reason for reason in self.pins if reason not in before)))
        return ahead + packed(E, body) + self._behind(effects)

    def _behind(self, effects: Effects) -> bytes:
        """What brings back the settings that the session began with, in the middle of a batch."""
        if not effects or not self.parameters.beginning:
            return b""
        data = b""
        for text, does in behind(effects, self.parameters.beginning):
            data += self._in_a_batch(encode(text), does)
        return data

    def _in_a_batch(self, text: bytes, does: Effects = ()) -> bytes:
        """A statement of ours."""
        self.dues += (Due(P, ours=True), Due(B, ours=True), Due(E, (does,), ours=True), Due(C, ours=True), Due(C, ours=True))
        return _in_a_batch(text)

    def _close(self, body: bytes) -> bytes:
        undo = None
        if body[:1] == b"S":
            name = body[1:-1]
            known = self._drop(name)
            self.unsure[name] = self.ends
            if known is not None:
                kept = known
                undo = lambda: self._remember(name, kept)  # noqa: E731
            elif not name:
                before = self.unnamed, self.unnamed_there
                self._unnamed_gone()
                undo = lambda: self._unnamed_again(*before)  # noqa: E731
            body = b"S" + (NOWHERE if name else b"") + b"\0"
        self.dues.append(Due(C, undo=undo))
        return packed(C, body)

    def _meaning(self) -> bytes:
        wanted = self.parameters.wanted()
        said = [(name, value) for name, value in wanted.settings if name in ("search_path", "standard_conforming_strings")]
        return State(tuple(said), wanted.role, wanted.authorization).digest
