"""Functions that PostgreSQL's SQL calls and SQLite lacks, or has with another meaning.

A statement may call what is here and what `NATIVE` and `SAME` name (equal in both), and nothing else.
"""

from __future__ import annotations

import decimal
import hashlib
import math
import random
import re
import uuid
from collections.abc import Callable, Mapping

import apsw
from sqlglot import exp

from proxy.gateway.engine import Value
from proxy.gateway.sqlite import json_values, moments
from proxy.gateway.sqlite.faults import refused
from proxy.gateway.sqlite.types import from_text, number, told

# By sqlglot's nodes: what of ours is called instead.
NAMES: dict[type[exp.Expr], str] = {
    exp.Lower: "lower", exp.Upper: "upper", exp.Initcap: "initcap", exp.Reverse: "reverse", exp.Substring: "pg_substring",
    exp.Concat: "pg_concat", exp.ConcatWs: "pg_concat_ws", exp.Replace: "replace", exp.StrPosition: "pg_position",
    exp.Left: "pg_left", exp.Right: "pg_right", exp.Repeat: "pg_repeat", exp.MD5: "pg_md5", exp.SplitPart: "pg_split_part",
    exp.Ceil: "pg_ceil", exp.Floor: "pg_floor", exp.Round: "pg_round", exp.Trunc: "pg_cut", exp.Sqrt: "pg_sqrt", exp.Pow: "pg_power",
    exp.Exp: "pg_exp", exp.Ln: "pg_ln", exp.Sign: "sign", exp.Abs: "abs", exp.Length: "pg_length", exp.Greatest: "pg_greatest",
    exp.Least: "pg_least", exp.Rand: "pg_random", exp.Ascii: "pg_ascii",
    exp.CurrentDatabase: "current_database", exp.CurrentUser: "current_user", exp.CurrentSchema: "current_schema",
    exp.SessionUser: "session_user", exp.CurrentCatalog: "current_database", exp.CurrentTimestamp: "now", exp.CurrentDate: "pg_today",
    exp.Localtimestamp: "now", exp.CurrentVersion: "version"}
NATIVE: frozenset[type[exp.Expr]] = frozenset((exp.Coalesce, exp.Nullif))
SAME = frozenset((
    "abs", "coalesce", "nullif", "replace", "version", "current_database", "current_user", "session_user", "current_schema",
    "pg_backend_pid", "gen_random_uuid", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "char_length",
    "character_length", "octet_length", "current_setting", "pg_is_in_recovery", "txid_current"))


def _whole(operator: str, work: Callable[[int, int], int]) -> Callable[[int, int], Value]:
    def done(left: int, right: int) -> Value:
        found = work(left, right)
        if not -1 << 63 <= found < 1 << 63:
            raise refused("22003", "bigint out of range")
        return found
    return done


def _arithmetic(operator: str, whole: Callable[[int, int], int], other: Callable[[float, float], float]) -> Callable[..., Value]:
    integers = _whole(operator, whole)

    def done(left: Value, right: Value) -> Value:
        if left is None or right is None:
            return None
        if not isinstance(left, int | float) or not isinstance(right, int | float):
            raise refused("42883", f"operator does not exist: text {operator} text",
                          hint="No operator matches the given name and argument types. You might need to add explicit type casts.")
        if operator in "/%" and right == 0:
            raise refused("22012", "division by zero")
        if isinstance(left, int) and isinstance(right, int):
            return integers(left, right)
        found = other(left, right)
        if math.isinf(found) and not math.isinf(left) and not math.isinf(right):
            raise refused("22003", "value out of range: overflow")
        return found
    return done


def _quotient(left: int, right: int) -> int:
    found = abs(left) // abs(right)
    return found if (left < 0) == (right < 0) else -found


def _rest(left: int, right: int) -> int:
    return abs(left) % abs(right) * (-1 if left < 0 else 1)


def _int(bits: int, name: str) -> Callable[[Value], Value]:
    def cast(value: Value) -> Value:
        if value is None or isinstance(value, int):
            number = value
        elif isinstance(value, float):
            if math.isnan(value) or math.isinf(value):
                raise refused("22003", f"{name} out of range")
            number = round(value)             # half to even, as PostgreSQL's double precision
        elif isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+\s*", value):
            number = int(value)
        else:
            raise refused("22P02", f'invalid input syntax for type {name}: "{value!s}"')
        if number is not None and not -1 << bits - 1 <= number < 1 << bits - 1:
            raise refused("22003", f"{name} out of range")
        return number
    return cast


def _float(value: Value) -> Value:
    try:
        return None if value is None else value if isinstance(value, int | float) else float(value)
    except ValueError:
        raise refused("22P02", f'invalid input syntax for type double precision: "{value!s}"') from None


