"""The main job from end to end: SQL in, StockX prices out, exactly the right ones, within the budget."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from harness import GOLDEN, configured, running, until
from marketd.models import Unit
from marketd.sandbox import Sandbox
from marketd.store.jobs import JobStore
from queue_kit import opened

Connection = asyncpg.Connection


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, limits={"*": None}) as server:
        yield server


async def _settled(db: Connection) -> bool:
    open_jobs = (
        "select not exists (select from market_jobs where status in ('pending', 'running', 'deferred'))"
    )
    return bool(await db.fetchval(open_jobs))


async def _enqueue(db: Connection, sku: str, size: str | None, priority: int = 200) -> asyncpg.Record:
    row = await db.fetchrow("select * from market_enqueue('stockx', $1, $2, $3)", sku, size, priority)
    assert row is not None
    return row


async def _state(db: Connection, sku: str, size: str | None) -> str:
    state: str = await db.fetchval(
        "select state from market_price_status where sku = $1 and size is not distinct from $2", sku, size
    )
    return state


async def test_golden_items_get_exactly_the_price_of_that_product_and_size(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with running(configured(database, sandbox, tmp_path)):
        for sku, size in GOLDEN:
            await _enqueue(db, sku, size)
        await until(lambda: _settled(db), what="the golden set")
    for sku, size in GOLDEN:
        row = await db.fetchrow(
            "select lowest_ask, highest_bid, last_sale, currency from market_prices where sku = $1 and size = $2",
            sku,
            size,
        )
        assert row is not None, (sku, size)
        truth = sandbox.truth("stockx", sku, size, "GBP")
        assert (row["lowest_ask"], row["highest_bid"], row["currency"]) == (truth.ask, truth.bid, "GBP"), sku
        assert row["last_sale"] is None, "StockX tells no last sale, so none is stored"


@pytest.mark.parametrize("provider", ["stockx", "alias"])
async def test_twenty_sizes_of_a_warm_product_cost_one_call_and_each_gets_its_own_price(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path, provider: str
) -> None:
    sku = "DD1391-100"
    settings = configured(database, sandbox, tmp_path, providers=(provider,), jobs={"fresh_for": "1ms"})
    async with running(settings):
        await db.execute("select * from market_enqueue($1, $2, '10', 200)", provider, sku)
        await until(lambda: _settled(db))
        offered = await db.fetch("select size from market_prices where sku = $1", sku)
        wanted = [row["size"] for row in offered][:20]
        assert len(wanted) == 20
        sandbox.advance(5)  # so that what is stored by then must be of this call
        before, began = sandbox.count(provider), await db.fetchval("select clock_timestamp()")
        items = [{"provider": provider, "sku": sku, "size": size} for size in wanted]
        rows = await db.fetch("select * from market_refresh($1::jsonb)", json.dumps(items))
        assert {row["result"] for row in rows} == {"queued"}
        await until(lambda: _settled(db))
        assert sandbox.count(provider) - before == 1
    stored = await db.fetch(
        "select size, currency, lowest_ask, highest_bid, last_sale from market_prices"
        " where sku = $1 and observed_at > $2 and size = any ($3)",
        sku,
        began,
        wanted,
    )
    assert len(stored) == 20
    for row in stored:
        told = (row["lowest_ask"], row["highest_bid"], row["last_sale"])
        assert told == sandbox.truth(provider, sku, row["size"], row["currency"])
    done = await db.fetchval(
        "select count(*) from market_jobs where status = 'done' and outcome in ('priced', 'no_asks')"
    )
    assert done == 21


@pytest.mark.parametrize(
    ("sku", "size", "state"),
    [
        ("DC7770-160", "UK 6", "ambiguous_size"),
        ("DD1503-103", "7.5", "size_system"),
        ("DD1391-100", "22", "size_not_offered"),
        ("NOPE-404", "9", "unknown_sku"),
    ],
)
async def test_what_cannot_be_told_for_certain_is_refused_with_its_reason(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path, sku: str, size: str, state: str
) -> None:
    async with running(configured(database, sandbox, tmp_path)):
        job = await _enqueue(db, sku, size)
        await until(lambda: _settled(db))
    row = await db.fetchrow(
        "select status, error_code, error_message from market_jobs where id = $1", job["job_id"]
    )
    assert row is not None
    assert (row["status"], row["error_code"]) == ("failed", state)
    assert row["error_message"]
    assert await _state(db, sku, size) == state


async def test_an_urgent_request_reaches_the_wire_by_notify_not_by_the_poll(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    hourly = {"poll": "1h", "interval": "1h"}
    async with running(configured(database, sandbox, tmp_path, scheduler=hourly)) as app:
        await until(lambda: asyncio.sleep(0, app.metrics.render()[0].find(b"listener_connected 1.0") > 0))
        began = time.monotonic()
        await _enqueue(db, "CP9366", "10.5")
        await until(lambda: asyncio.sleep(0, sandbox.count("stockx")), within_s=5, what="the first request")
        assert time.monotonic() - began < 2
        await until(lambda: _settled(db))


async def test_a_dead_workers_job_is_taken_up_when_its_lease_says_however_seldom_the_queue_is_polled(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    hourly = {"poll": "1h", "interval": "1h"}
    job = await _enqueue(db, "DD1391-100", "10", 100)
    async with opened(database) as pool:
        assert await JobStore(pool, uuid4()).claim("stockx", "default", units=1, lease=timedelta(hours=1))
    async with running(configured(database, sandbox, tmp_path, scheduler=hourly)) as app:
        await until(lambda: asyncio.sleep(0, app._poller.last_poll), what="the poll of the start")
        for table in ("market_fetches", "market_jobs"):
            await db.execute(f"update {table} set lease_expires_at = clock_timestamp() + interval '0.1 s'")
        await until(lambda: _settled(db), within_s=8, what="the rescue")
    row = await db.fetchrow("select status, rescues from market_jobs where id = $1", job["job_id"])
    assert tuple(row or ()) == ("done", 1)


async def test_repeats_make_one_job_and_say_so(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    said = [(await _enqueue(db, "DD1391-100", "10", 100))["result"] for _ in range(10)]
    said.append((await _enqueue(db, "dd1391 100", "US 10", 200))["result"])
    assert said == ["queued", *["merged"] * 9, "raised"]
    async with running(configured(database, sandbox, tmp_path)):
        await until(lambda: _settled(db))
    assert (await _enqueue(db, "DD1391-100", "10"))["result"] == "fresh"
    assert await db.fetchval("select count(*) from market_jobs") == 1


async def test_the_provider_never_counts_more_requests_than_the_budget(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    skus = [f"NONE-{number}" for number in range(60)]
    stanza = {"budget": {"per_hour": 20, "background_min": "0%"}}
    async with running(configured(database, sandbox, tmp_path, stanza=stanza)):
        for sku in skus:
            await _enqueue(db, sku, "9")

        async def spent() -> bool:
            return bool(
                await db.fetchval(
                    "select used = 20 from market_budget_status where provider = 'stockx' and window_kind = 'hour'"
                )
            )

        await until(spent, what="the budget's end")
        waiting = await db.fetchval("select id from market_jobs where status = 'pending' limit 1")
        why = await db.fetchrow("select * from market_why($1::bigint)", waiting)
        assert why is not None
        assert why["waiting_for"] == "budget"
        ends = await db.fetchval(
            "select window_end from market_budget_status where provider = 'stockx' and window_kind = 'hour'"
        )
        assert why["until"] == ends
        assert why["eta"] >= ends
    # The token call has a meter of its own.
    calls = [request for request in sandbox.requests if request.endpoint != "token"]
    assert len(calls) == 20


async def test_two_currencies_of_one_item_are_two_targets_and_never_mix(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with running(configured(database, sandbox, tmp_path)):
        for currency in ("GBP", "USD"):
            await db.fetchrow(
                "select * from market_enqueue('stockx', 'DD1391-100', '10', 200, currency => $1)", currency
            )
        await until(lambda: _settled(db))
    for currency in ("GBP", "USD"):
        stored = await db.fetchval(
            "select lowest_ask from market_prices where sku = 'DD1391-100' and size = '10' and currency = $1",
            currency,
        )
        assert stored == sandbox.truth("stockx", "DD1391-100", "10", currency).ask
    assert await db.fetchval("select count(*) from market_targets") == 2


async def test_a_mapping_that_went_stale_is_made_anew(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with running(configured(database, sandbox, tmp_path, jobs={"fresh_for": "1ms"})):
        await _enqueue(db, "CP9366", "10.5")
        await until(lambda: _settled(db))
        old = await db.fetchval("select product_id from market_skus where sku = 'CP9366'")
        sandbox.retire("CP9366")
        await _enqueue(db, "CP9366", "10.5")
        await until(lambda: _settled(db))
        assert await db.fetchval("select product_id from market_skus where sku = 'CP9366'") != old
    assert await db.fetchval("select count(*) from market_jobs where status = 'done'") == 2


async def test_fetches_under_way_keep_their_leases_by_shared_heartbeats(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[int] = []  # leases of each heartbeat
    extend = JobStore.extend_all

    async def counted(store: JobStore, units: Sequence[Unit], *, lease: timedelta) -> dict[UUID, bool]:
        beats.append(len(units))
        return await extend(store, units, lease=lease)

    monkeypatch.setattr(JobStore, "extend_all", counted)
    sandbox.fault("stockx", "stall", times=8, seconds=3)
    async with running(configured(database, sandbox, tmp_path, stanza={"concurrency": 10})):
        for sku, size in GOLDEN[:8]:
            await _enqueue(db, sku, size)
            await asyncio.sleep(0.1)  # they begin at different times
        await until(lambda: _settled(db), within_s=60, what="the end")
    assert await db.fetchval("select count(*) from market_jobs where status = 'done' and rescues = 0") == 8
    assert sum(beats) > 8
    assert len(beats) < sum(beats) / 2
