"""set_config() of parameters: what it does is in the Bind message.

    select set_config('jit', $1, false)     Bound("jit", 0, False); with 'on' bound: Configure("jit", "on")
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from proxy.session.assignments import assign, configured
from proxy.session.consequences import Bound, Configure, Effect
from proxy.session.tokens import decode

_TEXTS = frozenset((0, 25, 1043, 19, 705))      # types of parameters whose bytes are the text itself: text, varchar, name, unknown
_BOOLEANS = frozenset((0, 16, 705))
_TRUE = (b"\1", b"t", b"true", b"on", b"yes", b"1", b"y")
_FALSE = (b"\0", b"f", b"false", b"off", b"no", b"0", b"n")


def resolved(effects: tuple[Effect, ...], types: bytes, rest: bytes) -> tuple[Effect, ...]:
    """`types` as the Parse message has them, `rest`: the Bind message behind its names.  What cannot be told stays as it is."""
    values = list(_values(rest))
    return tuple(new for effect in effects
                 for new in (_resolved(effect, types, values) if isinstance(effect, Bound) else (effect,)))


def _resolved(effect: Bound, types: bytes, values: Sequence[bytes | None]) -> Sequence[Effect]:
    name, value, local = effect.name, effect.value, effect.local
    for number in (name, value):
        if isinstance(number, int) and (number >= len(values) or _type(types, number) not in _TEXTS):
            return (effect,)
    if not isinstance(local, bool):
        said = values[local] if local < len(values) and _type(types, local) in _BOOLEANS else None
        if said is None or said.lower() not in _TRUE + _FALSE:
            return (effect,)
        local = said.lower() in _TRUE
    named, given = (values[each] if isinstance(each, int) else each for each in (name, value))
    if named is None:
        return (effect,)                       # NULL, which is an error
    if isinstance(named, bytes):
        named = decode(named)
    if given is None:
        return (Configure(None, None, True),) if local else assign(named, None, True, False)
    return configured(named, decode(given) if isinstance(given, bytes) else given, local)


def _type(types: bytes, number: int) -> int:
    return int.from_bytes(types[2 + 4 * number:6 + 4 * number]) if number < int.from_bytes(types[:2]) else 0


def _values(rest: bytes) -> Iterator[bytes | None]:
    """Of all parameters, in whichever format."""
    at = 2 + 2 * int.from_bytes(rest[:2])
    count = int.from_bytes(rest[at:at + 2])
    at += 2
    for _ in range(count):
        size = int.from_bytes(rest[at:at + 4], signed=True)
        yield None if size < 0 else rest[at + 4:at + 4 + size]
        at += 4 + max(0, size)
