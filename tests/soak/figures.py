"""What a long run found out, and whether that is good enough."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg

from marketd.sandbox import Request, Sandbox

_SLIDING_S = 0.95  #: the sandbox forgives a twentieth of a second, as networks delay


@dataclass
class Figures:
    """Named numbers, and what is wrong with them."""

    told: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def add(self, name: str, value: Any) -> None:
        self.told[name] = value

    def none(self, name: str, found: Sequence[Any]) -> None:
        """A number that has to be 0; else the first few are shown."""
        self.told[name] = len(found)
        if found:
            self.wrong.append(f"{name}: {len(found)}, for example {[str(item)[:300] for item in found[:3]]}")

    def within(self, name: str, values: Sequence[float], at_most: float, unit: str = "s") -> None:
        """The median and the worst of these; the worst may be `at_most`."""
        if not values:
            self.told[name] = "none measured"
            return
        worst = max(values)
        self.told[name] = (
            f"{statistics.median(values):.2f} {unit} median, {worst:.2f} {unit} worst of {len(values)}"
        )
        if worst > at_most:
            self.wrong.append(f"{name}: {worst:.2f} {unit}, more than {at_most} {unit}")

    def __str__(self) -> str:
        width = max(map(len, self.told), default=0)
        lines = [f"  {name:<{width}}  {value}" for name, value in self.told.items()]
        return "\n".join([*lines, *(f"  WRONG {text}" for text in self.wrong)])


class Ticks:
    """When the sandbox's prices moved, so that a stored price can be looked up at the moment it is of."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._moved: list[tuple[datetime, int]] = []

    def advance(self, now: datetime) -> None:
        self._moved.append((now, self._sandbox.advance()))

    def between(self, since: datetime, until: datetime) -> set[int]:
        """All ticks that reigned at some moment of this stretch."""
        before = [tick for at, tick in self._moved if at <= since]
        within = [tick for at, tick in self._moved if since < at <= until]
        return {before[-1] if before else 0, *within}


def wrong_amounts(
    rows: Iterable[asyncpg.Record], sandbox: Sandbox, ticks: Ticks, answered_in: timedelta
) -> list[Any]:
    """Prices that the provider never had between the moment they are of and the end of the call."""
    return [
        dict(row)
        for row in rows
        if not any(
            _stored(row) == _true(row, sandbox, tick)
            for tick in ticks.between(row["observed_at"], row["observed_at"] + answered_in)
        )
    ]


def _stored(row: asyncpg.Record) -> tuple[Decimal | None, ...]:
    return row["lowest_ask"], row["highest_bid"], row["last_sale"]


def _true(row: asyncpg.Record, sandbox: Sandbox, tick: int) -> tuple[Decimal | None, ...]:
    product = row["product_id"] or row["sku"]
    try:
        truth = sandbox.truth(row["provider"], product, row["size"], row["currency"], tick=tick)
    except LookupError:  # nothing of the kind is for sale there
        return None, None, None
    return tuple(
        None if amount is None else Decimal(amount) for amount in (truth.ask, truth.bid, truth.last_sale)
    )


def over_a_window(requests: Iterable[Request], quota: int, window_s: int) -> list[Any]:
    """Windows in which a provider got more metered calls than its quota, by the provider's own count."""
    windows = Counter(
        (request.provider, int(request.wall.timestamp() // window_s))
        for request in requests
        if request.meter == "calls"
    )
    return [(window, count) for window, count in windows.items() if count > quota]


def over_a_second(requests: Iterable[Request], calls: int) -> list[Any]:
    """Metered calls that were one too many within a sliding second, with how far they were apart."""
    return [spread for spread in _spreads(requests, calls) if spread[1] < _SLIDING_S]


def closest(requests: Iterable[Request], calls: int) -> float:
    """Seconds between a call and the one `calls` later, where they are closest; infinite when there are not as many."""
    return min((seconds for _, seconds in _spreads(requests, calls)), default=float("inf"))


def _spreads(requests: Iterable[Request], calls: int) -> list[tuple[str, float]]:
    by_provider: dict[str, list[float]] = {}
    for request in requests:
        if request.meter == "calls":
            by_provider.setdefault(request.provider, []).append(request.monotonic)
    return [
        (provider, later - earlier)
        for provider, times in by_provider.items()
        for earlier, later in zip(sorted(times), sorted(times)[calls:], strict=False)
    ]
