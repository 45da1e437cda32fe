"""The whole daemon against providers that were written from the fact sheet alone."""

from __future__ import annotations

import json
from pathlib import Path

import asyncpg
import pytest

from harness import CURRENCIES, GOLDEN, configured, running, until
from standin import standing_in

#: sku, size, and how a request for it ends at each provider asked alone
REFUSED = (
    ("DD1503-103", "7.5", {"stockx": "size_system", "alias": "size_system", "ebay": "size_system"}),
    ("DD1391-100", "10W", {"stockx": "size_system", "alias": "size_system", "ebay": "size_system"}),
    ("IB4171-100", "5", {"stockx": "size_system", "alias": "size_system", "ebay": None}),
    ("DC7770-160", "UK 6", {"stockx": "ambiguous_size", "alias": "ambiguous_size", "ebay": "size_system"}),
    ("DD1391-100", "22", {"stockx": "size_not_offered", "alias": "size_not_offered", "ebay": None}),
    ("DD1391-999", "10", {"stockx": "unknown_sku", "alias": "unknown_sku", "ebay": None}),
    ("DZ5485-401", "10", {"stockx": "unknown_sku", "alias": "unknown_sku", "ebay": None}),
)

PROVIDERS = ("stockx", "alias", "ebay")
SETTLED = "select not exists (select from market_jobs where status in ('pending', 'running', 'deferred'))"
TWICE = (
    "FV5029-010",
    "CV9388-100",
)  #: two products at StockX have this code; a look at the other's sizes costs a call


async def test_the_golden_set_is_right_at_providers_that_no_one_here_wrote_the_client_for(
    db: asyncpg.Connection, database: str, tmp_path: Path
) -> None:
    async with standing_in() as providers:
        settings = configured(database, providers, tmp_path, providers=PROVIDERS)
        wishes = [
            {"provider": provider, "sku": sku, "size": size} for provider in PROVIDERS for sku, size in GOLDEN
        ]
        async with running(settings):
            await db.fetch("select * from market_enqueue_many($1::jsonb, 200)", json.dumps(wishes))
            await until(lambda: db.fetchval(SETTLED), within_s=30, what="thirty prices")
        rows = await db.fetch(
            "select provider, sku, size, currency, lowest_ask, highest_bid, last_sale, state from market_price_status"
        )
    assert providers.breaches == []
    assert len(rows) == 30
    for row in rows:
        told = (row["lowest_ask"], row["highest_bid"], row["last_sale"])
        assert told == providers.truth(row["provider"], row["sku"], row["size"]), dict(row)
        assert (row["state"], row["currency"]) == ("priced", CURRENCIES[row["provider"]])
    assert providers.calls == {"stockx": 3 * len(GOLDEN) + len(TWICE), "alias": 20, "ebay": 10}
    kept = await db.fetch("select to_jsonb(p) || to_jsonb(m) as row from market_products p, market_prices m")
    assert not any("a-seller-nobody-may-keep" in row["row"] for row in kept)


async def test_every_size_of_every_shoe_is_right_there_too(
    db: asyncpg.Connection, database: str, tmp_path: Path
) -> None:
    async with standing_in() as providers:
        settings = configured(database, providers, tmp_path, providers=("stockx", "alias"))
        wishes = [{"provider": provider, "sku": sku} for provider in ("stockx", "alias") for sku, _ in GOLDEN]
        async with running(settings):
            await db.fetch("select * from market_enqueue_many($1::jsonb, 200)", json.dumps(wishes))
            await until(lambda: db.fetchval(SETTLED), within_s=30, what="all sizes")
        rows = await db.fetch("select * from market_prices")
    assert providers.breaches == []
    assert len(rows) > 250
    for row in rows:
        told = (row["lowest_ask"], row["highest_bid"], row["last_sale"])
        assert told == providers.truth(row["provider"], row["sku"], row["size"]), dict(row)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_what_cannot_be_told_for_certain_gets_a_reason_there_and_no_price(
    db: asyncpg.Connection, database: str, tmp_path: Path, provider: str
) -> None:
    async with standing_in() as providers:
        settings = configured(database, providers, tmp_path, providers=(provider,))
        wishes = [{"provider": provider, "sku": sku, "size": size} for sku, size, _ in REFUSED]
        async with running(settings):
            await db.fetch("select * from market_enqueue_many($1::jsonb, 200)", json.dumps(wishes))
            await until(lambda: db.fetchval(SETTLED), within_s=30, what="all answers")
        rows = await db.fetch("select sku, size, error_code, error_message from market_jobs")
        states = await db.fetch("select sku, size, state, lowest_ask from market_price_status")
    assert providers.breaches == []
    expected = {(sku, size): codes[provider] for sku, size, codes in REFUSED}
    assert {(row["sku"], row["size"]): row["error_code"] for row in rows} == expected
    assert all(row["error_message"] for row in rows if row["error_code"])
    assert {(row["sku"], row["size"]): row["state"] for row in states} == {
        key: code or "no_asks" for key, code in expected.items()
    }
    assert not any(row["lowest_ask"] for row in states)
