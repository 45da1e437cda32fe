"""One world through all that spends a call: watching, viewing, asking, the scheduler's pass, claim, charge and settle.

Each is the statement that the daemon or an app sends. What is virtual is the clock (virtual.sql), which every statement
reads as if it were the database's own, and the provider, which answers half a second after the request.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import asyncpg
import numpy as np

from marketd.models import Quote, Unit
from marketd.outcome import Outcome, Priced, Released
from marketd.scheduler import Scheduler, Timing
from marketd.store.budgets import Circuits
from marketd.store.jobs import JobStore
from marketd.store.plan import PlanStore
from marketd.store.pool import Database
from marketd.store.runs import RunStore
from marketd.store.sqlfile import queries
from marketd.telemetry import Observers

from .policies import Oldest
from .simulate import LATE_H, Conditions, Result, Run
from .world import Ints, World

_HOUR = timedelta(hours=1)
_ANSWER_H = 0.5 / 3600
_LEASE = timedelta(minutes=10)
_SIZES = [f"{half / 2:g}" for half in range(8, 28)]
_VACUUM_H = 3.0
_PINNED = """select 'alter function ' || oid::regprocedure || ' set search_path = public, bench, pg_catalog'
  from pg_proc where pronamespace = 'public'::regnamespace and proconfig::text like '%search_path%'"""


async def whole_run(
    world: World, conditions: Conditions, dsn: str, *, warm_h: float, tick_h: float
) -> Result:
    """As `Run.go`, by way of the whole queue. `dsn`: a database of `server.virtual_database`."""
    admin = await asyncpg.connect(dsn)
    for row in await admin.fetch(_PINNED):
        await admin.execute(row[0])
    await admin.execute("update market_providers set enabled = provider = $1", world.provider)
    await admin.execute(
        "update market_providers set quota_hour = $2, quota_day = null where provider = $1",
        world.provider,
        world.quota,
    )
    await admin.close()
    db = Database(dsn, size=1, timeout_s=120)  # one connection, for the clock is a setting of the session
    await db.open()
    try:
        return await Whole(world, conditions, db, warm_h=warm_h, tick_h=tick_h).go()
    finally:
        await db.close()


class _Strict(Observers):
    """A pass that failed in part would spoil the figures in silence."""

    def event(self, name: str, **fields: object) -> None:
        assert fields.get("result") != "failed", fields


class Whole(Run):
    """Apps, scheduler, lane and provider in one virtual time. Keeps the same books as `Run`, apart from the SQL's."""

    def __init__(
        self, world: World, conditions: Conditions, db: Database, *, warm_h: float, tick_h: float
    ) -> None:
        super().__init__(
            world, Oldest(world), conditions, warm_h=warm_h, tick_h=tick_h
        )  # which is never asked
        self._db = db
        tick = tick_h * _HOUR
        self._jobs = JobStore(db, uuid4())
        self._circuits = Circuits(db)
        self._take = queries("limits")["take"]
        timing = Timing(
            interval=tick,
            poll=tick,
            lease=_LEASE,
            keep_finished=_HOUR,
            keep_history=24 * _HOUR,
            keep_requests=24 * _HOUR,
        )
        self._scheduler = Scheduler(
            timing, RunStore(db), self._jobs, _Strict(), [PlanStore(db, lambda: tick).plan]
        )
        self._alive_for = timing.alive_for
        first = np.flatnonzero(np.diff(world.product_of[world.unit_of], prepend=-1))
        counts = np.diff(np.append(first, len(world.unit_of)))
        self._place = np.arange(len(world.unit_of)) - np.repeat(first, counts)
        self._record = {(self._sku(r), self._size(r)): r for r in range(len(world.unit_of))}
        self._now = 0.0
        self._asked: dict[int, list[tuple[float, bool]]] = {}
        self._viewers = 0

    async def go(self) -> Result:
        world = self.world
        born_order = np.argsort(world.born, kind="stable")
        born_at, added, asked, viewed, vacuumed = world.born[born_order], 0, 0, 0, 0.0
        for tick in range(round(world.hours / self.tick_h)):
            start, end = tick * self.tick_h, (tick + 1) * self.tick_h
            await self._set_clock(start)
            self.began = start
            if start - vacuumed >= _VACUUM_H:
                vacuumed = start
                await self._db.fetch("analyze")
                await self._db.fetch("vacuum")
            upto = int(np.searchsorted(born_at, end))
            if upto > added:
                await self._tell("market_watch", born_order[added:upto], "shop")
                added = upto
            await self._jobs.poll(self._alive_for)
            await self._scheduler.one_pass("timer")
            last = int(np.searchsorted(world.ask_at, end))
            for at, record in zip(world.ask_at[asked:last], world.ask_of[asked:last], strict=True):
                await self._lane(float(at))
                await self._ask_for(int(record))
            asked = last
            await self._lane(end)
            last = int(np.searchsorted(world.view_at, end))
            if last > viewed:
                self._look(world.view_of[viewed:last], world.view_at[viewed:last])
                for record in world.view_of[viewed:last]:
                    self._viewers += 1
                    await self._tell("market_viewed", np.array([record]), f"viewer {self._viewers}")
            viewed = last
        return self._finish()

    async def _lane(self, until: float) -> None:
        """Claim and fetch, as the lane does: one after the other, and asleep until something may go."""
        while self._now < until:
            units = await self._jobs.claim(self.world.provider, "default", units=1, lease=_LEASE)
            if units:
                await self._fetch_unit(units[0])
                continue
            chance_s = await self._jobs.next_chance_s(self.world.provider, "default")
            self._hold_back()
            if chance_s is None or self._now + chance_s / 3600 >= until:
                break
            await self._set_clock(self._now + max(0.2, chance_s) / 3600)
        await self._set_clock(until)

    async def _fetch_unit(self, unit: Unit) -> None:
        after: str | None = None
        while True:
            [row] = await self._db.fetch(
                self._take, unit.provider, unit.account, [unit.priority], ["calls"], [after]
            )
            if row["granted"] or row["wait_s"] is None:
                break
            await self._set_clock(self._now + row["wait_s"] / 3600)
        if not row["granted"]:
            released: Outcome = Released(reason=row["reason"])
            await self._jobs.settle(unit, [(job, released) for job in unit.jobs])
            return
        sent = self._hours(row["granted_at"])
        await self._set_clock(sent + _ANSWER_H)
        record = {"provider": unit.provider, "account": unit.account, "endpoint": "bench", "priority": unit.priority,
                  "granted_at": row["granted_at"].isoformat(), "status_class": "ok", "http_status": 200, "took_s": 0.5,
                  "given_back": False, "meter": "calls", "useful": True}  # fmt: skip
        quotes = self._answer(unit, sent, row["granted_at"])
        outcomes: list[tuple[object, Outcome]] = [(job, Priced(size=job.size)) for job in unit.jobs]
        await self._jobs.settle(unit, outcomes, quotes)  # type: ignore[arg-type]
        await self._circuits.report(unit.provider, unit.account, "ok")
        await self._circuits.record(json.dumps([record]))

    def _answer(self, unit: Unit, sent: float, at: datetime) -> Sequence[Quote]:
        """What the provider says, and what the books make of it."""
        number = int(self.world.unit_of[self._record[unit.sku, unit.jobs[0].size or ""]])
        self._turn_hour(sent)
        self._charge(np.array([number]), np.array([sent]))
        for asked_at, held_back in self._asked.pop(number, ()):
            if sent > self.warm_h:
                self.result.waits.append(sent - asked_at)
                self.result.held_back += held_back and sent - asked_at > LATE_H
        records = self.order[self.starts[number] : self.starts[number + 1]]
        version = self._look_up(records, sent)
        self.fetched_at[number] = sent
        return [
            Quote(size=self._size(r), currency=unit.currency, lowest_ask=Decimal(int(v) + 1), observed_at=at)
            for r, v in zip(records, version, strict=True)
        ]

    def _look_up(self, records: Ints, at: float) -> Ints:
        version = self.world.versions(records, at)
        before = self.seen_at[records] > -np.inf
        if at > self.warm_h:
            self.result.looked += int(before.sum())
            self.result.changed += int((version != self.known[records])[before].sum())
        self._note(records, version, at)
        return version

    async def _ask_for(self, record: int) -> None:
        [result] = await self._tell("market_refresh", np.array([record]), f"asker {record}")
        if result == "fresh":
            if self._now > self.warm_h:
                self.result.waits.append(0.0)
        else:
            self._asked.setdefault(int(self.world.unit_of[record]), []).append((self._now, False))

    def _hold_back(self) -> None:
        """Marks what waits over a minute although calls are left."""
        self._turn_hour(self._now)
        if self._left(self._now) > 0:
            for unit, waiting in self._asked.items():
                self._asked[unit] = [(at, held or self._now - at > LATE_H) for at, held in waiting]

    async def _tell(self, function: str, records: Ints, user: str) -> list[str]:
        items = [
            {"provider": self.world.provider, "sku": self._sku(r), "size": self._size(r)}
            for r in records.tolist()
        ]
        rows = await self._db.fetch(f"select result from {function}($1::jsonb, $2)", json.dumps(items), user)
        return [row["result"] for row in rows]

    def _sku(self, record: int) -> str:
        return f"P-{self.world.product_of[self.world.unit_of[record]]}"

    def _size(self, record: int) -> str:
        return _SIZES[self._place[record]]

    def _hours(self, moment: datetime) -> float:
        return (moment - self.conditions.epoch) / _HOUR

    async def _set_clock(self, hours: float) -> None:
        """Time never runs back."""
        self._now = max(self._now, hours)
        moment = self.conditions.epoch + self._now * _HOUR
        await self._db.fetch("select set_config('bench.now', $1, false)", moment.isoformat())
