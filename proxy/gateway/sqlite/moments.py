"""Times in queries: one text for one moment, so that it compares and sorts as the moment does.

A file may hold the same moment as milliseconds since 1970 and as text.  Beside an operator, both become
`YYYY-MM-DD HH:MM:SS.ffffff`, in UTC.
"""

from __future__ import annotations

import calendar
import datetime
import re

from proxy.gateway.engine import Value
from proxy.gateway.sqlite.faults import refused
from proxy.gateway.sqlite.types import bad_moment, moment, stored


def _moment(value: Value) -> datetime.datetime:
    found = moment(value)
    if found is None:
        raise bad_moment(value)
    return found


def when(value: Value) -> Value:
    return None if value is None else _moment(value).isoformat(" ", "microseconds")


def to_store(value: Value) -> Value:
    return None if value is None else stored(_moment(value))


def day(value: Value) -> Value:
    return None if value is None else _moment(value).date().isoformat()


def now() -> Value:
    return stored(datetime.datetime.now(datetime.UTC).replace(tzinfo=None))


def today() -> Value:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


_STEPS = {"microsecond": 1e-6, "millisecond": 1e-3, "second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_STEP = re.compile(rf"\s*([+-]?\d+(?:\.\d+)?)\s*({'|'.join(_STEPS)}|month|year)s?(?![a-z])\s*", re.IGNORECASE)


def understood(interval: str) -> bool:
    """Is it a text of numbers and units, as `1 day 2 hours`?"""
    at = 0
    while at < len(interval):
        found = _STEP.match(interval, at)
        if found is None or (found[2].lower() in ("month", "year") and "." in found[1]):
            return False
        at = found.end()
    return bool(interval.strip())


def shifted(value: Value, sign: Value, interval: Value) -> Value:
    """A time and an interval of `understood` text."""
    if value is None or interval is None:
        return None
    at, seconds, months = _moment(value), 0.0, 0
    for number, unit in _STEP.findall(str(interval)):
        if unit.lower() in _STEPS:
            seconds += float(number) * _STEPS[unit.lower()]
        else:
            months += int(number) * (12 if unit.lower() == "year" else 1)
    try:
        if months:
            year, month = divmod(at.year * 12 + at.month - 1 + int(str(sign)) * months, 12)
            at = at.replace(year=year, month=month + 1, day=min(at.day, calendar.monthrange(year, month + 1)[1]))
        return (at + int(str(sign)) * datetime.timedelta(seconds=seconds)).isoformat(" ", "microseconds")
    except (ValueError, OverflowError):
        raise refused("22008", "timestamp out of range") from None


def truncated(unit: Value, value: Value) -> Value:
    """date_trunc"""
    if value is None or unit is None:
        return None
    at = _moment(value)
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    found = {
        "microseconds": at, "milliseconds": at.replace(microsecond=at.microsecond // 1000 * 1000),
        "second": at.replace(microsecond=0), "minute": at.replace(second=0, microsecond=0),
        "hour": at.replace(minute=0, second=0, microsecond=0), "day": midnight,
        "week": midnight - datetime.timedelta(days=at.weekday()), "month": midnight.replace(day=1),
        "quarter": midnight.replace(month=(at.month - 1) // 3 * 3 + 1, day=1), "year": midnight.replace(month=1, day=1),
    }.get(str(unit).removeprefix("weekmonday"))
    if found is None:
        raise refused("0A000", f'date_trunc({unit!s}) is not supported on a SQLite file')
    return found.isoformat(" ", "microseconds")


def extracted(field: Value, value: Value) -> Value:
    """EXTRACT and date_part"""
    if value is None:
        return None
    at = _moment(value)
    seconds = at.second + at.microsecond / 1_000_000
    found = {
        "year": at.year, "month": at.month, "day": at.day, "hour": at.hour, "minute": at.minute, "second": seconds,
        "milliseconds": seconds * 1000, "microseconds": at.second * 1_000_000 + at.microsecond, "dow": at.isoweekday() % 7,
        "dayofweek": at.isoweekday() % 7, "isodow": at.isoweekday(), "doy": at.timetuple().tm_yday, "dayofyear": at.timetuple().tm_yday,
        "week": at.isocalendar().week, "isoyear": at.isocalendar().year, "quarter": (at.month - 1) // 3 + 1,
        "epoch": calendar.timegm(at.timetuple()) + at.microsecond / 1_000_000,
    }.get(str(field))
    if found is None:
        raise refused("0A000", f"EXTRACT({field!s}) is not supported on a SQLite file")
    return float(found)
