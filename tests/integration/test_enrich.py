"""market_enrich: which provider is asked for the image of a product that has none."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from queue_kit import SKU, Connect, Connection, enqueue


@pytest.fixture
async def catalog(db: Connection) -> Connection:
    """One product, known from StockX, which tells no images; Alias and eBay, which do, are on."""
    await db.execute("update market_providers set enabled = true")
    await db.execute(
        "insert into market_products (provider, product_id, style_code, name, category) "
        "values ('stockx', 'p1', $1, 'Dunk', 'sneakers')",
        SKU,
    )
    await db.execute("insert into market_skus (provider, sku, product_id) values ('stockx', $1, 'p1')", SKU)
    return db


async def asked(db: Connection) -> list[asyncpg.Record]:
    return await db.fetch("select provider, sku, size, priority from market_jobs order by id")


async def test_the_provider_that_answers_for_all_sizes_is_asked_and_only_that_one(
    catalog: Connection,
) -> None:
    assert await catalog.fetchval("select market_enrich()") == 1
    assert await catalog.fetchval("select market_enrich()") == 0
    assert [tuple(row) for row in await asked(catalog)] == [("alias", SKU, None, 50)]


async def test_the_next_provider_is_asked_when_the_first_had_no_image(catalog: Connection) -> None:
    await catalog.execute(
        "select market_enqueue('stockx', $1, 'UK 9'), market_enqueue('stockx', $1, '10')", SKU
    )
    await catalog.execute("select market_enrich()")
    await catalog.execute("delete from market_jobs")
    await catalog.execute("update market_targets set last_attempt_at = now() where provider = 'alias'")
    assert await catalog.fetchval("select market_enrich()") == 1
    assert [tuple(row) for row in await asked(catalog)] == [("ebay", SKU, "10", 50)]


async def _many(db: Connection, count: int) -> None:
    await db.execute(
        "insert into market_skus (provider, sku, product_id)"
        " select 'stockx', 'AA' || to_char(n, 'FM00000') || '-100', n from generate_series(1, $1::int) n",
        count,
    )


async def test_a_step_looks_at_so_many_skus_and_the_next_one_goes_on_behind_them(catalog: Connection) -> None:
    await catalog.execute("delete from market_skus")
    await _many(catalog, 25)
    step = "select queued, after from market__enrich('alias', $1, $2, 10)"
    steps, after = [], ""
    while after is not None:
        queued, after = await catalog.fetchrow(step, 7, after)
        steps.append((queued, after))
    # Seven are the limit of a step, ten the skus that it looks at; the last finds nothing behind what it ended with.
    assert steps == [(7, "AA00007-100"), (7, "AA00014-100"), (7, "AA00021-100"), (4, None)]
    assert await catalog.fetchval("select count(*) from market_jobs") == 25
    empty = await catalog.fetchrow(step, 7, "")
    assert tuple(empty) == (0, "AA00010-100")


async def test_one_call_goes_through_all_skus_until_it_has_its_number(catalog: Connection) -> None:
    await catalog.execute("delete from market_skus")
    await _many(catalog, 4100)
    await catalog.execute(
        "insert into market_targets (provider, account, sku, currency, dedupe_key, unit_key, last_attempt_at)"
        " select 'alias', 'default', sku, 'USD', k.unit || '|', k.unit, now()"
        " from market_skus, lateral (select 'alias|default|' || sku || '|USD' as unit) k where sku < 'AA04090'"
    )
    assert await catalog.fetchval("select market_enrich('alias', 3)") == 3
    assert await catalog.fetchval("select market_enrich('alias')") == 8
    assert await catalog.fetchval("select market_enrich('alias')") == 0


async def test_a_job_that_an_app_is_just_opening_keeps_no_other_from_its_image(
    catalog: Connection, connect: Connect
) -> None:
    await _many(catalog, 2)
    app = await connect()
    opening = app.transaction()
    await opening.start()
    await enqueue(app, "AA00001-100", None, provider="alias")
    async with asyncio.timeout(3):
        assert await catalog.fetchval("select market_enrich('alias')") == 2
    await opening.rollback()
    assert await catalog.fetchval("select market_enrich('alias')") == 1
