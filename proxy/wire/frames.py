"""Where messages begin and end: the hot arithmetic.

A typed message is `byte tag | int32 length`, the length counting itself.  The relay never builds a message; it
steps from header to header.  `skip` jumps over a run of short DataRow / CopyData messages in one call of the
regular expression engine, which is written in C: in a big chunk this is several times faster than the step.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable

header = struct.Struct(">BI").unpack_from

LONGEST_IN_RUN = 255
MAX_LENGTH = 0x7FFFFFFF


@functools.cache
def run(size: int) -> Callable[[bytearray, int, int], re.Match[bytes] | None]:
    """The matcher for a run of messages about as long as `size`: `[Dd] 0 0 0 L` and L-4 bytes, possessive.

    Rows of one result resemble each other, so lengths near `size` are tried, the nearest first: the engine tries
    alternatives one by one.
    """
    near = sorted(range(max(4, size - 24), min(LONGEST_IN_RUN, size + 40) + 1), key=lambda other: abs(other - size))
    each = b"|".join(re.escape(bytes([other])) + (b".{%d}" % (other - 4) if other > 4 else b"") for other in near)
    return re.compile(b"(?s:[Dd]\0\0\0(?:" + each + b"))*+").match


def skip(buf: bytearray, at: int, end: int, size: int) -> int:  # hot
    """The offset behind the run of short messages that starts at `at` with one of length `size`; `at` if none."""
    match = run(size & 0xF8 | 4)(buf, at, end)
    return match.end() if match else at
