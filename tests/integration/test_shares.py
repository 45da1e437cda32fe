"""Who gets the calls: urgent work first, background its minimum, users in turn, accounts apart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from harness import configured, running, settings, until
from marketd import config, wiring
from marketd.sandbox import Sandbox
from windows import window_s

QUOTA = 40
MINIMUM = 4


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=9, limits={"*": None}) as server:
        yield server


async def _ask(
    db: asyncpg.Connection, skus: list[str], priority: int, user: str | None = None
) -> list[asyncpg.Record]:
    items = json.dumps([{"provider": "stockx", "sku": sku, "size": "9"} for sku in skus])
    rows: list[asyncpg.Record] = await db.fetch(
        "select * from market_enqueue_many($1::jsonb, $2, $3)", items, priority, user
    )
    return rows


@pytest.mark.timeout(120)
async def test_urgent_work_takes_all_but_the_background_minimum_and_background_gets_that(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    await _ask(db, [f"BACK-{n}" for n in range(1000)], 100)
    stanza: dict[str, Any] = {
        "budget": {"per_hour": QUOTA, "background_min": "10%", "reserve": "0%"},
        "pace": {"calls": 20, "per": "1s"},
        "concurrency": 2,
    }
    # Soon after the start a window begins; the first one that is whole is judged.
    hour_s = window_s(6.0, begun=0.7)
    testing = {"hour": f"{hour_s:.6f}s", "day": "1h"}
    began = await db.fetchval("select clock_timestamp()")
    async with running(configured(database, sandbox, tmp_path, stanza=stanza, testing=testing)):
        await until(lambda: _later_window(db, began, hour_s), within_s=hour_s + 5, what="a fresh window")
        await _ask(db, [f"URGENT-{n}" for n in range(3 * QUOTA)], 200)

        async def a_whole_window() -> bool:
            return len(_by_window(sandbox, began, hour_s)) >= 3

        await until(a_whole_window, within_s=60, what="a whole window")
    windows = _by_window(sandbox, began, hour_s)
    for window in sorted(windows)[1:2]:
        count = windows[window]
        assert sum(count.values()) <= QUOTA, windows
        assert count["BACK"] >= MINIMUM, f"background was starved: {windows}"
        assert count["URGENT"] >= QUOTA - 2 * MINIMUM - 4, f"background took urgent work's calls: {windows}"


async def _later_window(db: asyncpg.Connection, began: Any, hour_s: float) -> bool:
    return bool(
        await db.fetchval(
            "select floor(date_part('epoch', clock_timestamp()) / $2)"
            " > floor(date_part('epoch', $1::timestamptz) / $2)",
            began,
            hour_s,
        )
    )


def _by_window(sandbox: Sandbox, began: Any, hour_s: float) -> dict[int, Counter[str]]:
    found: dict[int, Counter[str]] = {}
    for request in sandbox.requests:
        if request.endpoint == "search" and request.wall >= began:
            window = int(request.wall.timestamp() // hour_s)
            found.setdefault(window, Counter())[request.query["query"].split("-")[0]] += 1
    return found


async def test_background_is_spread_over_the_window_and_not_burnt_at_its_start(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    await _ask(db, [f"BACK-{n}" for n in range(200)], 100)
    stanza = {"budget": {"per_hour": 600, "background_min": "0%"}, "pace": {"calls": 50, "per": "1s"}}
    async with running(configured(database, sandbox, tmp_path, stanza=stanza)):
        # 600 an hour: a tenth may go at once, the rest at the pace that lasts until the hour's end.
        await until(lambda: _spent(db, 60), what="the first tenth")
        why = await until(lambda: _held_back(db), what="the wait")
        assert why["until"] is not None
        now = await db.fetchval("select clock_timestamp()")
        assert timedelta(0) < why["until"] - now < timedelta(minutes=60)
        # Urgent work does not wait for the spread.
        await _ask(db, ["URGENT-1"], 200)
        await until(lambda: _done(db, "URGENT-1"), within_s=5)
    assert sandbox.count("stockx") < 75


async def test_a_background_fetch_that_has_begun_is_not_cut_off_by_the_spread(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    # Ten an hour: one background call at once, the next in minutes; a cold StockX product takes three.
    stanza = {"budget": {"per_hour": 10, "background_min": "0%"}}
    async with running(configured(database, sandbox, tmp_path, stanza=stanza)):
        await _ask(db, ["CP9366"], 100)
        await until(lambda: _done(db, "CP9366"))
    row = await db.fetchrow("select attempt, outcome from market_jobs where sku = 'CP9366'")
    assert row is not None
    assert (row["attempt"], row["outcome"]) == (1, "priced")
    assert sandbox.count("stockx") == 3


async def test_a_cold_product_can_be_the_probe_that_closes_the_circuit(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.fault("stockx", "status", times=1, endpoint="search", status=429, retry_after=1)
    async with running(configured(database, sandbox, tmp_path)):
        await _ask(db, ["CP9366"], 200)
        await until(lambda: _done(db, "CP9366"), within_s=10)
    assert await db.fetchval("select circuit from market_providers where provider = 'stockx'") == "closed"
    assert sandbox.count("stockx") == 4


async def _spent(db: asyncpg.Connection, calls: int) -> bool:
    used = "select used from market_budget_status where provider = 'stockx' and window_kind = 'hour'"
    return bool(await db.fetchval(used) >= calls)


async def _held_back(db: asyncpg.Connection) -> asyncpg.Record | None:
    """The head of the queue's answer, once it is that the budget is spread."""
    return await db.fetchrow(
        """select w.* from (select id from market_jobs where status = 'pending' order by turn limit 1) j,
                  market_why(j.id) w where w.waiting_for = 'budget'"""
    )


