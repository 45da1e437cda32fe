"""The gate in front of every request: windows, shares, pace and circuit, all in one row lock of Postgres."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise, product
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from marketd import clock, errors
from marketd.store.budgets import Charger
from marketd.store.sqlfile import queries
from provider_kit import Notes
from queue_kit import Connect, Connection, Row, daemon, enqueue, limits, now, opened, settings, value


@pytest.fixture(autouse=True)
async def quick(db: Connection) -> None:
    """No pace, no day, nothing kept for anyone; a test asks for what it tests."""
    await db.execute(
        "update market_providers set quota_day = null, pace_s = 0, background_min = 0, reserve = 0"
    )


async def take(db: Connection, priority: int = 200, provider: str = "stockx", meter: str = "calls") -> Row:
    row = await db.fetchrow("select * from market_take($1, 'default', $2, $3)", provider, priority, meter)
    assert row is not None
    return row


async def charge(
    db: Connection,
    at: datetime,
    priority: int = 200,
    meter: str = "calls",
    after: str | None = None,
    provider: str = "stockx",
) -> Row:
    """What market_take does, at a time of the test's choice."""
    row = await db.fetchrow(
        "select c.* from market_providers p, market_settings s, market__charge(p, s, $2, $3, $4, $1) c"
        " where p.provider = $5",
        at, priority, meter, after, provider,
    )  # fmt: skip
    assert row is not None
    return row


async def report(
    db: Connection,
    kind: str,
    retry_after_s: float | None = None,
    *,
    day_spent: bool = False,
    detail: str = "why",
    receipt: str | None = None,
) -> Row:
    """How a request went. `receipt`: the request's own, which matters while the circuit is not closed."""
    row = await db.fetchrow(
        "select * from market_report('stockx', 'default', $1, $2, $3, $4, $5)",
        kind,
        retry_after_s,
        day_spent,
        detail,
        receipt,
    )
    assert row is not None
    return row


async def used(db: Connection, kind: str = "hour", provider: str = "stockx") -> int:
    return int(
        await db.fetchval(
            "select coalesce(sum(used), 0) from market_budgets where window_kind = $1 and provider = $2",
            kind,
            provider,
        )
    )


async def spend(db: Connection, calls: int, kind: str = "hour", background: int = 0) -> None:
    """As if so many calls of the present window were gone."""
    await db.execute(
        "insert into market_budgets (provider, window_kind, window_start, window_end, used, used_background)"
        " select p.provider, $2, w.starts, w.ends, $1, $3 from market_providers p, market_settings s,"
        " market__window(p, s, $2, clock_timestamp()) w where p.provider = 'stockx'"
        " on conflict (provider, account, window_kind, window_start)"
        " do update set used = excluded.used, used_background = excluded.used_background",
        calls, kind, background,
    )  # fmt: skip


async def shares(db: Connection, into_hour: float, provider: str = "stockx") -> Row:
    """What market__shares says of the hour when this part of it has passed."""
    await settings(db, hour_s=3600)
    row = await db.fetchrow(
        "select h.* from market_providers p, market_settings s, market__shares(p, s, 'hour', $2) h"
        " where p.provider = $1",
        provider,
        datetime(2030, 5, 5, 12, tzinfo=UTC) + timedelta(hours=into_hour),
    )
    assert row is not None
    return row


# ------------------------------------------------------------------------------------------------------ windows


async def test_a_call_is_charged_to_hour_and_day_before_it_is_sent(db: Connection) -> None:
    await limits(db, quota_day=1000)
    grant = await take(db)
    assert (grant["granted"], grant["reason"], grant["delay_s"]) == (True, None, 0)
    assert (await used(db, "hour"), await used(db, "day")) == (1, 1)


async def test_all_windows_are_charged_or_none(db: Connection) -> None:
    await limits(db, quota_hour=100, quota_day=3)
    await spend(db, 3, "day")
    refused = await take(db)
    assert (refused["granted"], refused["reason"]) == (False, "budget")
    assert refused["until"] == await value(
        db, "select window_end from market_budgets where window_kind = 'day'"
    )
    assert await used(db, "hour") == 0


async def test_sixteen_takers_at_once_get_exactly_the_quota(connect: Connect, db: Connection) -> None:
    takers = [await connect() for _ in range(16)]

    async def grab(taker: Connection) -> int:
        return sum([(await take(taker))["granted"] for _ in range(10)])

    assert sum(await asyncio.gather(*(grab(taker) for taker in takers))) == 100
    assert await used(db) == 100
    assert await value(db, "select sum(refused) from market_budgets") == 60


@pytest.mark.parametrize(
    ("before_s", "wait_s"), [(0.9, 1.4), (0.1, 0.6), (0.0, 0.5), (-0.2, 0.3), (1.1, None), (-0.6, None)]
)
async def test_nothing_leaves_where_the_providers_clock_may_be_in_another_window(
    db: Connection, before_s: float, wait_s: float | None
) -> None:
    await settings(db, hour_s=3600)
    at = datetime(2031, 3, 4, 12, tzinfo=UTC) - timedelta(seconds=before_s)
    answer = await charge(db, at)
    assert answer["granted"] == (wait_s is None)
    assert answer["wait_s"] == (None if wait_s is None else pytest.approx(wait_s, abs=1e-3))
    assert await used(db) == answer["granted"]


