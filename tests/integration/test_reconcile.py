"""eBay's own count of the day against ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from harness import configured, running, until
from marketd.provider import Usage
from marketd.reconcile import Reconciler
from marketd.sandbox import Limits, Sandbox
from marketd.store.budgets import Circuits
from provider_kit import Notes
from queue_kit import opened

# eBay's day is the calendar's in Los Angeles. Near its end another zone stands in, where it is further from midnight.
ZONE = min(
    ("America/Los_Angeles", "Asia/Tokyo"), key=lambda zone: abs(datetime.now(ZoneInfo(zone)).hour - 12)
)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    ebay = Limits(per_day=40, day_zone=ZONE)
    async with Sandbox(seed=5, limits={"*": None, "ebay": ebay}) as server:
        yield server


async def test_a_provider_whose_word_cannot_be_had_is_told_of_and_the_others_are_asked(
    database: str,
) -> None:
    notes = Notes()

    async def usage(provider: str, account: str) -> Usage | None:
        if provider == "theirs":
            raise ValueError("a fault of someone else's")
        asked.set()
        return None

    async with opened(database) as pool:
        lanes, asked = [("theirs", "default"), ("ebay", "default")], asyncio.Event()
        reconciler = Reconciler(lambda: lanes, usage, Circuits(pool))
        reconciler.observer = notes
        running = asyncio.create_task(reconciler.run())
        reconciler.event("lane_closed", reason="throttled")
        try:
            await asyncio.wait({running, asyncio.create_task(asked.wait())}, return_when="FIRST_COMPLETED")
            assert not running.done()
        finally:
            running.cancel()
    [(name, fields)] = notes.events
    assert (name, fields["lane"]) == ("reconcile_failed", "theirs/default")
    assert fields["error"] == "ValueError: a fault of someone else's"


async def test_a_spent_day_closes_the_lane_until_the_reset_that_ebay_reports(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    # Somebody else used the same keyset: eBay's day is spent although ours is not.
    sandbox.spend("ebay", 40)
    stanza = {"budget": {"per_hour": 1000, "per_day": 5000, "day_starts": f"00:00 {ZONE}"}}
    async with running(
        configured(database, sandbox, tmp_path, providers=("ebay",), stanza=stanza, testing=None)
    ):
        await db.fetch("select * from market_enqueue('ebay', 'CP9366', '10.5', 200)")

        async def told() -> asyncpg.Record | None:
            return await db.fetchrow(
                "select * from market_providers where provider = 'ebay' and reported_at is not null"
            )

        lane = await until(told, what="the reconciliation")
        ends = await db.fetchval(
            "select window_end from market_budgets where provider = 'ebay' and window_kind = 'day'"
        )
        why = await db.fetchrow("select * from market_why('ebay', 'CP9366', '10.5')")
    assert (lane["circuit"], lane["circuit_reason"], lane["reported_remaining"]) == ("open", "throttled", 0)
    assert abs((lane["circuit_until"] - ends).total_seconds()) < 2
    assert lane["reported_drift"] > 0
    used = await db.fetchval(
        "select used from market_budgets where provider = 'ebay' and window_kind = 'day'"
    )
    assert used == 5000, "the lower of the two remainders holds"
    assert why["waiting_for"] in ("cooldown", "budget")
    assert await db.fetchval("select max(attempt) from market_jobs") == 0, "no attempt is burnt"
