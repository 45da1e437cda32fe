"""Other programs hold locks: what they hold may wait, and only that; afterwards all goes on at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from faults.kit import QUICK_JOBS, ask_many, broken, ended, load
from harness import GOLDEN, configured, running, until
from marketd import fetching
from marketd.outcome import Priced
from marketd.sandbox import Sandbox
from marketd.store.jobs import JobStore
from marketd.store.pool import Database
from marketd.telemetry import FetchReport, RequestReport
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


class Heard:
    """Keeps what is told of locks."""

    def __init__(self) -> None:
        self.held: list[dict[str, Any]] = []

    def request_done(self, report: RequestReport) -> None: ...

    def fetches_done(self, reports: Sequence[FetchReport]) -> None: ...

    def event(self, name: str, **fields: Any) -> None:
        if name == "lock_held":
            self.held.append(fields)


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


async def test_an_operator_s_open_transaction_stops_no_pass_and_no_other_lane(
    connect: Connect, db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    alias = load(sandbox, 10, provider="alias")
    operator = await connect()
    passes = "select count(*) from market_job_runs where completed_at is not null and started_at > $1"
    quick = {"poll": "1s", "interval": "1s"}
    data = _configured(
        database, sandbox, tmp_path, providers=("stockx", "alias"), scheduler=quick,
        database={"dsn": database, "statement_timeout": "3s"},
    )  # fmt: skip
    async with running(data):
        psql = operator.transaction()
        await psql.start()
        await operator.execute("select market_run_now(); select market_pause('stockx', 'to look at it')")
        since = await now(db)
        rows = await ended(db, await ask_many(db, alias, 200), within_s=AT_ONCE_S)
        assert {row["status"] for row in rows.values()} == {"done"}
        await until(lambda: db.fetchval(f"select ({passes}) >= 2", since), within_s=6, what="two passes")
        await psql.commit()
        state = "select market__lane_state(p) from market_providers p where provider = 'stockx'"
        assert await db.fetchval(state) == "paused"
    assert await db.fetch("select error from market_job_runs where error is not null") == []
    assert await broken(db) == {}


@pytest.mark.parametrize("hold", ["select from market_targets for update", "lock table market_fetches"])
async def test_whoever_holds_what_a_settle_needs_is_named_and_all_goes_on_after_it(
    database: str, db: Connection, sandbox: Sandbox, tmp_path: Path, hold: str
) -> None:
    heard = Heard()
    data = _configured(database, sandbox, tmp_path, database={"dsn": database, "statement_timeout": "4s"})
    holder = await asyncpg.connect(database, server_settings={"application_name": "psql of eve"})
    try:
        async with running(data, heard):
            await db.execute("select market_pause('stockx', 'until the lock is held')")
            waiting = await ask_many(db, load(sandbox, 1), 200)
            held = holder.transaction()
            await held.start()
            await holder.execute(hold)
            await db.execute("select market_resume('stockx')")
            [fields] = await until(
                lambda: asyncio.sleep(0, heard.held), within_s=10, what="word of the holder"
            )
            assert fields["holder"] == holder.get_server_pid()
            assert fields["application_name"] == "psql of eve"
            assert fields["waits_for"] == hold.split()[2]
            assert fields["transaction_since"] <= fields["waiting_since"] <= await now(db)
            await held.rollback()
            rows = await ended(db, waiting, within_s=10)
        assert {row["status"] for row in rows.values()} == {"done"}
    finally:
        await holder.close()
    assert await broken(db) == {}


async def test_what_a_fetch_brought_is_kept_while_locks_on_targets_are_held_for_several_leases(
    connect: Connect, database: str, db: Connection, sandbox: Sandbox, tmp_path: Path
) -> None:
    data = _configured(
        database, sandbox, tmp_path, jobs={**QUICK_JOBS, "lease": "3s"}, stanza={"concurrency": 3},
        database={"dsn": database, "statement_timeout": "1s"},
    )  # fmt: skip
    holder = await connect()
    async with running(data):
        await db.execute("select market_pause('stockx', 'until the lock is held')")
        waiting = await ask_many(db, load(sandbox, 3), 200)
        held = holder.transaction()
        await held.start()
        await holder.execute("select from market_targets for update")
        await db.execute("select market_resume('stockx')")
        kept = "select count(*) = 3 from market_fetches where lease_expires_at > claimed_at + interval '9 s'"
        await until(lambda: db.fetchval(kept), within_s=20, what="their third leases")
        asked = sandbox.count("stockx")
        await held.rollback()
        rows = await ended(db, waiting, within_s=10)
    assert {(row["status"], row["rescues"]) for row in rows.values()} == {("done", 0)}
    assert sandbox.count("stockx") == asked, "none was fetched anew"
    assert await broken(db) == {}


async def test_a_lock_that_outlasts_all_patience_costs_calls_but_no_rescue(
    connect: Connect,
    database: str,
    db: Connection,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetching, "_MENDED_WITHIN_S", 2.0)
    data = _configured(
        database, sandbox, tmp_path, jobs={**QUICK_JOBS, "lease": "3s"}, scheduler={"poll": "1s"},
        database={"dsn": database, "statement_timeout": "1s"},
    )  # fmt: skip
    holder = await connect()
    async with running(data):
        [waiting] = await ask_many(db, load(sandbox, 1), 100)
        held = holder.transaction()
        await held.start()
        await holder.execute("select from market_targets for update")

        async def fetched_again() -> bool:
            return sandbox.count("stockx") > 4  # the first fetch costs three calls at most

        await until(fetched_again, within_s=30, what="another fetch")
        await held.rollback()
        rows = await ended(db, [waiting], within_s=10)
    assert (rows[waiting]["status"], rows[waiting]["rescues"], rows[waiting]["attempt"]) == ("done", 0, 1)
    assert await broken(db) == {}


async def test_while_somebody_holds_one_target_the_fetches_of_others_are_settled_at_once(
    connect: Connect, database: str, db: Connection, sandbox: Sandbox, tmp_path: Path
) -> None:
    first, *others = load(sandbox, 6)
    data = _configured(
        database, sandbox, tmp_path, stanza={"concurrency": 4}, database={"dsn": database, "statement_timeout": "6s"}
    )  # fmt: skip
    holder = await connect()
    async with running(data):
        [waiting] = await ask_many(db, [first], 200)
        held = holder.transaction()
        await held.start()
        await holder.execute("select from market_targets for update")
        waits = "select count(*) from pg_locks where not granted"
        await until(lambda: db.fetchval(waits), what="the settle that waits")
        await until(lambda: db.fetchval(f"select ({waits}) = 0"), what="the end of its patience")
        for other in others:
            rows = await ended(db, await ask_many(db, [other], 200), within_s=4)
            assert {row["status"] for row in rows.values()} == {"done"}
        assert (await job(db, waiting))["status"] == "running"
        await held.rollback()
        await ended(db, [waiting], within_s=10)
    assert await broken(db) == {}


async def test_a_held_row_of_the_lane_costs_no_fetch_what_it_brought(
    connect: Connect,
    database: str,
    db: Connection,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetching, "_MENDED_WITHIN_S", 2.0)
    data = _configured(
        database, sandbox, tmp_path, jobs={**QUICK_JOBS, "lease": "3s"},
        database={"dsn": database, "statement_timeout": "1s"},
    )  # fmt: skip
    holder = await connect()
    item = load(sandbox, 1)
    async with running(data):
        await ended(db, await ask_many(db, item, 200))  # from now on it costs one call
        await db.execute("update market_providers set circuit_failures = 1")  # so that a success is news
        sandbox.fault("stockx", "stall", seconds=1.5)
        calls = sandbox.count("stockx")
        [waiting] = await ask_many(db, item, 200)
        await until(lambda: asyncio.sleep(0, sandbox.count("stockx") > calls), what="the request")
        held = holder.transaction()
        await held.start()
        await holder.execute("select from market_providers for update")
        rows = await ended(db, [waiting], within_s=15)
        await held.rollback()
    assert (rows[waiting]["status"], rows[waiting]["rescues"]) == ("done", 0)
    assert await broken(db) == {}


async def test_a_settle_that_waits_for_a_lock_keeps_no_other_fetch_from_its_lease(
    connect: Connect, db: Connection, pool: Database
) -> None:
    jobs = JobStore(pool, await daemon(db))
    await enqueue(db, "AA1-100")
    held = await claim_one(jobs)
    await enqueue(db, "BB1-100")
    other = await claim_one(jobs)
    operator = await connect()
    psql = operator.transaction()
    await psql.start()
    await operator.execute("select from market_targets where unit_key = $1 for update", held.key)
    price = [(own, Priced(size=own.size)) for own in held.jobs]
    settling = asyncio.ensure_future(jobs.settle(held, price, [quote(at=await now(db))]))
    await until(lambda: db.fetchval("select count(*) from pg_locks where not granted"), what="its wait")
    async with asyncio.timeout(AT_ONCE_S):
        extended = await jobs.extend_all([held, other], lease=timedelta(hours=1))
    assert extended == {held.lease_id: False, other.lease_id: True}
    await psql.rollback()
    await settling
    assert await jobs.extend_all([held], lease=timedelta(hours=1)) == {}


async def test_a_stop_gives_back_what_a_lock_keeps_from_being_settled(
    connect: Connect, database: str, db: Connection, sandbox: Sandbox, tmp_path: Path
) -> None:
    data = _configured(database, sandbox, tmp_path, jobs={**QUICK_JOBS, "shutdown_grace": "100ms"})
    holder = await connect()
    async with running(data):
        await db.execute("select market_pause('stockx', 'until the lock is held')")
        [waiting] = await ask_many(db, load(sandbox, 1), 200)
        held = holder.transaction()
        await held.start()
        await holder.execute("select from market_targets for update")
        await db.execute("select market_resume('stockx')")
        waits = "select count(*) from pg_locks where not granted"
        await until(lambda: db.fetchval(waits), what="the settle that waits")
    row = await job(db, waiting)
    assert (row["status"], row["attempt"], row["rescues"]) == ("pending", 0, 0)
    assert await db.fetchval("select count(*) from market_fetches") == 0
    assert await db.fetchval("select count(*) from market_daemons") == 0
    assert await db.fetchval("select count(*) from market_requests where wasted_reason = 'unfinished'") > 0
    await held.rollback()
    assert await broken(db) == {}
