"""With a deep backlog every statement of the hot path walks the index made for it, a short way, through few pages.

50,000 jobs in `make test`, and MARKETD_PLAN_JOBS of them where that is set: `make soak` takes 1,000,000.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from harness import until
from marketd.outcome import Priced
from marketd.store.jobs import JobStore
from marketd.store.rows import column
from marketd.store.sqlfile import queries
from queue_kit import (
    Connection,
    claim,
    daemon,
    enqueue,
    enqueue_many,
    hold_background_back,
    item,
    opened,
    plenty,
    quote,
)

JOBS = int(os.environ.get("MARKETD_PLAN_JOBS", "50000"))

pytestmark = pytest.mark.timeout(60 + JOBS / 2000)

# unit_key and dedupe_key are given, so the trigger for plain INSERTs looks away.
_SEED = f"""
insert into market_jobs (provider, sku, size, currency, priority, status, rank, turn, run_at, attempt, lease_id,
    lease_expires_at, error_code, outcome, completed_at, user_id, unit_key, dedupe_key)
select 'stockx', 'AA' || i / 5 || '-1', (5 + i % 5)::text, 'GBP', case when i % 10 = 0 then 200 else 100 end, k.status,
       0, i, now() + interval '1 hour' * (i % 97 + 1) * case when k.status = 'deferred' then 1 else -1 end,
       1, case when k.status = 'running' then gen_random_uuid() end,
       case when k.status = 'running' then now() + interval '1 hour' end,
       case when k.status = 'failed' then 'timeout' end, case when k.status in ('done', 'failed') then k.status end,
       case when k.status in ('done', 'failed') then now() - interval '1 day' * (i % 5) end, 'u' || i % 20,
       'stockx|default|AA' || i / 5 || '-1|GBP', 'stockx|default|AA' || i / 5 || '-1|GBP|' || 5 + i % 5
  from generate_series(1, {JOBS}) i,
       lateral (select (array['pending', 'pending', 'deferred', 'done', 'failed'])[i % 5 + 1] as status) s,
       lateral (select case when i % 500 = 0 then 'running' else s.status end as status) k;
insert into market_targets (provider, account, sku, size, currency, dedupe_key, unit_key)
select provider, account, sku, size, currency, dedupe_key, unit_key from market_jobs on conflict do nothing;
insert into market_fetches select distinct on (unit_key) unit_key, provider, account, sku, currency, lease_id,
       lease_expires_at, gen_random_uuid(), now() from market_jobs where status = 'running';
