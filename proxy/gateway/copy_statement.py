"""COPY as it is written: old syntax and new (PostgreSQL manual, "COPY").

Only what a gateway can do: to STDOUT and from STDIN, in text and CSV.  Files and programs of the server are nobody's business
here (42501); psql's \\copy sends what is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from proxy.errors import ClientFault, NotSupported, ProxyError
from proxy.session.tokens import Kind, Token, tokens

_COPY = re.compile(r"(?:\s++|--[^\n]*+\n|(?>/\*.*?\*/))*+copy\b", re.IGNORECASE | re.DOTALL)
_QUOTING = frozenset(("force_quote", "force_not_null", "force_null"))
_SWITCHES = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}


@dataclass(frozen=True, slots=True)
class Copy:
    """`outward`: TO STDOUT.  `query` instead of `table`: the text in parentheses.  `header`: 2 is MATCH."""

    outward: bool
    table: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    query: str = ""
    csv: bool = False
    delimiter: str = "\t"
    null: str = "\\N"
    header: int = 0
    quote: str = '"'
    escape: str = '"'
    force: dict[str, tuple[str, ...]] = field(default_factory=dict)      # by option; ("*",) is all


def fault(sqlstate: str, text: str, hint: str | None = None) -> ProxyError:
    found = ClientFault(text, hint=hint)
    found.sqlstate = sqlstate
    return found


def parse(sql: str) -> Copy | None:
    """None for what is no COPY.  Raises ClientFault with PostgreSQL's SQLSTATE, NotSupported."""
    if _COPY.match(sql) is None:
        return None
    found = [token for token in tokens(sql) if token.kind is not Kind.END]
    if not found or found[0].kind is not Kind.WORD or found[0].value != "copy":
        return None
    return _Reader(sql, found).copy()


class _Reader:
    def __init__(self, sql: str, found: Sequence[Token]) -> None:
        self.sql, self.found, self.at = sql, found, 1

    def _next(self) -> Token:
        if self.at >= len(self.found):
            raise fault("42601", "syntax error at end of input")
        self.at += 1
        return self.found[self.at - 1]

    def _is(self, *values: str) -> bool:
        """Is the next one such a word or mark?  Then it is read."""
        if self.at < len(self.found) and self.found[self.at].kind in (Kind.WORD, Kind.MARK) and self.found[self.at].value in values:
            self.at += 1
            return True
        return False

    def _wrong(self, token: Token) -> ProxyError:
        return fault("42601", f'syntax error at or near "{self.sql[token.start:token.end][:40]}"')

    def _name(self) -> str:
        token = self._next()
        if token.kind not in (Kind.WORD, Kind.NAME) or not token.plain:
            raise self._wrong(token)
        return token.value

    def _names(self) -> tuple[str, ...]:
        """A list in parentheses, its first one read."""
        names = [self._name()]
        while self._is(","):
            names.append(self._name())
        if not self._is(")"):
            raise self._wrong(self._next())
        return tuple(names)

    def copy(self) -> Copy:
        table: tuple[str, ...] = ()
        columns: tuple[str, ...] = ()
        query = ""
        if self._is("binary"):
            self._no_binary()
        if self._is("("):
            query = self._query()
        else:
            table = (self._name(),)
            while self._is("."):
                table = (*table, self._name())
            if self._is("("):
                columns = self._names()
        outward = self._is("to")
        if not outward and not self._is("from"):
            raise self._wrong(self._next())
        if query and not outward:
            raise self._wrong(self.found[self.at - 1])
        self._where(outward)
        options = dict(self._options())
        if self.at < len(self.found):
            if self._is("where"):
                raise NotSupported("COPY FROM ... WHERE is not supported here")
            raise self._wrong(self.found[self.at])
        return _checked(outward, table, columns, query, options)

    def _query(self) -> str:
        depth, start = 1, self.found[self.at].start if self.at < len(self.found) else 0
        while True:
            token = self._next()
            if token.kind is Kind.MARK and token.value in "()":
                depth += 1 if token.value == "(" else -1
                if not depth:
                    return self.sql[start:token.start].strip()

    def _where(self, outward: bool) -> None:
        token = self._next()
        if token.kind is Kind.WORD and token.value in ("stdin", "stdout"):
            return
        if token.kind is Kind.STRING or token.value == "program":
            what = "an external program" if token.value == "program" else "a file"
            raise fault("42501", f"permission denied to COPY to or from {what}",
                        "COPY here goes to stdout or from stdin; psql's \\copy works for anyone.")
        raise self._wrong(token)

    def _no_binary(self) -> None:
        raise NotSupported("COPY in binary format is not supported here")

    def _options(self) -> Iterator[tuple[str, object]]:
        self._is("with")
        if self._is("("):
            seen = set()
            while True:
                name = self._name()
                if name in seen:
                    raise fault("42601", "conflicting or redundant options")
                seen.add(name)
                yield name, self._value(name)
                if self._is(")"):
                    return
                if not self._is(","):
                    raise self._wrong(self._next())
        while self.at < len(self.found) and self.found[self.at].value != "where":
            yield from self._old()

    def _value(self, name: str) -> object:
        if name in _QUOTING:
            if self._is("*"):
                return ("*",)
            if not self._is("("):
                raise self._wrong(self._next())
            return self._names()
        if self.at < len(self.found) and self.found[self.at].value in (",", ")") and self.found[self.at].kind is Kind.MARK:
            return "true"
        return self._next().value

    def _old(self) -> Iterator[tuple[str, object]]:
        """`CSV HEADER DELIMITER AS ';'`"""
        word = self._name()
        if word == "csv":
            yield "format", "csv"
        elif word == "binary":
            self._no_binary()
        elif word == "header":
            yield "header", "true"
        elif word in ("delimiter", "delimiters", "null", "quote", "escape", "encoding"):
            self._is("as")
            token = self._next()
            if token.kind is not Kind.STRING:
                raise self._wrong(token)
            yield word.removesuffix("s") if word == "delimiters" else word, token.value
        elif word == "force":
            yield from self._force()
        else:
            raise self._wrong(self.found[self.at - 1])

    def _force(self) -> Iterator[tuple[str, object]]:
        kind = self._name()
        if kind == "not":
            kind = f"not_{self._name()}"
        if f"force_{kind}" not in _QUOTING:
            raise self._wrong(self.found[self.at - 1])
        if self._is("*"):
            yield f"force_{kind}", ("*",)
            return
        names = [self._name()]
        while self._is(","):
            names.append(self._name())
        yield f"force_{kind}", tuple(names)


