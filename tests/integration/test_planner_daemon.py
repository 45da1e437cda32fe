"""The plan at work in a whole daemon: what is watched is refreshed without anybody asking for it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness import configured, running, until
from marketd.sandbox import Sandbox

SHOES = (("DD1391-100", "10"), ("DZ5485-612", "9.5"))


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, limits={"*": None}) as server:
        yield server


async def test_a_watched_item_is_refreshed_again_and_again_and_an_unwatched_one_is_not(
    db: Any, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    items = json.dumps([{"provider": "stockx", "sku": sku, "size": size} for sku, size in SHOES])
    quick = configured(
        database,
        sandbox,
        tmp_path,
        jobs={"fresh_for": "100ms"},
        scheduler={"interval": "200ms", "poll": "200ms"},
    )
    planned = (
        "select count(*) from market_jobs j where sku = $1 and status = 'done' and user_id is null"
        " and not exists (select from market_job_requests r where r.job_id = j.id)"
    )
    async with running(quick) as app:
        await db.fetch("select * from market_watch($1::jsonb, 'ann')", items)
        for sku, _ in SHOES:
            await until(partial(_over, db, planned, sku, 2))
        assert await db.fetchval("select count(*) from market_rates") == 2
        await db.fetch("select * from market_unwatch($1::jsonb, 'ann')", json.dumps(json.loads(items)[:1]))
        await until(lambda: _is(db, "select sizes = 0 from market_units where sku = $1", SHOES[0][0]))
        await until(lambda: _is(db, "select count(*) = 0 from market_jobs where status in ('pending', 'running')"
                                    " and sku = $1", SHOES[0][0]))  # fmt: skip
        before = [await db.fetchval(planned, sku) for sku, _ in SHOES]
        await until(lambda: _over(db, planned, SHOES[1][0], before[1] + 3))
        assert await db.fetchval(planned, SHOES[0][0]) == before[0]
        text = app.metrics.render()[0].decode()
    assert 'marketd_prices_fetched_total{provider="stockx",result="same"}' in text
    assert 'marketd_units_watched{provider="stockx"}' in text


async def _over(db: Any, query: str, sku: str, number: int) -> bool:
    return bool(await db.fetchval(query, sku) >= number)


async def _is(db: Any, query: str, sku: str) -> bool:
    return bool(await db.fetchval(query, sku))
