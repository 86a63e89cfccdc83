"""`switchboard explain "<sql>"`: what a text does to a session, one line per consequence, in an operator's words."""

from __future__ import annotations

import argparse
import json
import sys

from proxy.commands.table import table
from proxy.session.assignments import literal
from proxy.session.consequences import (
    Authorization,
    Bound,
    Configure,
    Deallocate,
    Defaults,
    Discard,
    Doubt,
    Effect,
    Execute,
    Listen,
    Names,
    Notify,
    OwnPid,
    OwnState,
    Pin,
    Prepare,
    Reset,
    ResetAll,
    Role,
    Set,
    Transaction,
    Unlisten,
    Unpin,
)
from proxy.session.statements import ordinary, statements

_WIDTH = 60


def say(effect: Effect) -> tuple[str, str]:
    """(what we do about it, why)."""
    match effect:
        case Set(name, value, local):
            return _kept(local), f"{name} = {value if value is not None else 'default'}"
        case Configure(None, _, _) | Names():
            return _kept(True), "set_config() for this transaction"
        case Configure(name, value, local):
            return _kept(local), f"{name} = {literal(value or '')}"
        case Bound():
            return "replayed", "set_config() of what the parameters say"
        case Role(name, local):
            return _kept(local), f"role {name or 'default'}"
        case Authorization(name, local):
            return _kept(local), f"session authorization {name or 'default'}"
        case Reset(name):
            return "replayed", f"{name} = default"
        case ResetAll():
            return "replayed", "every setting = default"
        case Discard(what):
            return "replayed", f"discards {what}"
        case Transaction(change, name):
            return "follows", f"{change} {name}" if name else str(change)
        case Listen(channel) | Notify(str(channel)):
            return "served", f"channel {channel}"
        case Unlisten(channel):
            return "served", f"channel {channel or '*'}"
        case Notify():
            return "served", "a channel known when it runs"
        case Prepare(name, _, _) | Execute(name):
            return "served", f"prepared statement {name}"
        case Deallocate(name):
            return "served", f"prepared statement {name}" if name else "all prepared statements"
        case OwnPid(function, _, _):
            return "served", f"{function}() means this session's present server process"
        case OwnState(what):
            return "served", f"asks for this session's {what}"
        case Defaults():
            return "follows", "what new sessions begin with"
        case Pin(reason, why):
            return f"pinned: {reason}", why
        case Unpin(reason, why):
            return f"unpins: {reason}", why
        case Doubt(reason, why):
            return f"pinned: {reason}", f"{why}: the text does not tell what it does"


def _kept(local: bool) -> str:
    return "nothing" if local else "replayed"


def explain(arguments: argparse.Namespace) -> int:
    text = (sys.stdin.read() if arguments.sql == "-" else arguments.sql).encode("utf-8", "surrogateescape")
    conforming = not arguments.old_strings
    rows = []
    for one in statements(text, conforming=conforming):
        shown = " ".join(text[one.start:one.end].decode("utf-8", "replace").split())
        told = [say(effect) for effect in one.effects] or [("nothing", "nothing in it outlives the transaction")]
        rows += [{"statement": shown, "effect": effect, "why": why} for effect, why in dict.fromkeys(told)]
    if arguments.json:
        sys.stdout.write(json.dumps({"statements": rows, "glance": ordinary(text)}, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(table(("STATEMENT", "EFFECT", "WHY"), [
            (row["statement"] if len(row["statement"]) <= _WIDTH else row["statement"][:_WIDTH - 1] + "…", row["effect"], row["why"])
            for row in rows]) + "\n")
    return 0
