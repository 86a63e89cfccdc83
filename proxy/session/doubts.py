"""What a client has called and nobody knows: asked of the server when the client has come to rest, and then it is known to all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from proxy.session.routines import DEEPEST, Routines, askable, bare, question


class Doubts:
    """One client's, about functions: as long as there are any, it keeps its connection."""

    def __init__(self, routines: Routines) -> None:
        self.routines = routines
        self.opaque = False                   # something has run that no question can tell about
        self.made = False                     # the client has changed a schema: what is not there may have been
        self.clear()

    def clear(self) -> None:
        self.unknown: set[str] = set()
        self.absent: frozenset[str] = frozenset()
        self.rounds = 0
        self.opaque = False

    def none_about(self, why: str) -> bool:
        """Is this function known to be harmless?  If not, it is noted."""
        if not askable(why):
            self.opaque = True
        elif self.routines.harmless(why):
            return True
        else:
            self.unknown.add(bare(why))
        return False

    def open(self) -> tuple[str, ...] | None:
        """The names to ask about; empty: there is no doubt left; None: asking does not help."""
        if self.opaque or not self.unknown:
            return None
        names = self.routines.missing(self.unknown, self.absent)
        if names is None or self.rounds > DEEPEST:
            self.opaque = True
            return None
        return names

    def ask(self, names: Sequence[str]) -> str:
        self.rounds += 1
        return question(names)

    def learn(self, asked: Iterable[str], rows: Iterable[Sequence[bytes | None]], *, failed: bool) -> None:
        there = self.routines.learn(rows)
        gone = frozenset(asked) - there
        self.absent |= gone
        if failed or (gone and self.made):
            self.opaque = True