async def test_a_grant_is_void_before_its_window_ends(db: Connection) -> None:
    await settings(db, hour_s=3600)
    grant = await charge(db, datetime(2031, 3, 4, 12, tzinfo=UTC) - timedelta(seconds=3))
    assert grant["granted"]
    assert grant["valid_s"] == pytest.approx(2.5, abs=1e-3)


async def test_a_window_without_limit_has_no_edge(db: Connection) -> None:
    await settings(db, hour_s=3600)
    await limits(db, quota_hour=None)
    assert (await charge(db, datetime(2031, 3, 4, 12, tzinfo=UTC)))["granted"]


async def test_hours_do_not_depend_on_the_sessions_time_zone(db: Connection) -> None:
    await take(db)
    await db.execute("set time zone 'Asia/Kolkata'")
    await take(db)
    assert await value(db, "select used from market_budgets where window_kind = 'hour'") == 2


@pytest.mark.parametrize(
    ("at", "hours"), [("2026-03-08 20:00+00", 23), ("2026-11-01 20:00+00", 25), ("2026-07-01 20:00+00", 24)]
)
async def test_the_day_in_los_angeles_has_23_24_or_25_hours(db: Connection, at: str, hours: int) -> None:
    await settings(db, day_s=None)
    row = await db.fetchrow(
        "select w.* from market_providers p, market_settings s,"
        " market__window(p, s, 'day', $1::text::timestamptz) w where p.provider = 'ebay'",
        at,
    )
    assert row is not None
    assert row["ends"] - row["starts"] == timedelta(hours=hours)


@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles"])
async def test_every_hour_of_a_year_lies_in_one_day_and_days_join_without_gap(
    db: Connection, zone: str
) -> None:
    await settings(db, day_s=None)
    await limits(db, "ebay", day_zone="America/Los_Angeles")
    await db.execute(f"set time zone '{zone}'")
    rows = await db.fetch(
        "select distinct w.starts, w.ends from market_providers p, market_settings s,"
        " generate_series('2026-01-02 00:30+00'::timestamptz, '2026-12-30 00:30+00', '1 hour') t,"
        " market__window(p, s, 'day', t) w where p.provider = 'ebay' order by 1"
    )
    assert len(rows) == 363
    assert all(first["ends"] == second["starts"] for first, second in pairwise(rows))


@pytest.mark.parametrize(("switch", "hours"), [(date(2026, 3, 8), 23), (date(2026, 11, 1), 25)])
async def test_on_the_days_that_the_clocks_change_ebays_day_is_reset_once(
    db: Connection, switch: date, hours: int
) -> None:
    await settings(db, hour_s=3600, day_s=None)
    await limits(db, "ebay", quota_hour=None, quota_day=7)
    zone = ZoneInfo("America/Los_Angeles")
    midnight = datetime.combine(switch, time(), zone).astimezone(UTC)
    sent: list[datetime] = []
    for minute in range(-120, (hours + 2) * 60, 10):  # more is wanted than the day allows, all day long
        at = midnight + timedelta(minutes=minute + 5)
        if (await charge(db, at, provider="ebay"))["granted"]:
            sent.append(at)
    by_day = Counter(at.astimezone(zone).date() for at in sent)
    assert by_day == {switch - timedelta(days=1): 7, switch: 7, switch + timedelta(days=1): 7}
    # What begins a day begins it at once, and nothing else does: three bursts, each at a midnight there.
    firsts = [
        at
        for before, at in pairwise([midnight - timedelta(days=9), *sent])
        if at - before > timedelta(minutes=30)
    ]
    assert firsts == [midnight + timedelta(hours=h, minutes=5) for h in (-2, 0, hours)]


async def test_a_rolling_hour_counts_the_last_sixty_minutes(db: Connection) -> None:
    await limits(db, quota_hour=3, rolling=True)
    for age in ("70 minutes", "59 minutes", "30 minutes"):
        await db.execute(
            "insert into market_grants (provider, account, send_at)"
            " values ('stockx', 'default', clock_timestamp() - $1::text::interval)",
            age,
        )
    assert (await take(db))["granted"]
    refused = await take(db)
    assert (refused["granted"], refused["reason"]) == (False, "budget")
    assert timedelta(0) < refused["until"] - await now(db) <= timedelta(minutes=1, seconds=7)


async def test_a_rolling_hour_counts_a_call_as_long_as_it_may_have_been_late(db: Connection) -> None:
    await limits(db, quota_hour=1, rolling=True)
    await db.execute(
        "insert into market_grants (provider, account, send_at)"
        " values ('stockx', 'default', clock_timestamp() - interval '1 hour 5 seconds')"
    )
    assert not (await take(db))["granted"]


async def test_a_given_back_call_can_be_taken_again(db: Connection) -> None:
    await limits(db, quota_hour=1, quota_day=1)
    grant = await take(db, 100)
    assert not (await take(db))["granted"]
    await db.execute("select market_give_back($1)", grant["receipt"])
    assert (await used(db, "hour"), await used(db, "day")) == (0, 0)
    assert await value(db, "select bool_and(used_background = 0 and given_back = 1) from market_budgets")
    assert (await take(db))["granted"]


