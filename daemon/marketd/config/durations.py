"""Durations, shares and day starts as an operator writes them, and as the program uses them."""

from __future__ import annotations

import difflib
import re
import zoneinfo
from datetime import time, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds", "ms": "milliseconds"}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)", re.ASCII)
_DAY_START = re.compile(r"([01]\d|2[0-3]):([0-5]\d) +(\S+)", re.ASCII)
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,4})?) ?%", re.ASCII)
_LONGEST = timedelta(days=3650)


def parse_duration(value: Any) -> timedelta:
    """The duration that `100ms`, `30s`, `15m`, `2h` or `7d` names; ValueError for anything else."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a duration such as 100ms, 30s, 15m, 2h or 7d")
    try:
        duration = timedelta(**{_UNITS[match[2]]: float(match[1])})
    except OverflowError:
        duration = timedelta.max
    if duration > _LONGEST:
        raise ValueError("expected a duration of at most 3650d")
    return duration


def format_duration(duration: timedelta) -> str:
    """The shortest text that `parse_duration` reads back as the same duration."""
    for unit, name in _UNITS.items():
        one = timedelta(**{name: 1})
        if duration % one == timedelta(0) and duration >= one:
            return f"{duration // one}{unit}"
    return f"{duration / timedelta(milliseconds=1):g}{'ms' if duration else 's'}"


def lasting(least: str, most: str | None = None) -> AfterValidator:
    """Accepts durations from `least` to `most`, both included."""
    low, high = parse_duration(least), parse_duration(most) if most else _LONGEST

    def check(duration: timedelta) -> timedelta:
        if duration < low:
            raise ValueError(f"expected at least {least}")
        if duration > high:
            raise ValueError(f"expected at most {most}")
        return duration

    return AfterValidator(check)


def parse_share(value: Any) -> float:
    """0.05 for `5%`; ValueError for anything that is not a percentage from 0 to 100."""
    match = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or float(match[1]) > 100:
        raise ValueError("expected a percentage from 0% to 100%, such as 5%")
    return float(match[1]) / 100


def parse_day_start(value: Any) -> Any:
    """Splits `00:00 America/Los_Angeles` into `at` and `zone`; ValueError if time or zone is unknown."""
    if not isinstance(value, str):
        if isinstance(value, dict) or hasattr(value, "zone"):
            return value
        raise ValueError('expected a time and a zone such as "00:00 UTC"')
    match = _DAY_START.fullmatch(value.strip())
    if match is None:
        raise ValueError('expected a time and a zone such as "00:00 UTC"')
    check_zone(match[3])
    return {"at": time(int(match[1]), int(match[2])), "zone": match[3]}


def check_zone(key: str) -> str:
    """`key` if the time zone database knows it, else ValueError with the nearest known one."""
    try:
        zoneinfo.ZoneInfo(key)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        near = difflib.get_close_matches(key, sorted(zoneinfo.available_timezones()), 1) or ["Europe/London"]
        raise ValueError(f"expected a zone of the time zone database such as {near[0]}") from None
    return key


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)$", "examples": ["30s", "15m"]}),
]
Share = Annotated[
    float,
    BeforeValidator(parse_share),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)? ?%$", "examples": ["5%"]}),
]
