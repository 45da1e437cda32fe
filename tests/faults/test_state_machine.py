"""Random histories over the real SQL: whatever apps, workers, crashes and clocks do in whatever order, the rules hold.

Hypothesis invents the histories and shrinks one that breaks a rule. `MARKETD_FUZZ` sets how many it tries.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from faults.kit import BROKEN
from marketd.errors import LeaseLost
from marketd.models import Unit
from marketd.outcome import Failed, Outcome, Priced, Released, Retried, Snoozed
from marketd.store.jobs import JobStore
from marketd.store.pool import Database
from queue_kit import plenty, quote

HISTORIES = max(50, int(os.environ.get("MARKETD_FUZZ", "0")) // 10)
SEED = int(os.environ.get("MARKETD_SEED", "1"))
LEASE = timedelta(seconds=30)
FRESH_S = 600
SKUS = ("AA1-1", "BB1-1")
SIZES = ("9", "10")
#: a busy queue repeats itself in these alone
RULES = {name: query for name, query in BROKEN.items() if "lease" not in name}
_ANY_BROKEN = " union all ".join(f"select '{name}' where exists ({query})" for name, query in RULES.items())
#: jobs that wait with less priority than somebody asked for
_FORGOTTEN = """
    select j.id from market_jobs j join market_job_requests r on r.job_id = j.id
     where j.status in ('pending', 'deferred') and not r.served and r.priority > j.priority"""
#: prices that an older observation replaced
_TURNED_BACK = """
    select p.sku, p.size from market_prices p join market_price_history h using (provider, account, sku, size, currency)
     where h.observed_at > p.observed_at"""
#: one statement that moves all stored times by %s seconds
_MOVE = """
    select string_agg(format('update %%I set %%s', c.table_name, c.sets), '; ') from (
      select c.table_name, string_agg(format('%%1$I = %%1$I + make_interval(secs => %s)', c.column_name), ', ') as sets
        from information_schema.columns c join pg_class r on r.relname = c.table_name and r.relkind = 'r'
       where c.table_schema = 'public' and c.table_name like 'market\\_%%' and c.data_type = 'timestamp with time zone'
       group by 1) c"""

priorities = st.sampled_from((100, 150, 200))
workers = st.integers(0, 1)
places = st.tuples(st.sampled_from(SKUS), st.sampled_from(SIZES))


@dataclass
class Place:
    """What all histories share: a loop, two connections of apps, the workers' pool."""

    loop: asyncio.Runner
    db: asyncpg.Connection
    other: asyncpg.Connection
    pool: Database


