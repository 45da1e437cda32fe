"""Other programs hold locks: what they hold may wait, and only that; afterwards all goes on at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from faults.kit import QUICK_JOBS, broken, ended
from harness import GOLDEN, configured, running
from marketd.outcome import Priced
from marketd.sandbox import Sandbox
from marketd.store.jobs import JobStore
from marketd.store.pool import Database
from queue_kit import (
    Connect,
    Connection,
    claim_one,
    daemon,
    enqueue,
    job,
    now,
    opened,
    quote,
    settings,
)

SELDOM = {"poll": "60s", "interval": "1h"}
AT_ONCE_S = 4.0


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, products=60, limits={"*": None}) as server:
        yield server


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Database]:
    async with opened(database) as pool:
        yield pool


def _configured(dsn: str, sandbox: Sandbox, folder: Path, **sections: Any) -> Any:
    return configured(dsn, sandbox, folder, **{"jobs": QUICK_JOBS, "scheduler": SELDOM, **sections})


async def test_an_urgent_click_on_a_held_job_is_acted_on_soon_after_the_holder_ends(
    connect: Connect, db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    sku, size = GOLDEN[0]
    holder = await connect()
    async with running(_configured(database, sandbox, tmp_path)):
        later = await now(db) + timedelta(hours=1)
        waiting = (await enqueue(db, sku, size, not_before=later))["job_id"]
        held = holder.transaction()
        await held.start()
        await holder.execute("select from market_jobs where id = $1 for update", waiting)
        click = await enqueue(db, sku, size, priority=200)
        assert (click["job_id"], click["result"]) == (waiting, "merged")
        await asyncio.sleep(1.2)  # so that the look which the click asked for is over
        assert (await job(db, waiting))["status"] == "deferred"
        await held.rollback()
        rows = await ended(db, [waiting], within_s=AT_ONCE_S)
    assert (rows[waiting]["status"], rows[waiting]["priority"]) == ("done", 200)
    assert await broken(db) == {}


@pytest.mark.parametrize("priority", [50, 100])
async def test_who_idles_in_a_transaction_after_a_merge_that_changes_nothing_delays_no_click(
    connect: Connect, db: Connection, priority: int
) -> None:
    waiting = (await enqueue(db, "AA1-100"))["job_id"]
    idle_app = await connect()
    idle = idle_app.transaction()
    await idle.start()
    assert (await enqueue(idle_app, "AA1-100", priority=priority))["result"] == "merged"
    assert (await enqueue(db, "AA1-100", priority=200))["result"] == "raised"
    assert (await job(db, waiting))["priority"] == 200
    await idle.commit()
    assert await db.fetchval("select count(*) from market_job_requests where not folded or loose") == 0


async def test_a_wish_that_changes_nothing_of_a_job_is_answered_by_whatever_claims_it_before_its_commit(
    connect: Connect, db: Connection, pool: Database
) -> None:
    await settings(db, fresh_for=timedelta(0))
    jobs = JobStore(pool, await daemon(db))
    waiting = (await enqueue(db))["job_id"]
    app = await connect()
    asking = app.transaction()
    await asking.start()
    assert (await enqueue(app))["result"] == "merged"
    unit = await claim_one(jobs)
    price = [(own, Priced(size=own.size)) for own in unit.jobs]
    await jobs.settle(unit, price, [quote(at=await now(db))])
    await asking.commit()
    assert await jobs.reopen() == 0
    assert (await job(db, waiting))["status"] == "done"
    observed = await db.fetchval("select observed_at from market_prices")
    assert await db.fetchval("select bool_and(requested_at < $1) from market_job_requests", observed)


async def test_with_an_old_snapshot_a_wish_is_not_merged_into_a_job_that_has_ended(
    connect: Connect, db: Connection, pool: Database
) -> None:
    await settings(db, fresh_for=timedelta(0))
    jobs = JobStore(pool, await daemon(db))
    await enqueue(db)
    app = await connect()
    asking = app.transaction(isolation="repeatable_read")
    await asking.start()
    await app.fetchval("select count(*) from market_jobs")  # its snapshot is taken
    unit = await claim_one(jobs)
    price = [(own, Priced(size=own.size)) for own in unit.jobs]
    await jobs.settle(unit, price, [quote(at=await now(db))])
    with pytest.raises(asyncpg.SerializationError):
        await enqueue(app)
    await asking.rollback()
