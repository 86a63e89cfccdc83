"""A dialogue as a conversation: `Play(dialogue) << what it asks >> what it gets ... .returns(result)`."""

from __future__ import annotations

from typing import Any

from proxy.session.effects import Dialogue

NOTHING = object()


class Play:
    """Asserts as it goes, so an unfinished play cannot pass."""

    def __init__(self, dialogue: Dialogue[Any]) -> None:
        self._dialogue = dialogue
        self._answer: Any = None
        self.asked: Any = NOTHING
        self.result: Any = NOTHING
        self._step()

    def _step(self) -> None:
        try:
            self.asked = self._dialogue.send(self._answer)
        except StopIteration as end:
            self.asked, self.result = NOTHING, end.value
        self._answer = None

    def __lshift__(self, expected: object) -> Play:
        assert self.asked == expected
        self._pending = True
        if not getattr(expected, "name", None) or expected.name == "TLS":  # a Send (or TLS) needs no answer
            self._step()
        return self

    def __rshift__(self, answer: object) -> Play:
        self._answer = answer
        self._step()
        return self

    def returns(self, expected: object) -> None:
        assert self.result == expected
