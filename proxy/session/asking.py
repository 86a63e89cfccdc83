"""What an account says to a server of its own accord: questions that could free the connection, and what brings it to the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.session import sequences
from proxy.session.consequences import Reason
from proxy.session.doubts import Doubts
from proxy.session.dues import ASK, ASKED, Due, Effects, P, Q, booleans, columns, packed
from proxy.session.extended import Extended
from proxy.session.parameters import Parameters, difference
from proxy.wire import messages


class Asking(Extended):
    """The half of an Account that asks."""

    if TYPE_CHECKING:
        doubts: Doubts
        doubtful: bool
        lost: bytes | None
        mirror: Parameters
        sql_prepared: dict[str, Effects]
        status: bytes

        @property
        def quiet(self) -> bool: ...
        def has_called(self, name: str) -> None: ...
        def meant(self, tag: int, body: bytes) -> Effects: ...
        def pin(self, reason: Reason, why: str) -> None: ...

    def wonder(self) -> bytes:
        """A question to the server, if one could free the connection."""
        if self.doubtful and self.pins:
            return self.ask()
        names = self.doubts.open() if Reason.CODE in self.pins else None
        if names:
            return self.inquire(self.doubts.ask(names), lambda due: self.doubts.learn(
                names, map(columns, due.rows), failed=due.error is not None))
        if names is not None:
            del self.pins[Reason.CODE]
            for name in self.doubts.unknown:
                self.has_called(name)
            self.doubts.clear()
        return b""

    def ask(self) -> bytes:
        """The question whether the reasons still hold."""
        self.doubtful = False
        self.dues.append(Due(Q, ours=True, then=self._answered))
        return ASK

    def whose_sequences(self, tag: int, body: bytes) -> bytes:
        """In a transaction, ahead of the first currval() or lastval(): the question whether they tell of this transaction."""
        if self.status != b"T" or self.own_sequences is not None or Reason.SEQUENCE in self.pins or not self.quiet or tag not in (Q, P):
            return b""
        if not sequences.asked_for(self.meant(tag, body)):
            return b""
        text = body[:-1] if tag == Q else body.partition(b"\0")[2].partition(b"\0")[0]
        question = sequences.question(text, conforming=self.conforming)
        self.own_sequences = False
        return b"" if question is None else self.inquire(question, self._know_sequences)

    def _know_sequences(self, due: Due) -> None:
        self.own_sequences = due.error is None and [columns(row) for row in due.rows] == [[b"t"]]

    def inquire(self, text: str, then: Callable[[Due], None]) -> bytes:
        """Statements of our own, about which the client hears nothing."""
        self.dues.append(Due(Q, ours=True, then=then))
        return messages.query(text)

    def _answered(self, due: Due) -> None:
        row = due.rows[0] if due.rows and due.error is None else b""
        held = booleans(row) if row else (True,) * len(ASKED)
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
        return self._bring(b"", b"")

    def lead(self) -> bytes:
        """The same at the beginning of a lease, where the client's first messages follow in one packet with it.

        Should it fail, the session is left in a failed transaction, in which nothing runs that does not end it (`follows`).
        """
        data = self._bring(b"BEGIN; ", b"; COMMIT")
        self.dues[-1].leads = True
        return data

    def _bring(self, before: bytes, behind: bytes) -> bytes:
        wanted = self.parameters.wanted()
        text = before + difference(self.mirror.wanted(), wanted) + behind

        def done(due: Due) -> None:
            self.mirror.become(wanted)         # if it has failed: not again
            if due.error is not None:
                self.pin(Reason.SETTING, "settings could not be brought back")
                if due.leads:
                    self.lost = due.error

        self.dues.append(Due(Q, ours=True, then=done))
        return packed(Q, text + b"\0")
