"""Addresses to listen on, as text."""

from __future__ import annotations

import re

_HOST = re.compile(r"\[[0-9a-fA-F:.%\w]+\]|[^\[\]:/\s]*|\*")


def split_address(address: str, port: int) -> tuple[str, int]:
    """`host:port`, `[v6]:port`, `host`, `:port`; `*` and the empty host are all addresses.  Raises ValueError."""
    host, colon, digits = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, digits = address, str(port)
    if not address or not _HOST.fullmatch(host):
        raise ValueError("expected host:port, [v6]:port, :port, or the folder of a unix socket")
    if not re.fullmatch(r"\d{1,5}", digits, re.ASCII) or int(digits) > 65535:
        raise ValueError("expected a port up to 65535 behind the last colon")
    host = host.strip("[]")
    return ("" if host == "*" else host), int(digits)
