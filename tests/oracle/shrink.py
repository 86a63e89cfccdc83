"""The shortest script that differs as well: steps are left out, then parts of steps."""

from __future__ import annotations

from tests.oracle.stage import Blocked, Stage
from tests.oracle.steps import Script, simpler


def shrunk(both: Stage, script: Script, width: int) -> Script:
    """A shorter script that differs too, as short as leaving things out can make it."""
    waits = _waits(both.differences(script, width))

    def differs(shorter: Script) -> bool:
        try:
            found = both.differences(shorter, width)
        except Blocked:
            return False
        return bool(found) and _waits(found) == waits and (not waits or not _blocked(both, shorter))

    size = len(script)
    while size:
        at = 0
        while at < len(script):
            shorter = script[:at] + script[at + size:]
            if differs(shorter):
                script = shorter
            else:
                at += size
        size //= 2
    again = True
    while again:
        again = False
        for at, (client, step) in enumerate(script):
            for less in simpler(step):
                shorter = (*script[:at], (client, less), *script[at + 1:])
                if differs(shorter):
                    script, again = shorter, True
                    break
            if again:
                break
    return script


def _waits(found: str) -> bool:
    return "query_wait_timeout" in found


def _blocked(both: Stage, script: Script) -> bool:
    """Has the server, too, a client in a transaction while another one asks for something at the end?"""
    status = {}
    for (client, _), answer in zip(script, both.direct(script).answers, strict=False):
        if answer and answer[-1][0] == b"Z":
            status[client] = answer[-1][1]
    return any(found != b"I" for client, found in status.items() if client != script[-1][0])
