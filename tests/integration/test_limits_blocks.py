"""Calls charged ahead: only where every limit is far away, never past a pause, and what is not used comes back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

import pytest

from marketd import clock
from marketd.errors import NotGranted
from marketd.limiter import Grant
from marketd.store.budgets import Charger
from provider_kit import Notes
from queue_kit import Connection, Row, opened

AT = datetime(2026, 3, 4, 10, 30, tzinfo=UTC)
URGENT, BACKGROUND = 200, 100


@pytest.fixture(autouse=True)
async def far(db: Connection) -> None:
    """Ten thousand calls a second, an hour and a day that are far from spent, nothing kept for anyone."""
    await db.execute(
        "update market_providers set quota_hour = 100000, quota_day = 1000000, pace_s = 0.0001,"
        " background_min = 0, reserve = 0"
    )


async def alone(db: Connection, at: datetime, priority: int = URGENT) -> None:
    await db.execute("update market_settings set hour_s = 3600, day_s = null")
    await db.execute(
        "select c.* from market_providers p, market_settings s, market__charge(p, s, $1, 'calls', null, $2) c"
        " where p.provider = 'stockx'",
        priority,
        at,
    )


async def block(db: Connection, at: datetime = AT, *, urgent: bool = True, calls: int = 50) -> Row:
    """A block, after a request that was charged alone has opened the window's rows."""
    await alone(db, at - timedelta(seconds=1), URGENT if urgent else BACKGROUND)
    row = await db.fetchrow(
        "select c.* from market_providers p, market_settings s, market__charge_block(p, s, $1, $2, $3) c"
        " where p.provider = 'stockx'",
        urgent,
        calls,
        at,
    )
    assert row is not None
    return row


async def used(db: Connection) -> list[tuple[int, int]]:
    rows = await db.fetch(
        "select used, used_background from market_budgets where provider = 'stockx' order by window_kind"
    )
    return [(row["used"], row["used_background"]) for row in rows]


async def test_a_block_is_charged_to_every_window_and_moves_the_pace_by_all_its_calls(db: Connection) -> None:
    row = await block(db, urgent=False)
    assert (row["calls"], row["granted_at"], row["cost_window"]) == (50, AT, AT.replace(minute=0))
    assert row["step_s"] == pytest.approx(0.00011)
    assert await used(db) == [(51, 51), (51, 51)]
    due = await db.fetchval("select next_request_at from market_providers where provider = 'stockx'")
    assert due - AT == pytest.approx(timedelta(seconds=50 * 0.00011), abs=timedelta(microseconds=2))


async def test_what_is_given_back_is_as_if_it_had_never_been_taken(db: Connection) -> None:
    row = await block(db, urgent=False)
    await db.execute("select market_give_back_block($1, 30)", row["receipt"])
    assert await used(db) == [(21, 21), (21, 21)]
    await db.execute("select market_give_back($1)", row["receipt"])  # one that was had, and never left
    assert await used(db) == [(20, 20), (20, 20)]


@pytest.mark.parametrize(
    "near",
    [
        "update market_providers set paused_at = now()",
        "update market_providers set enabled = false",
        "update market_providers set circuit = 'open', circuit_reason = 'errors', circuit_until = '2026-03-05'",
        "update market_providers set circuit = 'half_open', circuit_reason = 'errors', circuit_until = '2026-03-01'",
        "update market_providers set rolling = true",
        "update market_providers set pace_s = 1",
        "update market_providers set pace_s = 0.02",
        "update market_providers set quota_hour = 30",
        "update market_providers set quota_day = 30",
        "update market_budgets set used = 999990 where window_kind = 'day'",
        "update market_providers set next_request_at = '2026-03-04 10:30:00.2+00'",
    ],
)
async def test_where_a_limit_is_near_or_the_lane_closed_each_request_is_charged_alone(
    db: Connection, near: str
) -> None:
    await alone(db, AT - timedelta(seconds=1))
    await db.execute(near)
    before = await used(db)
    row = await db.fetchrow(
        "select c.* from market_providers p, market_settings s, market__charge_block(p, s, true, 50, $1) c"
        " where p.provider = 'stockx'",
        AT,
    )
    assert row is not None
    assert row["calls"] == 0
    assert await used(db) == before


@pytest.mark.parametrize(("to_end_s", "calls"), [(0.4, 0), (1.0, 0), (1.49, 0), (1.6, 50), (100.0, 50)])
async def test_no_block_reaches_into_the_last_second_of_a_window(
    db: Connection, to_end_s: float, calls: int
) -> None:
    at = AT.replace(minute=0) + timedelta(hours=1) - timedelta(seconds=to_end_s)
    row = await block(db, at)
    assert row["calls"] == calls
    if calls:
        assert row["hold_s"] < row["valid_s"] <= to_end_s - 0.5


async def test_a_block_is_a_small_part_of_what_is_left_and_of_a_second(db: Connection) -> None:
    assert (await block(db, calls=100_000))["calls"] == 181  # a fiftieth of ten thousand, spaced 10 % wider
    await db.execute("update market_providers set quota_hour = 1401")
    await alone(db, AT)
    left = 1401 - (await used(db))[1][0]
    assert (await block(db, AT + timedelta(seconds=2), calls=100_000))["calls"] in (
        left // 16,
        left // 16 - 1,
    )


async def test_background_gets_no_more_ahead_than_its_spread_allows(db: Connection) -> None:
    await db.execute("update market_providers set quota_hour = 1000, quota_day = null")
    row = await block(db, AT, urgent=False)
    tokens = await db.fetchval("select background_tokens from market_budgets where window_kind = 'hour'")
    assert row["calls"] == 50
    assert 0 <= tokens <= 50
    again = await block(db, AT + timedelta(seconds=1), urgent=False, calls=200)
    assert again["calls"] <= tokens + 1


