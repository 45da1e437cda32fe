"""eBay's extras against the sandbox: sold prices with and without the scope, sizes by another provider's chart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from harness import configured, running, until
from marketd.sandbox import Sandbox
from provider_kit import client, quote_of

Connection = asyncpg.Connection
PANDA = "DD1391-100"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, limits={"*": None}) as server:
        yield server


async def test_with_the_scope_the_last_sale_of_the_right_thing_is_told(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.grant_insights()
    options, now = {"insights": True}, datetime.now(UTC)
    async with client("ebay", sandbox.settings["ebay"], tmp_path, options, granted_at=now) as caller:
        for sku, size in ((PANDA, "10"), ("CP9366", "10.5"), ("DD1503-103", "7.5W")):
            quote = quote_of(await caller.fetch(sku, size), size)
            truth = sandbox.truth("ebay", sku, size, sold=True)
            assert truth.last_sale is not None
            assert (quote.lowest_ask, quote.last_sale) == (truth.ask, truth.last_sale)
            assert quote.basis["insights"] == "used"
            assert quote.basis["sales_90d"] > 1
        assert (sandbox.count("ebay"), sandbox.count("ebay", endpoint="token")) == (6, 1)
        assert caller.gate.charged == 7, "every request is charged, those for sold prices too"


async def test_a_keyset_without_the_scope_gets_its_asks_all_the_same(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    async with client("ebay", sandbox.settings["ebay"], tmp_path, {"insights": True}) as caller:
        for sku, size in ((PANDA, "10"), ("CP9366", "10.5")):
            quote = quote_of(await caller.fetch(sku, size), size)
            assert (quote.lowest_ask, quote.last_sale) == (sandbox.truth("ebay", sku, size).ask, None)
            assert quote.basis["insights"] == "refused"
        statuses = [(entry.endpoint, entry.status) for entry in sandbox.requests]
        assert statuses == [
            ("token", 400),  # invalid_scope
            ("token", 200),
            ("search", 200),
            ("insights", 403),
            ("search", 200),
        ]
        assert caller.gate.charged == len(statuses)


async def test_the_daemon_stores_the_last_sale_and_stays_open_without_the_scope(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    stanza: dict[str, Any] = {"options": {"insights": True}}
    async with running(configured(database, sandbox, tmp_path, providers=("ebay",), stanza=stanza)):
        await _priced(db, PANDA, "10")
    row = await db.fetchrow("select lowest_ask, last_sale, basis ->> 'insights' as word from market_prices")
    assert tuple(row or ()) == (sandbox.truth("ebay", PANDA, "10").ask, None, "refused")
    assert await db.fetchval("select circuit from market_providers where provider = 'ebay'") == "closed"
    sandbox.grant_insights()
    async with running(configured(database, sandbox, tmp_path, providers=("ebay",), stanza=stanza)):
        await _priced(db, "CP9366", "10.5")
    row = await db.fetchrow(
        "select last_sale, last_sale_at, basis ->> 'insights' as word from market_prices where sku = 'CP9366'"
    )
    assert row is not None
    assert row["word"] == "used"
    assert row["last_sale"] == sandbox.truth("ebay", "CP9366", "10.5", sold=True).last_sale
    assert row["last_sale_at"] is not None


async def test_a_last_sale_that_is_refused_from_now_on_is_not_told_as_if_it_were_of_today(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    sections: dict[str, Any] = {"stanza": {"options": {"insights": True}}, "jobs": {"fresh_for": "100ms"}}
    for granted in (True, False):
        sandbox.grant_insights(granted)
        sandbox.expire_tokens("ebay")
        async with running(configured(database, sandbox, tmp_path, providers=("ebay",), **sections)):
            await _priced(db, PANDA, "10")
    truth = sandbox.truth("ebay", PANDA, "10", sold=True)
    row = await db.fetchrow(
        "select lowest_ask, last_sale, last_sale_at, basis ->> 'insights' as word from market_prices"
    )
    assert tuple(row or ()) == (truth.ask, None, None, "refused")
    sales = await db.fetch("select last_sale from market_price_history order by observed_at")
    assert [sale["last_sale"] for sale in sales] == [truth.last_sale, None], "the history still has it"


async def test_a_last_sale_that_cannot_be_had_this_time_stands_with_its_date(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.grant_insights()
    sections: dict[str, Any] = {"stanza": {"options": {"insights": True}}, "jobs": {"fresh_for": "1ms"}}
    row = "select last_sale, last_sale_at, observed_at, basis ->> 'insights' as word from market_prices"
    async with running(configured(database, sandbox, tmp_path, providers=("ebay",), **sections)):
        await _priced(db, PANDA, "10")
        before = await db.fetchrow(row)
        sandbox.fault("ebay", "status", endpoint="insights", status=500, times=None)
        await _priced(db, PANDA, "10")
        after = await db.fetchrow(row)
    assert before is not None
    assert after is not None
    assert (before["word"], after["word"]) == ("used", "no_answer")
    assert before["last_sale"] == sandbox.truth("ebay", PANDA, "10", sold=True).last_sale
    assert after["observed_at"] > before["observed_at"]
    assert (after["last_sale"], after["last_sale_at"]) == (before["last_sale"], before["last_sale_at"])


async def test_a_uk_size_at_ebay_goes_by_the_chart_that_another_provider_told(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with running(configured(database, sandbox, tmp_path, providers=("stockx", "alias", "ebay"))):
        assert await _ended(db, "ebay", "DC7770-160", "UK 9") == ("failed", "size_system")
        assert (await _ended(db, "alias", "DC7770-160", "10"))[0] == "done"
        assert (await _ended(db, "stockx", "DC7770-160", "10"))[0] == "done"
        assert await _ended(db, "ebay", "DC7770-160", "UK 9") == ("done", None)
        assert await _ended(db, "ebay", "DC7770-160", "UK 6") == ("failed", "ambiguous_size")
    row = await db.fetchrow(
        "select state, price_size, lowest_ask from market_price_status where provider = 'ebay' and size = 'UK 9'"
    )
    assert tuple(row or ()) == ("priced", "10", sandbox.truth("ebay", "DC7770-160", "10").ask)
    # The band goes by the other providers' ask of the US size that UK 9 was found to be.
    assert (
        await db.fetchval("select basis ->> 'band' from market_prices where provider = 'ebay'") == "providers"
    )


async def _priced(db: Connection, sku: str, size: str) -> None:
    assert await _ended(db, "ebay", sku, size) == ("done", None)


async def _ended(db: Connection, provider: str, sku: str, size: str) -> tuple[str, str | None]:
    """How an urgent request ended: its job's status and error."""
    job = await db.fetchval("select job_id from market_enqueue($1, $2, $3, 200)", provider, sku, size)

    async def ended() -> asyncpg.Record | None:
        return await db.fetchrow(
            "select status, error_code from market_jobs where id = $1 and status in ('done', 'failed')", job
        )

    row = await until(ended, what=f"the end of {provider} {sku} {size}")
    return row["status"], row["error_code"]
