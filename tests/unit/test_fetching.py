"""How a fetch ends, and that its observers hear of it whatever its end."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from marketd import errors
from marketd.fetch import LaneSettings
from marketd.fetching import Fetching, Stores
from marketd.models import Job, JobId, Quote, Unit
from marketd.provider import Found
from marketd.retry import RetryPolicy
from marketd.store.jobs import Settled
from marketd.telemetry import FetchReport, RequestReport, waste_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CALL = RequestReport(
    provider="stockx", account="default", endpoint="search", priority=200, status_class="ok", http_status=200,
    granted_at=NOW, took_s=0.1, of_fetch=True,
)  # fmt: skip
UNIT = Unit(
    key="k", lease_id=UUID(int=1), claimed_at=NOW, provider="stockx", account="default", sku="A", currency="GBP",
    jobs=(Job(id=JobId(1), size="10", priority=150, attempt=1, max_attempts=5, due_at=NOW),),
)  # fmt: skip


class Visit:
    """Sends one call and finds a price."""

    requests, calls, receipt, is_probe = 1, (CALL,), None, False

    async def fetch(self, ask: object) -> Found:
        quote = Quote(size="10", currency="GBP", observed_at=NOW)
        return Found(listing=None, quotes=(quote,), answers={"10": "10"})


class Notes:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.reports: list[FetchReport] = []

    def request_done(self, report: RequestReport) -> None: ...

    def fetches_done(self, reports: Sequence[FetchReport]) -> None:
        self.reports += reports

    def event(self, name: str, **fields: object) -> None: ...


async def _fetched(
    end: Settled | Exception, visit: Callable[[], Any] = Visit
) -> tuple[FetchReport, BaseException | None]:
    """One fetch whose settle ends so: its report, and what its task raised."""

    async def settle(*_: object, alone: bool) -> Settled:
        if isinstance(end, Exception):
            raise end
        return end

    async def give_up(unit: Unit) -> None:
        raise errors.DatabaseUnavailable("still away")

    stores: Any = SimpleNamespace(jobs=SimpleNamespace(settle=settle, give_up=give_up), circuits=None)
    settings = LaneSettings(
        provider="stockx",
        account="default",
        credentials="",
        concurrency=1,
        lease=timedelta(seconds=-1),  # Postgres is waited for no longer than that
        heartbeat_s=60,
        poll_s=5,
        policy=RetryPolicy(delay_s=lambda _: 1, cooldown=timedelta()),
        visit=lambda _: visit(),
        charged_ahead=lambda: False,
    )
    notes = Notes()
    fetching = Fetching(
        Stores(jobs=stores.jobs, circuits=stores.circuits),
        notes,
        lambda: None,
        in_force=lambda: settings,
        on_fetched=lambda: None,
    )
    [crash] = await asyncio.gather(fetching.run(UNIT, settings), return_exceptions=True)
    await asyncio.sleep(0)  # those that end in one turn of the loop are told together
    [report] = notes.reports
    return report, crash


@pytest.mark.parametrize(
    ("settle", "end", "wasted"),
    [
        (Settled(changed=1, stored=1, skipped=()), "settled", None),
        (errors.LeaseLost("taken over"), "lease_lost", "stale"),
        (errors.DatabaseUnavailable("shutting down"), "given_up", "unfinished"),
        (TypeError("no JSON form for object"), "given_up", "unfinished"),
    ],
)
async def test_a_database_that_is_away_is_not_told_as_a_lost_lease(
    settle: Settled | Exception, end: str, wasted: str | None
) -> None:
    report, _ = await _fetched(settle)
    assert report.end == end
    assert waste_of(CALL, report) == wasted


async def test_a_fetch_whose_settle_crashes_is_told_with_its_calls() -> None:
    report, crash = await _fetched(TypeError("no JSON form for object"))
    assert isinstance(crash, TypeError)
    assert report.calls == (CALL,)


async def test_what_a_failed_fetch_held_is_free_without_the_garbage_collector() -> None:
    class Body:
        """Of an answer."""

    bodies: list[weakref.ref[Body]] = []

    class Unreadable(Visit):
        async def fetch(self, ask: object) -> Found:
            body = Body()
            bodies.append(weakref.ref(body))
            raise errors.Rejected(f"refused by {body}", code="bad_request")

    gc.collect()
    gc.disable()
    try:
        report, crash = await _fetched(Settled(changed=0, stored=0, skipped=()), Unreadable)
        assert (report.end, crash) == ("settled", None)
        assert [ref() for ref in bodies] == [None]
    finally:
        gc.enable()
