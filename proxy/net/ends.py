"""Which sockets have ended, whatever the loop says of them.

uvloop calls a reader once for a socket that was reset and then forgets it (libuv stops polling on EPOLLERR).  A reader that
reads once per event may find the server's last words at that call, and would never hear of the end behind them.  So
somebody asks the kernel now and then: one system call for all.
"""

from __future__ import annotations

import select
from collections.abc import Iterable

LAST_WORDS = 64             # reads of a socket that has ended, per look: others want to be served too


def ended(fds: Iterable[int]) -> list[int]:
    """Those that were reset, or closed by both sides.  What is left to read from them is still there."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, 0)
    return [fd for fd, _ in poll.poll(0)]


def left(fd: int) -> bool:
    """Has the peer said that it sends no more?  What it sent before may be unread, or be TLS's; where the system has no
    POLLRDHUP, only those that are gone altogether."""
    poll = select.poll()
    poll.register(fd, getattr(select, "POLLRDHUP", 0))
    return bool(poll.poll(0))
