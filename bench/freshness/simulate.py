"""Runs one policy through one world: on-demand work first, then the plan, tick by tick; counts what viewers saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .policies import FRESH_H, Policy
from .world import Floats, Ints, World


@dataclass
class Result:
    """What one run brought, after the warm-up."""

    views: int = 0
    right: int = 0
    ages: list[Floats] = field(default_factory=list)
    missed: float = 0.0  #: sum of the square roots of missed changes, which stands for how wrong a price was
    looked: int = 0
    changed: int = 0
    waits: list[float] = field(
        default_factory=list
    )  #: of urgent requests, hours; only a spent hour makes them wait
    most_in_an_hour: int = 0
    most_in_any_60_minutes: int = 0
    calls: list[float] = field(default_factory=list)
    stored_ages: Floats = field(default_factory=lambda: np.empty(0))


class Run:
    """One policy in one world. `limit(hour)` is that hour's quota; 0: the provider is away."""

    def __init__(
        self,
        world: World,
        policy: Policy,
        *,
        warm_h: float,
        tick_h: float,
        limit: Callable[[int], int] | None = None,
    ) -> None:
        self.world, self.policy = world, policy
        self.warm_h, self.tick_h = warm_h, tick_h
        self.limit = limit or (lambda hour: world.quota)
        self.result = Result()
        self.order = np.argsort(world.unit_of, kind="stable")
        self.starts = np.searchsorted(world.unit_of[self.order], np.arange(world.units + 1))
        self.known = np.zeros(len(world.unit_of), dtype=np.int64)  # version at the last fetch
        self.seen_at = np.full(len(world.unit_of), -np.inf)
        self.fetched_at = np.full(world.units, -np.inf)
        self.hour, self.used, self.on_demand = -1, 0, 12.0
        self.waiting: list[tuple[float, int]] = []

    async def go(self) -> Result:
        world, chance = self.world, np.random.default_rng(7)
        born_order = np.argsort(world.born, kind="stable")
        born_at, added, asked, viewed = world.born[born_order], 0, 0, 0
        for tick in range(round(world.hours / self.tick_h)):
            now, end = tick * self.tick_h, (tick + 1) * self.tick_h
            upto = int(np.searchsorted(born_at, end))
            if upto > added:
                await self.policy.added(now, born_order[added:upto])
                added = upto
            self._turn_hour(now)
            await self._serve_waiting(now)
            left = max(0, self.limit(self.hour) - self.used)
            if self.limit(self.hour):
                plan = await self.policy.choose(
                    now, left, self.used, self.on_demand, self.tick_h, chance.random()
                )
                # The plan's calls are spread over the tick, as the lane's spacing does.
                await self._fetch(plan, now + self.tick_h * (np.arange(len(plan)) + 0.5) / max(1, len(plan)))
            last = int(np.searchsorted(world.ask_at, end))
            await self._ask(asked, last)
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

    async def _ask(self, first: int, last: int) -> None:
        """Urgent requests of this tick, each at its own moment, while calls are left."""
        for at, record in zip(self.world.ask_at[first:last], self.world.ask_of[first:last], strict=True):
            self.on_demand += (3600 / 21600) / 60  # what learn_demand makes of one call: memory of six hours
            if self.used < self.limit(self.hour):
                await self._urgent(float(at), float(at), int(self.world.unit_of[record]))
            else:
                self.waiting.append((float(at), int(self.world.unit_of[record])))
        self.on_demand *= float(np.exp(-self.tick_h / 6))
        # One call adds 1/6 to an hourly rate that fades in six hours.
        self.on_demand += (last - first) * (1 / 6 - 1 / 360)

    async def _serve_waiting(self, now: float) -> None:
        queue, self.waiting = self.waiting, []
        for asked_at, unit in queue:
            if self.used < self.limit(self.hour):
                await self._urgent(now, asked_at, unit)
            else:
                self.waiting.append((asked_at, unit))

    async def _urgent(self, at: float, asked_at: float, unit: int) -> None:
        if at > self.warm_h:
            self.result.waits.append(at - asked_at)
        if at - self.fetched_at[unit] >= FRESH_H:
            await self._fetch(np.array([unit]), np.array([at]))

    async def _fetch(self, units: Ints, at: Floats) -> None:
        if not len(units):
            return
        self.used += len(units)
        if self.used > self.limit(self.hour):
            raise AssertionError(
                f"{self.used} calls in hour {self.hour}, {self.limit(self.hour)} are allowed"
            )
        if (at - self.fetched_at[units] < FRESH_H - 1e-9).any():
            raise AssertionError("a unit was fetched twice within ten minutes")
        gaps: list[Floats] = []
        bits: list[list[bool]] = []
        for unit, when in zip(units, at, strict=True):
            records = self.order[self.starts[unit] : self.starts[unit + 1]]
            records = records[self.world.born[records] <= when]
            version = self.world.versions(records, when)
            before = self.seen_at[records] > -np.inf
            gaps.append((when - self.seen_at[records])[before])
            bits.append([bool(b) for b in (version != self.known[records])[before]])
            self.known[records] = version
            self.seen_at[records] = when
        self.fetched_at[units] = at
        self.result.calls.extend(at)
        self.result.most_in_an_hour = max(self.result.most_in_an_hour, self.used)
        if at[0] > self.warm_h:
            self.result.looked += sum(map(len, bits))
            self.result.changed += sum(map(sum, bits))
        await self.policy.fetched(units, at, gaps, bits)

    def _look(self, records: Ints, at: Floats) -> None:
        if at[-1] <= self.warm_h:
            return
        missed = np.where(
            self.seen_at[records] > -np.inf, self.world.versions(records, at) - self.known[records], 99
        )
        # A fetch later in the same tick is already in the books: those few views saw the older price or as good a one.
        missed = np.maximum(missed, 0)
        result = self.result
        result.views += len(records)
        result.right += int((missed == 0).sum())
        result.missed += float(np.sqrt(missed).sum())
        result.ages.append(np.clip(at - self.seen_at[records], 0, 336))

    def _finish(self) -> Result:
        calls = np.sort(np.array(self.result.calls))
        self.result.most_in_any_60_minutes = int(
            (np.arange(1, len(calls) + 1) - np.searchsorted(calls, calls - 1, side="right")).max(initial=0)
        )
        self.result.stored_ages = np.clip(self.world.hours - self.seen_at, 0, self.world.hours)
        return self.result
