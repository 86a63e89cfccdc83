"""SET, RESET and set_config(): which setting gets which value, for how long.

A value is kept as SQL, put together anew from its tokens: strings are quoted so that standard_conforming_strings does not
matter, the rest is as written.  What cannot be put together so is pinned.  Grammar: gram.y `set_rest`, `generic_reset`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from proxy.session.consequences import Authorization, Bound, Configure, Effect, Names, Pin, Reason, Reset, ResetAll, Role, Set
from proxy.session.tokens import Kind, Token, fold

Tokens = Sequence[Token]
OBSCURE = Pin(Reason.OBSCURE)
_OLD = {"sort_mem": "work_mem", "vacuum_mem": "maintenance_work_mem"}      # guc_tables.c map_old_guc_names
_BOUND = {"transaction_isolation", "transaction_read_only", "transaction_deferrable"}   # end with the transaction
_TRUE, _FALSE = {"true", "t", "on", "yes", "1"}, {"false", "f", "off", "no", "0"}


def words(tokens: Tokens, *wanted: str) -> bool:
    """Do the tokens begin with these keywords?"""
    return len(tokens) >= len(wanted) and all(
        token.kind == Kind.WORD and token.value == word for token, word in zip(tokens, wanted, strict=False))


def mark(token: Token, char: str) -> bool:
    return token.kind == Kind.MARK and token.value == char


def name_of(token: Token) -> str | None:
    """An identifier, or the string that some statements take in its place."""
    return token.value if token.plain and token.kind in (Kind.WORD, Kind.NAME, Kind.STRING) else None


def literal(value: str) -> str:
    """A string constant that means the same whatever standard_conforming_strings says."""
    quoted = value.replace("'", "''")
    return "E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in quoted else f"'{quoted}'"


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def set_statement(tokens: Tokens) -> Sequence[Effect]:
    """`tokens`: what follows the word SET."""
    local = False
    if len(tokens) > 1 and (words(tokens, "local") or words(tokens, "session")) and not _assigns(tokens[1]) \
            and not words(tokens, "session", "authorization") and not words(tokens, "session", "characteristics"):
        local = tokens[0].value == "local"
        tokens = tokens[1:]
    if len(tokens) > 1 and _assigns(tokens[1]):
        return _generic(tokens, local)
    rest = tokens[1:]
    if words(tokens, "transaction") or words(tokens, "constraints") or words(tokens, "catalog"):
        return ()
    if words(tokens, "session", "characteristics", "as", "transaction"):
        return tuple(_modes(tokens[4:]))
    if words(tokens, "session", "authorization") and len(tokens) == 3:
        return assign("session_authorization", name_of(tokens[2]), words(tokens[2:], "default"), local)
    if words(tokens, "role") and len(rest) == 1:
        return assign("role", name_of(rest[0]), False, local)
    if words(tokens, "time", "zone"):
        if words(tokens[2:], "local") or words(tokens[2:], "default"):
            return (Set("timezone", None, local),)
        value = render(tokens[2:])
        return (Set("timezone", value, local),) if value else (OBSCURE,)
    if words(tokens, "names"):
        return _set("client_encoding", rest, local)
    if words(tokens, "schema") and len(rest) == 1:
        return _set("search_path", rest, local)
    if words(tokens, "xml", "option") and len(tokens) == 3:
        return _set("xmloption", tokens[2:], local)
    if words(tokens, "seed"):
        return (Pin(Reason.SEED, "seed"),)
    return (OBSCURE,)


def reset_statement(tokens: Tokens) -> Sequence[Effect]:
    """`tokens`: what follows the word RESET."""
    if words(tokens, "all") and len(tokens) == 1:
        return (ResetAll(),)
    if words(tokens, "time", "zone"):
        return (Reset("timezone"),)
    if words(tokens, "transaction", "isolation"):
        return ()
    if words(tokens, "session", "authorization"):
        return (Authorization(None),)
    name, rest = _name(tokens)
    if name is None or rest:
        return (OBSCURE,)
    return assign(name, None, True, False)


def _assigns(token: Token) -> bool:
    return mark(token, "=") or mark(token, ".") or (token.kind == Kind.WORD and token.value in ("to", "from"))


def _name(tokens: Tokens) -> tuple[str | None, Tokens]:
    """A setting's name with its dots, and what follows it."""
    parts = []
    at = 0
    while at < len(tokens) and tokens[at].kind in (Kind.WORD, Kind.NAME) and tokens[at].plain:
        parts.append(fold(tokens[at].value))
        at += 1
        if at >= len(tokens) or not mark(tokens[at], "."):
            name = ".".join(parts)
            return _OLD.get(name, name), tokens[at:]
        at += 1
    return None, tokens


