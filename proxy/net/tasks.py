"""Tasks that somebody holds: asyncio keeps only weak references to a running task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from proxy.errors import ProxyError

log = logging.getLogger(__name__)
_held: set[asyncio.Task[Any]] = set()


def keep(work: Coroutine[Any, Any, Any], name: str | None = None) -> asyncio.Task[Any]:
    """Run `work` in the background; what it raises unexpectedly reaches the log, whole (a fault is told by
    whoever awaits the task)."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _held.add(task)
    task.add_done_callback(_done)
    return task


def running() -> int:
    """Tasks that are held now."""
    return len(_held)


def _done(task: asyncio.Task[Any]) -> None:
    _held.discard(task)
    if not task.cancelled() and (fault := task.exception()) is not None and not isinstance(fault, ProxyError):
        log.error("background task %s failed", task.get_name(), exc_info=fault)