async def _done(db: asyncpg.Connection, sku: str) -> bool:
    return await db.fetchval("select status from market_jobs where sku = $1", sku) in ("done", "failed")


async def test_one_users_hundred_items_do_not_keep_another_users_one_waiting(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    for priority in (200, 100):
        await _ask(db, [f"MANY-{priority}-{n}" for n in range(100)], priority, "ann")
        await _ask(db, [f"ONE-{priority}"], priority, "bob")
    stanza = {"pace": {"calls": 100, "per": "1s"}}
    async with running(configured(database, sandbox, tmp_path, stanza=stanza)):
        await until(lambda: _done(db, "ONE-100"), within_s=30)
    searched = [request.query["query"] for request in sandbox.requests if request.endpoint == "search"]
    assert searched.index("ONE-200") <= 3
    background = [query for query in searched if "-100" in query]
    assert background.index("ONE-100") <= 3


async def test_two_accounts_of_one_provider_are_two_lanes_with_budgets_of_their_own(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    data = settings(database, sandbox, tmp_path, stanza={"budget": {"per_hour": 5, "background_min": "0%"}})
    data["providers"]["stockx"]["accounts"] = {
        "second": {
            "credentials": sandbox.credentials_for("stockx", "second"),
            "budget": {"per_hour": 3},
            "users": ["bob"],
        }
    }
    async with running(config.from_mapping(data, wiring.provider_types())):
        await _ask(db, [f"ANN-{n}" for n in range(8)], 200, "ann")
        await _ask(db, [f"BOB-{n}" for n in range(8)], 200, "bob")

        async def both_spent() -> bool:
            rows = await db.fetch(
                "select account, used from market_budget_status where provider = 'stockx' and window_kind = 'hour'"
            )
            return {row["account"]: row["used"] for row in rows} == {"default": 5, "second": 3}

        await until(both_spent)
    searches = [request for request in sandbox.requests if request.endpoint == "search"]
    asked = Counter((request.account, request.query["query"].split("-")[0]) for request in searches)
    assert asked == {("default", "ANN"): 5, ("second", "BOB"): 3}
