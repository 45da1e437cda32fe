"""Every transition of a job: who may make it, what it writes, and what it must leave alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from marketd.errors import LeaseLost
from marketd.leases import Keeper
from marketd.models import Job, Listing, Product, Quote, Unit, Variant
from marketd.outcome import Failed, Outcome, Priced, Released, Retried, Snoozed
from marketd.store.jobs import JobStore, Settled
from marketd.store.pool import Database
from marketd.store.sqlfile import queries
from marketd.telemetry import Observers
from queue_kit import (
    SKU,
    Connect,
    Connection,
    Row,
    claim,
    claim_one,
    daemon,
    enqueue,
    enqueue_many,
    hold_background_back,
    item,
    job,
    limits,
    now,
    open_jobs,
    opened,
    plain_insert,
    plenty,
    quote,
    settings,
    until,
    value,
)


@pytest.fixture
async def pool(database: str, db: Connection) -> AsyncIterator[Database]:
    await plenty(db)
    async with opened(database) as pool:
        yield pool


@pytest.fixture
async def jobs(pool: Database) -> JobStore:
    return JobStore(pool, uuid4())


async def _price(jobs: JobStore, unit: Unit, *quotes: Quote, **more: Any) -> Settled:
    """Settle every job of the unit with the price of its own size."""
    outcomes: list[tuple[Job, Outcome]] = [(j, Priced(size=j.size)) for j in unit.jobs]
    return await jobs.settle(unit, outcomes, quotes, **more)


async def _settle_all(jobs: JobStore, unit: Unit, outcome: Outcome) -> Settled:
    return await jobs.settle(unit, [(j, outcome) for j in unit.jobs])


async def _expire(db: Connection) -> None:
    """As if the worker had been silent for longer than its lease."""
    await db.execute(
        "update market_jobs set lease_expires_at = now() - interval '1 second' where status = 'running'"
    )
    await db.execute("update market_fetches set lease_expires_at = now() - interval '1 second'")


async def _targets(db: Connection) -> dict[str, Row]:
    return {row["size"]: row for row in await db.fetch("select * from market_targets")}


# -------------------------------------------------------------------------------------------------------- claim


async def test_the_most_urgent_is_claimed_first_and_equals_in_the_order_of_their_turn(
    db: Connection, jobs: JobStore
) -> None:
    for sku, priority in (("AA1-1", 100), ("BB1-1", 200), ("CC1-1", 150), ("DD1-1", 200)):
        await enqueue(db, sku, priority=priority)
    assert [unit.sku for unit in await claim(jobs, 10)] == ["BB1-1", "DD1-1", "CC1-1", "AA1-1"]


@pytest.mark.parametrize(("durable", "commits"), [(True, "on"), (False, "off")])
async def test_a_claim_waits_for_the_disk_unless_a_charge_will_and_leaves_no_setting_behind(
    db: Connection, durable: bool, commits: str
) -> None:
    await plenty(db)
    await enqueue(db)
    lease = timedelta(seconds=60)
    setting = "select current_setting('synchronous_commit')"
    await db.execute("set synchronous_commit = on")
    async with db.transaction():
        sql = queries("jobs")["claim"]
        assert len(await db.fetch(sql, "stockx", "default", 1, uuid4(), lease, durable)) == 1
        assert await value(db, setting) == commits
    assert await value(db, setting) == "on"


async def test_a_claim_takes_no_more_units_than_asked(db: Connection, jobs: JobStore) -> None:
    await enqueue_many(db, [item(f"AA{i}-1") for i in range(10)])
    assert len(await claim(jobs, 3)) == 3
    assert await value(db, "select count(*) from market_jobs where status = 'running'") == 3


async def test_users_take_turns_however_much_one_of_them_asks(db: Connection, jobs: JobStore) -> None:
    for i in range(6):
        await enqueue(db, f"AA{i}-1", user_id="ann")
    await enqueue(db, "BB0-1", user_id="bob")
    await enqueue(db, "BB1-1", user_id="bob")
    order = [(await claim_one(jobs)).sku[:2] for _ in range(5)]
    assert order == ["AA", "BB", "AA", "BB", "AA"]


async def test_jobs_of_one_product_come_along_whatever_their_priority(db: Connection, jobs: JobStore) -> None:
    await enqueue(db, size="9", priority=200)
    for size in ("10", "11", "12"):
        await enqueue(db, size=size)
    await enqueue(db, currency="USD")
    unit = await claim_one(jobs)
    assert unit.sizes == ("9", "10", "11", "12")
    assert {j.attempt for j in unit.jobs} == {1}
    assert await value(db, "select count(*) from market_jobs where lead") == 1


async def test_where_a_size_costs_a_call_each_size_is_a_unit(db: Connection, jobs: JobStore) -> None:
    for size in ("10", "11"):
        await enqueue(db, size=size, provider="ebay")
    units = await claim(jobs, 5, provider="ebay")
    assert sorted(unit.sizes for unit in units) == [("10",), ("11",)]


async def test_what_became_fresh_is_done_without_a_call(db: Connection, jobs: JobStore) -> None:
    job_id = (await enqueue(db))["job_id"]
    await db.execute(
        "insert into market_prices (provider, sku, size, currency, observed_at, changed_at)"
        " values ('stockx', $1, '10', 'GBP', now(), now())",
        SKU,
    )
    assert await claim(jobs) == []
    row = await job(db, job_id)
    assert (row["status"], row["outcome"], row["attempt"]) == ("done", "fresh", 0)


async def test_what_stands_behind_many_that_became_fresh_is_claimed_at_once(
    db: Connection, jobs: JobStore
) -> None:
    for number in range(25):
        await enqueue(db, sku=f"FRESH-{number}", priority=200)
    await enqueue(db)
    await db.execute(
        "insert into market_prices (provider, sku, size, currency, observed_at, changed_at)"
        " select 'stockx', sku, '10', 'GBP', now(), now() from market_jobs where priority = 200"
    )
    assert [unit.sku for unit in await claim(jobs, 1)] == [SKU]
    assert await db.fetchval("select count(*) from market_jobs where outcome = 'fresh'") == 25


async def test_latecomers_of_a_product_wait_until_its_fetch_is_over(db: Connection, jobs: JobStore) -> None:
    await enqueue(db, size="9")
    unit = await claim_one(jobs)
    await enqueue(db, size="10", priority=200)
    assert await claim(jobs) == []
    await _price(jobs, unit, quote("9"))
    assert (await claim_one(jobs)).sizes == ("10",)


async def test_a_rescued_job_is_claimed_alone(db: Connection, jobs: JobStore) -> None:
    suspect = (await enqueue(db, size="9", priority=200))["job_id"]
    await enqueue(db, size="10")
    await db.execute("update market_jobs set rescues = 1 where id = $1", suspect)
    unit = await claim_one(jobs)
    assert [j.id for j in unit.jobs] == [suspect]


async def test_a_rescued_job_is_not_taken_along_by_others(db: Connection, jobs: JobStore) -> None:
    suspect = (await enqueue(db, size="9"))["job_id"]
    other = (await enqueue(db, size="10", priority=200))["job_id"]
    await db.execute("update market_jobs set rescues = 1 where id = $1", suspect)
    unit = await claim_one(jobs)
    assert [j.id for j in unit.jobs] == [other]


async def test_claimers_at_once_never_share_a_unit(db: Connection, pool: Database) -> None:
    await enqueue_many(db, [item(f"AA{i % 10}-1", f"{5 + i // 10}") for i in range(40)])
    claimers = [JobStore(pool, uuid4()) for _ in range(6)]
    found = [unit for units in await asyncio.gather(*(claim(c, 3) for c in claimers)) for unit in units]
    keys = [unit.key for unit in found]
    ids = [j.id for unit in found for j in unit.jobs]
    assert len(keys) == len(set(keys))
    assert len(ids) == len(set(ids))
    rest = await claim(claimers[0], 20)
    assert len({*keys, *(unit.key for unit in rest)}) == 10


async def test_only_urgent_work_is_claimed_when_background_has_no_calls(
    db: Connection, jobs: JobStore
) -> None:
    await hold_background_back(db)
    await enqueue(db, "AA1-1")
    assert await claim(jobs) == []
    await enqueue(db, "BB1-1", priority=150)
    assert (await claim_one(jobs)).sku == "BB1-1"


@pytest.mark.parametrize("columns", [{"enabled": False}, {"quota_hour": 0}])
async def test_nothing_is_claimed_that_could_not_be_sent(
    db: Connection, jobs: JobStore, columns: dict[str, Any]
) -> None:
    await limits(db, **columns)
    await enqueue(db, priority=200)
    assert await claim(jobs) == []


async def test_an_open_circuit_lets_one_unit_go_as_the_probe(db: Connection, jobs: JobStore) -> None:
    await enqueue_many(db, [item(f"AA{i}-1") for i in range(5)], 200)
    await db.execute("select market_report('stockx', 'default', 'throttled', 0.001)")
    units = await claim(jobs, 5)
    assert len(units) == 1
    assert units[0].troubled


# ------------------------------------------------------------------------------------------------------- extend


async def test_extending_moves_the_lease_of_the_fetch_and_of_its_jobs(db: Connection, jobs: JobStore) -> None:
    await enqueue(db)
    unit = await claim_one(jobs)
    assert await jobs.extend_all([unit], lease=timedelta(hours=1)) == {unit.lease_id: True}
    later = await now(db) + timedelta(minutes=50)
    assert await value(db, "select min(lease_expires_at) from market_jobs") > later
    assert await value(db, "select min(lease_expires_at) from market_fetches") > later


async def test_extending_a_lost_lease_says_so(db: Connection, jobs: JobStore) -> None:
    await enqueue(db)
    unit = await claim_one(jobs)
    await _expire(db)
    await jobs.rescue()
    assert await jobs.extend_all([unit], lease=timedelta(hours=1)) == {}


async def test_leases_extended_together_share_statements_and_a_lost_one_is_told_apart(
    db: Connection, pool: Database, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(20):
        await enqueue(db, f"AA{n}-100")
    units = await claim(jobs, 20)
    lost = units[7]
    await db.execute("delete from market_fetches where unit_key = $1", lost.key)
    statements = 0
    fetch = pool.fetch

    async def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal statements
        statements += 1
        return await fetch(*args, **kwargs)

    monkeypatch.setattr(pool, "fetch", counted)
    held = await jobs.extend_all(units, lease=timedelta(hours=1))
    assert held == {unit.lease_id: True for unit in units if unit is not lost}
    assert statements == 1
    began = await now(db)
    kept = {row["unit_key"]: row["lease_expires_at"] for row in await db.fetch("table market_fetches")}
    assert kept.keys() == {unit.key for unit in units if unit is not lost}
    for expires_at in kept.values():
        assert abs(expires_at - began - timedelta(hours=1)) < timedelta(minutes=10)


async def test_fetches_from_before_and_after_a_reload_keep_leases_of_their_own_length(
    db: Connection, jobs: JobStore
) -> None:
    for n in range(4):
        await enqueue(db, f"AA{n}-100")
    units = await claim(jobs, 4)
    lost: list[str] = []
    leases = [timedelta(hours=1), timedelta(hours=2)] * 2
    keeper = Keeper(jobs, Observers())
    began = await now(db)
    kept = [
        keeper.keep(unit, lease=lease, heartbeat_s=0.05, on_lost=partial(lost.append, unit.key))
        for unit, lease in zip(units, leases, strict=True)
    ]

    async def extended() -> bool:
        rows = await db.fetch("table market_fetches")
        held_for = {row["unit_key"]: row["lease_expires_at"] - began for row in rows}
        return all(
            abs(held_for[unit.key] - lease) < timedelta(minutes=10)
            for unit, lease in zip(units, leases, strict=True)
        )

    await until(extended)
    for one in kept:
        keeper.let_go(one)
    assert lost == []


async def test_a_shorter_lease_that_comes_while_longer_ones_are_kept_has_the_beat_it_needs(
    db: Connection, jobs: JobStore
) -> None:
    for n in range(2):
        await enqueue(db, f"AA{n}-100")
    units = await claim(jobs, 2)
    lost: list[str] = []
    keeper = Keeper(jobs, Observers())
    began = await now(db)
    kept = []
    for unit, lease_h, heartbeat_s in zip(units, (1, 2), (3600, 0.05), strict=True):
        lease = timedelta(hours=lease_h)
        on_lost = partial(lost.append, unit.key)
        kept.append(keeper.keep(unit, lease=lease, heartbeat_s=heartbeat_s, on_lost=on_lost))
        await asyncio.sleep(0)  # the first one's beat waits

    async def extended() -> bool:
        expires_at = await value(
            db, "select lease_expires_at from market_fetches where unit_key = $1", units[1].key
        )
        return bool(expires_at - began > timedelta(hours=1.5))

    await until(extended)
    for one in kept:
        keeper.let_go(one)
    assert lost == []


# ------------------------------------------------------------------------------------------------------- settle


async def test_a_price_ends_the_job_and_is_stored_with_its_history(db: Connection, jobs: JobStore) -> None:
    job_id = (await enqueue(db))["job_id"]
    unit = await claim_one(jobs)
    at = await now(db)
    settled = await _price(jobs, unit, quote(at=at, basis={"region": "UK"}))
    row = await job(db, job_id)
    assert (settled.changed, settled.skipped, row["status"], row["outcome"]) == (1, (), "done", "priced")
    assert (row["lease_id"], row["locked_by"], row["attempt"]) == (None, None, 1)
    price = await db.fetchrow("select * from market_prices")
    assert price is not None
    assert (price["lowest_ask"], price["observed_at"], json.loads(price["basis"])) == (
        200,
        at,
        {"region": "UK"},
    )
    assert await value(db, "select count(*) from market_price_history") == 1
    assert await value(db, "select count(*) from market_fetches") == 0
    target = (await _targets(db))["10"]
    assert (target["observed_at"], target["price_size"], target["last_outcome"]) == (at, "10", "priced")
    assert (await enqueue(db, priority=200))["result"] == "fresh"


async def test_history_gets_a_row_per_change_only(db: Connection, jobs: JobStore) -> None:
    await settings(db, fresh_for=timedelta(0))
    for ask in ("200", "200", None, None, "200"):
        await enqueue(db)
        unit = await claim_one(jobs)
        await _price(jobs, unit, quote(ask=ask, at=await now(db)))
    asks = await db.fetch("select lowest_ask from market_price_history order by observed_at")
    assert [row["lowest_ask"] for row in asks] == [200, None, 200]


async def test_every_size_that_a_fetch_brought_is_stored_and_known_targets_hear_of_it(
    db: Connection, jobs: JobStore
) -> None:
    await enqueue(db, size="11")
    await _settle_all(
        jobs, await claim_one(jobs), Failed(error_code="x", message="x", cooldown=timedelta(hours=1))
    )
    await enqueue(db, size="10")
    unit = await claim_one(jobs)
    at = await now(db)
    await _price(jobs, unit, *(quote(s, at=at) for s in ("9", "10", "11")), quote("12", None, at=at))
    assert await value(db, "select count(*) from market_prices") == 4
    target = (await _targets(db))["11"]
    assert (target["observed_at"], target["retry_at"], target["last_outcome"]) == (at, None, "priced")
    for size in ("9", "11", "12"):
        assert (await enqueue(db, size=size))["result"] == "fresh"


async def test_a_last_sale_that_cannot_be_looked_up_stands_and_one_that_is_none_goes(
    db: Connection, jobs: JobStore
) -> None:
    await settings(db, fresh_for=timedelta(0))
    sale = {"last_sale": Decimal(95), "last_sale_at": await now(db) - timedelta(days=3)}
    unknown = {"sale_unknown": True}
    stored: list[tuple[Any, ...]] = []
    for found in (unknown, sale, unknown, unknown | {"parser": 2}, sale, {}, unknown):
        await enqueue(db)
        await _price(jobs, await claim_one(jobs), quote(at=await now(db), **found))
        row = await db.fetchrow("select last_sale, last_sale_at from market_prices")
        stored.append(tuple(row or ()))
    known, none = tuple(sale.values()), (None, None)
    assert stored == [none, known, known, none, known, none, none]
    told = await db.fetch("select last_sale from market_price_history order by observed_at")
    assert [row["last_sale"] for row in told] == [None, 95, None, 95, None], "what stands is no change"


async def test_an_older_observation_never_overwrites_a_newer_one(db: Connection, jobs: JobStore) -> None:
    await settings(db, fresh_for=timedelta(0))
    newer = await now(db)
    await enqueue(db)
    await _price(jobs, await claim_one(jobs), quote(ask="200", at=newer))
    await enqueue(db)
    settled = await _price(jobs, await claim_one(jobs), quote(ask="150", at=newer - timedelta(minutes=1)))
    assert settled.changed == 0
    assert await value(db, "select lowest_ask from market_prices") == 200
    assert (await _targets(db))["10"]["observed_at"] == newer
    assert await value(db, "select count(*) from market_price_history") == 1


async def test_a_price_in_the_providers_own_size_serves_the_size_that_was_asked(
    db: Connection, jobs: JobStore
) -> None:
    await enqueue(db, size="UK 9")
    unit = await claim_one(jobs)
    await jobs.settle(unit, [(unit.jobs[0], Priced(size="10"))], [quote("10", at=await now(db))])
    assert (await enqueue(db, size="uk9"))["result"] == "fresh"
    row = await db.fetchrow("select lowest_ask, price_size from market_price_status where size = 'UK 9'")
    assert row is not None
    assert tuple(row) == (200, "10")


async def test_a_single_size_item_may_be_answered_by_all_sizes(db: Connection, jobs: JobStore) -> None:
    job_id = (await enqueue(db, size=None))["job_id"]
    unit = await claim_one(jobs)
    at = await now(db)
    await jobs.settle(
        unit, [(unit.jobs[0], Priced(size=None, reason="all_sizes"))], [quote("9", at=at), quote("10", at=at)]
    )
    assert (await job(db, job_id))["outcome"] == "all_sizes"
    assert (await enqueue(db, size=None))["result"] == "fresh"


async def test_a_size_or_a_variant_told_twice_does_not_stop_the_settle(
    db: Connection, jobs: JobStore
) -> None:
    await enqueue(db)
    unit = await claim_one(jobs)
    at = await now(db)
    listing = Listing(
        product=Product(id="p"), variants=(Variant(id="v", size="10"), Variant(id="v", size="10"))
    )
    older = quote(ask="1", at=at - timedelta(seconds=1))
    assert (await _price(jobs, unit, older, quote(at=at), listing=listing)).changed == 1
    assert await value(db, "select lowest_ask from market_prices") == 200


async def test_the_listing_is_remembered_and_never_forgets_what_it_knew(
    db: Connection, jobs: JobStore
) -> None:
    await settings(db, fresh_for=timedelta(0))
    full = Product(id="p", name="Panda", brand="Nike", image_url="https://x/y.png", details={"a": 1})
    for product in (full, Product(id="p", details={"b": 2})):
        await enqueue(db)
        listing = Listing(
            product=product, variants=(Variant(id="v1", size="10", chart={"uk": "9"}, gtins=("1",)),)
        )
        await _price(jobs, await claim_one(jobs), quote(at=await now(db)), listing=listing)
    row = await db.fetchrow("select * from market_products")
    assert row is not None
    assert (row["name"], row["image_url"], json.loads(row["details"])) == (
        "Panda",
        "https://x/y.png",
        {"a": 1, "b": 2},
    )
    assert await value(db, "select product_id from market_skus where sku = $1", SKU) == "p"
    assert await value(db, "select gtins from market_variants") == ["1"]


async def test_a_retry_waits_costs_an_attempt_and_is_told_on_the_target(
    db: Connection, jobs: JobStore
) -> None:
    job_id = (await enqueue(db))["job_id"]
    outcome = Retried(delay=timedelta(minutes=5), error_code="timeout", message="30 s")
    await _settle_all(jobs, await claim_one(jobs), outcome)
    row = await job(db, job_id)
    assert (row["status"], row["attempt"], row["error_code"]) == ("deferred", 1, "timeout")
    assert timedelta(minutes=4) < row["run_at"] - await now(db) <= timedelta(minutes=5)
    target = (await _targets(db))["10"]
    assert (target["last_error_code"], target["retry_at"]) == ("timeout", None)
    assert await claim(jobs) == []


async def test_a_release_and_a_snooze_cost_no_attempt(db: Connection, jobs: JobStore) -> None:
    job_id = (await enqueue(db))["job_id"]
    await _settle_all(jobs, await claim_one(jobs), Released(reason="budget"))
    row = await job(db, job_id)
    assert (row["status"], row["attempt"], row["error_code"]) == ("pending", 0, None)
    until = await now(db) + timedelta(hours=1)
    await _settle_all(jobs, await claim_one(jobs), Snoozed(until=until, reason="closed"))
    row = await job(db, job_id)
    assert (row["status"], row["attempt"], row["run_at"]) == ("deferred", 0, until)


async def test_who_steps_aside_keeps_its_last_error(db: Connection, jobs: JobStore) -> None:
    job_id = (await enqueue(db))["job_id"]
    outcome = Retried(delay=timedelta(0), error_code="timeout", message="30 s")
    await _settle_all(jobs, await claim_one(jobs), outcome)
    for aside in (Released(reason="circuit"), Snoozed(until=await now(db), reason="closed")):
        await db.execute(
            "update market_jobs set status = 'pending', run_at = now() where status = 'deferred'"
        )
        await _settle_all(jobs, await claim_one(jobs), aside)
        row = await job(db, job_id)
        assert (row["error_code"], row["error_message"], row["attempt"]) == ("timeout", "30 s", 1)


async def test_a_failure_is_final_has_its_reason_and_cools_the_target(db: Connection, jobs: JobStore) -> None:
    job_id = (await enqueue(db))["job_id"]
    await _settle_all(
        jobs,
        await claim_one(jobs),
        Failed(error_code="unknown_sku", message="none", cooldown=timedelta(hours=24)),
    )
    row = await job(db, job_id)
    assert (row["status"], row["error_code"], row["completed_at"] is not None) == (
        "failed",
        "unknown_sku",
        True,
    )
    target = (await _targets(db))["10"]
    assert target["retry_at"] > await now(db) + timedelta(hours=23)
    assert (await enqueue(db))["wait_reason"] == "cooldown"
    assert await value(db, "select count(*) from market_dead_letters") == 1


async def test_jobs_of_one_fetch_may_end_differently(db: Connection, jobs: JobStore) -> None:
    good = (await enqueue(db, size="10"))["job_id"]
    bad = (await enqueue(db, size="22"))["job_id"]
    unit = await claim_one(jobs)
    outcomes: dict[int, Outcome] = {
        good: Priced(size="10"),
        bad: Failed(error_code="size_not_offered", message="no 22", cooldown=timedelta(hours=1)),
    }
    await jobs.settle(unit, [(j, outcomes[j.id]) for j in unit.jobs], [quote(at=await now(db))])
    assert (await job(db, good))["status"] == "done"
    assert (await job(db, bad))["error_code"] == "size_not_offered"


async def test_changed_prices_are_told_in_pieces_that_notify_can_carry(
    connect: Connect, jobs: JobStore
) -> None:
    listener, db = await connect(), await connect()
    told: list[dict[str, Any]] = []
    await listener.add_listener("market_prices", lambda *heard: told.append(json.loads(str(heard[-1]))))
    await enqueue(db)
    unit = await claim_one(jobs)
    at = await now(db)
    sizes = [f"{i / 2:g}" for i in range(1, 45)] + [f"{i / 2:g}W" for i in range(1, 45)]
    await _price(jobs, unit, *(quote(size, at=at) for size in sizes))
    async with asyncio.timeout(5):
        while sum(len(message["prices"]) for message in told) < len(sizes):
            await listener.fetchval("select 1")
    assert {message["sku"] for message in told} == {SKU}
    assert sorted(p["size"] for m in told for p in m["prices"]) == sorted(sizes)
    # Coalesced: a message per thirty sizes, and none for what stayed as it was.
    assert [len(message["prices"]) for message in told] == [30, 30, 28]
    await db.execute("update market_settings set fresh_for = '1 microsecond'")
    await enqueue(db)
    same = [quote(size, at=await now(db)) for size in sizes[1:]]
    await _price(jobs, await claim_one(jobs), quote(sizes[0], "150", at=await now(db)), *same)
    async with asyncio.timeout(5):
        while len(told) < 4:
            await listener.fetchval("select 1")
    assert [price["size"] for price in told[3]["prices"]] == [sizes[0]]


async def test_the_longest_words_still_fit_into_a_notification(connect: Connect, jobs: JobStore) -> None:
    listener, db = await connect(), await connect()
    told: list[str] = []
    await listener.add_listener("market_prices", lambda *heard: told.append(str(heard[-1])))
    sku = "name:" + "\N{SMILING FACE WITH SUNGLASSES}" * 95 + " card"
    await enqueue(db, sku, None, provider="ebay")
    unit = await claim_one(jobs, provider="ebay")
    assert len(unit.sku) >= 100
    many = [f"{i / 2:g}W / {i / 2:g}M" for i in range(1, 62)]
    dear = {"highest_bid": Decimal("9999999.99"), "last_sale": Decimal("9999999.99")}
    at = await now(db)
    await _price(jobs, unit, *(quote(s, "9999999.99", at=at, currency="USD", **dear) for s in many))
    async with asyncio.timeout(5):
        while len(told) < 3:
            await listener.fetchval("select 1")
    assert max(len(text.encode()) for text in told) < 8000
    assert sum(len(json.loads(text)["prices"]) for text in told) == len(many)


# ---------------------------------------------------------------------------------------------------- the fence


async def test_a_late_worker_changes_neither_job_nor_price(
    db: Connection, jobs: JobStore, pool: Database
) -> None:
    job_id = (await enqueue(db))["job_id"]
    late = await claim_one(jobs)
    await _expire(db)
    await jobs.rescue()
    other = await claim_one(JobStore(pool, uuid4()))
    listing = Listing(product=Product(id="wrong"), variants=())
    with pytest.raises(LeaseLost):
        await _price(jobs, late, quote(ask="1", at=await now(db)), listing=listing)
    with pytest.raises(LeaseLost):
        await _settle_all(jobs, late, Failed(error_code="x", message="x", cooldown=timedelta(hours=1)))
    row = await job(db, job_id)
    assert (row["status"], row["lease_id"]) == ("running", other.lease_id)
    for table in ("market_prices", "market_price_history", "market_products"):
        assert await value(db, f"select count(*) from {table}") == 0
    assert (await _targets(db))["10"]["retry_at"] is None
    await _price(jobs, other, quote(at=await now(db)))


async def test_a_takeover_by_claim_alone_fences_the_first_worker_too(
    db: Connection, jobs: JobStore, pool: Database
) -> None:
    await enqueue(db, size="9")
    late = await claim_one(jobs)
    await _expire(db)
    await enqueue(db, size="10")
    await claim_one(JobStore(pool, uuid4()))
    with pytest.raises(LeaseLost):
        await _price(jobs, late, quote("9", "1", at=await now(db)))
    assert await value(db, "select count(*) from market_prices") == 0


async def test_settling_twice_writes_once(db: Connection, jobs: JobStore) -> None:
    await enqueue(db)
    unit = await claim_one(jobs)
    await _price(jobs, unit, quote(at=await now(db)))
    with pytest.raises(LeaseLost):
        await _price(jobs, unit, quote(ask="1", at=await now(db)))
    assert await value(db, "select lowest_ask from market_prices") == 200


# ------------------------------------------------------------------------------- requests during a run (9.4, 9.5)


async def test_a_request_during_a_run_is_served_by_a_price_fresh_enough_for_it(
    db: Connection, jobs: JobStore
) -> None:
    job_id = (await enqueue(db))["job_id"]
    unit = await claim_one(jobs)
    at = await now(db)
    assert (await enqueue(db, priority=200))["job_id"] == job_id
    await _price(jobs, unit, quote(at=at))
    assert (await job(db, job_id))["status"] == "done"
    assert await value(db, "select bool_and(served) from market_job_requests where loose")


async def test_a_request_during_a_run_that_its_price_is_too_old_for_runs_again(
    db: Connection, jobs: JobStore
) -> None:
    await settings(db, fresh_for=timedelta(minutes=10))
    job_id = (await enqueue(db))["job_id"]
    unit = await claim_one(jobs)
    await enqueue(db, priority=200)
    await _price(jobs, unit, quote(at=await now(db) - timedelta(minutes=11)))
    row = await job(db, job_id)
    assert (row["status"], row["attempt"], row["priority"], row["outcome"]) == ("pending", 0, 200, None)
    assert await value(db, "select count(*) from market_prices") == 1


async def test_an_urgent_request_during_a_run_that_fails_makes_the_retry_urgent(
    db: Connection, jobs: JobStore
) -> None:
    job_id = (await enqueue(db))["job_id"]
    unit = await claim_one(jobs)
    await enqueue(db, priority=200)
    await _settle_all(jobs, unit, Retried(delay=timedelta(seconds=1), error_code="timeout", message="x"))
    assert (await job(db, job_id))["priority"] == 200


@pytest.mark.parametrize("act", ["merged", "raised", "inserted", "plain"])
async def test_an_app_idle_in_transaction_stalls_nothing_but_itself(
    connect: Connect, db: Connection, jobs: JobStore, act: str
) -> None:
    app = await connect()
    await db.execute("set lock_timeout = '2s'")
    running = (await enqueue(db, size="9"))["job_id"]
    unit = await claim_one(jobs)
    await enqueue(db, "BB1-1")
    idle = app.transaction()
    await idle.start()
    match act:
        case "merged":
            await enqueue(app, size="9")
        case "raised":
            await enqueue(app, size="9", priority=200)
            await enqueue(app, "BB1-1", priority=200)
        case "inserted":
            await enqueue(app, size="10", priority=200)
        case _:
            await plain_insert(app, "AA1-1", priority=200)
            await plain_insert(app, size="9", priority=200)
    await enqueue(db, "CC1-1")
    async with asyncio.timeout(5):
        await jobs.poll(timedelta(minutes=1))
        await jobs.rescue()
        await jobs.reopen()
        assert "CC1-1" in [u.sku for u in await claim(jobs, 5)]
        assert await jobs.extend_all([unit], lease=timedelta(minutes=1)) == {unit.lease_id: True}
        settled = await _price(jobs, unit, quote("9", at=await now(db)))
    assert settled.skipped == ()
    assert (await job(db, running))["status"] == "done"
    await idle.commit()


async def test_a_row_that_an_app_locks_by_hand_delays_only_that_job(
    connect: Connect, db: Connection, pool: Database
) -> None:
    jobs = JobStore(pool, await daemon(db))
    held = (await enqueue(db, size="9"))["job_id"]
    free = (await enqueue(db, size="10"))["job_id"]
    unit = await claim_one(jobs)
    app = await connect()
    locked = app.transaction()
    await locked.start()
    await app.execute("select from market_jobs where id = $1 for update", held)
    async with asyncio.timeout(5):
        assert await jobs.extend_all([unit], lease=timedelta(minutes=1)) == {unit.lease_id: True}
        at = await now(db)
        settled = await _price(jobs, unit, quote("9", at=at), quote("10", at=at))
    assert settled.skipped == (held,)
    assert (await job(db, free))["status"] == "done"
    await locked.rollback()
    # Nobody fetches for it any more: it is rescued without fault, and served by the price that is there.
    await _expire(db)
    assert [r.job_id for r in await jobs.rescue()] == [held]
    assert await value(db, "select died_at from market_daemons") is None
    assert await claim(jobs) == []
    row = await job(db, held)
    assert (row["outcome"], row["rescues"], row["suspect_since"]) == ("fresh", 0, None)


async def test_a_job_whose_own_lease_lags_behind_its_fetch_is_not_rescued(
    db: Connection, jobs: JobStore
) -> None:
    await enqueue(db)
    unit = await claim_one(jobs)
    await db.execute("update market_jobs set lease_expires_at = now() - interval '1 second'")
    assert await jobs.rescue() == []
    await _price(jobs, unit, quote(at=await now(db)))


# ------------------------------------------------------------------------------------------- rescue and poison


async def test_an_expired_lease_returns_the_job_with_its_attempt_refunded(
    db: Connection, jobs: JobStore
) -> None:
    job_id = (await enqueue(db))["job_id"]
    await claim_one(jobs)
    assert await jobs.rescue() == []
    await _expire(db)
    assert [r.job_id for r in await jobs.rescue()] == [job_id]
    row = await job(db, job_id)
    assert (row["status"], row["attempt"], row["rescues"], row["lease_id"]) == ("pending", 0, 1, None)
    assert await value(db, "select count(*) from market_fetches") == 0


async def test_a_dead_workers_job_pays_although_the_next_claim_of_its_unit_was_quicker_than_the_rescue(
    db: Connection, jobs: JobStore
) -> None:
    lead = (await enqueue(db, size="9"))["job_id"]
    await claim_one(jobs)
    await enqueue(db, size="10")
    await _expire(db)
    await claim_one(jobs)
    await jobs.rescue()
    assert (await job(db, lead))["rescues"] == 1


async def test_mates_pay_nothing_for_a_worker_that_died_on_another_job(
    db: Connection, jobs: JobStore
) -> None:
    lead = (await enqueue(db, size="9", priority=200))["job_id"]
    mate = (await enqueue(db, size="10"))["job_id"]
    await claim_one(jobs)
    await _expire(db)
    await jobs.rescue()
    assert ((await job(db, lead))["rescues"], (await job(db, mate))["rescues"]) == (1, 0)


async def test_a_job_that_keeps_killing_its_worker_fails_as_poison(db: Connection, jobs: JobStore) -> None:
    job_id = (await enqueue(db))["job_id"]
    for _ in range(3):
        await claim_one(jobs)
        await _expire(db)
        assert [r.poisoned for r in await jobs.rescue()] == [False]
    await claim_one(jobs)
    await _expire(db)
    assert [r.poisoned for r in await jobs.rescue()] == [True]
    row = await job(db, job_id)
    assert (row["status"], row["error_code"]) == ("failed", "poison")
    assert "4 times" in row["error_message"]


async def test_a_job_that_is_there_by_chance_when_workers_die_is_no_poison_so_soon(
    db: Connection, pool: Database
) -> None:
    job_id = (await enqueue(db))["job_id"]
    for death in range(1, 11):
        # Each time another daemon dies too, at another job.
        await enqueue(db, f"OTHER-{death}")
        for _ in range(2):
            worker = JobStore(pool, await daemon(db))
            await claim_one(worker)
        await _expire(db)
        poisoned = [r.job_id for r in await JobStore(pool, uuid4()).rescue() if r.poisoned]
        assert poisoned == ([job_id] if death == 10 else []), death
        await db.execute("delete from market_jobs where sku like 'OTHER%'")


async def test_one_sweep_rescues_all_that_a_dead_daemon_held(db: Connection, pool: Database) -> None:
    await enqueue_many(db, [item(f"AA{i}-1", size) for i in range(300) for size in ("9", "10", "11", "12")])
    dead = JobStore(pool, uuid4())
    while await claim(dead, 300):
        pass
    assert await value(db, "select count(*) from market_jobs where status = 'running'") == 1200
    await _expire(db)
    assert len(await JobStore(pool, uuid4()).rescue()) == 1200
    assert await value(db, "select count(*) from market_jobs where status = 'running'") == 0


async def test_two_rescuers_at_once_rescue_each_job_once(db: Connection, pool: Database) -> None:
    await enqueue_many(db, [item(f"AA{i}-1") for i in range(20)])
    await claim(JobStore(pool, uuid4()), 20)
    await _expire(db)
    found = await asyncio.gather(*(JobStore(pool, uuid4()).rescue() for _ in range(4)))
    ids = [r.job_id for rescued in found for r in rescued]
    assert len(ids) == len(set(ids)) == 20
    assert await value(db, "select max(rescues) from market_jobs") == 1


async def test_a_stopping_daemon_gives_back_what_it_holds_and_nothing_of_others(
    db: Connection, jobs: JobStore, pool: Database
) -> None:
    await enqueue(db, "AA1-1")
    await claim_one(jobs)
    other = JobStore(pool, uuid4())
    await enqueue(db, "BB1-1")
    kept = await claim_one(other)
    assert await jobs.release_all() == 1
    row = await db.fetchrow("select * from market_jobs where sku = 'AA1-1'")
    assert row is not None
    assert (row["status"], row["attempt"], row["rescues"]) == ("pending", 0, 0)
    assert await other.extend_all([kept], lease=timedelta(minutes=1)) == {kept.lease_id: True}
    assert (await claim_one(jobs)).sku == "AA1-1"


# --------------------------------------------------------------------------------------------- poll and reopen


async def test_poll_promotes_what_is_due_and_tells_when_the_next_is(db: Connection, jobs: JobStore) -> None:
    soon = (await enqueue(db, "AA1-1", not_before=await now(db) + timedelta(milliseconds=50)))["job_id"]
    await enqueue(db, "BB1-1", not_before=await now(db) + timedelta(seconds=100))
    await db.execute("select pg_sleep_until($1)", (await job(db, soon))["run_at"])
    states = {state.provider: state for state in await jobs.poll(timedelta(minutes=1))}
    assert (await job(db, soon))["status"] == "pending"
    assert (states["stockx"].ready, states["ebay"].ready) == (True, False)
    next_due_s = states["stockx"].next_due_s
    assert next_due_s is not None
    assert 90 < next_due_s <= 100


async def test_poll_says_that_the_daemon_lives(db: Connection, pool: Database) -> None:
    daemon_id = await daemon(db)
    await db.execute("update market_daemons set alive_until = now() - interval '1 minute'")
    await JobStore(pool, daemon_id).poll(timedelta(minutes=1))
    assert await value(db, "select alive_until > now() from market_daemons")


async def test_promoted_jobs_of_one_user_take_turns_with_those_that_wait(
    db: Connection, jobs: JobStore
) -> None:
    due: datetime = await now(db) + timedelta(milliseconds=30)
    for i in range(3):
        await enqueue(db, f"AA{i}-1", user_id="ann", not_before=due)
    await db.execute("select pg_sleep_until($1)", due)
    await jobs.poll(timedelta(minutes=1))
    assert sorted([r["turn"] for r in await db.fetch("select turn from market_jobs")]) == [0, 1, 2]


async def test_next_chance_is_zero_when_work_may_go_none_when_there_is_none_else_the_wait(
    db: Connection, jobs: JobStore
) -> None:
    assert await jobs.next_chance_s("stockx", "default") is None
    await enqueue(db)
    assert await jobs.next_chance_s("stockx", "default") == 0
    await db.execute("select market_report('stockx', 'default', 'throttled', 60)")
    wait_s = await jobs.next_chance_s("stockx", "default")
    assert wait_s is not None
    assert 55 < wait_s <= 60


async def _request_in_a_long_transaction(connect: Connect, db: Connection, jobs: JobStore) -> tuple[Any, int]:
    """A request merged into a running job, uncommitted, while the job ends."""
    app = await connect()
    job_id = (await enqueue(db))["job_id"]
    unit = await claim_one(jobs)
    transaction = app.transaction()
    await transaction.start()
    assert (await enqueue(app, priority=200))["result"] == "merged"
    await _price(jobs, unit, quote(at=await now(db)))
    assert (await job(db, job_id))["status"] == "done"
    return transaction, job_id


async def test_a_request_committed_after_its_job_ended_reopens_it_unless_the_price_serves(
    connect: Connect, db: Connection, jobs: JobStore
) -> None:
    transaction, job_id = await _request_in_a_long_transaction(connect, db, jobs)
    await transaction.commit()
    assert await jobs.reopen() == 0  # the price is fresh enough for it
    assert await value(db, "select bool_and(served) from market_job_requests where loose")
    await db.execute("delete from market_jobs; delete from market_prices; delete from market_targets")
    transaction, job_id = await _request_in_a_long_transaction(connect, db, jobs)
    await transaction.commit()
    old = "observed_at - interval '20 minutes'"
    await db.execute(
        f"update market_prices set observed_at = {old}; update market_targets set observed_at = {old}"
    )
    assert await jobs.reopen() == 1
    row = await job(db, job_id)
    assert (row["status"], row["attempt"], row["priority"], row["completed_at"]) == ("pending", 0, 200, None)
    assert await jobs.reopen() == 0


async def test_reopening_leaves_a_target_alone_that_has_an_open_job_or_is_being_opened(
    connect: Connect, db: Connection, jobs: JobStore
) -> None:
    transaction, job_id = await _request_in_a_long_transaction(connect, db, jobs)
    await transaction.commit()
    old = "observed_at - interval '20 minutes'"
    await db.execute(
        f"update market_prices set observed_at = {old}; update market_targets set observed_at = {old}"
    )
    app = await connect()
    opening = app.transaction()
    await opening.start()
    await enqueue(app)
    async with asyncio.timeout(5):
        assert await jobs.reopen() == 0
    await opening.commit()
    assert await jobs.reopen() == 0
    assert await open_jobs(db) == 1
    assert (await job(db, job_id))["status"] == "done"


@pytest.mark.parametrize("old", ["20 minutes", "3 days"])
async def test_a_finished_job_whose_row_somebody_holds_is_reopened_later_and_stops_no_sweep(
    connect: Connect, db: Connection, jobs: JobStore, old: str
) -> None:
    transaction, job_id = await _request_in_a_long_transaction(connect, db, jobs)
    await transaction.commit()
    await db.execute(f"""
        update market_prices set observed_at = observed_at - interval '{old}';
        update market_targets set observed_at = observed_at - interval '{old}';
        update market_job_requests set requested_at = requested_at - interval '{old}' + interval '15 minutes'""")
    app = await connect()
    cleaning_up = app.transaction()
    await cleaning_up.start()
    await app.execute("delete from market_jobs where status in ('done', 'failed')")
    async with asyncio.timeout(5):
        assert await jobs.reopen() == 0
    await cleaning_up.rollback()
    assert await jobs.reopen() == 1
    assert (await job(db, job_id))["status"] == "pending"


async def test_many_that_become_due_together_are_promoted_without_a_pause(
    db: Connection, jobs: JobStore
) -> None:
    later = [item(f"AA{n:05}-100", not_before="2100-01-01T00:00:00Z") for n in range(1200)]
    await enqueue_many(db, later)
    await db.execute("update market_jobs set run_at = clock_timestamp()")
    due_s = {state.provider: state.next_due_s for state in await jobs.poll(timedelta(minutes=1))}
    assert due_s["stockx"] == 0
    due_s = {state.provider: state.next_due_s for state in await jobs.poll(timedelta(minutes=1))}
    assert due_s["stockx"] is None
    assert await value(db, "select count(*) from market_jobs where status = 'pending'") == 1200


async def test_what_cannot_be_written_of_one_fetch_is_not_held_against_those_beside_it(
    db: Connection, jobs: JobStore
) -> None:
    ids = [(await enqueue(db, sku, priority=200))["job_id"] for sku in ("AA1-1", "BB1-1")]
    mine = {unit.sku: unit for unit in await claim(jobs, 2)}
    good, bad = await asyncio.gather(
        _price(jobs, mine["AA1-1"], quote()),
        _price(jobs, mine["BB1-1"], quote(basis={"region": object()})),
        return_exceptions=True,
    )
    assert isinstance(good, Settled)
    assert isinstance(bad, TypeError)
    assert [(await job(db, job_id))["status"] for job_id in ids] == ["done", "running"]


async def test_an_error_code_of_a_plugin_may_hold_any_character(db: Connection, jobs: JobStore) -> None:
    job_id = (await enqueue(db))["job_id"]
    code = "of\x1fa\x00plug\ud800in"
    await _settle_all(
        jobs, await claim_one(jobs), Failed(error_code=code, message=code, cooldown=timedelta())
    )
    assert (await job(db, job_id))["error_code"] == "of a plug in"


# -------------------------------------------------------------------------------------------------------- retry


async def _fail(db: Connection, jobs: JobStore, **wish: Any) -> int:
    job_id: int = (await enqueue(db, **wish))["job_id"]
    await _settle_all(
        jobs, await claim_one(jobs), Failed(error_code="rejected", message="no", cooldown=timedelta(0))
    )
    return job_id


async def test_retry_puts_failed_jobs_back_with_a_clean_slate(db: Connection, jobs: JobStore) -> None:
    job_id = await _fail(db, jobs, priority=200)
    assert await value(db, "select market_retry('alias')") == 0
    assert await value(db, "select market_retry('stockx', 'timeout')") == 0
    with pytest.raises(asyncpg.InvalidParameterValueError, match="provider 'goat' is unknown"):
        await value(db, "select market_retry('goat')")
    assert await value(db, "select market_retry('stockx', 'rejected')") == 1
    row = await job(db, job_id)
    assert (row["status"], row["attempt"], row["rescues"], row["error_code"]) == ("pending", 0, 0, None)
    assert len(await claim(jobs)) == 1


async def test_retry_of_a_job_with_an_open_twin_merges_into_it(db: Connection, jobs: JobStore) -> None:
    failed = await _fail(db, jobs, priority=200)
    twin = (await enqueue(db))["job_id"]
    assert twin != failed
    assert await value(db, "select market_retry(ids => array[$1::bigint])", failed) == 1
    assert (await job(db, twin))["priority"] == 200
    assert (await job(db, failed))["status"] == "failed"
    assert await open_jobs(db) == 1


async def test_of_several_failures_of_one_target_only_the_last_is_retried(
    db: Connection, jobs: JobStore
) -> None:
    first, second = await _fail(db, jobs), await _fail(db, jobs)
    assert await value(db, "select market_retry()") == 1
    assert ((await job(db, first))["status"], (await job(db, second))["status"]) == ("failed", "pending")


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        ("status = 'lost'", "status_known"),
        ("priority = -1", "priority_range"),
        ("priority = 1001", "priority_range"),
        ("status = 'running'", "lease_iff_running"),
        ("status = 'running', lease_id = gen_random_uuid()", "lease_iff_running"),
        ("lease_id = gen_random_uuid(), lease_expires_at = now()", "lease_iff_running"),
        ("status = 'done', outcome = 'priced'", "finished_iff_final"),
        ("completed_at = now()", "finished_iff_final"),
        ("status = 'failed', completed_at = now()", "failed_has_reason"),
        ("status = 'done', completed_at = now()", "done_has_outcome"),
    ],
)
async def test_a_job_that_contradicts_itself_is_not_stored(db: Connection, broken: str, rule: str) -> None:
    await enqueue(db)
    with pytest.raises(asyncpg.CheckViolationError, match=rule):
        await db.execute(f"update market_jobs set {broken}")
