"""The data of COPY: rows to bytes and back, in text and CSV (PostgreSQL manual, "COPY", "File Formats").

Values are bytes in PostgreSQL's text format, None is NULL.  What comes in is cut anywhere; a row may have so many bytes and no
more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from proxy.errors import ProxyError
from proxy.gateway.copy_statement import Copy, fault

LONGEST = 64 << 20            # bytes of a row
_PLAIN = {8: b"\\b", 12: b"\\f", 10: b"\\n", 13: b"\\r", 9: b"\\t", 11: b"\\v", 92: b"\\\\"}
_BACK = {98: 8, 102: 12, 110: 10, 114: 13, 116: 9, 118: 11}
_LINE = re.compile(rb"[\\\r\n]")
_ESCAPED = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|(.)|$)", re.DOTALL)
Row = list[bytes | None]


class Writer:
    """Rows of `columns`, as CopyData has them."""

    def __init__(self, copy: Copy, columns: Sequence[str]) -> None:
        self.copy, self.columns = copy, columns
        self.null, self.delimiter = copy.null.encode(), copy.delimiter.encode()
        self.quote, self.escape = copy.quote.encode(), copy.escape.encode()
        self.special = {**_PLAIN, self.delimiter[0]: b"\\" + self.delimiter}
        for code in (8, 12, 10, 13, 9, 11):
            if code == self.delimiter[0]:
                self.special[code] = _PLAIN[code]
        self.risky = re.compile(b"[" + b"".join(re.escape(bytes((code,))) for code in self.special) + b"]")
        forced = copy.force.get("force_quote", ())
        self.forced = [name in forced or forced == ("*",) for name in columns]

    def header(self) -> bytes:
        if not self.copy.header:
            return b""
        names = [name.encode() for name in self.columns]
        return self.delimiter.join(map(self._quoted if self.copy.csv else self._escaped, names)) + b"\n"

    def row(self, values: Sequence[bytes | None]) -> bytes:
        if not self.copy.csv:
            return self.delimiter.join(self.null if value is None else self._escaped(value) for value in values) + b"\n"
        alone = len(values) == 1
        return self.delimiter.join(self.null if value is None else self._quoted(value, forced, alone)
                                   for value, forced in zip(values, self.forced, strict=True)) + b"\n"

    def _escaped(self, value: bytes) -> bytes:
        return self.risky.sub(lambda found: self.special[found[0][0]], value)

    def _quoted(self, value: bytes, forced: bool = False, alone: bool = False) -> bytes:
        if not (forced or value == self.null or (alone and value == b"\\.") or self.delimiter in value or self.quote in value
                or b"\n" in value or b"\r" in value):
            return value
        if self.escape != self.quote:
            value = value.replace(self.escape, self.escape * 2)
        return self.quote + value.replace(self.quote, self.escape + self.quote) + self.quote


class Reader:
    """`feed` some bytes, get the rows that are whole; `line` is where it is."""

    def __init__(self, copy: Copy, columns: Sequence[str]) -> None:
        self.copy, self.columns = copy, columns
        self.null, self.delimiter = copy.null.encode(), copy.delimiter.encode()
        self.quote, self.escape = copy.quote.encode(), copy.escape.encode()
        self.rest = b""
        self.line = 0
        self.ended = False
        self.newline: bytes | None = None
        self._first = True

    def feed(self, data: bytes) -> list[Row]:
        """Raises ClientFault (22P04)."""
        if self.ended:
            return []
        self.rest += data
        rows = list(self._rows(last=False))
        if len(self.rest) > LONGEST:
            raise fault("54000", f"a row of COPY is longer than {LONGEST} bytes")
        return rows

    def finish(self) -> list[Row]:
        return [] if self.ended else list(self._rows(last=True))

    def _rows(self, *, last: bool) -> Iterator[Row]:
        at = 0
        while at < len(self.rest) and not self.ended:
            end = self._csv_end(at, last) if self.copy.csv else self._text_end(at, last)
            if end is None:
                break
            line, at = self.rest[at:end[0]], end[1]
            self.line += 1
            if line == b"\\." and not self.copy.csv:
                self.ended = True
                break
            if self._first and self.copy.header:
                self._first = False
                self._match(line)
                continue
            self._first = False
            yield self._csv(line) if self.copy.csv else self._text(line)
        self.rest = b"" if self.ended else self.rest[at:]

    # -- where a line ends --------------------------------------------------------------------------------

    def _newline_at(self, at: int, last: bool) -> tuple[int, int] | None:
        """(end, next) of the newline at `at`, which must be of the kind that the first one was."""
        if self.rest[at:at + 1] == b"\n":
            if self.newline not in (None, b"\n"):
                raise self._stray("newline", "n")
            self.newline = b"\n"
            return at, at + 1
        if self.newline == b"\n":
            raise self._stray("carriage return", "r")
        if self.newline != b"\r":
            if at + 1 >= len(self.rest) and not last:
                return None
            if self.rest[at + 1:at + 2] == b"\n":
                self.newline = b"\r\n"
                return at, at + 2
            if self.newline == b"\r\n":
                raise self._stray("carriage return", "r")
            self.newline = b"\r"
        return at, at + 1

    def _stray(self, name: str, letter: str) -> ProxyError:
        if self.copy.csv:
            return fault("22P04", f"unquoted {name} found in data", f"Use quoted CSV field to represent {name}.")
        return fault("22P04", f"literal {name} found in data", f'Use "\\{letter}" to represent {name}.')

    def _text_end(self, at: int, last: bool) -> tuple[int, int] | None:
        start = at
        while True:
            found = _LINE.search(self.rest, at)
            if found is None:
                return (len(self.rest), len(self.rest)) if last and start < len(self.rest) else None
            at = found.start()
            if found[0] != b"\\":
                return self._newline_at(at, last)
            if at + 1 >= len(self.rest):
                return (len(self.rest), len(self.rest)) if last else None
            if self.rest[at + 1:at + 2] == b".":
                return self._marker(start, at, last)
            at += 2

    def _marker(self, start: int, at: int, last: bool) -> tuple[int, int] | None:
        """`\\.` ends the data, on a line of its own."""
        behind = self.rest[at + 2:at + 4]
        if not behind and not last:
            return None
        if behind and not behind.startswith((b"\r", b"\n")):
            raise fault("22P04", "end-of-copy marker is not alone on its line")
        if self.newline == b"\r\n" and behind.startswith(b"\r"):
            if len(behind) < 2 and not last:
                return None
            if behind != b"\r\n":
                raise fault("22P04", "end-of-copy marker is not alone on its line")
        if behind and self.newline is not None and not behind.startswith(self.newline):
            raise fault("22P04", "end-of-copy marker does not match previous newline style")
        if at > start:
            raise fault("22P04", "end-of-copy marker is not alone on its line")
        return at + 2, len(self.rest)

    def _csv_end(self, at: int, last: bool) -> tuple[int, int] | None:
        inside, start = False, at
        look = re.compile(b"[\r\n" + re.escape(self.quote) + re.escape(self.escape) + b"]")
        while True:
            found = look.search(self.rest, at)
            if found is None:
                if inside and last:
                    raise fault("22P04", "unterminated CSV quoted field")
                return (len(self.rest), len(self.rest)) if last and start < len(self.rest) else None
            at = found.start()
            mark = found[0]
            if mark in b"\r\n" and mark not in (self.quote, self.escape):
                if not inside:
                    return self._newline_at(at, last)
                at += 1
            elif inside and mark == self.escape and self.escape != self.quote:
                if at + 1 >= len(self.rest) and not last:
                    return None
                at += 2 if self.rest[at + 1:at + 2] in (self.escape, self.quote) else 1
            elif mark == self.quote:
                inside = not inside
                at += 1
            else:
                at += 1

    # -- what a line says ---------------------------------------------------------------------------------

    def _text(self, line: bytes) -> Row:
        parts, start, at = [], 0, 0
        stop = re.compile(rb"[\\" + re.escape(self.delimiter) + b"]")
        while (found := stop.search(line, at)) is not None:
            if found[0] == b"\\" and self.delimiter != b"\\":
                at = found.start() + 2
            else:
                parts.append(line[start:found.start()])
                start = at = found.end()
        parts.append(line[start:])
        return self._counted([None if part == self.null else _ESCAPED.sub(_unescaped, part) if b"\\" in part else part
                              for part in parts])

    def _csv(self, line: bytes) -> Row:
        if self.columns and len(self.columns) == 1 and not line and self.null != b"":
            return self._counted([b""])
        row: Row = []
        at = 0
        not_null, to_null = self.copy.force.get("force_not_null", ()), self.copy.force.get("force_null", ())
        while True:
            value, quoted, at = self._field(line, at)
            name = self.columns[len(row)] if len(row) < len(self.columns) else ""
            if value == self.null and ((not quoted and name not in not_null and not_null != ("*",))
                                       or (quoted and (name in to_null or to_null == ("*",)))):
                row.append(None)
            else:
                row.append(value)
            if at > len(line):
                return self._counted(row)

    def _field(self, line: bytes, at: int) -> tuple[bytes, bool, int]:
        """The value at `at`, whether it was quoted, and where the next begins; behind the end for the last."""
        value, quoted, inside = bytearray(), False, False
        while at < len(line):
            char = line[at:at + 1]
            if inside:
                if char == self.escape and line[at + 1:at + 2] in (self.escape, self.quote) and line[at + 1:at + 2]:
                    value += line[at + 1:at + 2]
                    at += 2
                    continue
                if char == self.quote:
                    inside = False
                else:
                    value += char
            elif char == self.quote:
                inside = quoted = True
            elif char == self.delimiter:
                return bytes(value), quoted, at + 1
            else:
                value += char
            at += 1
        return bytes(value), quoted, len(line) + 1

    def _counted(self, row: Row) -> Row:
        if len(row) > len(self.columns):
            raise fault("22P04", "extra data after last expected column")
        if len(row) < len(self.columns):
            raise fault("22P04", f'missing data for column "{self.columns[len(row)]}"')
        return row

    def _match(self, line: bytes) -> None:
        if self.copy.header != 2:
            return
        names = self._csv(line) if self.copy.csv else self._text(line)
        for at, (given, wanted) in enumerate(zip(names, self.columns, strict=True), 1):
            if given is None or given.decode("utf-8", "replace") != wanted:
                told = "null value" if given is None else f'"{given.decode("utf-8", "replace")}"'
                raise fault("22P04", f'column name mismatch in header line field {at}: got {told}, expected "{wanted}"')


def _unescaped(found: re.Match[bytes]) -> bytes:
    octal, hexadecimal, other = found.groups()
    if octal is not None:
        return bytes((int(octal, 8) & 0xFF,))
    if hexadecimal is not None:
        return bytes((int(hexadecimal, 16),))
    return bytes((_BACK.get(other[0], other[0]),)) if other else b""
