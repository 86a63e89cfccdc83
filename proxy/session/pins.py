"""What outlives a transaction, as far as a glance at the text can tell.

In transaction mode the next transaction may run on another upstream, and the next client on this one.  State that
a later statement of the same client would miss pins the lease; state that only a stranger would notice makes the
upstream dirty, which costs a reset when the lease goes back.  When unsure, the answer is the safer one.
"""

from __future__ import annotations

# Found anywhere in the lower-cased text.  A false alarm costs pooling, never safety.
_PINS = (
    (b"advisory", "advisory lock"),
    (b"listen", "listen"),
    (b"prepare", "prepared statement"),
    (b"temp", "temporary object"),
    (b" hold", "cursor with hold"),
)
_DIRT = (b"set_config", b"load ", b"session", b"discard")
WORDS = (*(word for word, _ in _PINS), *_DIRT)


def suspicion(text: bytes) -> str | None:
    """A pin's reason, "" for dirt, None for a text without consequences.  `text` is lower case."""
    for word, reason in _PINS:
        if word in text:
            return reason
    for word in _DIRT:
        if word in text:
            return ""
    return None
