"""Who gets the calls: urgent work first, background its minimum, users in turn, accounts apart."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from harness import GOLDEN, configured, running, settings, until
from marketd import config, wiring
from marketd.sandbox import Sandbox
from windows import window_s

LONG = bool(os.environ.get("MARKETD_LONG"))  #: as `make soak` runs it: 200 urgent requests against 5,000
URGENT, BACKGROUND = (200, 5000) if LONG else (60, 1000)
WINDOW_S = 60.0 if LONG else 20.0
QUOTA = 400 if LONG else 100  #: for twice the urgent requests, so that they do not take all
PER_SECOND = 20


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


@dataclass(frozen=True)
class Fetched:
    """Searches that the provider saw, in order."""

    at: float  #: seconds of the epoch
    urgent: bool


def _fetched(sandbox: Sandbox) -> list[Fetched]:
    return sorted(
        (
            Fetched(request.wall.timestamp(), request.query["query"].startswith("URGENT"))
            for request in sandbox.requests
            if request.endpoint == "search"
        ),
        key=lambda fetched: fetched.at,
    )


@pytest.mark.timeout(240)
async def test_urgent_requests_wait_for_no_background_call_beyond_its_minimum_and_background_gets_that(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    hour_s = window_s(WINDOW_S, begun=0.8)
    stanza: dict[str, Any] = {
        "budget": {"per_hour": QUOTA, "background_min": "5%", "reserve": "0%"},
        "pace": {"calls": PER_SECOND, "per": "1s"},
        "concurrency": 2,
    }
    testing = {"hour": f"{hour_s:.6f}s", "day": "1h"}
    began = await db.fetchval("select clock_timestamp()")
    for start in range(0, BACKGROUND, 1000):
        await _ask(db, [f"BACK-{n}" for n in range(start, start + 1000)], 100)
    async with running(configured(database, sandbox, tmp_path, stanza=stanza, testing=testing)):
        await until(lambda: _later_window(db, began, hour_s), within_s=hour_s + 5, what="a fresh window")
        asked = time.time()
        await _ask(db, [f"URGENT-{n}" for n in range(URGENT)], 200)
        await until(lambda: _all_ended(db, 200), within_s=2 * hour_s, what="the end of the urgent requests")
        served = max(fetched.at for fetched in _fetched(sandbox) if fetched.urgent)
        window = int(asked // hour_s)
        await until(lambda: asyncio.sleep(0, time.time() > (window + 1) * hour_s), within_s=2 * hour_s)
    mine = [fetched for fetched in _fetched(sandbox) if int(fetched.at // hour_s) == window]
    minimum = math.ceil(0.05 * QUOTA)
    assert sum(request.meter == "calls" and int(request.wall.timestamp() // hour_s) == window
               for request in sandbox.requests) <= QUOTA  # fmt: skip
    # While urgent requests waited: at most what background had under way, and its minimum.
    meanwhile = [fetched for fetched in mine if not fetched.urgent and asked + 0.5 < fetched.at < served]
    assert len(meanwhile) <= minimum + 2, (len(meanwhile), minimum)
    assert served - asked < URGENT / PER_SECOND * 1.1 + 5, "urgent requests were held up"
    assert sum(not fetched.urgent for fetched in mine) >= minimum, "background was starved"


@pytest.mark.timeout(120)
async def test_where_the_pace_is_what_is_scarce_background_gets_its_minimum_in_the_same_window(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    # 5 a second carry about 65 calls a window of 15 s, far fewer than the budget; urgent work could use all of them.
    hour_s = window_s(15.0, begun=0.8)
    stanza: dict[str, Any] = {
        "budget": {"per_hour": 1000, "background_min": "10%", "reserve": "0%"},
        "pace": {"calls": 5, "per": "1s"},
    }
    testing = {"hour": f"{hour_s:.6f}s", "day": "1h"}
    began = await db.fetchval("select clock_timestamp()")
    await _ask(db, [f"URGENT-{n}" for n in range(300)], 200)
    await _ask(db, [f"BACK-{n}" for n in range(300)], 100)
    async with running(configured(database, sandbox, tmp_path, stanza=stanza, testing=testing)):
        await until(lambda: _later_window(db, began, hour_s), within_s=hour_s + 5, what="a fresh window")
        window = int(time.time() // hour_s)
        await until(lambda: asyncio.sleep(0, time.time() > (window + 1) * hour_s), within_s=2 * hour_s)
    mine = [fetched for fetched in _fetched(sandbox) if int(fetched.at // hour_s) == window]
    background = [fetched.at for fetched in mine if not fetched.urgent]
    assert len(mine) >= 45, "the pace was not used"
    assert 5 <= len(background) <= 0.2 * len(mine) + 1, (len(background), len(mine))
    assert min(b - a for a, b in pairwise(background)) > 0.8, "not spread over the window"


async def _all_ended(db: asyncpg.Connection, priority: int) -> bool:
    left = "select count(*) from market_jobs where priority = $1 and status not in ('done', 'failed')"
    return await db.fetchval(left, priority) == 0


async def _later_window(db: asyncpg.Connection, began: Any, hour_s: float) -> bool:
    return bool(
        await db.fetchval(
            "select floor(date_part('epoch', clock_timestamp()) / $2)"
            " > floor(date_part('epoch', $1::timestamptz) / $2)",
            began,
            hour_s,
        )
    )


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


async def test_one_users_500_items_do_not_starve_anothers_one_also_once_the_plan_has_ranked_them(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    # What ann wants is viewed a lot and bob's is not: by value alone his would be the last.
    watched = [{"provider": "stockx", "sku": f"MANY-{n}", "size": "9"} for n in range(500)]
    await db.fetch("select * from market_watch($1::jsonb, 'ann')", json.dumps(watched))
    for user in ("ann", "cy", "di"):
        await db.fetch("select * from market_viewed($1::jsonb, $2)", json.dumps(watched), user)
    await _ask(db, [f"MANY-{n}" for n in range(500)], 100, "ann")
    await _ask(db, ["ONE-1"], 100, "bob")
    await db.execute("select market__fold(), market__plan('stockx', 'default', 60)")
    ranks = await db.fetch(
        "select user_id, max(rank) as best, min(rank) as worst from market_jobs group by 1 order by 1"
    )
    assert [row["user_id"] for row in ranks] == ["ann", "bob"]
    assert all(row["worst"] > 0 for row in ranks), ranks  # it has ranked all
    stanza = {"pace": {"calls": 100, "per": "1s"}}
    # While a pass ranks anew it holds what it moves, so the daemon's own first one is over before the lane begins.
    await db.execute("select market_pause('stockx')")
    scheduler = {"interval": "60s"}
    passed = "select completed_at is not null from market_job_runs"
    async with running(configured(database, sandbox, tmp_path, stanza=stanza, scheduler=scheduler)):
        await until(lambda: db.fetchval(passed), what="the first pass")
        await db.execute("select market_resume('stockx')")
        await until(lambda: _done(db, "ONE-1"), within_s=30)
    searched = [request.query["query"] for request in sandbox.requests if request.endpoint == "search"]
    assert searched.index("ONE-1") <= 3


async def test_what_is_raised_from_background_stands_behind_urgent_work_that_was_there_before(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    await _ask(db, ["RAISED-1"], 100, "ann")
    await db.execute("update market_jobs set rank = 7")  # as the plan would
    for user in ("ann", "bob"):
        await _ask(db, [f"FIRST-{user}"], 200, user)
    await _ask(db, ["RAISED-1"], 200, "ann")
    async with running(configured(database, sandbox, tmp_path)):
        await until(lambda: _all_ended(db, 200))
    searched = [request.query["query"] for request in sandbox.requests if request.endpoint == "search"]
    assert searched == ["FIRST-ANN", "FIRST-BOB", "RAISED-1"]


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


async def test_the_eta_of_products_that_were_never_found_is_when_they_are_fetched(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    stanza = {"pace": {"calls": 4, "per": "1s"}}
    async with running(configured(database, sandbox, tmp_path, stanza=stanza)):
        items = [{"provider": "stockx", "sku": sku, "size": size} for sku, size in GOLDEN]
        rows = await db.fetch("select * from market_enqueue_many($1::jsonb, 200)", json.dumps(items))
        told = {row["job_id"]: row["eta"] for row in rows}
        asked = await db.fetchval("select clock_timestamp()")
        await until(lambda: _all_ended(db, 200), within_s=30)
    started = await db.fetch("select id, started_at from market_jobs order by id")
    late = [(row["started_at"] - told[row["id"]]).total_seconds() for row in started]
    took_s = (started[-1]["started_at"] - asked).total_seconds()
    assert took_s > 5, "three calls each"
    assert max(map(abs, late)) < 0.25 * took_s, late


async def test_an_urgent_request_overtakes_background_that_waits_for_the_pace(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    # Seven background fetches stand in line for the pace, with slots to spare: an urgent one is not put behind them.
    stanza: dict[str, Any] = {"concurrency": 10, "pace": {"calls": 4, "per": "1s"}}
    async with running(configured(database, sandbox, tmp_path, stanza=stanza)):
        await _ask(db, [f"BACK-{n}" for n in range(7)], 100)
        under_way = "select count(*) = 7 from market_jobs where status = 'running'"
        await until(lambda: db.fetchval(under_way), what="seven fetches under way")
        before = len(_fetched(sandbox))
        await _ask(db, ["URGENT-1"], 200)
        await until(lambda: _all_ended(db, 200), what="the end of the urgent request")
    ahead = [fetched.urgent for fetched in _fetched(sandbox)[before:]].index(True)
    assert ahead <= 2, "one was about to leave, and one was next"