insert into market_job_requests (job_id, priority, served, loose)
select id, priority, status in ('done', 'failed'), id % 100 = 0 from market_jobs;
insert into market_job_requests (job_id, priority, requested_at)
select id, priority, now() - interval '1 day' * (id % 5) from market_jobs;
insert into market_products (provider, product_id)
select distinct p, sku from market_jobs, unnest(array['stockx', 'alias']) p;
insert into market_skus select provider, product_id, product_id from market_products;
insert into market_variants (provider, product_id, variant_id)
select provider, product_id, n from market_products, generate_series(1, 3) n;
insert into market_prices (provider, sku, size, currency, lowest_ask, observed_at, changed_at)
select distinct 'alias', sku, size, currency, 100, now(), now() from market_jobs;
"""


@pytest.fixture(scope="module")
def seeded(postgres_server: str, template_database: str) -> Iterator[str]:
    """DSN of a database with a deep backlog; every test rolls back what it does to it."""
    name = f"marketd_plans_{secrets.token_hex(6)}"
    parts = urlsplit(postgres_server)
    dsn = f"{parts.scheme}://{parts.netloc}/{name}?{parts.query}"

    async def run(where: str, *statements: str) -> None:
        connection = await asyncpg.connect(where)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(run(postgres_server, f"create database {name} template {template_database}"))
        try:
            runner.run(run(dsn, _SEED, "vacuum analyze"))
            yield dsn
        finally:
            runner.run(run(postgres_server, f"drop database {name} with (force)"))


@pytest.fixture
async def full(seeded: str) -> AsyncIterator[Connection]:
    """A connection to the seeded database, in a transaction that is rolled back."""
    connection = await asyncpg.connect(seeded)
    transaction = connection.transaction()
    await transaction.start()
    await plenty(connection)
    await daemon(connection)
    yield connection
    await transaction.rollback()
    await connection.close()


def _nodes(plan: Any) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


async def _scans(db: Connection, statement: str, *args: Any) -> dict[str, int]:
    """The indexes (or `seq scan`) by which a statement reads market_jobs, and how many rows each looked at."""
    explained = await db.fetchval(f"explain (analyze, format json) {statement}", *args)
    found: dict[str, int] = {}
    for node in _nodes(json.loads(explained)[0]["Plan"]):
        name = node.get("Index Name") or ("seq scan" if node["Node Type"] == "Seq Scan" else None)
        if name is None or not (
            name.startswith("market_jobs_") or node.get("Relation Name") == "market_jobs"
        ):
            continue
        looked_at = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        found[name] = found.get(name, 0) + round(looked_at)
    return found


async def _pages(db: Connection, statement: str, *args: Any) -> int:
    """Pages that a statement touched, those of its triggers and functions included."""
    explained = await db.fetchval(f"explain (analyze, buffers, format json) {statement}", *args)
    plan = json.loads(explained)[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def _claim(db: Connection, units: int = 3) -> dict[str, int]:
    sql = queries("jobs")["claim"]
    lease = await db.fetchval("select interval '1 minute'")
    return await _scans(db, sql, "stockx", "default", units, uuid4(), lease, True)


async def test_claim_walks_the_ready_index_a_few_rows_far(full: Connection) -> None:
    scans = await _claim(full)
    assert "seq scan" not in scans
    assert 0 < scans["market_jobs_ready"] < 100
    assert scans["market_jobs_mates"] < 100
    assert sum(scans.values()) < 400


async def test_claim_finds_what_is_known_by_key(full: Connection) -> None:
    statement, lease = queries("jobs")["claim"], await full.fetchval("select interval '1 minute'")
    await full.fetch(statement, "stockx", "default", 50, uuid4(), lease, True)
    told = await full.fetch(statement, "stockx", "default", 50, uuid4(), lease, True)
    assert {row["known"] for row in told} == {None, "listing", "elsewhere", "asks"}
    read = await full.fetch(
        "select relname, seq_tup_read from pg_stat_xact_user_tables where seq_tup_read > 0 and relname in"
        " ('market_skus', 'market_products', 'market_variants', 'market_prices')"
    )
    assert [tuple(row) for row in read] == []


async def _compared(db: Connection, statement: str, *args: Any) -> int:
    """How many pairs of rows a statement's joins compared in vain. It is run."""
    explained = await db.fetchval(f"explain (analyze, format json) {statement}", *args)
    return sum(
        node["Actual Loops"] * node.get("Rows Removed by Join Filter", 0)
        for node in _nodes(json.loads(explained)[0]["Plan"])
    )


async def _settle_args(
    db: Connection, daemon_id: UUID, *, also: Sequence[str] = ()
) -> tuple[int, Sequence[Any]]:
    """How many jobs a daemon holds, and what settles them: a price for each, and for each size in `also`."""
    held = await db.fetch(
        "select f.unit_key, f.lease_id, f.sku, j.id, j.size from market_fetches f"
        " join market_jobs j on j.lease_id = f.lease_id where f.locked_by = $1",
        daemon_id,
    )
    units = {row["unit_key"]: row for row in held}
    place = {key: n for n, key in enumerate(units, 1)}
    jobs = [(place[row["unit_key"]], row["id"], row["size"]) for row in held]
    priced = {(u, size) for u, _, size in jobs} | {(u, size) for u in place.values() for size in also}
    seen = (await db.fetchval("select now()")).timestamp()

    def columns(rows: Sequence[Sequence[Any]]) -> list[str | Sequence[float | None] | None]:
        return [column(values) for values in zip(*rows, strict=True)]

    return len(jobs), (
        list(units),
        [row["lease_id"] for row in units.values()],
        ["stockx"] * len(units),
        ["default"] * len(units),
        [row["sku"] for row in units.values()],
        *columns([(u, number, *["priced"] * 2, size, seen, *[None] * 5) for u, number, size in jobs]),
        *columns([(u, size, "GBP", 10, *[None] * 5, seen, None, 1, None) for u, size in priced]),
        "[]",
    )


