"""The gate in front of every request: windows, shares, pace and circuit, all in one row lock of Postgres."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from marketd.store.budgets import Charger
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
    db: Connection, at: datetime, priority: int = 200, meter: str = "calls", after: str | None = None
) -> Row:
    """What market_take does, at a time of the test's choice."""
    row = await db.fetchrow(
        "select c.* from market_providers p, market_settings s, market__charge(p, s, $2, $3, $4, $1) c"
        " where p.provider = 'stockx'",
        at, priority, meter, after,
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
) -> Row:
    row = await db.fetchrow(
        "select * from market_report('stockx', 'default', $1, $2, $3, $4)",
        kind,
        retry_after_s,
        day_spent,
        detail,
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


async def test_a_request_that_leaves_late_keeps_the_next_at_its_distance(
    db: Connection, database: str
) -> None:
    await limits(db, pace_s=2)
    async with opened(database) as pool:
        gate = Charger(pool, "stockx", "default", Notes()).gate(200)
        await gate.take("x")
        await db.execute(
            "update market_providers set next_request_at = clock_timestamp() + interval '0.1 seconds'"
        )
        await gate.leaves_late()
    assert (await take(db))["wait_s"] > 1.5


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


async def test_reserve_auto_keeps_what_on_demand_work_is_expected_to_need(db: Connection) -> None:
    await limits(db, quota_hour=100, reserve=None, on_demand_per_h=36)
    assert (await shares(db, 0))["background_left"] == 100 - 36 - 6
    assert (await shares(db, 0.75))["background_left"] == 100 - 9 - 3


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
    await take(db)
    again = await report(db, "errors")
    assert again["state"] == "open"
    assert timedelta(seconds=50) < again["until"] - await now(db) <= timedelta(seconds=60)
    await _due_for_a_probe(db)
    await take(db)
    assert (await report(db, "ok"))["state"] == "closed"
    row = await db.fetchrow(
        "select circuit_failures, circuit_opens, circuit_reason from market_providers limit 1"
    )
    assert row is not None
    assert tuple(row) == (0, 0, None)
    assert (await take(db))["granted"]


async def test_a_probe_that_is_never_heard_of_again_is_given_up(db: Connection) -> None:
    await report(db, "throttled")
    await _due_for_a_probe(db)
    assert (await take(db))["granted"]
    assert not (await take(db))["granted"]
    await _due_for_a_probe(db)
    assert (await take(db))["granted"]


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


async def test_a_success_from_before_the_trouble_does_not_end_a_cool_down(db: Connection) -> None:
    told = await report(db, "throttled", 60)
    late: Any = await report(db, "ok")
    assert (late["state"], late["until"], late["changed"]) == ("open", told["until"], False)