class Queue(RuleBasedStateMachine):
    """Two workers and any number of apps on one database."""

    place: ClassVar[Place]
    figures: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.db, self.other, self.pool = self.place.db, self.place.other, self.place.pool
        self.held: list[list[Unit]] = [[], []]
        self.lost: list[
            Unit
        ] = []  #: of workers that were killed, or that do not know yet that they lost them
        self.ids: set[int] = set()
        self.app: asyncpg.transaction.Transaction | None = None
        self.jobs = [JobStore(self.pool, uuid4()) for _ in range(2)]
        self.run(self._empty())

    @property
    def busy(self) -> int:
        """A worker that holds something."""
        return 0 if self.held[0] else 1

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.place.loop.run(work)

    async def _empty(self) -> None:
        await self.db.execute(
            "truncate market_jobs, market_job_requests, market_fetches, market_targets,"
            " market_prices, market_price_history, market_products, market_skus, market_units, market_signals,"
            " market_daemons, market_rates restart identity"
        )
        await self.db.execute("select market_resume('stockx')")

    @initialize(priority=priorities)
    def some_work(self, priority: int) -> None:
        for sku in SKUS:
            self.enqueue((sku, SIZES[0]), priority, 0)
        self.claim(0, 1)

    # -- apps ----------------------------------------------------------------------------------------------

    @rule(place=places, priority=priorities, later=st.sampled_from((0, 0, 60)))
    def enqueue(self, place: tuple[str, str], priority: int, later: int) -> None:
        async def ask() -> None:
            row = await self.db.fetchrow(
                "select * from market_enqueue('stockx', $1, $2, $3,"
                " not_before => case when $4::int > 0 then now() + make_interval(secs => $4) end)",
                *place, priority, later,
            )  # fmt: skip
            assert (row["result"] == "fresh") == (row["job_id"] is None)
            self.ids |= {row["job_id"]} - {None}

        if self.app is None:
            self.run(ask())

    @rule(place=places, priority=priorities)
    def insert(self, place: tuple[str, str], priority: int) -> None:
        sql = "insert into market_jobs (provider, sku, size, priority) values ('stockx', $1, $2, $3)"
        if self.app is None:
            self.run(self.db.execute(sql, *place, priority))

    @precondition(lambda self: self.app is None)
    @rule(place=places, priority=priorities)
    def an_app_asks_and_stays_in_its_transaction(self, place: tuple[str, str], priority: int) -> None:
        async def begin() -> None:
            self.app = self.other.transaction()
            await self.app.start()
            await self.other.execute("select market_enqueue('stockx', $1, $2, $3)", *place, priority)

        self.run(begin())

    @precondition(lambda self: self.app is not None)
    @rule(commits=st.booleans())
    def that_app_ends_its_transaction(self, commits: bool) -> None:
        self.run(self._commit(commits))

    async def _commit(self, commits: bool) -> None:
        if self.app is not None:
            await (self.app.commit() if commits else self.app.rollback())
            self.app = None

    @precondition(lambda self: self.app is None)
    @rule()
    def retry_the_failed(self) -> None:
        self.run(self.db.execute("select market_retry()"))

    @precondition(lambda self: self.app is None)
    @rule(paused=st.booleans())
    def pause_or_resume(self, paused: bool) -> None:
        self.run(self.db.execute(f"select market_{'pause' if paused else 'resume'}('stockx')"))

    # -- workers -------------------------------------------------------------------------------------------

    @rule(worker=workers, units=st.integers(1, 3))
    def claim(self, worker: int, units: int) -> None:
        found = self.run(self.jobs[worker].claim("stockx", "default", units=units, lease=LEASE))
        assert len(found) <= units
        self.held[worker] += found
        self.figures["claimed"] += len(found)

    @precondition(lambda self: any(self.held))
    @rule(worker=workers)
    def extend(self, worker: int) -> None:
        for unit in list(self.held[worker]):
            if unit.lease_id not in self.run(self.jobs[worker].extend_all([unit], lease=LEASE)):
                self.held[worker].remove(unit)
                self.lost.append(unit)

    @precondition(lambda self: any(self.held))
    @rule(how=st.sampled_from(("priced", "priced", "retried", "snoozed", "released", "failed")))
    def settle(self, how: str) -> None:
        worker = self.busy
        with suppress(LeaseLost):  # its time may have run out
            self.run(self._settle(worker, self.held[worker].pop(0), how))

    @precondition(lambda self: self.lost)
    @rule()
    def a_dead_worker_comes_back_with_its_result(self) -> None:
        unit = self.lost.pop(0)
        self.figures["came back"] += 1
        before = self.run(
            self.db.fetchval("select count(*) from market_fetches where lease_id = $1", unit.lease_id)
        )
        try:
            self.run(self._settle(0, unit, "priced"))
        except LeaseLost:
            return
        assert before == 1, "only who still holds the lease may settle"

    @precondition(lambda self: any(self.held) and self.app is None)
    @rule()
    def a_worker_falls_silent_and_the_other_takes_over(self) -> None:
        silent = self.busy

        async def over() -> None:
            await self._time_passes(31)
            await self.jobs[1 - silent].rescue()
            self.held[1 - silent] += await self.jobs[1 - silent].claim(
                "stockx", "default", units=3, lease=LEASE
            )

        self.lost += self.held[silent]
        self.held[silent] = []
        self.figures["taken over"] += 1
        self.run(over())

    @precondition(lambda self: any(self.held) and self.app is None)
    @rule(in_time=st.booleans(), age_s=st.sampled_from((FRESH_S + 50, 3 * FRESH_S)))
    def a_request_meets_a_price_that_is_too_old_for_it(self, in_time: bool, age_s: int) -> None:
        worker = self.busy

        async def meet(unit: Unit) -> None:
            await self._time_passes(FRESH_S + 60)  # nobody took the unit over meanwhile
            self.app = self.other.transaction()
            await self.app.start()
            await self.other.execute(
                "select market_enqueue('stockx', $1, $2, 100)", unit.sku, unit.jobs[0].size
            )
            if in_time:
                await self._commit(True)
            try:
                await self._settle(worker, unit, "priced", age_s=age_s)
            except LeaseLost:
                return
            finally:
                await self._commit(True)
            await self.jobs[worker].reopen()
            status = await self.db.fetchval("select status from market_jobs where id = $1", unit.jobs[0].id)
            assert status == "pending", "that price is too old for the request, whoever knew of it when"

        self.figures["met an old price"] += 1
        self.run(meet(self.held[worker].pop(0)))

    @precondition(lambda self: any(self.held) and self.app is None)
    @rule(how=st.sampled_from(("snoozed", "retried", "released", "dead")))
    def an_urgent_wish_is_committed_after_its_unit_went_back(self, how: str) -> None:
        worker = self.busy

        async def meet(unit: Unit) -> None:
            self.app = self.other.transaction()
            await self.app.start()
            await self.other.execute(
                "select market_enqueue('stockx', $1, $2, 200)", unit.sku, unit.jobs[0].size
            )
            if how == "dead":
                await self.db.execute(
                    "update market_fetches set lease_expires_at = '-infinity' where unit_key = $1", unit.key
                )
                await self.db.execute(
                    "update market_jobs set lease_expires_at = '-infinity' where lease_id = $1", unit.lease_id
                )
                await self.jobs[1 - worker].rescue()
            else:
                with suppress(LeaseLost):
                    await self._settle(worker, unit, how)
            await self._commit(True)

        unit = self.held[worker].pop(0)
        self.run(meet(unit))
        if how == "dead":
            self.lost.append(unit)
        self.figures["asked too late for the settle"] += 1
        self.poll(worker)

    async def _settle(self, worker: int, unit: Unit, how: str, *, age_s: int = 0) -> None:
        asked_at = await self.pool.fetchval("select clock_timestamp()") - timedelta(seconds=age_s)
        outcomes: dict[str, Outcome] = {
            "retried": Retried(delay=timedelta(seconds=5), error_code="timeout", message="no answer"),
            "snoozed": Snoozed(until=asked_at + timedelta(seconds=5), reason="budget"),
            "released": Released(reason="shutdown"),
            "failed": Failed(error_code="unknown_sku", message="not there", cooldown=timedelta(seconds=20)),
        }
        decided = [(job, outcomes.get(how) or Priced(size=job.size)) for job in unit.jobs]
        quotes = (
            [quote(size, str(200 + len(self.ids)), at=asked_at) for size in SIZES] if how == "priced" else []
        )
        await self.jobs[worker].settle(unit, decided, quotes)

    @rule(worker=workers)
    def crash(self, worker: int) -> None:
        self.lost += self.held[worker]
        self.held[worker] = []
        self.jobs[worker] = JobStore(self.pool, uuid4())

    @rule(worker=workers)
    def stop_in_order(self, worker: int) -> None:
        self.run(self.jobs[worker].release_all())
        self.held[worker] = []

    @rule(worker=workers)
    def poll(self, worker: int) -> None:
        self.run(self.jobs[worker].poll(timedelta(minutes=1)))
        if self.app is None:  # else it may hold rows, and its own wish is nobody's yet
            assert self.run(self.db.fetch(_FORGOTTEN)) == []

    @rule(worker=workers)
    def sweep(self, worker: int) -> None:
        self.run(self.jobs[worker].rescue())
        self.run(self.jobs[worker].reopen())

    @precondition(lambda self: self.app is None)
    @rule(seconds=st.sampled_from((1, 6, 31, 31, 700, -5)))
    def time_passes(self, seconds: int) -> None:
        """All stored times move back, or forward when somebody set the clock back."""
        self.run(self._time_passes(seconds))

    async def _time_passes(self, seconds: int) -> None:
        await self.db.execute(await self.db.fetchval(_MOVE % -seconds))

    # -- rules ---------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_broken(self) -> None:
        assert self.run(self.db.fetch(_ANY_BROKEN)) == []

    @invariant()
    def no_price_is_older_than_its_history(self) -> None:
        assert self.run(self.db.fetch(_TURNED_BACK)) == []

    @invariant()
    def no_job_vanishes(self) -> None:
        known = {row["id"] for row in self.run(self.db.fetch("select id from market_jobs"))}
        assert self.ids <= known

    def teardown(self) -> None:
        try:
            self.run(self._every_request_ends_with_its_answer())
        finally:
            self.run(self._commit(False))

    async def _every_request_ends_with_its_answer(self) -> None:
        """From here on everything goes well: every job has a way out, and no request stays without an answer."""
        await self._commit(True)
        await self.db.execute("select market_resume('stockx')")
        for _ in range(30):
            await self._time_passes(40)
            worker = self.jobs[0]
            await worker.rescue()
            await worker.reopen()
            await worker.poll(timedelta(minutes=1))
            for unit in await worker.claim("stockx", "default", units=9, lease=LEASE):
                await self._settle(0, unit, "priced")
            left = await self.db.fetchval(
                "select count(*) from market_jobs where status not in ('done', 'failed')"
            )
            if not left and not await worker.reopen():
                break
        states = [
            tuple(row) for row in await self.db.fetch("select id, status, run_at, retry_at from market_jobs")
        ]
        assert all(state[1] in ("done", "failed") for state in states), states
        unanswered = await self.db.fetch(
            """select * from (
                 select r.*, j.status, j.completed_at,
                        market__observed_at(j.provider, j.account, j.sku, j.size, j.currency, j.dedupe_key) as seen
                   from market_job_requests r join market_jobs j on j.id = r.job_id) x
                where not (status = 'failed' and completed_at >= requested_at)
                  and coalesce(seen, '-infinity') < requested_at - make_interval(secs => $1)""",
            FRESH_S,
        )
        assert unanswered == [], json.dumps([dict(row) for row in unanswered], default=str)


async def open_place(dsn: str) -> tuple[asyncpg.Connection, asyncpg.Connection, Database]:
    db, other = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    pool = Database(dsn, size=3, timeout_s=10)
    await pool.open()
    await plenty(db)
    return db, other, pool


async def close_place(place: Place) -> None:
    await place.db.close()
    await place.other.close()
    await place.pool.close()


@pytest.mark.timeout(7200)
def test_the_rules_hold_in_every_history(database: str) -> None:
    plan = settings(
        max_examples=HISTORIES,
        stateful_step_count=30,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as loop:
        Queue.place = Place(loop, *loop.run(open_place(database)))
        Queue.figures = Counter()
        try:
            run_state_machine_as_test(seed(SEED)(Queue), settings=plan)
        finally:
            loop.run(close_place(Queue.place))
    print(f"\nhistories: {dict(Queue.figures)}")
    # Else it would prove nothing.
    assert all(
        Queue.figures[word] > HISTORIES // 50
        for word in (
            "claimed",
            "taken over",
            "came back",
            "met an old price",
            "asked too late for the settle",
        )
    )
