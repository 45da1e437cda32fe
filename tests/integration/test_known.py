"""What a claim tells of its skus: what earlier fetches learnt, here and at other providers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from uuid import uuid4

import pytest

from marketd.models import NOTHING_KNOWN, Listing, Product, Variant
from marketd.store.jobs import JobStore
from queue_kit import SKU, Connection, claim, claim_one, enqueue, enqueue_many, item, opened, plenty


@pytest.fixture
async def jobs(database: str, db: Connection) -> AsyncIterator[JobStore]:
    await plenty(db)
    async with opened(database) as pool:
        yield JobStore(pool, uuid4())


async def listed(db: Connection, provider: str, sku: str = SKU, *charts: dict[str, str]) -> None:
    """A sku was found to be a product, with a size for each chart."""
    product = f"{provider} {sku}"
    await db.execute(
        "insert into market_products (provider, product_id, name, details) values ($1, $2, 'Dunk', '{\"a\": 1}')"
        " on conflict do nothing",
        provider, product,
    )  # fmt: skip
    await db.execute("insert into market_skus values ($1, $2, $3)", provider, sku, product)
    for n, chart in enumerate(charts):
        await db.execute(
            "insert into market_variants values ($1, $2, $3, $4, $5, $6)",
            provider, product, f"v{n}", str(9 + n), json.dumps(chart), ["4006381333931"],
        )  # fmt: skip


async def priced(
    db: Connection, provider: str, ask: int | None, size: str | None = "10", *,
    sku: str = SKU, account: str = "default", currency: str = "GBP", days_ago: int = 0,
) -> None:  # fmt: skip
    await db.execute(
        "insert into market_prices (provider, account, sku, size, currency, lowest_ask, observed_at, changed_at)"
        " values ($1, $2, $3, $4, $5, $6, now() - make_interval(days => $7), now())",
        provider, account, sku, size, currency, ask, days_ago,
    )  # fmt: skip


def listing(provider: str, sku: str, *charts: dict[str, str]) -> Listing:
    variants = tuple(
        Variant(id=f"v{n}", size=str(9 + n), chart=chart, gtins=("4006381333931",))
        for n, chart in enumerate(charts)
    )
    return Listing(product=Product(id=f"{provider} {sku}", name="Dunk", details={"a": 1}), variants=variants)


async def test_of_a_new_sku_nothing_is_known(db: Connection, jobs: JobStore) -> None:
    await listed(db, "stockx", "OTHER-1", {})
    await enqueue(db)
    assert (await claim_one(jobs)).known == NOTHING_KNOWN


async def test_each_unit_is_told_of_its_own_sku_and_all_its_jobs_travel(
    db: Connection, jobs: JobStore
) -> None:
    await listed(db, "stockx", SKU, {"uk": "8"}, {})
    await listed(db, "alias", SKU, {"uk": "8"})
    await listed(db, "alias", "BB1-1")
    await enqueue_many(db, [item(size="9"), item(size="10"), item("AA1-1"), item("BB1-1")])
    units = {unit.sku: unit for unit in await claim(jobs, 10)}
    assert {sku: len(unit.jobs) for sku, unit in units.items()} == {SKU: 2, "AA1-1": 1, "BB1-1": 1}
    assert units[SKU].known.listing == listing("stockx", SKU, {"uk": "8"}, {})
    assert units[SKU].known.elsewhere == listing("alias", SKU, {"uk": "8"})
    assert units["AA1-1"].known == units["BB1-1"].known == NOTHING_KNOWN  # alias knows no size of the latter


@pytest.mark.parametrize(("at_ebay", "told"), [({"uk": "8"}, "ebay"), ({}, "alias")])
async def test_elsewhere_is_who_has_size_charts(
    db: Connection, jobs: JobStore, at_ebay: dict[str, str], told: str
) -> None:
    await listed(db, "alias", SKU, {})
    await listed(db, "ebay", SKU, at_ebay)
    await enqueue(db)
    known = (await claim_one(jobs)).known
    assert known.listing is None
    assert known.elsewhere is not None
    assert known.elsewhere.product.id == f"{told} {SKU}"


async def test_an_id_means_something_else_at_each_provider(db: Connection, jobs: JobStore) -> None:
    sku = "id:" + "0" * 8 + "-0000-4000-8000-" + "0" * 12
    await listed(db, "stockx", sku, {})
    await listed(db, "alias", sku, {})
    await priced(db, "alias", 200, sku=sku)
    await enqueue(db, sku)
    known = (await claim_one(jobs)).known
    assert known.listing == listing("stockx", sku, {})
    assert known.elsewhere is None
    assert known.references == {}


async def test_references_are_median_asks_of_others_in_the_same_currency_of_this_week(
    db: Connection, jobs: JobStore
) -> None:
    for account, ask in (("default", 100), ("second", 200), ("third", 900)):
        await priced(db, "alias", ask, account=account)
    await priced(db, "ebay", 55, None)
    await priced(db, "ebay", 10, currency="EUR")
    await priced(db, "ebay", 11, account="second", days_ago=8)
    await priced(db, "ebay", None, "11")
    await priced(db, "stockx", 12, "12")
    await enqueue(db)
    await enqueue(db, size="9", currency="EUR")
    pounds, euros = await claim(jobs, 2)
    assert pounds.known.references == {"10": Decimal(200), None: Decimal(55)}
    assert euros.currency == "EUR"
    assert euros.known.references == {"10": Decimal(10)}
