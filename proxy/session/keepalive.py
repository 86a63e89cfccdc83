"""`select 1`, asked by those who want to know whether their connection lives: Backstage's pools, health checks.

Who has nothing else to say is answered from here while the server has been heard of a moment ago.  So a round of such
questions over many idle clients takes no upstream from anybody, and the first one after a while asks the server itself.
"""

from __future__ import annotations

from proxy.wire import messages

ASKED = frozenset(messages.query(text) for text in ("select 1", "SELECT 1", "Select 1", "select 1;", "SELECT 1;", "Select 1;"))

# As PostgreSQL answers it: one column of int4 as text
ANSWER = (
    messages.message(b"T", b"\0\1?column?\0" + bytes(4) + bytes(2) + (23).to_bytes(4) + b"\0\4" + b"\xff\xff\xff\xff" + b"\0\0")
    + messages.message(b"D", b"\0\1\0\0\0\0011") + messages.message(b"C", b"SELECT 1\0") + messages.ready_for_query())
