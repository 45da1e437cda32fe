"""Made-up products (500 in the long form) through the whole daemon: what is stored is exactly what the provider has."""

from __future__ import annotations

import json
import os
from pathlib import Path

import asyncpg
import pytest

from harness import CURRENCIES, configured, running, until
from marketd.sandbox import Sandbox
from marketd.sandbox.product import Product

Connection = asyncpg.Connection

PRODUCTS = 500 if os.environ.get("MARKETD_LONG") else 150
EBAY_PRODUCTS = PRODUCTS // 10  #: three sizes of each, since every size costs a request there
#: as many requests at once as the daemon may make, and none of them waits for the next
HASTE = {"pace": {"calls": 1000, "per": "1s"}, "concurrency": 8, "options": {}}


@pytest.mark.timeout(150)
async def test_every_stored_price_is_the_price_of_that_product_size_and_currency(
    db: Connection, database: str, tmp_path: Path
) -> None:
    async with Sandbox(seed=11, limits={"*": None}, products=PRODUCTS) as sandbox:
        products = [product for product in sandbox.world if product.key.startswith("ZQ")]
        assert len(products) == PRODUCTS
        assert {len(product.sizes) for product in products} >= {8, 25}
        wishes = _wishes(products)
        async with running(
            configured(database, sandbox, tmp_path, providers=("stockx", "alias", "ebay"), stanza=HASTE)
        ):
            said = await db.fetch(
                "select result from market_enqueue_many($1::jsonb, 100)", json.dumps(wishes)
            )
            assert {row["result"] for row in said} == {"queued"}
            await until(lambda: _settled(db), within_s=120, what="all products")
        await _as_promised(db, sandbox, products)
        # Three requests for a product that StockX was never asked before, two at Alias (search, prices).
        carried = [product for product in products if product.alias_id]
        assert sandbox.count("stockx") == 3 * PRODUCTS
        assert sandbox.count("alias") == 2 * len(carried) + (PRODUCTS - len(carried))
    stored = await db.fetch(
        "select provider, sku, size, currency, lowest_ask, highest_bid, last_sale from market_prices"
    )
    assert len(stored) > 2 * 8 * PRODUCTS
    unlisted = {product.key for product in products if product.shelf is None}
    for row in stored:
        told = (row["lowest_ask"], row["highest_bid"], row["last_sale"])
        if row["provider"] == "ebay" and row["sku"] in unlisted:
            # Asked by the enrichment, which looks for an image; an empty search is "no asks", not an unknown code.
            assert told == (None, None, None)
            continue
        truth = sandbox.truth(row["provider"], row["sku"], row["size"], row["currency"])
        assert told == truth, (row["provider"], row["sku"], row["size"])
        assert row["currency"] == CURRENCIES[row["provider"]]


def _wishes(products: list[Product]) -> list[dict[str, str | None]]:
    """One size of each product at StockX and Alias, which bring all; three sizes of some at eBay."""
    single = [
        {"provider": provider, "sku": product.key, "size": product.sizes[number % len(product.sizes)]}
        for provider in ("stockx", "alias")
        for number, product in enumerate(products)
    ]
    listed = [product for product in products if product.shelf is not None][:: PRODUCTS // EBAY_PRODUCTS - 1]
    each = [
        {"provider": "ebay", "sku": product.key, "size": size}
        for product in listed[:EBAY_PRODUCTS]
        for size in (product.sizes[0], product.sizes[len(product.sizes) // 2], product.sizes[-1])
    ]
    assert len(each) == 3 * EBAY_PRODUCTS
    return single + each


async def _as_promised(db: Connection, sandbox: Sandbox, products: list[Product]) -> None:
    """Every wish ended as it had to, and every size of what is carried is there."""
    # The enrichment's own jobs (50) may begin at any time.
    ends = await db.fetch(
        "select provider, sku, size, status, error_code from market_jobs where priority = 100 order by provider, sku"
    )
    carried = {product.key for product in products if product.alias_id}
    for job in ends:
        missing = job["provider"] == "alias" and job["sku"] not in carried
        expected = {("failed", "unknown_sku") if missing else ("done", None)}
        if job["provider"] == "ebay" and sandbox.truth("ebay", job["sku"], job["size"]).ask is None:
            # Nothing is right there: it may say so, or that some listings do not tell their size.
            expected.add(("failed", "ambiguous_product"))
        assert (job["status"], job["error_code"]) in expected, dict(job)
    sizes = {
        (row["provider"], row["sku"]): set(row["sizes"])
        for row in await db.fetch(
            "select provider, sku, array_agg(size) as sizes from market_prices group by 1, 2"
        )
    }
    for product in products:
        assert sizes["stockx", product.key] == set(product.sizes)
        if product.key in carried:
            assert sizes["alias", product.key] == set(product.sizes)


async def _settled(db: Connection) -> bool:
    open_jobs = "select exists (select from market_jobs where status in ('pending', 'running', 'deferred'))"
    return not await db.fetchval(open_jobs)