def _real(value: Value) -> Value:
    """SQLite has whole numbers in columns and casts of other types, too: what is computed with them is not whole."""
    return float(value) if isinstance(value, int) else value


def _bool(value: Value) -> Value:
    return None if value is None else int(value != 0) if isinstance(value, int) else from_text(str(value), 16)


def _as_text(value: Value) -> Value:
    if isinstance(value, bytes):
        return (told(value, 17, "") or b"").decode()
    return value if value is None or isinstance(value, str) else number(value)


def _as_bytes(value: Value) -> Value:
    return value if value is None or isinstance(value, bytes) else from_text(str(value), 17)


def _as_uuid(value: Value) -> Value:
    return None if value is None else from_text(str(value), 2950)


def _strict(function: Callable[..., Value]) -> Callable[..., Value]:
    """NULL where any argument is."""
    def called(*arguments: Value) -> Value:
        return None if any(value is None for value in arguments) else function(*arguments)
    return called


def _text(function: Callable[..., Value]) -> Callable[..., Value]:
    return _strict(lambda value, *more: function(str(value), *more))


def _concat(*values: Value) -> Value:
    return "".join(str(_as_text(value)) for value in values if value is not None)


def _joined(separator: Value, *values: Value) -> Value:
    return None if separator is None else str(separator).join(str(_as_text(value)) for value in values if value is not None)


def _part(text: str, separator: Value, number: Value) -> Value:
    if not isinstance(number, int) or number == 0:
        raise refused("22023", "field position must not be zero")
    parts = text.split(str(separator)) if separator else [text]
    at = number - 1 if number > 0 else len(parts) + number
    return parts[at] if 0 <= at < len(parts) else ""


def _substring(text: str, start: Value, length: Value = None) -> Value:
    if not isinstance(start, int) or not isinstance(length, int | None):
        raise refused("42883", "function substring does not exist for these types")
    if length is not None and length < 0:
        raise refused("22011", "negative substring length not allowed")
    end = len(text) + 1 if length is None else start + length
    return text[max(start, 1) - 1:max(end - 1, 0)]


def _round(value: Value, digits: Value = 0) -> Value:
    if not isinstance(value, int | float) or not isinstance(digits, int):
        raise refused("42883", "function round does not exist for these types")
    return value if isinstance(value, int) and digits >= 0 else round(value, digits)


def _round_away(value: Value, digits: Value) -> Value:
    """As numeric does: half away from zero, of what the number is written as."""
    if not isinstance(value, int | float) or not isinstance(digits, int):
        raise refused("42883", "function round does not exist for these types")
    if isinstance(value, int) or not math.isfinite(value):
        return value
    found = decimal.Decimal(repr(value)).quantize(decimal.Decimal(1).scaleb(-digits), decimal.ROUND_HALF_UP)
    return float(found)


def _side(pick: Callable[..., Value]) -> Callable[..., Value]:
    """The greatest or the least of what is not NULL."""
    def picked(*values: Value) -> Value:
        some = [value for value in values if value is not None]
        return pick(some) if some else None
    return picked


def _fraction(function: Callable[..., float]) -> Callable[..., Value]:
    def called(*values: float) -> Value:
        try:
            return float(function(*values))
        except ValueError:
            raise refused("2201F", "the argument is out of the function's domain") from None
        except OverflowError:
            raise refused("22003", "value out of range: overflow") from None
    return _strict(called)


def _among(value: Value, array: Value) -> Value:
    """`value = ANY(array)`, the array as PostgreSQL's text of one."""
    if array is None or value is None:
        return None
    text = str(array)
    if not (text.startswith("{") and text.endswith("}")):
        raise refused("22P02", f'malformed array literal: "{text[:40]}"')
    found = re.findall(r'"((?:[^"\\]|\\.)*)"|([^,{}"]+)', text[1:-1])
    items = [re.sub(r"\\(.)", r"\1", quoted) if not bare else None if bare.upper() == "NULL" else bare for quoted, bare in found]
    wanted = str(_as_text(value))
    return 1 if wanted in items else None if None in items else 0


