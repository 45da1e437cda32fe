"""market_enrich: which provider is asked for the image of a product that has none."""

from __future__ import annotations

import asyncpg
import pytest

from queue_kit import SKU, Connection


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
