"""The first system's tables are moved aside, and what is worth keeping is copied, whatever columns they have."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from legacy_names import SQL, rewritten
from marketd.errors import SchemaError
from marketd.migrate import check, migrate

LEGACY = (SQL / "legacy.sql").read_text()
FULL = """
create type old_status as enum ('pending', 'running', 'done', 'failed', 'deferred');
create function market_touch() returns trigger language plpgsql as
  'begin new.updated_at := now(); return new; end';
create table market_jobs (id uuid primary key default gen_random_uuid(), provider text not null, sku text not null,
  size text, priority int not null default 100, status old_status not null default 'pending', user_id uuid,
  not_before timestamptz, dedupe_key text, attempts int not null default 0, created_at timestamptz default now(),
  updated_at timestamptz);
create unique index market_jobs_open on market_jobs (dedupe_key) where status in ('pending', 'running');
create trigger touch before update on market_jobs for each row execute function market_touch();
create table market_budgets (provider text primary key, used int);
create table stockx_market_prices (sku text, size text, currency text, lowest_ask numeric, highest_bid numeric,
  last_sale numeric, updated_at timestamptz);
create view market_overview as select sku, count(*) from market_jobs group by 1;
insert into market_jobs (provider, sku, size, priority, status, user_id, not_before) values
  ('stockx', 'DD1391-100', '10', 200, 'pending', '00000000-0000-0000-0000-000000000001', null),
  ('stockx', 'dd1391-100', 'US 10', 100, 'running', null, null),
  ('alias', 'CP9366', '10.5', 100, 'deferred', null, '2100-01-01'),
  ('stockx', 'DZ5485-612', '9', 100, 'done', null, null),
  ('goat', 'DZ5485-612', '9', 100, 'pending', null, null),
  ('stockx', '', '9', 100, 'pending', null, null);
insert into stockx_market_prices values
  ('DD1391-100', '10', 'GBP', 142, 120, 0, '2026-01-01 12:00+00'),
  ('CP9366', '10.5', 'USD', 0, 90, null, '2026-01-01 12:00+00'),
  ('CP9366', 'UK 9', 'USD', 100, 90, null, '2026-01-01 12:00+00'),
  ('CP9366', 'large', 'USD', 100, 90, null, '2026-01-01 12:00+00'),
  ('CV9388-100', '10W', 'GBP', null, null, null, '2026-01-01 12:00+00');
"""
SPARSE = """
create table market_jobs (id bigint generated always as identity, sku text, size text, status text);
create table stockx_market_prices (sku text, size text, lowest_ask text);
insert into market_jobs (sku, size, status) values ('DD1391-100', '10', 'queued'), ('CP9366', '9', 'completed');
insert into stockx_market_prices values ('DD1391-100', '10', '142.50'), ('CP9366', '9', 'n/a');
"""


@pytest.fixture
async def old(empty_database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database without the new schema."""
    connection = await asyncpg.connect(empty_database)
    yield connection
    await connection.close()


async def test_migrate_refuses_the_old_tables_and_names_the_script(
    old: asyncpg.Connection, empty_database: str
) -> None:
    await old.execute(FULL)
    with pytest.raises(SchemaError, match=r"legacy\.sql"):
        await migrate(empty_database)
    with pytest.raises(SchemaError, match=r"legacy\.sql"):
        await check(old)  # what `marketd run` asks


async def test_the_old_tables_are_moved_and_their_worth_copied(
    old: asyncpg.Connection, empty_database: str
) -> None:
    await old.execute(FULL)
    await old.execute(LEGACY)
    await migrate(empty_database)
    await old.execute(LEGACY)
    await check(old)
    jobs = await old.fetch(
        "select provider, sku, size, priority, status, user_id from market_jobs order by id"
    )
    assert [tuple(job) for job in jobs] == [
        ("stockx", "DD1391-100", "10", 200, "pending", "00000000-0000-0000-0000-000000000001"),
        ("alias", "CP9366", "10.5", 100, "deferred", None),
    ]
    prices = await old.fetch(
        "select sku, size, currency, lowest_ask, highest_bid, last_sale, state from market_price_status"
        " where provider = 'stockx' and observed_at is not null order by sku"
    )
    assert [tuple(price) for price in prices] == [
        ("CP9366", "10.5", "USD", None, 90, None, "no_asks"),
        ("DD1391-100", "10", "GBP", 142, 120, None, "queued"),
    ]
    assert await old.fetchval("select count(*) from market_price_history") == 2
    assert await old.fetchval("select count(*) from market_legacy.market_jobs") == 6
    # What only begins like ours is the app's: it stays where the app looks for it, and works.
    assert await old.fetchval("select count(*) from public.market_overview") == 5
    await old.execute("update market_legacy.market_jobs set size = size")
    assert await old.fetchval("select count(updated_at) from market_legacy.market_jobs") == 6


