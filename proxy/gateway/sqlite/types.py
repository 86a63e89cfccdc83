"""SQLite's values as PostgreSQL's: the type that a column was declared with says how its values are told.

SQLite keeps what it is given, whatever a column's type says.  So a value is told by the type only if it fits; knex and
better-sqlite3 keep times as milliseconds since 1970 or as text, and booleans as 0 and 1.  What does not fit is an error
(22P02, 22007) and never something else.  Integers are 64 bits wide in SQLite, so all integer types are told as bigint.
"""

from __future__ import annotations

import datetime
import decimal
import json
import re
import struct
import uuid

from proxy.gateway.engine import BOOL, FLOAT8, INT4, INT8, NAME, TEXT, Value
from proxy.gateway.sqlite.faults import refused

BYTEA, JSON, VARCHAR, DATE, TIMESTAMP, TIMESTAMPTZ, NUMERIC, UUID, INT2, FLOAT4, CHAR, JSONB = (
    17, 114, 1043, 1082, 1114, 1184, 1700, 2950, 21, 700, 1042, 3802)
TEXTS = frozenset((0, TEXT, VARCHAR, CHAR, NAME, JSON, 705))
INTEGERS = frozenset((INT2, INT4, INT8, 26))
ARRAYS = {1000: BOOL, 1005: INT2, 1007: INT4, 1016: INT8, 1009: TEXT, 1015: VARCHAR, 1022: FLOAT8, 2951: UUID}
EPOCH = datetime.datetime(1970, 1, 1)
_Y2K = datetime.datetime(2000, 1, 1)
_WHEN = re.compile(r"(\d{4})-(\d\d?)-(\d\d?)(?:[T ](\d\d?):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?"
                   r"\s*(Z|[+-]\d\d(?::?\d\d)?)?", re.IGNORECASE)
# In this order, by the words of a declared type
_DECLARED = tuple((re.compile(pattern), oid) for pattern, oid in (
    (r"\bbool", BOOL), (r"^(tiny|small|medium|big)?(int|serial)|^unsigned big int|^int\d$|^serial\d$", INT8),
    (r"^timestamptz|^(timestamp|datetime).*with time zone", TIMESTAMPTZ), (r"^(timestamp|datetime)", TIMESTAMP), (r"^date$", DATE),
    (r"^n?varchar|char.*varying", VARCHAR), (r"^n?char|^bpchar", VARCHAR), (r"^jsonb", JSONB), (r"^json", JSON), (r"^uuid", UUID),
    (r"^(blob|bytea|binary|varbinary)", BYTEA), (r"^(real|double|float)", FLOAT8), (r"^(numeric|decimal)", NUMERIC)))
_TRUE, _FALSE = ("t", "true", "y", "yes", "on", "1"), ("f", "false", "n", "no", "off", "0")


def oid_of(declared: str | None) -> int:
    """Of a column's declared type; text where it says nothing."""
    words = (declared or "").strip().lower()
    return next((oid for pattern, oid in _DECLARED if pattern.search(words)), TEXT)


def told(value: Value, oid: int, column: str) -> bytes | None:
    """A value in PostgreSQL's text format."""
    if value is None:
        return None
    if oid == BOOL:
        if value in (0, 1):
            return b"t" if value else b"f"
    elif oid in INTEGERS:
        if isinstance(value, int):
            return b"%d" % value
    elif oid in (TIMESTAMP, TIMESTAMPTZ, DATE):
        when = moment(value)
        if when is not None:
            return _moment_told(when, oid).encode()
    elif oid in (FLOAT8, NUMERIC):
        if isinstance(value, int | float):
            return number(value).encode()
    elif oid == BYTEA:
        return b"\\x" + (value if isinstance(value, bytes) else str(value).encode()).hex().encode()
    elif isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    elif isinstance(value, int | float):
        return number(value).encode()
    raise refused("22P02", f'a value of column "{column}" is not of its type', "SQLite keeps what it is given.",
                  f'Ask for it as text: "{column}"::text.')


def _moment_told(when: datetime.datetime, oid: int) -> str:
    if oid == DATE:
        return when.date().isoformat()
    text = when.isoformat(" ", "microseconds").rstrip("0").rstrip(".") if when.microsecond else when.isoformat(" ", "seconds")
    return text if oid == TIMESTAMP else text + "+00"


