"""Where messages begin and end: the hot arithmetic.

A typed message is `byte tag | int32 length`, the length counting itself.  The relay never builds a message; it
steps from header to header.  `RUN` jumps over a run of short DataRow / CopyData messages in one call of the
regular expression engine, which is written in C: in a big chunk this is several times faster than the step.
"""

from __future__ import annotations

import re
import struct

header = struct.Struct(">BI").unpack_from

LONGEST_IN_RUN = 255
MAX_LENGTH = 0x7FFFFFFF


def _run() -> re.Pattern[bytes]:
    """`[Dd] 0 0 0 L` and L-4 bytes, for each L; usual row sizes are tried first, possessive: nothing is retried."""
    usual = sorted(range(4, LONGEST_IN_RUN + 1), key=lambda size: (not 12 <= size <= 64, size))
    each = b"|".join(re.escape(bytes([size])) + (b".{%d}" % (size - 4) if size > 4 else b"") for size in usual)
    return re.compile(b"(?s:[Dd]\0\0\0(?:" + each + b"))*+")


RUN = _run().match