async def test_only_names_that_the_new_schema_takes_are_moved(
    old: asyncpg.Connection, empty_database: str
) -> None:
    await old.execute(FULL)
    await old.execute(
        "create table market_campaigns (id serial primary key, title text);"
        "create view market_dashboard as select title from market_campaigns;"
        "create materialized view market_totals as select count(*) from market_campaigns;"
        "create function market_note(text) returns text language sql as 'select $1';"
        "create function market_enqueue(text) returns text language sql as 'select $1';"
        "create materialized view market_catalog as select 1 as one"
    )
    await old.execute(LEGACY)
    where = (
        "select array_agg(x.name order by x.name) from (select relname::text as name from pg_class"
        " where relkind in ('r', 'v', 'm') and relnamespace = $1::regnamespace union"
        " select proname from pg_proc where pronamespace = $1::regnamespace) x"
    )
    assert await old.fetchval(where, "market_legacy") == [
        "market_budgets", "market_catalog", "market_enqueue", "market_jobs", "stockx_market_prices",
    ]  # fmt: skip
    assert await old.fetchval(where, "public") == [
        "market_campaigns", "market_dashboard", "market_note", "market_overview", "market_totals", "market_touch",
    ]  # fmt: skip
    await migrate(empty_database)
    await old.execute(LEGACY)
    await check(old)


def test_the_names_in_the_script_are_those_that_the_schema_takes() -> None:
    schema = (SQL / "schema.sql").read_text()
    assert rewritten(LEGACY, schema) == LEGACY, "run `make schema`"
    assert " market_why" in LEGACY
    assert " market_extra" in rewritten(LEGACY, f"{schema}\ncreate table market_extra (\n")


@pytest.mark.parametrize(
    "mine",
    [
        "create table market_prices (id int)",
        "create view market_catalog as select 1 as one",
        "create function market_why(text) returns text language sql as 'select $1'",
    ],
)
async def test_an_apps_own_object_in_the_way_is_named_before_anything_is_made(
    old: asyncpg.Connection, empty_database: str, mine: str
) -> None:
    await old.execute(mine)
    with pytest.raises(SchemaError, match=f"{mine.split()[2].split('(')[0]}.*legacy\\.sql"):
        await migrate(empty_database)
    assert await old.fetchval("select to_regclass('market_schema')") is None
    await old.execute(LEGACY)
    assert await migrate(empty_database)


async def test_a_repetition_changes_nothing(old: asyncpg.Connection, empty_database: str) -> None:
    await old.execute(FULL)
    await old.execute(LEGACY)
    await old.execute(LEGACY)
    await migrate(empty_database)
    await old.execute(LEGACY)
    count = "select (select count(*) from market_job_requests), (select count(*) from market_price_history)"
    before = tuple(await old.fetchrow(count))
    await old.execute(LEGACY)
    assert tuple(await old.fetchrow(count)) == before


async def test_missing_columns_and_unreadable_values_are_left_out(
    old: asyncpg.Connection, empty_database: str
) -> None:
    await old.execute(SPARSE)
    await old.execute(LEGACY)
    await migrate(empty_database)
    await old.execute(LEGACY)
    assert await old.fetch("select provider, sku, priority from market_jobs") == [
        ("stockx", "DD1391-100", 100)
    ]
    [price] = await old.fetch("select sku, currency, lowest_ask::text from market_prices")
    assert tuple(price) == ("DD1391-100", "GBP", "142.50")


async def test_a_database_that_never_knew_the_first_system_is_left_alone(
    db: asyncpg.Connection, old: asyncpg.Connection
) -> None:
    for connection in (db, old):
        await connection.execute(LEGACY)
        assert await connection.fetchval("select to_regnamespace('market_legacy')") is None
