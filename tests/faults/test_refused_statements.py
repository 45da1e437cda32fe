"""What Postgres refuses until a person mends it: told, waited for, and no end of the daemon."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from harness import configured, running, until
from marketd.app import App
from marketd.sandbox import Sandbox

Connection = asyncpg.Connection
PANDA, OTHER = "DD1391-100", "CP9366"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, limits={"*": None}) as server:
        yield server


@asynccontextmanager
async def _away(db: Connection, table: str) -> AsyncIterator[None]:
    """Without this table, as after a bad migration."""
    await db.execute(f"alter table {table} rename to mislaid")
    try:
        yield
    finally:
        await db.execute(f"alter table mislaid rename to {table}")


async def _asked(db: Connection, provider: str, sku: str, size: str, priority: int = 200) -> int:
    found: int = await db.fetchval(
        "select job_id from market_enqueue($1, $2, $3, $4)", provider, sku, size, priority
    )
    return found


async def _ended(db: Connection, job: int, *, within_s: float = 20.0) -> tuple[Any, ...]:
    async def ended() -> asyncpg.Record | None:
        return await db.fetchrow(
            "select status, error_code, attempt, rescues from market_jobs"
            " where id = $1 and status in ('done', 'failed')",
            job,
        )

    return tuple(await until(ended, within_s=within_s, what=f"the end of job {job}"))


async def _page(app: App, path: str) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{app.admin_port}{path}") as answer,
    ):
        return await answer.text()


async def _unready(app: App, word: str) -> bool:
    reasons = json.loads(await _page(app, "/readyz"))["reasons"]
    return any("Postgres refuses" in reason and word in reason for reason in reasons)


async def test_a_claim_that_is_refused_waits_until_somebody_mends_the_database(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(configured(database, sandbox, tmp_path)) as app:
        async with _away(db, "market_skus"):
            job = await _asked(db, "stockx", PANDA, "10")
            await until(lambda: _unready(app, "market_skus"), what="the refusal")

            async def counted() -> bool:
                found = re.search(
                    r"^marketd_statements_refused_total (\S+)", await _page(app, "/metrics"), re.M
                )
                return found is not None and float(found[1]) > 0

            await until(counted, what="the count")
        assert await _ended(db, job) == ("done", None, 1, 0)
        assert json.loads(await _page(app, "/readyz"))["ready"]
    told = [line for line in capsys.readouterr().out.splitlines() if "database_refuses" in line]
    assert told
    assert len(told) < 30
    assert all("error" in line for line in told)


async def test_what_a_fetch_brought_is_held_until_it_can_be_written(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with running(configured(database, sandbox, tmp_path)):
        async with _away(db, "market_price_history"):
            job = await _asked(db, "stockx", PANDA, "10")

            async def fetched() -> bool:
                return sandbox.count("stockx") > 0

            await until(fetched, what="the fetch")
            await asyncio.sleep(5)  # longer than a lease
            assert await db.fetchval("select status from market_jobs where id = $1", job) == "running"
            calls = sandbox.count("stockx")
        assert await _ended(db, job) == ("done", None, 1, 0)
        assert sandbox.count("stockx") == calls, "nothing was fetched twice"


async def test_a_poll_that_is_refused_keeps_no_lane_from_its_work(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with running(configured(database, sandbox, tmp_path)) as app:
        async with _trigger(db, "market_daemons", "true"):
            await until(lambda: _unready(app, "poller"), what="the refusal")
            # background work, of which no notification tells
            job = await _asked(db, "stockx", PANDA, "10", 100)
            assert await _ended(db, job) == ("done", None, 1, 0)

        async def ready() -> bool:
            return bool(json.loads(await _page(app, "/readyz"))["ready"])

        await until(ready, within_s=40, what="the poll")


@asynccontextmanager
async def _trigger(
    db: Connection, table: str, condition: str, verbs: str = "insert or update"
) -> AsyncIterator[None]:
    """No row of which the condition holds can be written."""
    await db.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin raise exception 'not this one'; end $$"
    )
    await db.execute(
        f"create trigger refuse before {verbs} on {table} for each row when ({condition})"
        " execute function refuse()"
    )
    try:
        yield
    finally:
        await db.execute("drop function refuse() cascade")


async def test_a_line_of_the_call_record_that_is_refused_takes_no_other_along(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    config = configured(database, sandbox, tmp_path, providers=("stockx", "alias"))
    async with _trigger(db, "market_requests", "new.provider = 'stockx'"), running(config):
        jobs = [await _asked(db, provider, PANDA, "10") for provider in ("stockx", "alias")]
        assert [(await _ended(db, job))[0] for job in jobs] == ["done", "done"]

        async def recorded() -> bool:
            return bool(await db.fetchval("select count(*) from market_requests where provider = 'alias'"))

        await until(recorded, what="the record of the other")
    assert await db.fetchval("select count(*) from market_requests where provider = 'stockx'") == 0


async def test_leases_are_kept_again_after_an_extension_was_refused(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    for seconds in (2.8, 5):
        sandbox.fault("stockx", "stall", seconds=seconds)
    async with running(configured(database, sandbox, tmp_path, stanza={"concurrency": 2})):
        first = await _asked(db, "stockx", PANDA, "10")

        async def held() -> bool:
            return bool(await db.fetchval("select count(*) from market_fetches"))

        await until(held, what="the claim")
        async with _trigger(db, "market_fetches", "old.lease_id = new.lease_id", "update"):
            await asyncio.sleep(1.5)  # an extension falls into it
        second = await _asked(
            db, "stockx", OTHER, "10.5"
        )  # before the first is over, and longer than a lease
        assert await _ended(db, second) == ("done", None, 1, 0)
        assert (await _ended(db, first))[0] == "done"


async def test_a_charge_that_is_refused_costs_no_job_its_last_attempt(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    jobs = {"max_attempts": 1, "backoff": {"base": "200ms", "cap": "300ms"}}
    async with running(configured(database, sandbox, tmp_path, jobs=jobs)):
        await db.execute("alter function market_take rename to mislaid")
        try:
            job = await _asked(db, "stockx", PANDA, "10")

            async def tried() -> bool:
                return bool(await db.fetchval("select attempt > 1 from market_jobs where id = $1", job))

            await until(tried, what="a second try")
        finally:
            await db.execute("alter function mislaid rename to market_take")
        assert (await _ended(db, job))[:2] == ("done", None)
        assert sandbox.count("stockx") < 5


async def test_settings_that_cannot_be_brought_into_force_again_are_told(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(configured(database, sandbox, tmp_path)):
        async with _trigger(db, "market_settings", "true", "update"):
            await db.execute("delete from market_daemons")  # as a database that was restored knows none
            told = ""

            async def heard() -> bool:
                nonlocal told
                told += capsys.readouterr().out
                return "database_refuses" in told

            await until(heard, what="the refusal")

        async def known() -> bool:
            return bool(await db.fetchval("select count(*) from market_daemons"))

        await until(known, what="the second registration")
