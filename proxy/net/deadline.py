"""One deadline for many: tasks that must be done within the same time of their beginning.

Who begins first is due first, so one timer serves all: beginning and ending cost a dictionary entry each, where a timer
per task would cost more than the rest of a short login's bookkeeping.
"""

from __future__ import annotations

import asyncio


class Deadline:
    def __init__(self, seconds: float) -> None:
        """0 seconds: no deadline."""
        self.seconds = seconds
        self.loop = asyncio.get_running_loop()
        self._due: dict[asyncio.Task[None], float] = {}
        self._late: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, task: asyncio.Task[None]) -> None:
        if self.seconds:
            self._due[task] = self.loop.time() + self.seconds
            if self._timer is None:
                self._timer = self.loop.call_later(self.seconds, self._look)

    def end(self, task: asyncio.Task[None]) -> None:
        self._due.pop(task, None)

    def passed(self, task: asyncio.Task[None]) -> bool:
        """Asked by a task that is cancelled: was it this?  Then the cancellation is taken back."""
        if task not in self._late:
            return False
        self._late.discard(task)
        return task.uncancel() <= 0

    def _look(self) -> None:
        self._timer = None
        now = self.loop.time()
        for task, due in list(self._due.items()):
            if due > now:
                self._timer = self.loop.call_at(due, self._look)
                return
            del self._due[task]
            self._late.add(task)
            task.cancel()
