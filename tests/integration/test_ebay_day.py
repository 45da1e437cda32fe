"""eBay's day and its mints: what it says of them holds, whatever our own count and clock say."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from harness import configured, running, until
from marketd.sandbox import Limits, Sandbox

Connection = asyncpg.Connection

# The sandbox' day and ours end at different times, both well away from now.
THEIRS, OURS = sorted(
    ("America/Los_Angeles", "Asia/Tokyo", "UTC"), key=lambda zone: abs(datetime.now(ZoneInfo(zone)).hour - 11)
)[:2]
BUDGET = {"per_hour": 1000, "per_day": 5000, "day_starts": f"00:00 {OURS}"}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=5, limits={"*": None, "ebay": Limits(per_day=40, day_zone=THEIRS)}) as server:
        yield server


async def lane(db: Connection) -> asyncpg.Record:
    row = await db.fetchrow("select * from market_providers where provider = 'ebay'")
    assert row is not None
    return row


async def ask(db: Connection) -> None:
    await db.execute("select * from market_enqueue('ebay', 'CP9366', '10.5', 200)")


async def test_a_spent_day_lasts_until_the_reset_that_ebay_reports_and_not_until_our_midnight(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.spend("ebay", 40)
    settings = configured(
        database, sandbox, tmp_path, providers=("ebay",), stanza={"budget": BUDGET}, testing=None
    )
    async with running(settings):
        await ask(db)

        async def told() -> asyncpg.Record | None:
            row = await lane(db)
            return row if row["reported_at"] is not None else None

        row = await until(told, what="eBay's own word")
        status = await db.fetchrow("select * from market_price_status")
    here = datetime.now(ZoneInfo(THEIRS))
    midnight = (here + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    assert abs((row["circuit_until"] - midnight).total_seconds()) < 5
    assert (row["circuit"], row["circuit_day_spent"]) == ("open", True)
    assert status is not None
    assert (status["state"], status["rate_limited_until"]) == ("rate_limited", row["circuit_until"])


async def test_a_report_without_a_body_changes_nothing(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.spend("ebay", 40)
    sandbox.fault("ebay", "status", endpoint="rate_limit", status=204, times=None)
    settings = configured(
        database, sandbox, tmp_path, providers=("ebay",), stanza={"budget": BUDGET}, testing=None
    )
    async with running(settings):
        await ask(db)

        async def answered() -> bool:
            return any(entry.endpoint == "rate_limit" and entry.status for entry in sandbox.requests)

        await until(answered, what="the report")
        row = await lane(db)
    assert (row["circuit"], row["circuit_reason"], row["reported_at"]) == ("open", "throttled", None)
    assert await db.fetchval("select max(attempt) from market_jobs") == 0


async def test_the_thousand_and_first_mint_of_a_day_never_leaves(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    settings = configured(database, sandbox, tmp_path, providers=("ebay",))
    async with running(settings):  # writes the lane's limits
        pass
    for _ in range(998):
        row = await db.fetchrow("select * from market_take('ebay', 'default', 200, 'mints')")
        assert row is not None
        assert row["granted"], dict(row)
        await db.execute("update market_providers set next_request_at = '-infinity'")
    async with running(settings):
        for size in ("9", "9.5", "10"):
            job = await db.fetchval("select job_id from market_enqueue('ebay', 'CP9366', $1, 200)", size)

            async def waits_or_done(job: int = job) -> bool:
                status = await db.fetchval("select status from market_jobs where id = $1", job)
                return status == "done" or (await lane(db))["circuit"] == "open"

            await until(waits_or_done, what=f"size {size}")
            sandbox.expire_tokens("ebay")

        async def waits() -> asyncpg.Record | None:
            told = await db.fetchrow("select * from market_why($1::bigint)", job)
            return told if told and told["state"] == "pending" else None

        why = await until(waits, what="the job to be pending again")
        row = await lane(db)
    assert sandbox.count("ebay", endpoint="token") == 2
    window = await db.fetchrow("select * from market_budgets where window_kind = 'mints'")
    assert window is not None
    assert (window["used"], window["quota"]) == (1000, 1000)
    assert abs((row["circuit_until"] - window["window_end"]).total_seconds()) < 1
    assert (why["waiting_for"], why["until"]) == ("cooldown", row["circuit_until"])
    assert "the day's token requests are spent" in why["detail"]
    attempts = await db.fetchval("select max(attempt) from market_jobs where status <> 'done'")
    assert attempts == 0, "nothing that the job could help"


async def test_a_restart_keeps_the_token_and_costs_no_mint(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    settings = configured(database, sandbox, tmp_path, providers=("ebay",), jobs={"fresh_for": "1ms"})
    for _ in range(3):
        async with running(settings):
            row = await db.fetchrow("select * from market_enqueue('ebay', 'CP9366', '10.5', 200)")
            assert row is not None

            async def done(job: int = row["job_id"]) -> bool:
                return bool(await db.fetchval("select status = 'done' from market_jobs where id = $1", job))

            await until(done, what="the price")
    assert sandbox.count("ebay", endpoint="token") == 1
    (file,) = tmp_path.glob("**/ebay-token.json")
    assert file.stat().st_mode & 0o777 == 0o600
    assert "client_secret" not in json.loads(file.read_text())