async def test_giving_back_in_a_rolling_hour_returns_the_very_call(db: Connection) -> None:
    await limits(db, quota_hour=5, rolling=True)
    first, second = await take(db), await take(db)
    await db.execute("select market_give_back($1)", first["receipt"])
    assert await value(db, "select send_at from market_grants") == second["granted_at"]


async def test_a_quota_lowered_below_what_is_used_is_legal_and_refuses(db: Connection) -> None:
    await spend(db, 80)
    await limits(db, quota_hour=50)
    refused = await take(db)
    assert (refused["granted"], refused["reason"]) == (False, "budget")
    over = await db.fetchrow(
        "select remaining, \"over\" from market_budget_status where provider = 'stockx' and window_kind = 'hour'"
    )
    assert over is not None
    assert tuple(over) == (-30, 30)
    await limits(db, quota_hour=81)
    assert (await take(db))["granted"]


async def test_of_two_live_daemons_the_lower_quota_holds(db: Connection) -> None:
    await daemon(db, stockx={"hour": 90})
    strict = await daemon(db, stockx={"hour": 40})
    await spend(db, 40)
    assert not (await take(db))["granted"]
    await db.execute("update market_daemons set alive_until = now() where daemon_id = $1", strict)
    assert (await take(db))["granted"]


async def test_mints_have_a_meter_of_their_own_and_wait_for_what_all_wait_for(db: Connection) -> None:
    assert (await take(db, meter="mints"))["granted"]
    assert (await used(db, "mints"), await used(db, "hour")) == (1, 0)
    await report(db, "throttled", 30)
    assert [(await take(db, meter=meter))["reason"] for meter in ("mints", "reports")] == ["cooldown"] * 2
    await db.execute("select market_pause('stockx', 'lunch')")
    assert (await take(db, meter="mints"))["reason"] == "paused"


async def test_on_a_spent_day_the_providers_report_may_be_asked_for(db: Connection) -> None:
    await report(db, "throttled", 10, day_spent=True)
    assert (await take(db, meter="mints"))["reason"] == "cooldown"
    assert (await take(db, meter="reports"))["granted"]


async def test_without_quota_calls_are_counted_all_the_same(db: Connection) -> None:
    await limits(db, quota_hour=None)
    assert (await take(db))["granted"]
    assert await used(db) == 1


# --------------------------------------------------------------------------------------------------------- pace


async def test_requests_of_many_processes_leave_at_least_the_interval_apart(
    connect: Connect, db: Connection
) -> None:
    await limits(db, pace_s=0.2)
    takers = [await connect() for _ in range(5)]

    async def leave(taker: Connection) -> Row:
        answer = await take(taker)
        if answer["granted"]:
            return answer
        await asyncio.sleep(answer["wait_s"])
        return await leave(taker)

    grants = await asyncio.gather(*(leave(taker) for taker in takers for _ in range(1)))
    grants += [await leave(db) for _ in range(3)]
    times = sorted(grant["granted_at"] for grant in grants)
    assert min((b - a).total_seconds() for a, b in pairwise(times)) >= 0.2
    assert await used(db) == 8


async def test_who_has_to_wait_for_the_pace_is_charged_nothing(db: Connection) -> None:
    await limits(db, pace_s=4)
    assert (await take(db))["granted"]
    waits = await take(db)
    assert (waits["granted"], waits["reason"]) == (False, "pace")
    assert 3 < waits["wait_s"] <= 4.4
    await limits(db, pace_s=20)
    await db.execute(
        "update market_providers set next_request_at = clock_timestamp() + interval '19 seconds'"
    )
    refused = await take(db)
    assert (refused["granted"], refused["reason"], refused["wait_s"]) == (False, "pace", None)
    assert refused["until"] > await now(db) + timedelta(seconds=5)
    assert await used(db) == 1


async def test_a_request_that_missed_its_moment_leaves_at_once_if_nobody_came_after_it(
    db: Connection, database: str
) -> None:
    await limits(db, pace_s=2)
    async with opened(database) as pool:
        gate = Charger(pool, "stockx", "default", Notes()).gate(200)
        missed = await gate.take("x")
        await asyncio.sleep(0.1)
        moved = await gate.move(missed, 5)
    assert moved is not None
    assert moved.granted_at > missed.granted_at + timedelta(seconds=0.1)
    assert moved.leave_at > missed.leave_at
    # The next is spaced from the moment at which it left.
    following = await value(db, "select next_request_at from market_providers where provider = 'stockx'")
    assert following == moved.granted_at + timedelta(seconds=2.2)
    assert await used(db) == 1


async def test_a_request_that_missed_its_moment_gets_one_behind_those_that_came_after_it(
    db: Connection, database: str
) -> None:
    await limits(db, pace_s=0.2)
    async with opened(database) as pool:
        gate = Charger(pool, "stockx", "default", Notes()).gate(200)
        missed, second = await gate.take("x"), await gate.take("x")
        moved = await gate.move(missed, 5)
        third = await gate.take("x")
    assert moved is not None
    times = [second.granted_at, moved.granted_at, third.granted_at]
    assert all(b - a >= timedelta(seconds=0.22) for a, b in pairwise(times)), times
    assert await used(db) == 3