def packed(value: Value, oid: int, column: str) -> bytes | None:
    """The same in binary."""
    if value is None:
        return None
    if oid == FLOAT8 and isinstance(value, int | float):
        return struct.pack("!d", value)
    if oid in (TIMESTAMP, TIMESTAMPTZ) and (when := moment(value)) is not None:
        return struct.pack("!q", (when - _Y2K) // datetime.timedelta(microseconds=1))
    if oid == DATE and (when := moment(value)) is not None:
        return struct.pack("!i", (when.date() - _Y2K.date()).days)
    if oid == BYTEA:
        return value if isinstance(value, bytes) else str(value).encode()
    text = told(value, oid, column)
    assert text is not None
    if oid == BOOL:
        return b"\1" if text == b"t" else b"\0"
    if oid in INTEGERS:
        try:
            return struct.pack({INT8: "!q", INT4: "!i", INT2: "!h"}.get(oid, "!I"), value)
        except struct.error:
            raise refused("22003", "integer out of range") from None
    if oid == UUID:
        return bytes.fromhex(text.decode().replace("-", ""))
    if oid == NUMERIC:
        return _numeric(text.decode())
    return b"\1" + text if oid == JSONB else text


def _numeric(text: str) -> bytes:
    """numeric_send's format: groups of four decimal digits."""
    if text in ("NaN", "Infinity", "-Infinity"):
        return struct.pack("!hhHh", 0, 0, {"NaN": 0xC000, "Infinity": 0xD000, "-Infinity": 0xF000}[text], 0)
    sign, digits, exponent = decimal.Decimal(text).as_tuple()
    assert isinstance(exponent, int)
    scale = max(0, -exponent)
    whole = "".join(map(str, digits)) + "0" * max(0, exponent)
    whole, fraction = (whole[:-scale] or "0", whole[-scale:].rjust(scale, "0")) if scale else (whole, "")
    whole = whole.rjust(-(-len(whole) // 4) * 4, "0")
    fraction = fraction.ljust(-(-len(fraction) // 4) * 4, "0")
    groups = [int((whole + fraction)[at:at + 4]) for at in range(0, len(whole + fraction), 4)]
    weight = len(whole) // 4 - 1
    while groups and groups[0] == 0:
        del groups[0]
        weight -= 1
    while groups and groups[-1] == 0:
        del groups[-1]
    return struct.pack(f"!hhHh{len(groups)}h", len(groups), weight if groups else 0, 0x4000 if sign else 0, scale, *groups)


def _from_numeric(raw: bytes) -> Value:
    count, weight, sign, scale = struct.unpack_from("!hhHh", raw)
    if sign & 0xC000 == 0xC000:
        return {0xC000: float("nan"), 0xD000: float("inf")}.get(sign, float("-inf"))
    groups = struct.unpack_from(f"!{count}h", raw, 8)
    value = sum((decimal.Decimal(group).scaleb(4 * (weight - at)) for at, group in enumerate(groups)), decimal.Decimal(0))
    value = -value if sign else value
    return int(value) if not scale and abs(value) < 1 << 63 else float(value)


def taken(raw: bytes, oid: int, *, binary: bool) -> Value:
    """A parameter, as SQLite is given it: times as text that SQLite's own functions read, booleans as 0 and 1."""
    if not binary:
        return from_text(raw.decode(), oid)
    if oid in INTEGERS:
        return int.from_bytes(raw, signed=oid != 26)
    if oid in (FLOAT8, FLOAT4):
        return float(struct.unpack("!d" if oid == FLOAT8 else "!f", raw)[0])
    if oid == BOOL:
        return int(raw == b"\1")
    if oid == BYTEA:
        return raw
    if oid in (TIMESTAMP, TIMESTAMPTZ, DATE):
        return _moment_taken(raw, oid)
    if oid == UUID:
        return str(uuid.UUID(bytes=raw))
    if oid == NUMERIC:
        return _from_numeric(raw)
    if oid == JSONB:
        return raw[1:].decode()
    if oid in ARRAYS:
        return _array(raw)
    if oid in TEXTS:
        return raw.decode()
    raise refused("0A000", f"binary parameters of type {oid} are not supported on a SQLite file")


def _moment_taken(raw: bytes, oid: int) -> str:
    try:
        if oid == DATE:
            return (_Y2K.date() + datetime.timedelta(days=struct.unpack("!i", raw)[0])).isoformat()
        return stored(_Y2K + datetime.timedelta(microseconds=struct.unpack("!q", raw)[0]))
    except OverflowError:                     # infinity, too
        raise refused("22008", "a time out of range on a SQLite file") from None


def _array(raw: bytes) -> str:
    """An array of one dimension, as the text of one."""
    dimensions, _, oid = struct.unpack_from("!iiI", raw)
    if dimensions > 1:
        raise refused("0A000", "arrays of several dimensions are not supported on a SQLite file")
    found, at = [], 20
    for _ in range(struct.unpack_from("!i", raw, 12)[0] if dimensions else 0):
        (size,) = struct.unpack_from("!i", raw, at)
        at += 4
        value = None if size < 0 else taken(raw[at:at + size], oid, binary=True)
        found.append("NULL" if value is None else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"')
        at += max(size, 0)
    return "{" + ",".join(found) + "}"


def from_text(text: str, oid: int) -> Value:
    if oid == BOOL:
        word = text.strip().lower()
        if word not in _TRUE + _FALSE:
            raise refused("22P02", f'invalid input syntax for type boolean: "{text}"')
        return int(word in _TRUE)
    if oid in INTEGERS:
        name, bits = {INT4: ("integer", 31), INT2: ("smallint", 15)}.get(oid, ("bigint", 63))
        if not re.fullmatch(r"\s*[+-]?\d+\s*", text):
            raise refused("22P02", f'invalid input syntax for type {name}: "{text}"')
        whole = int(text)
        if not -1 << bits <= whole < 1 << bits:
            raise refused("22003", f'value "{text}" is out of range for type {name}')
        return whole
    if oid in (FLOAT8, FLOAT4, NUMERIC):
        try:
            return float(text) if not re.fullmatch(r"\s*[+-]?\d{1,18}\s*", text) else int(text)
        except ValueError:
            name = "numeric" if oid == NUMERIC else "double precision"
            raise refused("22P02", f'invalid input syntax for type {name}: "{text}"') from None
    if oid == BYTEA:
        try:
            return bytes.fromhex(text[2:]) if text.startswith("\\x") else text.encode()
        except ValueError:
            raise refused("22023", "invalid hexadecimal data") from None
    if oid in (TIMESTAMP, TIMESTAMPTZ, DATE):
        when = moment(text)
        if when is None:
            raise bad_moment(text, oid)
        return when.date().isoformat() if oid == DATE else stored(when)
    if oid in (JSON, JSONB):
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            raise refused("22P02", "invalid input syntax for type json") from None
    if oid == UUID:
        try:
            return str(uuid.UUID(text))
        except ValueError:
            raise refused("22P02", f'invalid input syntax for type uuid: "{text}"') from None
    return text


def bad_moment(text: object, oid: int = TIMESTAMP) -> Exception:
    if _WHEN.fullmatch(str(text).strip()) is not None:
        return refused("22008", f'date/time field value out of range: "{text}"')
    name = {DATE: "date", TIMESTAMPTZ: "timestamp with time zone"}.get(oid, "timestamp")
    return refused("22007", f'invalid input syntax for type {name}: "{text}"')


def moment(value: Value) -> datetime.datetime | None:
    """A time in UTC: of milliseconds since 1970, or of text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        if not isinstance(value, str):
            return EPOCH + datetime.timedelta(milliseconds=value)
        found = _WHEN.fullmatch(value.strip())
        if found is None:
            return None
        year, month, day, hour, minute, second, fraction, zone = found.groups()
        when = datetime.datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0),
                                 int((fraction or "0").ljust(6, "0")[:6]))
        if zone and zone not in "zZ":
            digits = zone[1:].replace(":", "")
            shift = datetime.timedelta(hours=int(digits[:2]), minutes=int(digits[2:] or 0))
            when = when - shift if zone[0] == "+" else when + shift
        return when
    except (ValueError, OverflowError):
        return None


def stored(when: datetime.datetime) -> str:
    """As SQLite's own CURRENT_TIMESTAMP writes it, and finer where it must be."""
    return when.isoformat(" ", "microseconds" if when.microsecond else "seconds")


def number(value: int | float) -> str:
    """As PostgreSQL writes a double precision."""
    if isinstance(value, int):
        return str(value)
    if value != value or value in (float("inf"), float("-inf")):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    text = repr(value)
    return text[:-2] if text.endswith(".0") else text