async def test_claim_and_settle_touch_few_pages_for_a_unit_however_many_wait(full: Connection) -> None:
    lease = await full.fetchval("select interval '1 minute'")
    claim = ("stockx", "default", 20, uuid4(), lease, True)
    await full.fetch(queries("jobs")["claim"], *claim)  # the first to come sees the catalogs, too
    for_queue, for_known = 20 * 60, 20 * 40
    assert await _pages(full, queries("jobs")["claim"], *claim) < for_queue + for_known
    rows, settle = await _settle_args(full, claim[3])
    assert len(settle[0]) == 2 * 20
    pages = await _pages(full, queries("jobs")["settle"], *settle)
    assert pages < rows * 120
    assert await full.fetchval("select count(*) from market_prices where provider = 'stockx'") == rows


async def test_settle_finds_the_other_sizes_of_its_products_without_comparing_each_with_each(
    full: Connection,
) -> None:
    lease, mine = await full.fetchval("select interval '1 minute'"), uuid4()
    await full.fetch(queries("jobs")["claim"], "stockx", "default", 20, mine, lease, True)
    sizes = ("5", "6", "7", "8", "9")
    _, settle = await _settle_args(full, mine, also=sizes)
    assert await _compared(full, queries("jobs")["settle"], *settle) <= 20 * len(sizes)
    known = "select count(*) from market_targets where sku = any ($1) and observed_at is not null"
    assert await full.fetchval(known, settle[4]) == len(settle[4]) * len(sizes)


async def test_extend_finds_the_leases_of_its_units_without_comparing_each_with_each(
    full: Connection,
) -> None:
    lease, mine = await full.fetchval("select interval '1 minute'"), uuid4()
    await full.fetch(queries("jobs")["claim"], "stockx", "default", 20, mine, lease, True)
    _, (units, leases, *_) = await _settle_args(full, mine)
    extend = (units, leases, 2 * lease)
    assert await _compared(full, queries("jobs")["extend"], *extend) <= 20
    kept = "lease_expires_at > clock_timestamp() + interval '90 seconds'"
    for table in ("market_fetches", "market_jobs"):
        held = await full.fetchval(f"select bool_and({kept}) from {table} where locked_by = $1", mine)
        assert held, table


async def test_asking_touches_few_pages_however_many_wait(full: Connection) -> None:
    one = "select * from market_enqueue('stockx', $1, '6', 100)"
    await _pages(full, one, "NEW-1")
    assert await _pages(full, one, "NEW-2") < 500  # places ahead are counted up to 200
    many = "select * from market_enqueue_many($1::jsonb, 100)"
    items = json.dumps([{"provider": "stockx", "sku": f"NEW-{n}", "size": "7"} for n in range(1000)])
    assert await _pages(full, many, items) < 1000 * 60 + 202 * 300


async def test_claim_of_background_alone_does_not_wade_through_urgent_jobs(full: Connection) -> None:
    await full.execute("update market_settings set wake_priority = 150")
    await full.execute("update market_jobs set status = 'done', outcome = 'priced', completed_at = now()"
                       " where status = 'pending' and priority = 200 and id % 3 = 0")  # fmt: skip
    scans = await _claim(full)
    assert "seq scan" not in scans
    assert sum(scans.values()) < 400


async def test_claim_of_urgent_alone_finds_none_without_reading_the_backlog(full: Connection) -> None:
    await full.execute("update market_jobs set priority = 100 where status = 'pending'")
    await hold_background_back(full)
    scans = await _claim(full)
    assert "seq scan" not in scans
    # Entries of the rows' former versions are still in the index; no row of the backlog is.
    assert scans["market_jobs_ready"] == 0


@pytest.mark.parametrize("due", [0, 5])
async def test_promotion_walks_the_due_index_and_stops_at_what_is_not_due(full: Connection, due: int) -> None:
    await full.execute(
        "update market_jobs set run_at = now() - interval '1 second' where id in"
        " (select id from market_jobs where status = 'deferred' limit $1)",
        due,
    )
    alive = await full.fetchval("select interval '1 minute'")
    scans = await _scans(full, queries("jobs")["poll"], uuid4(), alive)
    assert "seq scan" not in scans
    assert scans["market_jobs_due"] <= due + 1


async def test_rescue_walks_the_lease_index(full: Connection) -> None:
    scans = await _scans(full, queries("jobs")["rescue"])
    assert "seq scan" not in scans
    assert "market_jobs_leases" in scans
    assert sum(scans.values()) < 250


async def test_pruning_walks_the_finished_index_for_one_batch(full: Connection) -> None:
    keep = await full.fetchval("select interval '3 days'")
    scans = await _scans(full, queries("runs")["prune_jobs"], keep, 100)
    assert "seq scan" not in scans
    assert scans["market_jobs_finished"] <= 100