FUNCTIONS: dict[str, tuple[int, Callable[..., Value]]] = {
    "pg_add": (2, _arithmetic("+", lambda a, b: a + b, lambda a, b: a + b)),
    "pg_sub": (2, _arithmetic("-", lambda a, b: a - b, lambda a, b: a - b)),
    "pg_mul": (2, _arithmetic("*", lambda a, b: a * b, lambda a, b: a * b)),
    "pg_div": (2, _arithmetic("/", _quotient, lambda a, b: a / b)), "pg_mod": (2, _arithmetic("%", _rest, math.fmod)),
    "pg_int2": (1, _int(16, "smallint")), "pg_int4": (1, _int(32, "integer")), "pg_int8": (1, _int(64, "bigint")),
    "pg_float8": (1, _float), "pg_real": (1, _real), "pg_bool": (1, _bool),
    "pg_text": (1, _as_text), "pg_bytea": (1, _as_bytes), "pg_uuid": (1, _as_uuid),
    "pg_json": (1, json_values.checked), "pg_json_get": (2, json_values.get), "pg_json_text": (2, json_values.get_text),
    "pg_when": (1, moments.when), "pg_stored": (1, moments.to_store), "pg_day": (1, moments.day), "pg_shift": (3, moments.shifted),
    "pg_trunc": (2, moments.truncated),
    "pg_extract": (2, moments.extracted), "pg_today": (0, moments.today), "now": (0, moments.now), "clock_timestamp": (0, moments.now),
    "statement_timestamp": (0, moments.now), "transaction_timestamp": (0, moments.now),
    "lower": (1, _text(str.lower)), "upper": (1, _text(str.upper)), "initcap": (2, _text(lambda text, _: re.sub(
        r"[^\W_]+", lambda found: found[0].capitalize(), text))),
    "reverse": (1, _text(lambda text: text[::-1])), "pg_length": (1, _text(len)), "char_length": (1, _text(len)),
    "character_length": (1, _text(len)), "octet_length": (1, _text(lambda text: len(text.encode()))),
    "pg_substring": (-1, _text(_substring)), "pg_concat": (-1, _concat), "pg_concat_ws": (-1, _joined),
    "pg_position": (2, _text(lambda text, part: text.find(str(part)) + 1)),
    "pg_left": (2, _text(lambda text, count: text[:count])),
    "pg_right": (2, _text(lambda text, count: text[-count:] if count else "")),
    "pg_repeat": (2, _text(lambda text, count: _bounded(text, count))), "pg_split_part": (3, _text(_part)),
    "pg_md5": (1, _text(lambda text: hashlib.md5(text.encode(), usedforsecurity=False).hexdigest())),
    "pg_ascii": (1, _text(lambda text: ord(text[0]) if text else 0)),
    "pg_trim": (2, _text(lambda text, chars: text.strip(chars) if chars else text)),
    "pg_ltrim": (2, _text(lambda text, chars: text.lstrip(chars) if chars else text)),
    "pg_rtrim": (2, _text(lambda text, chars: text.rstrip(chars) if chars else text)),
    "pg_ceil": (1, _fraction(math.ceil)), "pg_floor": (1, _fraction(math.floor)), "pg_cut": (1, _fraction(math.trunc)),
    "pg_round": (-1, _strict(_round)), "pg_round_away": (2, _strict(_round_away)),
    "pg_sqrt": (1, _fraction(math.sqrt)), "pg_power": (2, _fraction(math.pow)), "pg_exp": (1, _fraction(math.exp)),
    "pg_ln": (1, _fraction(math.log)),
    "pg_random": (0, random.random), "pg_greatest": (-1, _side(max)), "pg_least": (-1, _side(min)), "pg_among": (2, _among),
    "gen_random_uuid": (0, lambda: str(uuid.uuid4())), "pg_is_in_recovery": (0, lambda: 0),
}
_VOLATILE = frozenset((
    "now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "pg_today", "pg_random", "gen_random_uuid"))
MOST_TEXT = 1 << 24           # characters of a text that repeat() makes


def _bounded(text: str, count: Value) -> Value:
    if not isinstance(count, int) or len(text) * count > MOST_TEXT:
        raise refused("54000", "requested length too large")
    return text * max(count, 0)


def provide(connection: apsw.Connection, session: Mapping[str, Value], settings: dict[str, str]) -> None:
    """Give a connection these functions; `session`: those that tell who and where one is, by name."""
    for name, (count, function) in FUNCTIONS.items():
        connection.create_scalar_function(name, function, count, deterministic=name not in _VOLATILE)
    tell(connection, session)
    connection.create_scalar_function("current_setting", _setting(settings), -1)


def tell(connection: apsw.Connection, session: Mapping[str, Value]) -> None:
    """What functions without arguments answer."""
    for name, value in session.items():
        connection.create_scalar_function(name, _constant(value), 0)


def _setting(settings: dict[str, str]) -> Callable[..., Value]:
    def current(name: Value, missing: Value = 0) -> Value:
        found = settings.get(str(name).lower())
        if found is None and not missing:
            raise refused("42704", f'unrecognized configuration parameter "{name!s}"')
        return found
    return current


def _constant(value: Value) -> Callable[..., Value]:
    return lambda: value