def _checked(outward: bool, table: tuple[str, ...], columns: tuple[str, ...], query: str, options: dict[str, object]) -> Copy:
    """The options, as ProcessCopyOptions has them."""
    form = str(options.pop("format", "text")).lower()
    if form == "binary":
        raise NotSupported("COPY in binary format is not supported here")
    if form not in ("text", "csv"):
        raise fault("22023", f'COPY format "{form}" not recognized')
    csv = form == "csv"
    delimiter = str(options.pop("delimiter", "," if csv else "\t"))
    null = str(options.pop("null", "" if csv else "\\N"))
    header = _header(options.pop("header", "false"), outward)
    if not csv:
        for name in ("quote", "escape", *sorted(_QUOTING)):
            if name in options:
                raise fault("0A000", f"COPY {name.upper()} requires CSV mode")
    for name in _QUOTING & options.keys():
        if (name == "force_quote") != outward:
            raise fault("0A000", f"COPY {name.upper()} cannot be used with COPY {'TO' if outward else 'FROM'}")
    quote = str(options.pop("quote", '"'))
    escape = str(options.pop("escape", quote))
    force = {name: value for name in _QUOTING if isinstance(value := options.pop(name, None), tuple)}
    encoding = str(options.pop("encoding", "utf8")).lower().replace("-", "")
    if encoding not in ("utf8", "unicode"):
        raise NotSupported("COPY in another encoding than UTF8 is not supported here")
    if options.pop("on_error", "stop") != "stop" or options.pop("freeze", "false") not in ("false", "off", "0"):
        raise NotSupported("this option of COPY is not supported here")
    if options:
        raise fault("42601", f'option "{next(iter(options))}" not recognized')
    for name, value in (("delimiter", delimiter), ("quote", quote), ("escape", escape)):
        if len(value.encode()) != 1:
            raise fault("0A000", f"COPY {name} must be a single one-byte character")
    if delimiter in "\r\n" or "\r" in null or "\n" in null:
        raise fault("22023", "COPY delimiter and null representation cannot use newline or carriage return")
    if not csv and delimiter in "\\.abcdefghijklmnopqrstuvwxyz0123456789":
        raise fault("22023", f'COPY delimiter cannot be "{delimiter}"')
    if csv and quote == delimiter:
        raise fault("22023", "COPY delimiter and quote must be different")
    if delimiter in null:
        raise fault("22023", "COPY delimiter character must not appear in the NULL specification")
    if csv and quote in null:
        raise fault("22023", "CSV quote character must not appear in the NULL specification")
    return Copy(outward, table, columns, query, csv, delimiter, null, header, quote, escape, force)


def _header(value: object, outward: bool) -> int:
    word = str(value).lower()
    if word == "match":
        if outward:
            raise fault("0A000", 'cannot use "match" with HEADER in COPY TO')
        return 2
    if word not in _SWITCHES:
        raise fault("42601", 'header requires a Boolean value or "match"')
    return int(_SWITCHES[word])
