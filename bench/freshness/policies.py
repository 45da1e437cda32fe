"""Who is refreshed next: the policies that the real planner is compared with, in numpy."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .world import Floats, Ints, World

FRESH_H = 1 / 6


class Policy(Protocol):
    """Chooses units and is told what happened. Times are hours."""

    async def choose(
        self, now: float, limit: int, left: int, on_demand: float, tick_h: float, dice: float
    ) -> Ints: ...
    async def may_go(self, at: float, *, free: bool) -> bool: ...
    async def viewed(self, now: float, at: Floats, records: Ints) -> None: ...
    async def fetched(
        self, units: Ints, at: Floats, gaps: list[Floats], changed: list[list[bool]], *, urgent: bool
    ) -> None: ...
    async def added(self, now: float, records: Ints) -> None: ...
    async def restarted(self) -> None: ...


def share(now: float, limit: int, left: int, on_demand: float, tick_h: float) -> float:
    """What the product's own spread grants to background work until the next tick."""
    rest = 1 - now % 1
    late = rest <= 0.05
    expected = on_demand * rest
    keep = 0 if late else int(np.ceil(expected + np.sqrt(expected)))
    left = max(left - min(keep, limit), 0)
    usable = max(rest - 0.05, 0)
    return left * (tick_h / usable if usable > tick_h else 1.0)


class Scored:
    """Refreshes the units with the highest score; subclasses say what it is."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.last = np.full(world.units, -np.inf)
        self.present = np.zeros(world.units, dtype=bool)
        self.views = np.zeros(world.units)
        self.views_at = 0.0

    def score(self, age: Floats) -> Floats:
        raise NotImplementedError

    async def choose(
        self, now: float, limit: int, left: int, on_demand: float, tick_h: float, dice: float
    ) -> Ints:
        k = min(left, int(share(now, limit, left, on_demand, tick_h) + dice))
        if k <= 0:
            return np.empty(0, dtype=np.int64)
        age = np.minimum(now - self.last, 8760.0)
        score = np.where(self.present & (age >= FRESH_H), self.score(age), -np.inf)
        best = np.argpartition(-score, min(k, len(score) - 1))[:k]
        return best[score[best] > -np.inf]

    async def may_go(self, at: float, *, free: bool) -> bool:
        return free

    async def restarted(self) -> None:
        """What these know is kept for them: they are yardsticks."""

    async def viewed(self, now: float, at: Floats, records: Ints) -> None:
        self.views *= np.exp(-(now - self.views_at) / 168)
        self.views_at = now
        self.views += np.bincount(self.world.unit_of[records], minlength=self.world.units)

    async def fetched(
        self, units: Ints, at: Floats, gaps: list[Floats], changed: list[list[bool]], *, urgent: bool
    ) -> None:
        self.last[units] = at

    async def added(self, now: float, records: Ints) -> None:
        self.present[self.world.unit_of[records]] = True


class Oldest(Scored):
    """Oldest first."""

    def score(self, age: Floats) -> Floats:
        return age


class Fifo(Scored):
    """What the first system did: whatever is older than an hour, first come first served."""

    def score(self, age: Floats) -> Floats:
        return np.where(age >= 1, age, -np.inf)


class ViewsTimesAge(Scored):
    """Learned views times age: no word about how often a price changes."""

    def score(self, age: Floats) -> Floats:
        return (self.views + 0.2) * age


class Known(Scored):
    """The freshness index with the true rates of views and changes: the optimum, as near as makes no difference."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.order = np.argsort(world.unit_of, kind="stable")
        self.starts = np.searchsorted(world.unit_of[self.order], np.arange(world.units))
        self.alive = np.zeros(len(world.unit_of), dtype=bool)

    async def added(self, now: float, records: Ints) -> None:
        await super().added(now, records)
        self.alive[records] = True

    def score(self, age: Floats) -> Floats:
        world = self.world
        x = world.change_rate * age[world.unit_of]
        value = world.view_rate * self.alive / world.change_rate * -(np.expm1(-x) + x * np.exp(-x))
        return np.add.reduceat(value[self.order], self.starts)


def bound(world: World, calls_per_h: float) -> float:
    """Best possible share of right views, if it all went on for ever like this (periodic refreshes, fluid limit)."""
    unit, w, rate = world.unit_of, world.view_rate, world.change_rate

    def gain(tau: Floats) -> Floats:
        x = rate * tau[unit]
        weights: Floats = w / rate * -(np.expm1(-x) + x * np.exp(-x))
        return np.bincount(unit, weights, world.units).astype(np.float64)

    def periods(edge: float) -> Floats:
        low, high = np.full(world.units, 1e-3), np.full(world.units, 1e6)
        for _ in range(50):
            middle = np.sqrt(low * high)
            over = gain(middle) > edge
            low, high = np.where(over, low, middle), np.where(over, middle, high)
        return high

    low, high = 1e-9, 1e4
    for _ in range(40):
        edge = np.sqrt(low * high)
        over = (1 / periods(edge)).sum() > calls_per_h
        low, high = (edge, high) if over else (low, edge)
    x = rate * periods(high)[unit]
    return float((w * -np.expm1(-x) / x).sum() / w.sum())