_ROWS_READ = """
    select sum(seq_tup_read + idx_tup_fetch) from pg_stat_xact_user_tables
     where relname in ('market_jobs', 'market_job_requests')"""


@pytest.mark.parametrize("name", ["prune_jobs", "prune_joined"])
async def test_pruning_by_a_kept_plan_reads_one_batch(full: Connection, name: str) -> None:
    keep = await full.fetchval("select interval '3 days'")
    await full.execute("set plan_cache_mode = force_generic_plan")  # as after its fifth call
    async with full.transaction():
        before = await full.fetchval(_ROWS_READ)
        assert await full.fetchval(queries("runs")[name], keep, 100) == 100
        assert await full.fetchval(_ROWS_READ) - before < 1000


async def test_counting_wishes_by_a_kept_plan_reads_the_new_ones_and_their_jobs(full: Connection) -> None:
    newest = await full.fetchval(queries("runs")["last_wish"])
    await full.execute("set plan_cache_mode = force_generic_plan")  # as after its fifth call
    async with full.transaction():
        before = await full.fetchval(_ROWS_READ)
        wishes = await full.fetch(queries("runs")["wishes"], newest - 10, newest, [newest - 20], [newest])
        assert sum(row["wishes"] for row in wishes) == 10
        assert await full.fetchval(_ROWS_READ) - before < 1000


async def test_the_figures_of_a_run_walk_the_finished_index(full: Connection) -> None:
    since = await full.fetchval("select now() - interval '1 hour'")
    until = await full.fetchval("select now() - interval '1 minute'")
    scans = await _scans(full, queries("jobs")["finished_since"], since, until)
    assert set(scans) == {"market_jobs_finished"}


async def test_the_look_up_of_enqueue_walks_the_index_of_open_jobs(full: Connection) -> None:
    look_up = "j.dedupe_key = {} and j.status in ('pending', 'running', 'deferred')"
    body = await full.fetchval("select prosrc from pg_proc where proname = 'market__open'")
    assert look_up.format("w.dedupe_key") in body
    statement = f"select j.id from market_jobs j where {look_up.format('$1')}"
    assert await _scans(full, statement, "stockx|default|AA77-1|GBP|6") == {"market_jobs_open": 1}


@pytest.mark.parametrize("wake_priority", [100, 150, 250])
async def test_counting_for_gauges_leaves_what_waits_in_its_index(
    full: Connection, wake_priority: int
) -> None:
    await full.execute("update market_settings set wake_priority = $1", wake_priority)
    scans = await _scans(full, queries("jobs")["gauges"])
    assert set(scans) == {"market_jobs_ready", "market_jobs_leases", "market_jobs_due"}
    counted = await full.fetch(queries("jobs")["gauges"])
    there = await full.fetch(
        "select provider, account, status, band, jobs, oldest_ready_s from market_queue_status"
    )
    assert {tuple(row)[:5] for row in counted} == {tuple(row)[:5] for row in there}
    oldest = {(row["status"], row["band"]): row["oldest_ready_s"] for row in there}
    for row in counted:
        assert row["oldest_ready_s"] == pytest.approx(oldest[row["status"], row["band"]], abs=30)


async def test_targets_are_estimated_from_a_limited_number_of_pages(full: Connection) -> None:
    statement = queries("runs")["target_states"]
    [row] = await full.fetch(statement)
    there = await full.fetchval("select count(*) from market_targets")
    assert tuple(row)[:2] == ("stockx", "never")
    assert row["targets"] == pytest.approx(there, rel=0.1)
    assert await _pages(full, statement) < 2500


async def test_ages_of_prices_are_estimated_from_a_limited_number_of_pages(full: Connection) -> None:
    wide = "select string_agg(md5(i::text), '') as words from generate_series(1, 55) i"
    await full.execute(
        "insert into market_prices (provider, sku, currency, basis, observed_at, changed_at)"
        " select 'ebay', 'S-' || n, 'USD', to_jsonb(words), now() - n * interval '1 second', now()"
        f" from generate_series(1, 20000) n, ({wide}) w"
    )
    statement = queries("runs")["price_ages"]
    [ages] = [row["ages_s"] for row in await full.fetch(statement) if row["provider"] == "ebay"]
    assert ages == pytest.approx([10_000, 19_000, 20_000], rel=0.1)
    assert await _pages(full, statement) < 2500