def _generic(tokens: Tokens, local: bool) -> Sequence[Effect]:
    name, rest = _name(tokens)
    if name is None or not rest or not (mark(rest[0], "=") or words(rest, "to")):
        return (OBSCURE,)          # FROM CURRENT, too: it makes a local value lasting
    return _set(name, rest[1:], local)


def _set(name: str, value: Tokens, local: bool) -> Sequence[Effect]:
    """SET name TO value, where the value is a list of constants or DEFAULT."""
    default = not value or (len(value) == 1 and words(value, "default"))
    if name in ("role", "session_authorization"):
        return assign(name, name_of(value[0]) if len(value) == 1 else None, default, local)
    written = None if default else render(value)
    if not default and written is None:
        return (OBSCURE,)
    return _consequence(name, Set(name, written, local), written)


def assign(name: str, value: str | None, default: bool, local: bool) -> Sequence[Effect]:
    """A name for `role` or `session_authorization`, or the default of any setting."""
    if name == "role":
        if value is None and not default:
            return (OBSCURE,)
        return (Role(None if default else value, local),)
    if name == "session_authorization":
        return (Authorization(None if default else value, local),) if default or value is not None else (OBSCURE,)
    return _consequence(name, Reset(name), None)


def _consequence(name: str, effect: Effect, value: str | None) -> Sequence[Effect]:
    if name in _BOUND:
        return ()
    if name == "seed":
        return (Pin(Reason.SEED, "seed"),)
    if name == "search_path" and value is not None and "pg_temp" in value.lower():
        return (effect, Pin(Reason.TEMPORARY, "pg_temp in search_path"))
    return (effect,)


def render(tokens: Tokens) -> str | None:
    """Constants as SQL that does not depend on how strings are read; None where that cannot be said."""
    pieces = []
    for token in tokens:
        if not token.plain:
            return None
        if token.kind == Kind.STRING:
            pieces.append(literal(token.value))
        elif token.kind == Kind.NAME:
            pieces.append(identifier(token.value))
        elif token.kind in (Kind.WORD, Kind.NUMBER) or (token.kind == Kind.MARK and token.value in ",+-()"):
            pieces.append(token.value)
        else:
            return None
    return " ".join(pieces).replace(" ,", ",").replace("- ", "-") or None


def _modes(tokens: Tokens) -> Iterator[Effect]:
    """SET SESSION CHARACTERISTICS AS TRANSACTION: the three settings behind it."""
    at = 0
    while at < len(tokens):
        rest = tokens[at:]
        if words(rest, "isolation", "level") and len(rest) > 2:
            two = words(rest[2:], "read") or words(rest[2:], "repeatable")
            level = " ".join(token.value for token in rest[2:4 if two else 3])
            yield Set("default_transaction_isolation", literal(level))
            at += 4 if two else 3
        elif words(rest, "read", "only") or words(rest, "read", "write"):
            yield Set("default_transaction_read_only", "on" if rest[1].value == "only" else "off")
            at += 2
        elif words(rest, "deferrable"):
            yield Set("default_transaction_deferrable", "on")
            at += 1
        elif words(rest, "not", "deferrable"):
            yield Set("default_transaction_deferrable", "off")
            at += 2
        elif mark(rest[0], ","):
            at += 1
        else:
            yield OBSCURE
            return


