"""One pass of the scheduler per tick, whatever the number of daemons, and no leader that could hang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import uuid4

import pytest

from marketd import errors
from marketd.scheduler import Chore, Scheduler, Timing
from marketd.store.jobs import JobStore
from marketd.store.plan import PlanStore
from marketd.store.pool import Database
from marketd.store.runs import RunStore
from provider_kit import Notes
from queue_kit import Connect, Connection, opened, until, value, waits_for_lock

TICK = timedelta(minutes=1)
TIMING = Timing(
    interval=TICK, poll=TICK, lease=TICK, keep_finished=TICK, keep_history=TICK, keep_requests=TICK
)


@pytest.fixture
async def daemons(database: str) -> AsyncIterator[list[RunStore]]:
    async with AsyncExitStack() as stack:
        pools: list[Database] = [await stack.enter_async_context(opened(database)) for _ in range(3)]
        yield [RunStore(pool) for pool in pools]


async def test_of_many_daemons_one_begins_the_tick(daemons: list[RunStore], db: Connection) -> None:
    runs = await asyncio.gather(*(daemon.begin("timer", TICK) for daemon in daemons * 4))
    assert sum(run is not None for run in runs) == 1
    assert await value(db, "select count(*) from market_job_runs") == 1


async def test_who_waited_for_another_to_begin_finds_the_tick_taken(
    daemons: list[RunStore], db: Connection, connect: Connect
) -> None:
    # Slow enough to see: another daemon has taken the tick and has not committed yet.
    other, watcher = await connect(), await connect()
    transaction = other.transaction()
    await transaction.start()
    await other.execute("update market_settings set run_started_at = clock_timestamp()")
    late = asyncio.create_task(daemons[0].begin("timer", TICK))
    pid = "select pid from pg_stat_activity where wait_event_type = 'Lock' and query like '%run_started_at%'"

    async def waits() -> bool:
        found = await watcher.fetchval(pid)
        return found is not None and await waits_for_lock(watcher, found)

    await until(waits)
    await transaction.commit()
    assert await late is None


async def test_a_daemon_that_hangs_in_its_pass_keeps_nobody_from_the_next(daemons: list[RunStore]) -> None:
    hung = await daemons[0].begin("timer", timedelta(0))
    assert hung is not None
    assert await daemons[1].begin("timer", timedelta(0)) is not None


async def test_each_wish_for_a_pass_is_answered_by_one(daemons: list[RunStore], db: Connection) -> None:
    await daemons[0].begin("timer", TICK)
    for _ in range(2):  # also right after another pass
        await db.execute("select market_run_now()")
        runs = await asyncio.gather(*(daemon.begin("notify", TICK, asked=True) for daemon in daemons))
        assert sum(run is not None for run in runs) == 1
    assert await daemons[2].begin("notify", TICK, asked=True) is None


async def test_a_clock_that_was_set_back_does_not_stop_the_passes(
    daemons: list[RunStore], db: Connection
) -> None:
    before = await daemons[0].begin("timer", TICK)
    assert before is not None
    ahead = "clock_timestamp() + interval '1 day'"
    await db.execute(f"update market_settings set run_started_at = {ahead}")
    await db.execute(f"insert into market_job_runs (trigger, started_at) values ('timer', {ahead})")
    run = await daemons[1].begin("timer", TICK)
    assert run is not None
    assert run.previous_at == before.started_at
    assert await daemons[2].begin("timer", TICK) is None


async def test_a_chore_that_fails_starves_no_other_and_is_named(database: str, db: Connection) -> None:
    done: list[str] = []

    async def first() -> None:
        raise errors.DatabaseUnavailable("canceling statement due to statement timeout")

    async def second() -> None:
        done.append("second")

    await db.execute("insert into market_job_runs (started_at) values (now() - interval '31 days')")
    notes = Notes()
    async with opened(database) as pool:
        await _scheduler(pool, notes, first, second).one_pass("timer")
    assert done == ["second"]
    [run] = await db.fetch("select error from market_job_runs")  # the old one was pruned
    assert "first: canceling statement" in run["error"]
    [(name, told)] = notes.events
    assert (name, told["result"], told["error"]) == ("run_done", "failed", run["error"])


async def test_a_chore_whose_statement_postgres_refuses_ends_no_daemon(database: str, db: Connection) -> None:
    done: list[str] = []
    async with opened(database) as pool:

        async def first() -> None:
            await pool.fetch("select 2147483647 + 1")

        async def second() -> None:
            done.append("second")

        await _scheduler(pool, Notes(), first, second).one_pass("timer")
    assert done == ["second"]
    [run] = await db.fetch("select completed_at, error from market_job_runs")
    assert run["completed_at"] is not None
    assert "first: NumericValueOutOfRangeError: integer out of range" in run["error"]


async def test_a_pass_that_was_cut_off_is_not_told_as_a_success(database: str, db: Connection) -> None:
    begun = asyncio.Event()

    async def hanging() -> None:
        begun.set()
        await asyncio.sleep(3600)

    notes = Notes()
    async with opened(database) as pool:
        cut_off = asyncio.create_task(_scheduler(pool, notes, hanging).one_pass("timer"))
        await begun.wait()
        cut_off.cancel()
        await asyncio.wait([cut_off])
    assert notes.events == []
    assert await value(db, "select completed_at from market_job_runs") is None


async def test_a_long_pass_is_seen_to_get_on(database: str, db: Connection) -> None:
    """Its statements are limited in time each, not together: ten minutes of pruning are no reason for the watchdog."""
    await db.execute(
        "insert into market_jobs (provider, sku, size) select 'stockx', 'A-' || n, '10' from generate_series(1, 5) n"
    )
    await db.execute(
        "update market_jobs set status = 'done', outcome = 'fresh', completed_at = now() - interval '1 day'"
    )
    turns: list[float] = []

    async def chore() -> None:
        turns.append(scheduler.last_turn)

    async with opened(database) as pool:
        batches: list[None] = []
        await RunStore(pool).prune(
            jobs=TICK, history=TICK, requests=TICK, turned=lambda: batches.append(None), batch=2
        )
        await PlanStore(pool, lambda: TICK, lambda: batches.append(None)).plan()
        assert len(batches) == 3 + 3 + 1 + 1  # prune_jobs, the other three, a fold, an account
        scheduler = _scheduler(pool, Notes(), chore, chore)
        turns.append(scheduler.last_turn)
        passed = scheduler.last_pass
        await scheduler.one_pass("timer")
        assert len({*turns, scheduler.last_turn}) == 4
        assert scheduler.last_pass == passed, "the interval begins when it is over"


def _scheduler(pool: Database, notes: Notes, *chores: Chore) -> Scheduler:
    return Scheduler(TIMING, RunStore(pool), JobStore(pool, uuid4()), notes, chores=chores)