async def test_priorities_of_two_kinds_get_no_block_together(db: Connection) -> None:
    await db.execute("select market_take('stockx', 'default', 200)")
    row = await db.fetchrow("select * from market_take_block('stockx', 'default', 100, 200, 50)")
    assert row is not None
    assert row["calls"] == 0


@asynccontextmanager
async def charging(database: str) -> AsyncIterator[Charger]:
    async with opened(database) as pool:
        charger = Charger(pool, "stockx", "default", Notes())
        yield charger
        await charger.close()


async def leave(charger: Charger, priority: int, count: int) -> list[tuple[float, Grant]]:
    """`count` requests one after the other: the time of each, and its grant."""
    left = []
    for _ in range(count):
        grant = await charger.gate(priority).take("x")
        await asyncio.sleep(grant.leave_at - clock.monotonic())
        left.append((time.time(), grant))
    return left


@pytest.mark.parametrize(("pace_s", "at_any_moment"), [(0.0001, False), (0.00001, True), (0.0, True)])
async def test_where_the_pace_is_beyond_reach_a_call_that_was_charged_alone_has_no_moment_to_miss(
    db: Connection, database: str, pace_s: float, at_any_moment: bool
) -> None:
    await db.execute("update market_providers set pace_s = $1 where provider = 'stockx'", pace_s)
    async with charging(database) as charger:
        grant = await charger.gate(URGENT).take("x")
    assert grant.slack_s == (inf if at_any_moment else 0.0)


async def test_under_load_few_statements_serve_many_and_the_books_are_right_to_the_call(
    db: Connection, database: str
) -> None:
    async with charging(database) as charger:
        left = await asyncio.gather(*(leave(charger, URGENT, 60) for _ in range(20)))
    total = sum(len(one) for one in left)
    assert total == 1200
    receipts = Counter(grant.receipt for one in left for _, grant in one)  # a block has one for all its calls
    assert len(receipts) < total / 4, "hardly any was charged ahead"
    assert (await used(db))[1] == (total, 0)
    times = sorted(grant.granted_at for one in left for _, grant in one)
    assert len(set(times)) > 0.9 * total, "calls carry the time of their block"


async def test_blocks_of_two_daemons_keep_the_pace_in_every_sliding_second(
    db: Connection, database: str
) -> None:
    await db.execute("update market_providers set pace_s = 0.002")  # 500 a second
    async with charging(database) as one, charging(database) as two:
        runs = await asyncio.gather(*(leave(c, URGENT, 60) for c in (one, two) for _ in range(10)))
    moments = sorted(moment for run in runs for moment, _ in run)
    most = max(sum(1 for other in moments if first <= other < first + 1) for first in moments[::10])
    assert most <= 500


async def test_a_pause_stops_what_was_charged_ahead_within_half_a_second(
    db: Connection, database: str
) -> None:
    async with charging(database) as charger:
        for _ in range(3):
            await asyncio.gather(*(leave(charger, URGENT, 20) for _ in range(10)))
        await db.execute("select market_pause('stockx', 'lunch')")
        paused = time.monotonic()
        with pytest.raises(NotGranted, match="paused"):
            await leave(charger, URGENT, 1_000_000)
        assert time.monotonic() - paused < 0.5


@pytest.mark.parametrize(
    ("happens", "refusal"),
    [
        ("select market_report('stockx', 'default', 'throttled', 30)", "cooldown"),
        ("update market_providers set quota_hour = 1", "budget"),  # as a reload does
    ],
)
async def test_trouble_or_a_reload_voids_what_was_charged_ahead_at_once_and_gives_it_back(
    db: Connection, database: str, happens: str, refusal: str
) -> None:
    async with charging(database) as charger:
        gate = charger.gate(URGENT)
        taken = 0
        while taken == 0 or (await used(db))[1][0] <= taken + 20:  # until much is charged ahead
            taken += len(await leave(charger, URGENT, 200))
        await db.execute(happens)
        gate.trouble()
        with pytest.raises(NotGranted, match=refusal):
            await leave(charger, URGENT, 1)
    assert (await used(db))[1] == (taken, 0)


@pytest.mark.parametrize("moment", ["while it is charged", "as the answer comes"])
@pytest.mark.parametrize("circuit", ["closed", "open"])
async def test_a_charge_whose_fetch_was_cut_off_is_given_back(
    db: Connection, database: str, monkeypatch: pytest.MonkeyPatch, circuit: str, moment: str
) -> None:
    """And if it was a lane's probe, the next one need not wait until that is thought lost."""
    if circuit == "open":
        await db.execute(
            "update market_providers set circuit = 'open', circuit_reason = 'errors', circuit_until = '2026-03-01'"
        )
    loop = asyncio.get_running_loop()
    async with charging(database) as charger:
        fetch = charger._db.fetch

        async def charged(*statement: Any) -> list[Any]:
            rows = await fetch(*statement)
            if moment == "while it is charged":
                taking.cancel()
            else:
                loop.call_soon(taking.cancel)
            return rows

        monkeypatch.setattr(charger._db, "fetch", charged)
        taking = asyncio.create_task(charger.gate(URGENT).take("x"))
        with pytest.raises(asyncio.CancelledError):
            await taking
        await asyncio.sleep(0)
        monkeypatch.undo()
    assert await used(db) == [(0, 0), (0, 0)]
    assert await db.fetchval("select circuit from market_providers where provider = 'stockx'") == circuit