def configure(tokens: Tokens) -> Sequence[Effect] | None:
    """`SELECT set_config('x', 'y', false) [AS z], current_setting('x'), ...` and nothing else; None for anything that is more.

    An argument may be a parameter, `$1` or `$1::text`.
    """
    found: list[Effect] = []
    at = 1
    while True:
        rest = tokens[at:]
        if len(rest) > 2 and words(rest, "pg_catalog") and mark(rest[1], "."):
            rest = rest[2:]
        arguments, rest = _arguments(rest, "current_setting")
        if arguments is None or any(each.kind == Kind.PARAMETER for each in arguments):
            arguments, rest = _arguments(rest, "set_config")
            effects = _configured(arguments) if arguments is not None and len(arguments) == 3 else None
            if effects is None:
                return None
            found += effects
        if words(rest, "as") and len(rest) > 1:
            if rest[1].kind not in (Kind.WORD, Kind.NAME):
                return None
            rest = rest[2:]
        if not rest:
            return found
        if not mark(rest[0], ","):
            return None
        at = len(tokens) - len(rest) + 1


def _arguments(tokens: Tokens, function: str) -> tuple[list[Token] | None, Tokens]:
    """The arguments of a call of it, constants and parameters, and what follows; None where it is something else."""
    if len(tokens) < 3 or tokens[0].kind not in (Kind.WORD, Kind.NAME) or tokens[0].value != function or not mark(tokens[1], "("):
        return None, tokens
    found: list[Token] = []
    rest = tokens[2:]
    while len(rest) > 1:
        found.append(rest[0])
        if rest[0].kind == Kind.PARAMETER and len(rest) > 4 and mark(rest[1], ":") and mark(rest[2], ":") and rest[3].value == (
                "bool" if len(found) == 3 else "text"):
            rest = rest[3:]
        elif not (rest[0].kind == Kind.PARAMETER or truth(rest[0]) is not None or (rest[0].kind == Kind.STRING and rest[0].plain)):
            break
        if mark(rest[1], ")"):
            return found, rest[2:]
        if not mark(rest[1], ","):
            break
        rest = rest[2:]
    return None, tokens


def _configured(arguments: Sequence[Token]) -> Sequence[Effect] | None:
    """What set_config() of these does."""
    name, value, last = arguments
    numbers = [int(each.value[1:]) - 1 if each.kind == Kind.PARAMETER else None for each in arguments]
    local = truth(last)
    if (local is None and numbers[2] is None) or any(
            number is None and each.kind != Kind.STRING for each, number in zip((name, value), numbers, strict=False)):
        return None
    if local is not None and numbers[0] is None and numbers[1] is None:
        return configured(name.value, value.value, local)
    if local:
        return (Configure(None, None, True), *named(name))
    wanted = [each.value if number is None else number for each, number in zip((name, value), numbers, strict=False)]
    return (Bound(wanted[0], wanted[1], False if numbers[2] is None else numbers[2]),)


def named(name: Token) -> Sequence[Effect]:
    """A setting of one's own making is known to the session from then on."""
    return (Names(fold(name.value)),) if name.kind == Kind.STRING and name.plain and "." in name.value else ()


def configured(name: str, value: str, local: bool) -> Sequence[Effect]:
    name = fold(name)
    name = _OLD.get(name, name)
    if name in ("role", "session_authorization"):
        return assign(name, value, False, local)
    return _consequence(name, Configure(name, value, local), value)


def truth(token: Token) -> bool | None:
    if (token.kind == Kind.STRING and token.plain) or (token.kind == Kind.WORD and token.value in ("true", "false")):
        return True if token.value.lower() in _TRUE else False if token.value.lower() in _FALSE else None
    return None
