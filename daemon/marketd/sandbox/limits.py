"""The limits that the sandbox enforces by its own count, and the count itself."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

Breach = Literal["window", "day", "mints"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one provider allows each account. None = no such limit; `Limits()` allows everything."""

    per_window: int | None = None  #: calls in any stretch of `window_s`
    window_s: float = 1.0
    tolerance_s: float = 0.05  #: so much of the window is forgiven, since networks reorder and delay
    per_day: int | None = None
    mints_per_day: int | None = None  #: token requests, where they are metered
    day_zone: str = "UTC"  #: the quota starts anew at midnight there
    day_s: float | None = None  #: a shorter day, counted from the epoch, for tests
    retry_after: Literal["seconds", "date"] | None = None  #: what a 429 of these limits says about waiting

    def changed(self, changes: dict[str, Any]) -> Limits:
        """These limits with some fields replaced. TypeError names an unknown field."""
        return replace(self, **changes)

    def day_of(self, wall: float) -> tuple[str, datetime]:
        """The name of the running day, and when it ends (UTC)."""
        if self.day_s:
            index = int(wall // self.day_s)
            return f"{self.day_s}:{index}", datetime.fromtimestamp((index + 1) * self.day_s, UTC)
        zone = ZoneInfo(self.day_zone)
        today = datetime.fromtimestamp(wall, zone).date()
        midnight = datetime.combine(today + timedelta(days=1), time(), zone)
        return f"{self.day_zone}:{today}", midnight.astimezone(UTC)


@dataclass(slots=True)
class _Account:
    recent: deque[float] = field(default_factory=deque)  #: monotonic times of calls that were let through
    days: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))


class Count:
    """Counts the calls of one provider by account. Refused calls use up the day, but not the window."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = defaultdict(_Account)

    def charge(
        self, account: str, meter: str, limits: Limits, *, monotonic: float, wall: float
    ) -> Breach | None:
        """Count one request; the answer names the limit that it breaks, if any."""
        state = self._accounts[account]
        day = limits.day_of(wall)[0]
        state.days[day, meter] += 1
        used = state.days[day, meter]
        if meter == "mints":
            return "mints" if limits.mints_per_day is not None and used > limits.mints_per_day else None
        if limits.per_day is not None and used > limits.per_day:
            return "day"
        if meter != "calls" or limits.per_window is None:
            return None
        horizon = monotonic - (limits.window_s - limits.tolerance_s)
        while state.recent and state.recent[0] <= horizon:
            state.recent.popleft()
        if len(state.recent) >= limits.per_window:
            return "window"
        state.recent.append(monotonic)
        return None

    def used(self, account: str, meter: str, limits: Limits, *, wall: float) -> int:
        """Requests counted since the running day began."""
        return self._accounts[account].days.get((limits.day_of(wall)[0], meter), 0)

    def spend(self, account: str, meter: str, calls: int, limits: Limits, *, wall: float) -> None:
        """Count `calls` that were never made, to bring a daily quota near its end."""
        self._accounts[account].days[limits.day_of(wall)[0], meter] += calls
