"""SQL text as PostgreSQL's scanner cuts it (src/backend/parser/scan.l): where strings, comments and statements begin and end.

Nothing here judges; but whoever judges must see the same pieces that the server sees, or a statement hides in what we take
for a string.  So every rule is the scanner's: nested comments, `'a'` newline `'b'` as one string (which keeps the escapes of
its first part), dollar quotes, identifiers that swallow `$`.  Keywords are not known here: a WORD is folded, no more.

    tokens("set x = E'a\\\\'b'; listen C")    WORD set, WORD x, MARK =, STRING a'b, END, WORD listen, WORD c

Bytes are read as UTF-8 with surrogate escapes: whatever their encoding, they come back unchanged by `encode`.  One pass,
linear in the length; a text that the server could not scan either ends in a BROKEN token.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import NamedTuple


class Kind(enum.IntEnum):
    WORD = 1         # an identifier or keyword without quotes, folded to lower case
    NAME = 2         # a "quoted" identifier, its quotes undone
    STRING = 3       # any string constant
    NUMBER = 4
    PARAMETER = 5    # $1
    MARK = 6         # one character: an operator's, or punctuation
    END = 7          # a semicolon that ends a statement
    BROKEN = 8       # nothing that a server would accept from here on


class Token(NamedTuple):
    kind: Kind
    value: str       # of a STRING: what it says, where `plain`
    start: int       # offsets in the decoded text
    end: int
    plain: bool = True   # a STRING whose value is known; a NAME without U&


_START = r"A-Za-z_\x80-\U0010ffff"
_GAP = r"(?:[ \t\f\v]|--[^\n\r]*+)*+[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*+[\n\r])*+"       # between the parts of one string
_STANDARD, _ESCAPES = r"[^']*+(?:''[^']*+)*+'", r"[^'\\]*+(?:(?:''|\\[\s\S])[^'\\]*+)*+'"
_TOKEN = re.compile(rf"""
    (?P<space>[ \t\n\r\f\v]++ | --[^\n\r]*+)
  | (?P<comment>/\*)
  | (?P<escapes>[eE]')
  | (?P<special>[bBxX]' | [uU]&['"])
  | (?P<word>[{_START}][{_START}0-9$]*+)
  | (?P<name>"(?:[^"]|"")*+")
  | (?P<string>')
  | (?P<number>(?:0[xX](?:_?[0-9A-Fa-f])++ | 0[oO](?:_?[0-7])++ | 0[bB](?:_?[01])++
      | (?:[0-9]++(?:_[0-9]++)*+ (?:\.(?!\.)(?:[0-9]++(?:_[0-9]++)*+)?+)?+ | \.[0-9]++(?:_[0-9]++)*+)
        (?:[eE][+-]?[0-9]++(?:_[0-9]++)*+)?+ ))
  | (?P<parameter>\$[0-9]++)
  | (?P<dollar>\$(?:[{_START}][{_START}0-9]*+)?+\$)
  | (?P<mark>[-+*/<>=~!@\#%^&|`?,()\[\].;:])
""", re.VERBOSE)
_REST = {"'": re.compile(_STANDARD), "\\": re.compile(_ESCAPES), '"': re.compile(r'(?:[^"]|"")*+"'), "": re.compile(r"[^']*+'")}
_CONTINUES = re.compile(_GAP + "'")
_COMMENT = re.compile(r"/\*|\*/")
_JUNK = re.compile(rf"[{_START}$]")
_ESCAPE = re.compile(r"''|\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([\s\S]))")
_SIMPLE = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_FOLD = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_NAME_BYTES = 63     # NAMEDATALEN - 1


def decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def offset(text: str, at: int) -> int:
    """Where a place in the decoded text is in its bytes."""
    return at if text.isascii() else len(encode(text[:at]))


def fold(word: str) -> str:
    """Lower case as the scanner does it in multi-byte encodings: ASCII only."""
    return word.translate(_FOLD)


def tokens(text: str, *, conforming: bool = True) -> Iterator[Token]:
    """Every token but space and comments.  `conforming`: standard_conforming_strings is on."""
    at, end = 0, len(text)
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None:
            break
        start, at, kind = at, found.end(), found.lastgroup
        if kind == "space":
            continue
        if kind == "word":
            yield Token(Kind.WORD, _clip(fold(found[0])), start, at)
        elif kind == "mark":
            yield Token(Kind.END if found[0] == ";" else Kind.MARK, found[0], start, at)
        elif kind == "name":
            yield Token(Kind.NAME, _clip(found[0][1:-1].replace('""', '"')), start, at)
        elif kind in ("number", "parameter"):
            if _JUNK.match(text, at):
                break                       # 1abc, $1abc: refused since 15, and read differently before
            yield Token(Kind.NUMBER if kind == "number" else Kind.PARAMETER, found[0], start, at)
        elif kind == "comment":
            at = _comment(text, at)
            if at < 0:
                at = start
                break
        else:
            token = _dollar(text, found[0], start, at) if kind == "dollar" else _string(text, found[0], start, at, conforming)
            if token is None:
                at = start
                break
            yield token
            at = token.end
    if at < end:
        yield Token(Kind.BROKEN, "", at, end)


def _clip(name: str) -> str:
    if len(name) * 4 <= _NAME_BYTES or len(encode(name)) <= _NAME_BYTES:
        return name
    return encode(name)[:_NAME_BYTES].decode("utf-8", "ignore" if name.isprintable() else "surrogateescape")


def _comment(text: str, at: int) -> int:
    depth = 1
    for found in _COMMENT.finditer(text, at):
        depth += 1 if found[0] == "/*" else -1
        if not depth:
            return found.end()
    return -1


def _dollar(text: str, tag: str, start: int, at: int) -> Token | None:
    end = text.find(tag, at)
    return Token(Kind.STRING, text[at:end], start, end + len(tag)) if end >= 0 else None


def _string(text: str, opening: str, start: int, at: int, conforming: bool) -> Token | None:
    """The constant that begins at `start`, its first part's body at `at`; further parts follow on new lines."""
    head = opening[0]
    if opening[-1] == '"':
        found = _REST['"'].match(text, at)
        return found and Token(Kind.NAME, "", start, found.end(), False)
    escapes = head in "eE" or (head == "'" and not conforming)
    rest = _REST["\\" if escapes else "" if head in "bBxX" else "'"]
    parts: list[str] = []
    while True:
        found = rest.match(text, at)
        if found is None:
            return None
        parts.append(found[0][:-1])
        more = _CONTINUES.match(text, found.end())
        if more is None:
            break
        at = more.end()
    body = "".join(parts)
    if escapes:
        value, plain = _unescape(body)
    else:
        value, plain = body.replace("''", "'"), head == "'"
    return Token(Kind.STRING, value, start, found.end(), plain)


def _unescape(body: str) -> tuple[str, bool]:
    """What E'...' says, and whether we are sure: bytes by number and surrogate pairs are left to the server."""
    sure = True

    def one(found: re.Match[str]) -> str:
        nonlocal sure
        octal, hexadecimal, short, long, char = found.groups()
        if char is not None:
            return _SIMPLE.get(char, char)
        if found[0] == "''":
            return "'"
        code = int(octal, 8) if octal else int(hexadecimal or short or long, 16)
        if not 0 < code < 0x80:
            sure = False
            return ""
        return chr(code)

    return _ESCAPE.sub(one, body), sure
