"""A configuration that moves an account's windows brings none of their quota a second time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from queue_kit import Connection, settings, value

NOW = datetime(2030, 5, 5, 10, 20, tzinfo=UTC)
RECORD = """
insert into market_requests (provider, account, endpoint, priority, granted_at, status_class, took_s, meter)
select 'stockx', 'default', 'market', 100, g, 'ok', 0.1, 'calls' from unnest($1::timestamptz[]) g
"""
WINDOW = """
select b.used from market_providers p, market_settings s, market__window(p, s, $1, $2) w, market_budgets b
 where p.provider = 'stockx' and b.provider = p.provider and b.window_kind = $1 and b.window_start = w.starts
"""


@pytest.fixture(autouse=True)
async def plain(db: Connection) -> None:
    await settings(db, hour_s=3600, day_s=None)
    await db.execute(
        "update market_providers set quota_day = 1000, pace_s = 0, background_min = 0, reserve = 0, day_zone = 'UTC'"
        " where provider = 'stockx'"
    )


async def spend(db: Connection, at: datetime, calls: int, *, recorded: int | None = None) -> None:
    """So many calls at this time; `recorded` of them (all, unless told) are in the call record."""
    for _ in range(calls):
        granted = await db.fetchval(
            "select c.granted from market_providers p, market_settings s,"
            " market__charge(p, s, 200, 'calls', null, $1) c where p.provider = 'stockx'",
            at,
        )
        assert granted
    await db.execute(RECORD, [at] * (calls if recorded is None else recorded))


async def move(db: Connection, at: datetime, **to: object) -> None:
    """A configuration with these other values is applied."""
    for column, new in to.items():
        await db.execute(f"update market_providers set {column} = $1 where provider = 'stockx'", new)
    await db.execute(
        "select market__carry(p, s, $1) from market_providers p, market_settings s where p.provider = 'stockx'",
        at,
    )


async def used(db: Connection, at: datetime, kind: str = "day") -> int:
    return int(await db.fetchval(WINDOW, kind, at) or 0)


async def test_a_day_that_begins_elsewhere_keeps_what_was_charged_in_it(db: Connection) -> None:
    await spend(db, NOW - timedelta(minutes=30), 5)
    await move(db, NOW, day_zone="America/Los_Angeles")
    assert await used(db, NOW) == 5


async def test_what_is_recorded_as_earlier_than_the_days_new_start_is_of_the_day_before(
    db: Connection,
) -> None:
    await spend(db, NOW - timedelta(hours=8), 5)  # 02:20; a day in Los Angeles begins at 07:00
    await spend(db, NOW - timedelta(hours=1), 2)
    await move(db, NOW, day_zone="America/Los_Angeles")
    assert await used(db, NOW) == 2


async def test_a_call_that_the_record_lost_counts_as_one_of_the_new_day(db: Connection) -> None:
    await spend(db, NOW - timedelta(hours=8), 5, recorded=4)
    await move(db, NOW, day_zone="America/Los_Angeles")
    assert await used(db, NOW) == 1


async def test_a_new_day_that_reaches_back_over_two_holds_the_calls_of_both(db: Connection) -> None:
    await spend(db, datetime(2030, 5, 4, 23, 30, tzinfo=UTC), 3)
    await spend(db, datetime(2030, 5, 5, 1, 30, tzinfo=UTC), 2)
    await move(db, datetime(2030, 5, 5, 2, tzinfo=UTC), day_zone="America/Los_Angeles")
    assert await used(db, datetime(2030, 5, 5, 2, tzinfo=UTC)) == 5


async def test_there_and_back_counts_each_call_once(db: Connection) -> None:
    at = NOW
    await spend(db, at, 3)
    for zone in ("America/Los_Angeles", "UTC", "America/Los_Angeles", "Europe/Paris", "UTC"):
        at += timedelta(minutes=5)
        await move(db, at, day_zone=zone)
        await move(db, at)  # a restart changes nothing
        await spend(db, at + timedelta(minutes=1), 1)
    assert await used(db, at) == 8


async def test_an_hour_that_rolls_from_now_on_holds_the_calls_of_the_last_sixty_minutes(
    db: Connection,
) -> None:
    await spend(db, NOW - timedelta(minutes=61), 4)
    await spend(db, NOW - timedelta(minutes=50), 3)
    await spend(db, NOW - timedelta(minutes=5), 3, recorded=2)
    await move(db, NOW, rolling=True)
    await move(db, NOW)
    sent = await db.fetch("select send_at from market_grants order by send_at")
    ago = [(NOW - row["send_at"]) // timedelta(minutes=1) for row in sent]
    assert ago == [50, 50, 50, 5, 5, 0]  # who is missing in the record may have left just now


async def test_an_hour_that_rolled_before_is_told_nothing_new(db: Connection) -> None:
    await db.execute("update market_providers set rolling = true where provider = 'stockx'")
    await spend(db, NOW - timedelta(minutes=50), 3)
    await spend(db, NOW - timedelta(minutes=5), 3)
    await move(db, NOW)
    assert await value(db, "select count(*) from market_grants") == 6


@pytest.mark.parametrize("meter", ["mints", "reports"])
async def test_mints_and_reports_move_with_the_day(db: Connection, meter: str) -> None:
    at = NOW - timedelta(minutes=30)
    await db.execute(
        "select market__charge(p, s, 200, $1, null, $2) from market_providers p, market_settings s"
        " where p.provider = 'stockx'",
        meter,
        at,
    )
    await move(db, NOW, day_zone="America/Los_Angeles")
    assert await used_by_meter(db, meter) == [1, 1]


async def used_by_meter(db: Connection, meter: str) -> list[int]:
    rows = await db.fetch(
        "select used from market_budgets where provider = 'stockx' and window_kind = $1 order by window_start",
        meter,
    )
    return [row["used"] for row in rows]


async def test_a_window_that_has_not_moved_is_left_as_it_is(db: Connection) -> None:
    await spend(db, NOW, 3)
    before = await db.fetch("select * from market_budgets order by window_kind, window_start")
    await move(db, NOW + timedelta(minutes=1))
    assert await db.fetch("select * from market_budgets order by window_kind, window_start") == before


async def test_what_two_days_bring_into_one_is_no_overshoot_but_a_call_beyond_it_is(db: Connection) -> None:
    at = await value(db, "select clock_timestamp()")
    await db.execute("update market_providers set quota_day = 5 where provider = 'stockx'")
    for hours in (20, 10):
        await db.execute(
            "insert into market_budgets (provider, window_kind, window_start, window_end, used, quota)"
            " values ('stockx', 'day', $1, $1::timestamptz + interval '1 day', 4, 5)",
            at - timedelta(hours=hours, minutes=1),
        )
    await move(db, at)
    assert await used(db, at) == 8
    over = "select over from market_budget_status where provider = 'stockx' and window_kind = 'day'"
    assert await value(db, over) == 0
    await db.execute("update market_budgets set used = used + 1 where carried > 0")
    assert await value(db, over) == 1