async def test_a_request_that_missed_its_moment_waits_for_no_other_longer_than_it_may(
    db: Connection, database: str
) -> None:
    await limits(db, pace_s=4)
    async with opened(database) as pool:
        gate = Charger(pool, "stockx", "default", Notes()).gate(200)
        missed = await gate.take("x")
        await db.execute(  # another has been granted since
            "update market_providers set next_request_at = clock_timestamp() + interval '5 seconds'"
        )
        assert await gate.move(missed, 3) is None


async def test_a_request_that_missed_its_moment_does_not_leave_a_lane_that_was_closed_meanwhile(
    db: Connection, database: str
) -> None:
    async with opened(database) as pool:
        gate = Charger(pool, "stockx", "default", Notes()).gate(200)
        missed = await gate.take("x")
        await report(db, "throttled", 30)
        with pytest.raises(errors.NotGranted, match="cooldown"):
            await gate.move(missed, 5)


async def test_many_that_missed_their_moments_share_a_statement_and_each_comes_again_when_one_is_free(
    db: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await limits(db, pace_s=0.02)
    asked: list[int] = []
    async with opened(database) as pool:
        charger = Charger(pool, "stockx", "default", Notes())
        gates = [charger.gate(200) for _ in range(12)]
        missed = [await gate.take("x") for gate in gates]
        fetch = pool.fetch

        async def counting(sql: str, *args: Any, **more: Any) -> Any:
            asked.append(len(args[2]))
            return await fetch(sql, *args, **more)

        monkeypatch.setattr(pool, "fetch", counting)
        moved = await asyncio.gather(
            *(gate.move(grant, 5) for gate, grant in zip(gates, missed, strict=True))
        )
    assert asked[0] == 12
    # Had each of them come again at every moment that was free for one of them, there were some 70.
    assert sum(asked) <= 36, asked
    times = sorted(grant.granted_at for grant in moved if grant is not None)
    assert len(times) == 12
    assert all(b - a >= timedelta(seconds=0.022) for a, b in pairwise(times)), times
    assert await used(db) == 12


async def test_waiting_for_ones_turn_to_be_charged_is_not_being_late(
    connect: Connect, db: Connection, database: str
) -> None:
    other = await connect()
    async with opened(database) as pool:
        gate = Charger(pool, "stockx", "default", Notes()).gate(200)
        held = other.transaction()
        await held.start()
        await other.execute("select from market_providers where provider = 'stockx' for update")
        began = clock.monotonic()
        taking = asyncio.create_task(gate.take("x"))
        await asyncio.wait({taking}, timeout=0.5)
        await held.rollback()
        grant = await taking
    assert grant.leave_at - began > 0.4


async def test_a_clock_that_was_set_back_or_a_quicker_pace_does_not_stop_the_lane(db: Connection) -> None:
    await limits(db, pace_s=1)
    await db.execute("update market_providers set next_request_at = clock_timestamp() + interval '1 day'")
    assert (await take(db))["granted"]


async def test_of_two_live_daemons_the_slower_pace_holds(db: Connection) -> None:
    await limits(db, pace_s=0.1)
    slow = await daemon(db, stockx={"pace_s": 60})
    assert (await take(db))["granted"]
    refused = await take(db)
    assert (refused["reason"], refused["wait_s"]) == ("pace", None)
    assert refused["until"] > await now(db) + timedelta(seconds=50)
    await db.execute("update market_daemons set alive_until = now() where daemon_id = $1", slow)
    assert (await take(db))["reason"] != "pace"


# ----------------------------------------------------------------------------------------------- shares (9.11)


async def test_the_reserve_shrinks_with_the_hour_and_is_open_to_all_at_its_end(db: Connection) -> None:
    await limits(db, quota_hour=100, reserve=0.4)
    assert [(await shares(db, part))["background_left"] for part in (0, 0.5, 0.96)] == [60, 80, 100]
    assert (await shares(db, 0))["urgent_left"] == 100


async def test_no_kind_of_work_has_less_than_no_calls_left(db: Connection) -> None:
    left = (
        "select urgent_left, background_left from market_budget_status"
        " where provider = 'stockx' and window_kind = 'hour'"
    )
    await limits(db, quota_hour=100, reserve=1.0)
    await spend(db, 99)
    assert tuple(await db.fetchrow(left) or ()) == (1, 0)
    await limits(db, quota_hour=50)
    assert tuple(await db.fetchrow(left) or ()) == (0, 0)


async def test_reserve_auto_keeps_what_on_demand_work_is_expected_to_need(db: Connection) -> None:
    await limits(db, quota_hour=100, reserve=None, on_demand_per_h=36)
    assert (await shares(db, 0))["background_left"] == 100 - 36 - 6
    assert (await shares(db, 0.75))["background_left"] == 100 - 9 - 3


async def test_demand_that_only_fades_ends_as_none(db: Connection) -> None:
    """After half a year it would be a number so small that the last seconds of each hour could not compute with it."""
    await limits(db, quota_hour=100, reserve=None, on_demand_per_h=1e-300)
    await db.execute(queries("runs")["learn_demand"], 60.0)
    assert await value(db, "select max(on_demand_per_h) from market_providers") == 0


async def test_demand_is_learned_of_calls_that_reach_the_record_late_and_of_nothing_but_calls(
    db: Connection,
) -> None:
    """A slow fetch of several requests writes them down minutes after the first was granted."""
    learned = "select on_demand_per_h from market_providers where provider = 'stockx'"
    late = (
        "insert into market_requests (provider, account, endpoint, priority, granted_at, status_class, took_s, meter,"
        " given_back) values ('stockx', 'default', 'x', $1, now() - interval '170 seconds', 'ok', 1, $2, $3)"
    )
    await db.execute(queries("runs")["learn_demand"], 60.0)
    await db.execute(late, 200, "calls", False)
    assert await value(db, learned) == 0
    for other in ((100, "calls", False), (200, "mints", False), (200, "calls", True)):
        await db.execute(late, *other)
    for _ in range(10):
        await db.execute("update market_requests set granted_at = granted_at - interval '1 minute'")
        await db.execute(queries("runs")["learn_demand"], 60.0)
    one_call = 60 * (1 - math.exp(-60 / 21600))
    assert one_call * math.exp(-9 * 60 / 21600) < await value(db, learned) <= one_call


async def test_background_min_is_kept_from_urgent_work_only_while_background_waits(db: Connection) -> None:
    await limits(db, quota_hour=100, background_min=0.05)
    assert (await shares(db, 0.5))["urgent_left"] == 100
    await enqueue(db)
    assert (await shares(db, 0.5))["urgent_left"] == 95
    assert (await shares(db, 0.96))["urgent_left"] == 100


async def test_background_min_is_not_the_reserves_to_refuse(db: Connection) -> None:
    await limits(db, quota_hour=100, reserve=1.0, background_min=0.05)
    await enqueue(db)
    assert (await shares(db, 0.1))["background_left"] == 10  # the reserve has let go of a tenth
    assert (await shares(db, 0))["background_left"] == 5


async def test_urgent_work_stops_at_what_is_kept_for_background_which_then_may_go(db: Connection) -> None:
    await limits(db, quota_hour=20, background_min=0.1)
    await enqueue(db)
    await spend(db, 18)
    assert (await take(db, 200))["reason"] == "budget"
    assert (await take(db, 100))["granted"]
    waits = await take(db, 100)  # what is kept is spread over the window, too
    assert waits["reason"] == "budget"
    assert timedelta(0) < waits["until"] - await now(db) < timedelta(hours=1)
    assert (await charge(db, waits["until"], 100))["granted"]
    assert not (await take(db, 200))["granted"]


async def test_background_is_spread_over_the_window_with_a_small_burst(db: Connection) -> None:
    await limits(db, quota_hour=100)
    grants = [await take(db, 100) for _ in range(30)]
    sent = sum(grant["granted"] for grant in grants)
    assert 10 <= sent <= 12
    assert grants[-1]["reason"] == "budget"
    assert (await take(db, 200))["granted"]


HOUR = datetime(2031, 3, 4, 12, tzinfo=UTC)


async def live(
    db: Connection, hours: float, *, urgent: Callable[[int], int] = lambda _second: 0, step_s: int = 4
) -> list[tuple[float, int]]:
    """Lives through hours in which background always waits: (second, priority) of each call that may leave.

    `urgent(second)`: how many urgent calls are wanted in that step.
    """
    await settings(db, hour_s=3600, day_s=None)
    sent: list[tuple[float, int]] = []
    for second in range(0, round(hours * 3600), step_s):
        at = HOUR + timedelta(seconds=second)
        for priority in [200] * urgent(second) + [100]:
            if (await charge(db, at, priority))["granted"]:
                sent.append((second, priority))
    return sent


async def test_an_hour_of_background_alone_is_used_up_and_evenly(db: Connection) -> None:
    await limits(db, quota_hour=100, background_min=0.05, reserve=None, on_demand_per_h=16)
    times = [second for second, _ in await live(db, 2)]
    for hour in (0, 3600):
        mine = [second - hour for second in times if hour <= second < hour + 3600]
        assert 98 <= len(mine) <= 100, len(mine)
        for quarter in range(0, 3600, 900):
            assert 15 <= sum(quarter <= second < quarter + 900 for second in mine) <= 36, mine


async def test_what_a_reserve_kept_is_given_to_background_at_the_windows_end(db: Connection) -> None:
    await limits(db, quota_hour=100, reserve=0.5)
    assert len(await live(db, 1)) >= 98


async def test_an_urgent_burst_does_not_hold_background_back_in_the_next_hour(db: Connection) -> None:
    await limits(db, quota_hour=100, background_min=0.05)
    await enqueue(db)  # background waits
    calls = await live(db, 2, urgent=lambda second: 1 if second < 600 else 0, step_s=5)
    first = Counter(priority for second, priority in calls if second < 3600)
    assert sum(first.values()) <= 100
    assert first[100] >= 5
    second_hour = [second - 3600 for second, _ in calls if second >= 3600]
    assert len(second_hour) >= 98
    assert sum(second < 900 for second in second_hour) >= 20


async def test_a_day_that_is_scarcer_than_its_hours_is_spread_too(db: Connection) -> None:
    await limits(db, quota_hour=100, quota_day=240)
    calls = await live(db, 12, step_s=30)  # from noon to midnight
    assert len(calls) >= 235
    halves = Counter(second < 6 * 3600 for second, _ in calls)
    assert 90 <= halves[True] <= 160, halves


async def test_in_a_rolling_hour_background_alone_uses_all_of_it(db: Connection) -> None:
    await limits(db, quota_hour=100, rolling=True)
    times = [second for second, _ in await live(db, 3)]
    for begin in range(0, 7200, 600):
        assert sum(begin <= second < begin + 3600 for second in times) <= 100
    assert sum(3600 <= second < 10800 for second in times) >= 190


# ------------------------------------------------------------------------------------------- pause and circuit


async def test_a_pause_stops_all_until_it_is_resumed(db: Connection) -> None:
    await db.execute("select market_pause('stockx', 'too dear')")
    assert (await take(db))["reason"] == "paused"
    assert (await take(db, provider="alias"))["granted"]
    await db.execute("select market_resume('stockx')")
    assert (await take(db))["granted"]


async def test_a_provider_that_is_off_or_unknown_grants_nothing(db: Connection) -> None:
    await limits(db, enabled=False)
    assert (await take(db))["reason"] == "off"
    assert (await take(db, provider="goat"))["reason"] == "off"


async def test_errors_in_a_row_open_the_circuit_and_a_success_between_them_does_not(db: Connection) -> None:
    for _ in range(4):
        assert (await report(db, "errors"))["state"] == "closed"
    await report(db, "ok")
    states = [(await report(db, "errors", detail="HTTP 503"))["state"] for _ in range(5)]
    assert states == ["closed"] * 4 + ["open"]
    refused = await take(db)
    assert refused["reason"] == "circuit"
    assert timedelta(seconds=25) < refused["until"] - await now(db) <= timedelta(seconds=30)
    late = await report(db, "errors")  # sent before the circuit opened
    assert (late["changed"], late["until"]) == (False, refused["until"])


async def _due_for_a_probe(db: Connection) -> None:
    await db.execute("update market_providers set circuit_until = now() - interval '1 second'")


async def test_of_many_connections_one_probes_a_half_open_circuit(connect: Connect, db: Connection) -> None:
    await report(db, "throttled")
    await _due_for_a_probe(db)
    takers = [await connect() for _ in range(8)]
    grants = await asyncio.gather(*(take(taker) for taker in takers))
    assert sum(grant["granted"] for grant in grants) == 1
    assert {grant["reason"] for grant in grants if not grant["granted"]} == {"cooldown"}
    assert await value(db, "select circuit from market_providers where provider = 'stockx'") == "half_open"


async def test_a_good_probe_closes_the_circuit_and_a_bad_one_opens_it_for_longer(db: Connection) -> None:
    for _ in range(5):
        await report(db, "errors")
    await _due_for_a_probe(db)
    probe = await take(db)
    again = await report(db, "errors", receipt=probe["receipt"])
    assert again["state"] == "open"
    assert timedelta(seconds=50) < again["until"] - await now(db) <= timedelta(seconds=60)
    await _due_for_a_probe(db)
    probe = await take(db)
    assert (await report(db, "ok", receipt=probe["receipt"]))["state"] == "closed"
    row = await db.fetchrow(
        "select circuit_failures, circuit_opens, circuit_reason from market_providers limit 1"
    )
    assert row is not None
    assert tuple(row) == (0, 0, None)
    assert (await take(db))["granted"]


@pytest.mark.parametrize("when", ["open", "due", "half_open"])
@pytest.mark.parametrize("kind", ["ok", "errors", "unauthorized", "throttled"])
async def test_what_left_before_the_trouble_neither_closes_the_circuit_nor_opens_it_for_longer(
    db: Connection, kind: str, when: str
) -> None:
    before = await take(db)
    await report(db, "throttled")
    probe = None
    if when != "open":
        await _due_for_a_probe(db)
    if when == "half_open":
        probe = await take(db)
    was = await db.fetchrow("select circuit, circuit_until, circuit_opens from market_providers limit 1")
    late = await report(db, kind, receipt=before["receipt"])
    assert not late["changed"]
    assert was == await db.fetchrow(
        "select circuit, circuit_until, circuit_opens from market_providers limit 1"
    )
    if probe is not None:
        assert (await report(db, "ok", receipt=probe["receipt"]))["state"] == "closed"


async def test_a_late_429_that_says_how_long_is_believed_also_while_a_probe_is_under_way(
    db: Connection,
) -> None:
    before = await take(db)
    await report(db, "throttled")
    await _due_for_a_probe(db)
    probe = await take(db)
    told = await report(db, "throttled", 60, receipt=before["receipt"])
    assert (told["state"], told["until"] > await now(db) + timedelta(seconds=58)) == ("open", True)
    assert (await report(db, "ok", receipt=probe["receipt"]))["state"] == "open"
    assert (await take(db))["reason"] == "cooldown"


async def test_a_token_that_is_asked_for_first_is_the_probe_and_its_fetch_goes_on(db: Connection) -> None:
    await report(db, "unauthorized")
    await _due_for_a_probe(db)
    mint = await take(db, meter="mints")
    assert (await take(db, meter="mints"))["reason"] == "cooldown"
    call = await charge(db, await now(db), after=mint["receipt"])
    assert call["granted"]
    assert (await report(db, "ok", receipt=call["receipt"]))["state"] == "closed"


async def test_a_probe_that_is_never_heard_of_again_is_given_up(db: Connection) -> None:
    await report(db, "throttled")
    await _due_for_a_probe(db)
    assert (await take(db))["granted"]
    assert not (await take(db))["granted"]
    await _due_for_a_probe(db)
    assert (await take(db))["granted"]


async def test_a_probe_whose_daemon_died_is_given_up_at_once_and_one_other_goes(
    connect: Connect, db: Connection
) -> None:
    prober = await daemon(db)
    await report(db, "throttled")
    await _due_for_a_probe(db)
    probe = "select * from market_take('stockx', 'default', 200, p_daemon => $1)"
    first = await db.fetchrow(probe, prober)
    assert first is not None
    assert first["granted"]
    assert not (await take(db))["granted"]
    await db.execute("update market_daemons set alive_until = now() where daemon_id = $1", prober)
    heir, takers = await daemon(db), [await connect() for _ in range(6)]
    answers = await asyncio.gather(*(taker.fetchrow(probe, heir) for taker in takers))
    assert sum(answer["granted"] for answer in answers if answer) == 1
    # The dead one's answer, should it come after all, is nobody's probe any more.
    assert (await report(db, "ok", receipt=first["receipt"]))["state"] == "half_open"


async def test_only_the_probes_own_fetch_goes_on_while_the_circuit_is_half_open(db: Connection) -> None:
    before = await take(db)
    await report(db, "throttled")
    await _due_for_a_probe(db)
    probe = await take(db)
    at = await now(db)
    assert (await charge(db, at, after=before["receipt"]))["reason"] == "cooldown"
    goes_on = await charge(db, at, after=probe["receipt"])
    assert goes_on["granted"]
    assert (await charge(db, at, after=goes_on["receipt"]))["granted"]
    assert (await charge(db, at, after=before["receipt"]))["reason"] == "cooldown"


async def test_what_another_fetch_gives_back_does_not_let_a_second_probe_go(db: Connection) -> None:
    before = await take(db)
    await report(db, "throttled")
    await _due_for_a_probe(db)
    assert (await take(db))["granted"]
    await db.execute("select market_give_back($1)", before["receipt"])
    assert (await take(db))["reason"] == "cooldown"


@pytest.mark.parametrize("told", [0.0, -5.0])
async def test_retry_after_nothing_is_no_word(db: Connection, told: float) -> None:
    answer = await report(db, "throttled", told)
    assert timedelta(seconds=1) < answer["until"] - await now(db) <= timedelta(seconds=2)


async def test_a_probe_that_never_left_leaves_the_circuit_due_for_a_probe(db: Connection) -> None:
    await report(db, "throttled")
    await _due_for_a_probe(db)
    await db.execute("select market_give_back($1)", (await take(db))["receipt"])
    assert (await take(db))["granted"]


async def test_the_providers_own_word_on_when_to_come_back_is_kept(db: Connection) -> None:
    told = await report(db, "throttled", 77, detail="429")
    refused = await take(db)
    assert (refused["reason"], refused["until"]) == ("cooldown", told["until"])
    assert timedelta(seconds=75) < told["until"] - await now(db) <= timedelta(seconds=77)
    shorter = await report(db, "throttled", 5)
    assert (shorter["until"], shorter["changed"]) == (told["until"], False)


async def test_requests_that_were_throttled_together_lengthen_the_wait_once(db: Connection) -> None:
    for _ in range(6):
        await report(db, "throttled")
    assert await value(db, "select circuit_opens from market_providers where provider = 'stockx'") == 1


async def test_a_spent_day_closes_the_lane_until_the_providers_day_is_over(db: Connection) -> None:
    told = await report(db, "throttled", 10, day_spent=True)
    ends = await value(
        db,
        "select w.ends from market_providers p, market_settings s, market__window(p, s, 'day', clock_timestamp()) w"
        " where p.provider = 'stockx'",
    )
    assert abs(told["until"] - ends) < timedelta(seconds=2)


async def test_refused_credentials_close_the_lane_until_an_operator_resumes_it(db: Connection) -> None:
    told = await report(db, "unauthorized", detail="401")
    assert (await take(db))["reason"] == "cooldown"
    assert told["until"] > await now(db) + timedelta(minutes=14)
    await db.execute("select market_resume('stockx')")
    assert (await take(db))["granted"]


@pytest.mark.parametrize("told", [1e6, 1e300, float("inf")])
async def test_an_absurd_word_on_when_to_come_back_is_bounded_by_a_days_length(
    db: Connection, told: float
) -> None:
    answer = await report(db, "throttled", told)
    assert timedelta(hours=24) < answer["until"] - await now(db) <= timedelta(hours=25)


async def test_without_a_word_the_wait_doubles_with_each_probe_that_is_refused_up_to_a_cap(
    db: Connection,
) -> None:
    waits, receipt = [], None
    for _ in range(10):
        told = await report(db, "throttled", receipt=receipt)
        waits.append(round((told["until"] - await now(db)).total_seconds(), 1))
        await _due_for_a_probe(db)
        receipt = (await take(db))["receipt"]
    assert waits == pytest.approx([2, 4, 8, 16, 32, 64, 128, 256, 300, 300], abs=0.2)


async def test_a_resume_ends_a_cool_down_and_closes_the_circuit(db: Connection) -> None:
    await report(db, "throttled", 600)
    await db.execute("select market_pause('stockx', 'a look first')")
    assert (await take(db))["reason"] == "paused"
    await db.execute("select market_resume('stockx')")
    assert [(await take(db))["granted"] for _ in range(2)] == [True, True]  # no probe: the operator knows
    assert await value(db, "select circuit from market_providers where provider = 'stockx'") == "closed"


# ------------------------------------------------------------------------------- background where pace is scarce


async def _turn(db: Connection, used: int, background: int = 0) -> bool:
    """Whether it is background's turn when so many calls of the present window are gone, so many of them its own."""
    await spend(db, used, background=background)
    return bool(
        await value(
            db,
            "select market__background_first(p, s, clock_timestamp()) from market_providers p, market_settings s"
            " where p.provider = 'stockx'",
        )
    )


async def test_background_has_each_20th_call_although_urgent_work_never_ends(db: Connection) -> None:
    await limits(db, quota_hour=100, background_min=0.05)
    await enqueue(db, "AA1-1", priority=200)
    assert not await _turn(db, 50)  # none waits
    await enqueue(db, "BB1-1")
    assert [used for used in range(20) if await _turn(db, used)] == list(range(9, 20))
    background = 0
    for used in range(100):
        background += await _turn(db, used, background)
    assert background == 5
    await db.execute(
        "insert into market_jobs (provider, sku, currency, status, lease_id, lease_expires_at, unit_key, dedupe_key)"
        " values ('stockx', 'CC1-1', 'GBP', 'running', gen_random_uuid(), '2099-01-01', 'c', 'c')"
    )
    assert not await _turn(db, 50)  # one is under way


async def test_an_urgent_request_is_not_kept_waiting_by_background_that_had_no_call_yet(
    db: Connection,
) -> None:
    await limits(db, quota_hour=100, background_min=0.05)
    await enqueue(db, "BB1-1")
    await enqueue(db, "AA1-1", priority=200)
    assert not await _turn(db, 0)


async def test_where_the_pace_carries_less_than_the_budget_background_still_gets_its_part_of_the_budget(
    db: Connection,
) -> None:
    await limits(db, quota_hour=100, background_min=0.05, pace_s=48)  # 64 calls an hour
    await enqueue(db, "AA1-1", priority=200)
    await enqueue(db, "BB1-1")
    background = 0
    for used in range(64):
        background += await _turn(db, used, background)
    assert background == 5


async def test_a_success_from_before_the_trouble_does_not_end_a_cool_down(db: Connection) -> None:
    told = await report(db, "throttled", 60)
    late: Any = await report(db, "ok")
    assert (late["state"], late["until"], late["changed"]) == ("open", told["until"], False)


# ---------------------------------------------------------------------------------------------- what may be claimed

_LANES: list[dict[str, Any]] = [
    {},
    {"enabled": False},
    {"paused_at": "2020-01-01"},
    {"next_request_at": "2031-03-04 12:40:10+00", "pace_s": 20},
    *(
        {"circuit": circuit, "circuit_reason": "errors", "circuit_until": f"2031-03-04 {until}:00+00"}
        for circuit in ("open", "half_open")
        for until in ("12:00", "14:00")
    ),
]


async def test_a_claim_is_told_of_either_kind_of_work_what_the_verdict_says(db: Connection) -> None:
    """One look at all (market__claimable) and one at each (market__verdict), in every lane that differs for them."""
    await settings(db, hour_s=3600, day_s=None)
    await enqueue(db, "BB1-1")
    await db.execute(
        "insert into market_budgets (provider, window_kind, window_start, window_end)"
        " select 'stockx', k, w.starts, w.ends from market_providers p, market_settings s,"
        " unnest(array['hour', 'day']) k, market__window(p, s, k, $1) w where p.provider = 'stockx'",
        HOUR,
    )
    seen: Counter[tuple[bool, bool]] = Counter()
    for used, background, tokens, kind in product((0, 60, 99, 100), (0, 60), (None, 0.5), ("hour", "day")):
        await db.execute(
            "update market_budgets set used = case when window_kind = $4 then $1 else 0 end,"
            " used_background = least($1, $2), background_tokens = $3, background_at = $5",
            used, background, tokens, kind, HOUR + timedelta(minutes=40),
        )  # fmt: skip
        shared = product((None, 100), (0.0, 0.5), (0.0, 0.2))
        lanes = [
            {"quota_hour": hour, "quota_day": 100, "reserve": reserve, "background_min": least} | lane
            for hour, reserve, least in shared
            for lane in _LANES
        ]
        rows = await db.fetch(
            """select c.urgent, c.background, u.reason is null as urgent_may, b.reason is null as background_may, x.lane
                 from jsonb_array_elements($1::jsonb) x(lane), market_settings s, market_providers o,
                      lateral jsonb_populate_record(o, x.lane) p, unnest(array[40, 58]) m,
                      lateral (select $2::timestamptz + m * interval '1 minute' as at) t,
                      lateral market__claimable(p, s, t.at) c, lateral market__verdict(p, s, true, t.at) u,
                      lateral market__verdict(p, s, false, t.at) b where o.provider = 'stockx'""",
            json.dumps(lanes),
            HOUR,
        )
        for row in rows:
            may = row["urgent_may"], row["background_may"]
            assert (row["urgent"], row["background"]) == may, (used, background, tokens, kind, row["lane"])
            seen[may] += 1
    assert len(seen) == 4, seen
