"""Runs one policy through one world: on-demand work first, then the plan, tick by tick; counts what viewers saw."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from .policies import FRESH_H, Policy
from .world import Floats, Ints, World

LATE_H = 1 / 60
_NO_PRICE = 99  #: missed changes of a view that saw no price at all
_LONGEST_H = 336.0


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """When it all happens, and what goes wrong. Hours count from `epoch`."""

    epoch: datetime = datetime(2026, 6, 1, tzinfo=UTC)
    outage: tuple[float, float] = (np.inf, np.inf)  #: no call reaches the provider
    halved_from: float = np.inf  #: the provider's hourly limit is half of what it was
    restart: tuple[float, float] = (np.inf, np.inf)  #: no daemon lives; then another begins
    day_quota: int | None = None
    day_zone: str = "UTC"

    def quota(self, hour: int, usual: int) -> int:
        return usual // 2 if hour >= self.halved_from else usual

    def dead(self, now: float) -> bool:
        return any(start - 1e-9 <= now < end - 1e-9 for start, end in (self.outage, self.restart))

    def day(self, at: float) -> date:
        """The provider's calendar day, reckoned apart from the product's own SQL."""
        return (self.epoch + timedelta(hours=float(at))).astimezone(ZoneInfo(self.day_zone)).date()


@dataclass
class Result:
    """What one run brought, after the warm-up."""

    views: int = 0
    right: int = 0
    ages: list[Floats] = field(default_factory=list)
    missed: float = 0.0  #: sum of the square roots of missed changes, which stands for how wrong a price was
    looked: int = 0
    changed: int = 0
    waits: list[float] = field(default_factory=list)  #: of urgent requests, hours
    held_back: int = (
        0  #: of these: over a minute although neither hour nor day was spent and the provider was there
    )
    fullest_hour: float = 0.0  #: share of its limit
    most_in_any_60_minutes: int = 0
    by_day: Counter[date] = field(default_factory=Counter)
    day_quota: int | None = None
    calls: list[float] = field(default_factory=list)
    stored_ages: Floats = field(default_factory=lambda: np.empty(0))


class Run:
    """One policy in one world."""

    def __init__(
        self, world: World, policy: Policy, conditions: Conditions, *, warm_h: float, tick_h: float
    ) -> None:
        self.world, self.policy, self.conditions = world, policy, conditions
        self.warm_h, self.tick_h = warm_h, tick_h
        self.result = Result(day_quota=conditions.day_quota)
        self.order = np.argsort(world.unit_of, kind="stable")
        self.starts = np.searchsorted(world.unit_of[self.order], np.arange(world.units + 1))
        records = len(world.unit_of)
        self.known = np.zeros(records, dtype=np.int64)  # version at the last fetch
        self.seen_at = np.full(records, -np.inf)
        # As the tick began: what a view saw that came before a fetch of the same tick.
        self.began = 0.0
        self.known_before, self.seen_before = self.known.copy(), self.seen_at.copy()
        self.fetched_at = np.full(world.units, -np.inf)
        self.hour, self.used, self.limit, self.on_demand = -1, 0, world.quota, 12.0
        self.by_day = self.result.by_day
        self.waiting: list[tuple[float, int, bool]] = []

    async def go(self) -> Result:
        world, chance = self.world, np.random.default_rng(7)
        born_order = np.argsort(world.born, kind="stable")
        born_at, added, asked, viewed, was_dead = world.born[born_order], 0, 0, 0, False
        for tick in range(round(world.hours / self.tick_h)):
            now, end = tick * self.tick_h, (tick + 1) * self.tick_h
            upto = int(np.searchsorted(born_at, end))
            if upto > added:
                await self.policy.added(now, born_order[added:upto])
                added = upto
            self._turn_hour(now)
            self.began = now
            dice, dead = chance.random(), self.conditions.dead(now)
            if not dead:
                if was_dead:
                    await self.policy.restarted()
                await self._serve_waiting(now)
                plan = await self.policy.choose(
                    now, self.limit, self._left(now), self.on_demand, self.tick_h, dice
                )
                # The plan's calls are spread over the tick, as the lane's spacing does.
                await self._fetch(plan, now + self.tick_h * (np.arange(len(plan)) + 0.5) / max(1, len(plan)))
            was_dead = dead
            last = int(np.searchsorted(world.ask_at, end))
            await self._ask(asked, last, dead)
            asked = last
            last = int(np.searchsorted(world.view_at, end))
            if last > viewed:
                self._look(world.view_of[viewed:last], world.view_at[viewed:last])
                await self.policy.viewed(end, world.view_at[viewed:last], world.view_of[viewed:last])
            viewed = last
        return self._finish()

    def _turn_hour(self, now: float) -> None:
        hour = int(now + 1e-9)
        if hour != self.hour:
            self.hour, self.used = hour, 0
            self.limit = self.conditions.quota(hour, self.world.quota)

    def _left(self, at: float) -> int:
        """Calls that the windows still hold."""
        left = self.limit - self.used
        if self.conditions.day_quota is not None:
            left = min(left, self.conditions.day_quota - self.by_day[self.conditions.day(at)])
        return max(0, left)

    async def _ask(self, first: int, last: int, dead: bool) -> None:
        """Urgent requests of this tick, each at its own moment, while calls are left."""
        for at, record in zip(self.world.ask_at[first:last], self.world.ask_of[first:last], strict=True):
            await self._try(float(at), float(at), int(self.world.unit_of[record]), dead, held_back=False)
        self.on_demand *= float(np.exp(-self.tick_h / 6))
        self.on_demand += (last - first) / 6  # as learn_demand does: a memory of six hours

    async def _serve_waiting(self, now: float) -> None:
        queue, self.waiting = self.waiting, []
        for asked_at, unit, held_back in queue:
            await self._try(now, asked_at, unit, False, held_back=held_back)

    async def _try(self, at: float, asked_at: float, unit: int, dead: bool, *, held_back: bool) -> None:
        free = not dead and self._left(at) > 0
        # The planner asks its own books; if these let a call go that ours have no room for, the charge below fails.
        if dead or not await self.policy.may_go(at, free=free):
            self.waiting.append((asked_at, unit, held_back or free))
            return
        if at > self.warm_h:
            self.result.waits.append(at - asked_at)
            self.result.held_back += held_back and at - asked_at > LATE_H
        if at - self.fetched_at[unit] >= FRESH_H:
            await self._fetch(np.array([unit]), np.array([at]), urgent=True)

    async def _fetch(self, units: Ints, at: Floats, *, urgent: bool = False) -> None:
        if not len(units):
            return
        self._charge(units, at)
        gaps: list[Floats] = []
        bits: list[list[bool]] = []
        for unit, when in zip(units, at, strict=True):
            records = self.order[self.starts[unit] : self.starts[unit + 1]]
            records = records[self.world.born[records] <= when]
            version = self.world.versions(records, when)
            before = self.seen_at[records] > -np.inf
            gaps.append((when - self.seen_at[records])[before])
            bits.append((version != self.known[records])[before].tolist())
            self._note(records, version, float(when))
        self.fetched_at[units] = at
        if at[0] > self.warm_h:
            self.result.looked += sum(map(len, bits))
            self.result.changed += sum(map(sum, bits))
        await self.policy.fetched(units, at, gaps, bits, urgent=urgent)

    def _note(self, records: Ints, version: Ints, at: float) -> None:
        first = records[self.seen_at[records] < self.began]
        self.known_before[first], self.seen_before[first] = self.known[first], self.seen_at[first]
        self.known[records], self.seen_at[records] = version, at

    def _charge(self, units: Ints, at: Floats) -> None:
        """The rules that no policy may break; a breach ends the benchmark."""
        if (at - self.fetched_at[units] < FRESH_H - 1e-9).any() or len(np.unique(units)) < len(units):
            raise AssertionError("a unit was fetched twice within ten minutes")
        self.used += len(units)
        if self.used > self.limit:
            raise AssertionError(f"{self.used} calls in hour {self.hour}, {self.limit} are allowed")
        for when in at if self.conditions.day_quota is not None else ():
            day = self.conditions.day(when)
            self.by_day[day] += 1
            if self.by_day[day] > (self.conditions.day_quota or 0):
                raise AssertionError(
                    f"{self.by_day[day]} calls on {day}, {self.conditions.day_quota} are allowed"
                )
        self.result.calls.extend(at)
        if at[0] > self.warm_h:
            self.result.fullest_hour = max(self.result.fullest_hour, self.used / self.limit)

    def _look(self, records: Ints, at: Floats) -> None:
        if at[-1] <= self.warm_h:
            return
        later = self.seen_at[records] > at
        seen = np.where(later, self.seen_before[records], self.seen_at[records])
        known = np.where(later, self.known_before[records], self.known[records])
        missed = np.where(seen > -np.inf, self.world.versions(records, at) - known, _NO_PRICE)
        result = self.result
        result.views += len(records)
        result.right += int((missed == 0).sum())
        result.missed += float(np.sqrt(missed).sum())
        result.ages.append(np.clip(at - seen, 0, _LONGEST_H))

    def _finish(self) -> Result:
        calls = np.sort(np.array(self.result.calls))
        self.result.most_in_any_60_minutes = int(
            (np.arange(1, len(calls) + 1) - np.searchsorted(calls, calls - 1, side="right")).max(initial=0)
        )
        self.result.stored_ages = np.clip(self.world.hours - self.seen_at, 0, self.world.hours)
        return self.result
