"""Where the budget went: each call with what it served, what it cost and what it was good for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from harness import configured, running, until
from marketd.models import Job, JobId, Unit
from marketd.outcome import Failed, Outcome, Priced, Released, Retried
from marketd.recorder import Recorder
from marketd.sandbox import Sandbox
from marketd.store.budgets import Circuits
from marketd.store.pool import Database
from marketd.store.rows import CallRow
from marketd.telemetry import End, FetchReport, RequestReport, waste_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CALL = RequestReport(
    provider="stockx", account="default", endpoint="search", priority=200, status_class="ok", http_status=200,
    granted_at=NOW, took_s=0.1, of_fetch=True,
)  # fmt: skip
UNIT = Unit(
    key="k", lease_id=UUID(int=1), claimed_at=NOW, provider="stockx", account="default", sku="A", currency="GBP",
    jobs=(Job(id=JobId(1), size="10", priority=150, attempt=1, max_attempts=5, due_at=NOW),),
)  # fmt: skip


def fetch(*outcomes: Outcome, quotes: int = 1, stored: int | None = 1, end: End = "settled") -> FetchReport:
    return FetchReport(
        unit=UNIT, outcomes=outcomes, requests=1, quotes=quotes, changed=0, wait_s=0, fetch_s=0,
        settle_s=0, end=end, stored=stored,
    )  # fmt: skip


def failed(code: str) -> Failed:
    return Failed(error_code=code, message="", cooldown=timedelta())


def retried(code: str) -> Retried:
    return Retried(delay=timedelta(), error_code=code, message="")


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        (fetch(Priced(size="10")), None),
        (fetch(Priced(size="10", reason="no_asks"), quotes=0, stored=0), None),
        (fetch(Priced(size="10"), stored=0), "duplicate"),
        (fetch(Priced(size="10"), failed("size_not_offered")), None),
        (fetch(Priced(size="10"), end="lease_lost", stored=None), "stale"),
        (fetch(Priced(size="10"), end="given_up", stored=None), "unfinished"),
        (fetch(failed("unknown_sku"), quotes=0), "not_found"),
        (fetch(failed("size_not_offered")), "not_found"),
        (fetch(retried("bad_payload"), quotes=0), "unreadable"),
        (fetch(retried("timeout"), quotes=0), "unfinished"),
        (fetch(Released(reason="budget"), quotes=0), "unfinished"),
    ],
)
def test_a_well_answered_call_is_worth_what_its_fetch_brought(ended: FetchReport, reason: str | None) -> None:
    assert waste_of(CALL, ended) == reason


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("throttled", "throttled"),
        ("timeout", "failed"),
        ("unauthorized", "unauthorized"),
        ("not_found", "not_found"),
    ],
)
def test_a_call_that_failed_is_wasted_also_where_a_later_one_brought_the_price(
    word: str, reason: str
) -> None:
    assert waste_of(replace(CALL, status_class=word), fetch(Priced(size="10"))) == reason
    assert waste_of(replace(CALL, status_class=word, given_back=True), fetch(Priced(size="10"))) is None


async def test_calls_whose_writing_a_stop_cut_off_are_written_by_the_last_acts() -> None:
    written: list[Sequence[CallRow]] = []

    class Slow(Circuits):
        async def record(self, rows: Sequence[CallRow]) -> None:
            written.append(rows)
            await asyncio.sleep(0 if len(written) > 1 else 3600)

    recorder = Recorder(Slow(Database("", size=1, timeout_s=1)))
    recorder.request_done(replace(CALL, of_fetch=False))
    cut_off = asyncio.create_task(recorder.flush())
    await asyncio.sleep(0)
    recorder.request_done(replace(CALL, of_fetch=False, endpoint="prices"))
    cut_off.cancel()
    await asyncio.wait([cut_off])
    await recorder.flush()
    await recorder.flush()
    assert [[row[2] for row in rows] for rows in written] == [["search"], ["search", "prices"]]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=9, limits={"*": None}) as server:
        yield server


async def test_every_call_of_a_daemon_is_on_record_with_its_use(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.fault("stockx", "status", times=1, endpoint="search", status=500)
    items = [{"provider": "stockx", "sku": sku, "size": "10.5"} for sku in ("CP9366", "NOWHERE-1")]
    stanza = {"budget": {"per_hour": 500}}
    async with running(configured(database, sandbox, tmp_path, stanza=stanza)):
        await db.fetch("select * from market_enqueue_many($1, 200)", json.dumps(items))

        async def all_ended() -> bool:
            return not await db.fetchval("select count(*) from market_jobs where completed_at is null")

        await until(all_ended)
    rows = await db.fetch("select * from market_requests where meter = 'calls'")
    assert len(rows) == sandbox.count("stockx")
    reasons = sorted(row["wasted_reason"] or "useful" for row in rows)
    assert reasons == ["failed", "not_found", "useful", "useful", "useful"]
    assert {row["priority"] for row in rows} == {200}
    windows = await db.fetch("select window_start, used from market_budgets where window_kind = 'hour'")
    charged = {row["window_start"]: row["used"] for row in windows}
    told = {start: sum(row["cost_window"] == start for row in rows) for start in charged}
    assert told == charged
    audit = await db.fetchrow(
        "select sum(requests) as requests, sum(useful) as useful, sum(wasted) as wasted from market_request_audit"
        " where meter = 'calls'"
    )
    assert audit is not None
    assert tuple(audit) == (5, 3, 2)
    mints = await db.fetch("select meter, useful from market_requests where endpoint = 'token'")
    assert [tuple(row) for row in mints] == [("mints", True)]