async def test_looking_for_the_next_chance_reads_one_end_of_the_queue(full: Connection) -> None:
    await full.execute("update market_jobs set priority = 100 where status = 'pending' and priority = 200")
    for provider in ("stockx", "ebay"):
        scans = await _scans(full, queries("jobs")["next_chance"], provider, "default")
        assert "seq scan" not in scans
        assert sum(scans.values()) < 10


@pytest.mark.parametrize("sku", ["AA77-1", "NEW-1"])
async def test_asking_reads_no_table_from_end_to_end(full: Connection, sku: str) -> None:
    for priority in (100, 200):
        await enqueue(full, sku, "6", priority)
    await full.fetch("select * from market_why('stockx', $1, '6')", sku)
    await full.fetch(
        "select * from market_price_status where provider = 'stockx' and sku = $1 and size = '6'", sku
    )
    read = await full.fetch(
        "select relname, seq_tup_read from pg_stat_xact_user_tables where relname in"
        " ('market_jobs', 'market_targets', 'market_prices', 'market_job_requests') and seq_tup_read > 0"
    )
    assert [tuple(row) for row in read] == []


async def test_reopening_and_folding_read_only_what_is_open(full: Connection) -> None:
    await full.fetch(queries("jobs")["fold"])
    await full.fetch(queries("jobs")["reopen"])
    assert (
        await full.fetchval(
            "select seq_tup_read from pg_stat_xact_user_tables where relname = 'market_job_requests'"
        )
        == 0
    )


async def test_a_bulk_enqueue_into_empty_tables_walks_none_of_them(db: Connection) -> None:
    # Plans are made at the first item, when the statistics say that each table is a page: the cost would be quadratic.
    await db.execute("analyze")
    await daemon(db)
    items = json.dumps([{"provider": "stockx", "sku": f"AA{n}-100", "size": "10"} for n in range(500)])
    transaction = db.transaction()
    await transaction.start()
    answers = await db.fetch("select result from market_enqueue_many($1::jsonb, 100)", items)
    walked = await db.fetch(
        "select relname, seq_tup_read from pg_stat_xact_user_tables where seq_tup_read > 500 * 10"
    )
    await transaction.rollback()
    assert {row["result"] for row in answers} == {"queued"}
    assert not walked


async def test_an_answer_that_was_planned_with_an_empty_queue_walks_no_long_one(db: Connection) -> None:
    read = "select idx_tup_fetch from pg_stat_xact_user_tables where relname = 'market_jobs'"
    await db.execute("analyze")
    await daemon(db)
    await enqueue(db, "AA0-99")
    await enqueue_many(db, [item(f"AA{n}-100") for n in range(2000)])
    async with db.transaction():
        before = await db.fetchval(read)
        assert (await enqueue(db, "AA0-101"))["eta"] is None  # more than 200 are ahead
        assert 200 < await db.fetchval(read) - before < 500


@pytest.mark.parametrize("analyzed", [False, True], ids=["never analyzed", "analyzed while no fetch ran"])
async def test_the_kept_plans_of_claim_and_settle_do_for_more_than_a_new_database_holds(
    analyzed: bool, database: str, db: Connection
) -> None:
    # Postgres keeps a plan from the sixth call on; until the next ANALYZE it has to do for whatever comes.
    await plenty(db)
    if analyzed:
        await db.execute("vacuum analyze")
    async with opened(database, size=1) as pool:
        jobs = JobStore(pool, uuid4())
        for n, items in enumerate([1] * 7 + [300]):
            await enqueue_many(db, [item(f"AA{n}-{i}") for i in range(100, 100 + items)])
            units = await claim(jobs, items)
            assert len(units) == items
            await asyncio.gather(
                *(jobs.settle(unit, [(unit.jobs[0], Priced(size="10"))], [quote()]) for unit in units)
            )
        kept = await pool.fetch("select statement from pg_prepared_statements where generic_plans > 0")
    for name in ("claim", "settle"):
        assert queries("jobs")[name] in {row["statement"] for row in kept}
    # Its session has ended, so what it has read is told, together with what it wrote.
    told = "select n_tup_ins = 307 from pg_stat_user_tables where relname = 'market_price_history'"
    await until(lambda: db.fetchval(told), what="the statistics of the settles")
    walked = await db.fetch(
        "select relname, seq_tup_read from pg_stat_user_tables where seq_tup_read > 300 * 10"
        " and relname <> 'market_settings'"
    )
    assert [tuple(row) for row in walked] == []
