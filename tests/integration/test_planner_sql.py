"""The planner's SQL: what is counted, what is learned, what is planned, and what is left alone."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from marketd.cli import main
from marketd.errors import DatabaseError, Transient
from marketd.models import Quote, Unit
from marketd.outcome import Failed, Outcome, Priced, Retried
from marketd.store.jobs import JobStore
from marketd.store.plan import Dials, PlanStore
from marketd.store.pool import Database
from marketd.store.sqlfile import queries
from planner_model import Rate, first_value, gain, value, view_rate
from queue_kit import daemon

Connect = Callable[[], Awaitable["asyncpg.Connection[asyncpg.Record]"]]
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
MID_HOUR = datetime(2026, 11, 2, 12, 20, tzinfo=UTC)  #: a moment at which nothing of the hour's end matters


@pytest.fixture(autouse=True)
async def clock_hours(db: Any) -> None:
    """These tests name their moments, so they want the clock's own hours and days."""
    await db.execute("update market_settings set hour_s = 3600, day_s = null")


@pytest.fixture
async def jobs(database: str) -> AsyncIterator[JobStore]:
    pool = Database(database, size=2, timeout_s=10)
    await pool.open()
    yield JobStore(pool, uuid4())
    await pool.close()


async def _call(
    db: Any, function: str, items: Sequence[dict[str, Any]], user: str | None = None
) -> list[str]:
    rows = await db.fetch(f"select * from {function}($1::jsonb, $2)", json.dumps(list(items)), user)
    assert [row["ord"] for row in rows] == list(range(1, len(items) + 1))
    return [row["result"] for row in rows]


def _item(sku: str, size: str | None = "10", provider: str = "stockx") -> dict[str, Any]:
    return {"provider": provider, "sku": sku, "size": size}


async def _watched(
    db: Any, sku: str, now: datetime, *, age: timedelta | None, provider: str = "stockx"
) -> str:
    """A watched unit that was last fetched `age` ago, without any open job. Returns its key."""
    await _call(db, "market_watch", [_item(sku, provider=provider)])
    await db.execute("delete from market_jobs where sku = $1", sku)
    await db.fetchval("select market__fold($1)", now)
    key: str = await db.fetchval(
        "update market_units set last_fetch_at = $2, tracked_since = $3 where sku = $1 returning unit_key",
        sku, None if age is None else now - age, now - timedelta(days=30),
    )  # fmt: skip
    return key


async def _plan(
    db: Any, now: datetime, *, interval_s: float = 60, dice: float = 0.0, provider: str = "stockx"
) -> list[str]:
    """One pass; the units that have background jobs afterwards, the first first."""
    await db.fetchval("select market__plan($1, 'default', $2, $3, $4)", provider, interval_s, now, dice)
    return await _planned(db)


async def _planned(db: Any) -> list[str]:
    rows = await db.fetch("select sku from market_jobs where status = 'pending' order by rank desc, id")
    return [row["sku"] for row in rows]


async def _unit(jobs: JobStore, db: Any, sku: str = "A-1", size: str = "10", priority: int = 200) -> Unit:
    await db.execute("delete from market_fetches")
    await db.execute(
        "update market_targets set observed_at = observed_at - interval '1 hour' where sku = $1", sku
    )
    await db.execute(
        "update market_prices set observed_at = observed_at - interval '1 hour' where sku = $1", sku
    )
    await db.fetchrow("select * from market_enqueue('stockx', $1, $2, $3)", sku, size, priority)
    [unit] = await jobs.claim("stockx", "default", units=1, lease=MINUTE)
    return unit


async def _fetched(jobs: JobStore, db: Any, ask: str, **quote: Any) -> None:
    """One settled fetch of A-1 in size 10, an hour after the one before."""
    unit = await _unit(jobs, db)
    at = await db.fetchval("select clock_timestamp()")
    facts = {"currency": "GBP", "basis": {"ask": "standard"}} | quote
    price = Quote(size="10", lowest_ask=Decimal(ask), observed_at=at, **facts)
    outcome: Outcome = Priced(size="10")
    await jobs.settle(unit, [(job, outcome) for job in unit.jobs], [price])


async def _rate(db: Any) -> tuple[float, float] | None:
    row = await db.fetchrow("select a, b from market_rates where sku = 'A-1'")
    return None if row is None else (row["a"], row["b"])


# --- formulas -----------------------------------------------------------------------------------------------------


async def test_sql_and_python_compute_the_same_values_for_any_age_from_0_to_10_years(db: Any) -> None:
    chance = random.Random(7)
    now = MID_HOUR
    await db.execute("insert into market_plans (provider, account, planned_at, share, typical_view_rate) "
                     "values ('stockx', 'default', now(), 1, 0.05)")  # fmt: skip
    wanted: dict[str, tuple[float, ...]] = {}
    for n, age_h in enumerate([0.0, 1e-6, 0.1, 1.0, 24.0, 8760.0, 87_600.0, None] * 40):
        rate = Rate(
            chance.choice([0.5, 1.0, 1.0000001, chance.uniform(0.05, 10)]), 10 ** chance.uniform(-6, 3.6)
        )
        views, sizes, tracked_h = chance.choice([0.0, 1e-300, chance.uniform(0, 500)]), n % 20 + 1, float(n)
        key = f"unit {n:03}"
        await db.execute(
            "insert into market_units (unit_key, provider, account, sku, currency, sizes, views, views_at, "
            "tracked_since, last_fetch_at, a, b) "
            "values ($1, 'stockx', 'default', $1, 'GBP', $2, $3, $4, $5, $6, $7, $8)",
            key, sizes, views, now - 2 * HOUR, now - tracked_h * HOUR, None if age_h is None else now - age_h * HOUR,
            rate.a, rate.b,
        )  # fmt: skip
        w = view_rate(views * math.exp(-2 / 168), sizes, tracked_h, typical=0.05)
        if age_h is None:
            wanted[key] = (w, 0.0, *first_value(w, rate))
            continue
        aged = (now - (now - age_h * HOUR)) / HOUR
        wanted[key] = (w, rate.still(aged), gain(w, rate, aged), value(w, rate, aged))
    rows = await db.fetch("select * from market__values('stockx', 'default', $1)", now)
    assert len(rows) == len(wanted)
    for row in rows:
        got = (row["views_per_h"], row["still"], row["gain"], row["value"])
        assert got == pytest.approx(wanted[row["unit_key"]], rel=1e-7, abs=1e-9)


async def test_sql_and_python_learn_the_same_from_any_history(db: Any) -> None:
    chance = random.Random(3)
    for _ in range(300):
        rate = Rate(chance.uniform(0.05, 10), 10 ** chance.uniform(-5, 3.6))
        gap, changed = 10 ** chance.uniform(-4, 4), chance.random() < 0.5
        row = await db.fetchrow(
            "select x.a, x.b from market_planner d, market__learn_bit($1, $2, $3, $4, d) x",
            rate.a,
            rate.b,
            gap,
            changed,
        )
        learned = rate.observed(gap, changed)
        assert (row["a"], row["b"]) == pytest.approx((learned.a, learned.b), rel=1e-6)


async def test_the_next_refresh_can_be_told_whatever_the_age_the_belief_and_the_budget(db: Any) -> None:
    chance = random.Random(11)
    for _ in range(400):
        age_h = chance.choice([0.0, 1e-6, 1.0, 87_600.0, 10 ** chance.uniform(-3, 5)])
        fetched = MID_HOUR - age_h * HOUR
        row = await db.fetchrow(
            "select market__due_at($1, $2, $3, $4, $5, $6, $7) as due_at, market__still($2, $3, $8) as still",
            10 ** chance.uniform(-300, 6), chance.choice([0.5, 1.0, 1.0000001, chance.uniform(0.05, 1000)]),
            10 ** chance.uniform(-6, 5), chance.choice([0.0, 0.05, 1.0]), fetched, 10 ** chance.uniform(-300, 12),
            MID_HOUR, age_h,
        )  # fmt: skip
        assert row["due_at"] >= MID_HOUR
        assert row["due_at"] <= MID_HOUR + timedelta(days=366)
        assert 0 <= row["still"] <= 1


# --- watching and viewing -----------------------------------------------------------------------------------------


async def test_watching_makes_a_target_and_asks_for_a_first_price(db: Any) -> None:
    assert await _call(db, "market_watch", [_item("A-1"), _item("A-1", "11"), _item("A-1")], "ann") == [
        "watched", "watched", "kept",
    ]  # fmt: skip
    assert await db.fetchval("select count(*) from market_targets") == 2
    assert (
        await db.fetchval("select count(*) from market_jobs where priority = 100 and status = 'pending'") == 2
    )
    await db.fetchval("select market__fold()")
    assert await db.fetchval("select sizes from market_units") == 2


async def test_a_bad_item_is_refused_and_the_others_go_on(db: Any) -> None:
    items = [_item("A-1"), {"provider": "nobody", "sku": "A"}, _item("B-1", "77")]
    for function, good in (
        ("market_watch", "watched"),
        ("market_viewed", "counted"),
        ("market_unwatch", "unwatched"),
    ):
        assert await _call(db, function, items) == [good, "refused", "refused"]
        with pytest.raises(
            asyncpg.InvalidParameterValueError, match=f"{function}: items is not a JSON array"
        ):
            await db.fetch(f"select * from {function}('{{}}')")


async def test_answers_stand_in_the_order_of_asking_however_items_repeat_and_fail(db: Any) -> None:
    items = [
        _item("Z-1"),
        {"provider": "stockx", "sku": ""},
        _item("A-1"),
        _item("Z-1"),
        "nonsense",
        _item("A-1", "11"),
    ]
    for function, yes, no in (
        ("market_watch", "watched", "kept"),
        ("market_viewed", "counted", "repeated"),
        ("market_unwatch", "unwatched", "not_watched"),
    ):
        rows = await db.fetch(f"select * from {function}($1::jsonb, 'ann')", json.dumps(items))
        assert [row["ord"] for row in rows] == [1, 2, 3, 4, 5, 6]
        assert [row["result"] for row in rows] == [yes, "refused", yes, no, "refused", yes]
        assert [row["error_code"] for row in rows] == [None, "22023", None, None, "22023", None]
        assert rows[4]["error_message"] == "item is not an object"
        watching = function == "market_watch"
        assert [row["job_id"] is not None for row in rows] == [
            watching and result != "refused" for result in (yes, "refused", yes, no, "refused", yes)
        ]
        assert rows[0]["job_id"] == rows[3]["job_id"]
        assert rows[0]["wait_reason"] == ("no_daemon" if watching else None)


async def test_lists_in_opposite_order_do_not_deadlock(connect: Connect) -> None:
    one, other = await connect(), await connect()
    items = [_item(f"A-{n}") for n in range(300)]
    for function in ("market_watch", "market_viewed", "market_unwatch") * 3:
        await asyncio.gather(
            _call(one, function, items, "ann"), _call(other, function, list(reversed(items)), "ann")
        )
    assert await one.fetchval("select count(*) from market_watches") == 0


async def test_an_item_is_watched_until_the_last_who_watched_it_stops(db: Any) -> None:
    for user in ("ann", "bob"):
        await _call(db, "market_watch", [_item("A-1")], user)
    sizes = "select sizes from market_units where market__fold() >= 0"
    await db.fetchval("select market__fold()")
    assert await db.fetchval(sizes) == 1
    assert await _call(db, "market_unwatch", [_item("A-1")], "ann") == ["unwatched"]
    assert await _call(db, "market_unwatch", [_item("A-1")], "ann") == ["not_watched"]
    await db.fetchval("select market__fold()")
    assert await db.fetchval(sizes) == 1
    await _call(db, "market_unwatch", [_item("A-1")], "bob")
    await db.fetchval("select market__fold()")
    assert await db.fetchval(sizes) == 0


async def _shop2(db: Any, *users: str) -> None:
    """A second account at stockx, of these users; as a reload writes it."""
    await db.execute(
        "insert into market_providers (provider, account, currency) values ('stockx', 'shop2', 'GBP')"
        " on conflict do nothing"
    )
    await db.execute("delete from market_account_users")
    await db.executemany(
        "insert into market_account_users (provider, user_id, account) values ('stockx', $1, 'shop2')",
        [(user,) for user in users],
    )


async def _places(db: Any) -> dict[tuple[str, str], list[str]]:
    """Whose watches are where, and that what the plan refreshes is what is watched."""
    await db.fetch(queries("plan")["fold"])
    watched = await db.fetch(
        "select unit_key, count(distinct dedupe_key) from market_watches group by 1 order by 1"
    )
    planned = await db.fetch("select unit_key, sizes from market_units where sizes > 0 order by 1")
    assert [tuple(row) for row in planned] == [tuple(row) for row in watched]
    assert not await db.fetchval("select count(*) from market_watches left join market_targets t using (dedupe_key)"
                                 " where t.dedupe_key is null")  # fmt: skip
    rows = await db.fetch("select user_id, account, array_agg(sku || ' ' || size order by sku, size) as items"
                          " from market_watches group by 1, 2")  # fmt: skip
    return {(row["user_id"], row["account"]): row["items"] for row in rows}


async def test_what_a_user_watches_goes_with_him_to_another_account_and_back(db: Any) -> None:
    for user in ("ann", "bob"):
        await _call(db, "market_watch", [_item("A-1"), _item("A-1", "11"), _item("B-1")], user)
    assert (await _places(db)).keys() == {("ann", "default"), ("bob", "default")}
    await _shop2(db, "ann")
    await _call(db, "market_watch", [_item("B-1")], "ann")  # before the pass comes
    three = ["A-1 10", "A-1 11", "B-1 10"]
    assert await _places(db) == {("ann", "shop2"): three, ("bob", "default"): three}
    assert await _call(db, "market_unwatch", [_item("B-1")], "ann") == ["unwatched"]
    await _shop2(db)
    await db.execute("update market_providers set enabled = false where account = 'shop2'")
    assert await _places(db) == {("ann", "default"): three[:2], ("bob", "default"): three}
    assert await _call(db, "market_unwatch", [_item("A-1")], "ann") == ["unwatched"]


async def test_a_watch_that_an_app_holds_follows_later_and_keeps_no_other(connect: Connect) -> None:
    db, app = await connect(), await connect()
    await _call(db, "market_watch", [_item(f"A-{n}") for n in range(3)], "ann")
    await _shop2(db, "ann")
    idle = app.transaction()
    await idle.start()
    await _call(app, "market_watch", [_item("A-1")], "ann")
    await db.execute("set statement_timeout = '5s'")
    assert await _places(db) == {("ann", "default"): ["A-1 10"], ("ann", "shop2"): ["A-0 10", "A-2 10"]}
    await idle.commit()
    assert await _places(db) == {("ann", "shop2"): ["A-0 10", "A-1 10", "A-2 10"]}


async def test_one_view_counts_per_user_target_and_ten_minutes(db: Any) -> None:
    assert await _call(db, "market_viewed", [_item("A-1"), _item("A-1")], "ann") == ["counted", "repeated"]
    assert await _call(db, "market_viewed", [_item("A-1"), _item("A-1", "11")], "bob") == [
        "counted",
        "counted",
    ]
    await db.execute("update market_signals set at = at - interval '11 minutes' where user_id = 'ann'")
    assert await _call(db, "market_viewed", [_item("A-1")], "ann") == ["counted"]
    await db.fetchval("select market__fold()")
    assert await db.fetchval("select views from market_units") == pytest.approx(4, rel=0.01)


async def test_two_views_that_raced_count_once(connect: Connect) -> None:
    one, other = await connect(), await connect()
    first = one.transaction()
    await first.start()
    await _call(one, "market_viewed", [_item("A-1")], "ann")
    assert await _call(other, "market_viewed", [_item("A-1")], "ann") == ["counted"]
    assert await other.fetchval("select market__fold()") == 1
    await first.commit()
    assert await other.fetchval("select market__fold()") == 1
    assert await other.fetchval("select views from market_units") == pytest.approx(1, rel=0.01)


async def test_asking_in_the_background_is_a_view_and_asking_urgently_is_not(db: Any) -> None:
    await db.fetch("select * from market_enqueue('stockx', 'A-1', '10', 150)")
    assert await db.fetchval("select count(*) from market_signals") == 0
    await db.fetch("select * from market_enqueue('stockx', 'A-1', '10', 100)")
    await db.execute(
        "insert into market_jobs (provider, sku, size, user_id) values ('stockx', 'A-1', '10', 'bob')"
    )
    assert await db.fetchval("select count(*) from market_signals where kind = 'view'") == 2


async def test_an_app_that_idles_in_a_transaction_stalls_neither_fold_nor_plan(connect: Connect) -> None:
    db, app = await connect(), await connect()
    await _watched(db, "A-1", MID_HOUR, age=20 * HOUR)
    await _watched(db, "B-1", MID_HOUR, age=10 * HOUR)
    idle = app.transaction()
    await idle.start()
    await _call(app, "market_unwatch", [_item("B-1")])
    await _call(app, "market_watch", [_item("C-1")])
    await _call(app, "market_viewed", [_item("A-1")], "ann")
    await app.fetch("select * from market_enqueue('stockx', 'A-1', '10', 100)")
    await db.execute("set statement_timeout = '5s'")
    await db.fetchval("select market__fold($1)", MID_HOUR)
    assert await _plan(db, MID_HOUR, interval_s=300) == ["B-1"]
    await idle.rollback()
    assert await _plan(db, MID_HOUR, interval_s=300) == ["A-1", "B-1"]


async def test_an_app_that_holds_many_of_the_best_delays_the_plan_by_one_wait_and_not_by_one_each(
    connect: Connect,
) -> None:
    db, app = await connect(), await connect()
    skus = [f"A-{n}" for n in range(40)]
    for sku in skus:
        await _watched(db, sku, MID_HOUR, age=20 * HOUR)
    await _watched(db, "B-1", MID_HOUR, age=HOUR)
    idle = app.transaction()
    await idle.start()
    await app.fetch("select * from market_enqueue_many($1)", json.dumps([_item(sku) for sku in skus]))
    await db.execute("set statement_timeout = '5s'")
    assert await _plan(db, MID_HOUR, interval_s=3000) == ["B-1"]
    await idle.rollback()


# --- learning -----------------------------------------------------------------------------------------------------


async def test_a_fetch_teaches_how_often_the_price_changes(db: Any, jobs: JobStore) -> None:
    await _fetched(jobs, db, "100")
    assert await _rate(db) is None  # one look says nothing about change
    await _fetched(jobs, db, "100")
    same = Rate().observed(1, False)
    assert await _rate(db) == pytest.approx((same.a, same.b), rel=1e-3)
    await _fetched(jobs, db, "101")
    moved = same.observed(1, True)
    assert await _rate(db) == pytest.approx((moved.a, moved.b), rel=1e-3)


@pytest.mark.parametrize(
    "other", [{"basis": {"ask": "standard", "region": "eu"}}, {"parser": 2}, {"currency": "EUR"}]
)
async def test_prices_of_two_kinds_are_not_compared(db: Any, jobs: JobStore, other: dict[str, Any]) -> None:
    await _fetched(jobs, db, "100")
    await _fetched(jobs, db, "120", **other)
    assert await _rate(db) is None


async def test_what_was_measured_beside_the_price_is_no_other_kind(db: Any, jobs: JobStore) -> None:
    await _fetched(jobs, db, "100", basis={"ask": "standard", "flex_ask": "90"})
    await _fetched(jobs, db, "100", basis={"ask": "standard", "flex_ask": "91"})
    rate = await _rate(db)
    assert rate is not None
    assert rate[1] > 12


async def test_an_error_teaches_nothing_and_makes_the_unit_wait(db: Any, jobs: JobStore) -> None:
    await _fetched(jobs, db, "100")
    await _fetched(jobs, db, "100")
    before = await _rate(db)
    await _call(db, "market_watch", [_item("A-1")])
    await db.fetchval("select market__fold()")
    seen = await db.fetchval("select last_fetch_at from market_units")
    for outcome in (
        Retried(delay=MINUTE, error_code="timeout", message=str(Transient("no answer"))),
        Failed(error_code="timeout", message="no answer", cooldown=timedelta()),
    ):
        unit = await _unit(jobs, db)
        result: Outcome = outcome
        await jobs.settle(unit, [(job, result) for job in unit.jobs])
    row = await db.fetchrow("select *, not_before - clock_timestamp() as wait from market_units")
    assert await _rate(db) == before
    assert row["last_fetch_at"] == seen
    assert row["fails"] == 2
    assert timedelta(minutes=3) < row["wait"] <= timedelta(minutes=4)
    await _fetched(jobs, db, "100")
    assert await db.fetchval("select fails from market_units where not_before = '-infinity'") == 0


# --- planning -----------------------------------------------------------------------------------------------------


async def test_the_plan_opens_the_most_valuable_first_and_no_more_than_the_intervals_share(db: Any) -> None:
    for n in range(12):
        await _watched(db, f"A-{n}", MID_HOUR, age=(n + 1) * HOUR)
    share = await db.fetchval(
        "select market__plan_share(p, s, 120, $1) from market_providers p, market_settings s where provider = 'stockx'",
        MID_HOUR,
    )
    assert share == pytest.approx(100 * 120 / (40 * 60 - 180))  # 40 minutes are left, less the open last 5 %
    assert await _plan(db, MID_HOUR, interval_s=120) == ["A-11", "A-10", "A-9", "A-8", "A-7"]
    assert await _plan(db, MID_HOUR, interval_s=120) == ["A-11", "A-10", "A-9", "A-8", "A-7"]
    row = await db.fetchrow("select * from market_jobs limit 1")
    assert (row["priority"], row["user_id"]) == (100, None)
    assert await db.fetchval("select count(*) from market_job_requests where job_id = $1", row["id"]) == 0


async def test_shares_over_an_hour_of_passes_never_exceed_what_is_left_for_background(db: Any) -> None:
    now, used, chance = datetime(2026, 11, 2, 12, tzinfo=UTC), 0, random.Random(1)
    await db.execute("update market_providers set on_demand_per_h = 10")
    for n in range(400):
        await db.execute(
            "insert into market_units (unit_key, provider, account, sku, currency, sizes, views_at,"
            " tracked_since, last_fetch_at) values ($1, 'stockx', 'default', $1, 'GBP', 1, $2, $2, $3)",
            f"u{n}", now, now - 9 * HOUR,
        )  # fmt: skip
        await db.execute(
            "insert into market_targets (provider, account, sku, currency, dedupe_key, unit_key)"
            " values ('stockx', 'default', $1, 'GBP', $1, $1)", f"u{n}",
        )  # fmt: skip
        await db.execute(
            "insert into market_watches (provider, account, sku, currency, dedupe_key, unit_key)"
            " values ('stockx', 'default', $1, 'GBP', $1, $1)", f"u{n}",
        )  # fmt: skip
    halfway = 0
    for minute in range(60):
        at = now + minute * MINUTE
        used += await db.fetchval("select market__plan('stockx', 'default', 60, $1, $2)", at, chance.random())
        await db.execute("delete from market_jobs")
        await db.execute(
            "insert into market_budgets (provider, account, window_kind, window_start, window_end, used,"
            " used_background) values ('stockx', 'default', 'hour', $1, $2, $3, $3)"
            " on conflict (provider, account, window_kind, window_start) do update set used = $3, used_background = $3",
            now, now + HOUR, used,
        )  # fmt: skip
        halfway = used if minute == 29 else halfway
    assert 38 <= halfway <= 55
    assert used == 100


async def test_the_plan_skips_what_is_young_cooling_open_or_not_watched(db: Any) -> None:
    await _watched(db, "YOUNG", MID_HOUR, age=9 * MINUTE)
    await _watched(db, "COOLING", MID_HOUR, age=90 * HOUR)
    await _watched(db, "BACKOFF", MID_HOUR, age=90 * HOUR)
    await _watched(db, "LEFT", MID_HOUR, age=90 * HOUR)
    await _watched(db, "GOOD", MID_HOUR, age=11 * MINUTE)
    await db.execute("update market_targets set retry_at = $1 where sku = 'COOLING'", MID_HOUR + 5 * HOUR)
    await db.execute("update market_units set not_before = $1 where sku = 'BACKOFF'", MID_HOUR + MINUTE)
    await _call(db, "market_unwatch", [_item("LEFT")])
    await db.fetchval("select market__fold($1)", MID_HOUR)
    assert await _plan(db, MID_HOUR, interval_s=600) == ["GOOD"]
    assert (
        await db.fetchval("select not_before from market_units where sku = 'COOLING'") == MID_HOUR + 5 * HOUR
    )
    assert await _plan(db, MID_HOUR, interval_s=600) == ["GOOD"]


@pytest.mark.parametrize("change", [
    "update market_providers set paused_at = now()",
    "update market_providers set enabled = false",
    "update market_providers set circuit = 'open', circuit_reason = 'throttled', circuit_until = 'infinity'",
    "update market_planner set enabled = false",
    "update market_providers set quota_hour = 0",
])  # fmt: skip
async def test_nothing_is_planned_while_nothing_may_be_sent(db: Any, change: str) -> None:
    await _watched(db, "A-1", MID_HOUR, age=20 * HOUR)
    await db.execute(change)
    assert await _plan(db, MID_HOUR, interval_s=600) == []


async def test_what_apps_wait_for_is_ranked_and_takes_its_part_of_the_share(db: Any) -> None:
    for n in range(6):
        await _watched(db, f"A-{n}", MID_HOUR, age=(n + 1) * HOUR)
    await db.fetch("select * from market_enqueue('stockx', 'NEW', '10', 100, 'bob')")
    await db.fetchval("select market__fold($1)", MID_HOUR)
    assert await _plan(db, MID_HOUR, interval_s=50) == ["NEW", "A-5"]  # a share of 2.25


async def test_what_apps_ask_for_merges_with_the_plan_and_one_fetch_answers_both(
    db: Any, jobs: JobStore
) -> None:
    """The plan's job, the old kind of read at 100, and a manual refresh, in three sizes of one product."""
    now = await db.fetchval("select clock_timestamp()")
    await _watched(db, "A-1", now, age=20 * HOUR)
    await _watched(db, "B-1", now, age=200 * HOUR)  # worth more than A-1
    assert await _plan(db, now, interval_s=3600) == ["B-1", "A-1"]
    planned = await db.fetchval("select id from market_jobs where sku = 'A-1'")
    rows = await db.fetch(
        "select * from market_enqueue_many($1::jsonb, 100, 'ann')",
        json.dumps([_item("A-1"), _item("A-1", "11")]),
    )
    assert [row["result"] for row in rows] == ["merged", "queued"]
    assert rows[0]["job_id"] == planned
    assert await _plan(db, now, interval_s=3600) == ["B-1", "A-1", "A-1"]  # nothing is opened twice
    await db.fetch("select * from market_refresh($1::jsonb, 'bob')", json.dumps([_item("A-1", "12")]))
    [unit] = await jobs.claim("stockx", "default", units=1, lease=MINUTE)
    assert (unit.sku, sorted(unit.sizes, key=str)) == ("A-1", ["10", "11", "12"])
    at = await db.fetchval("select clock_timestamp()")
    prices = [
        Quote(size=size, currency="GBP", lowest_ask=Decimal(100), observed_at=at)
        for size in ("10", "11", "12")
    ]
    await jobs.settle(unit, [(job, Priced(size=job.size)) for job in unit.jobs], prices)
    assert await db.fetchval("select count(*) from market_jobs where sku = 'A-1' and status = 'done'") == 3
    await db.fetchval("select market__plan('stockx', 'default', 3600)")
    assert await _planned(db) == ["B-1"]  # A-1 is young now


async def test_one_users_import_does_not_shut_out_the_others(db: Any) -> None:
    await _call(db, "market_enqueue_many", [])
    items = [_item(f"BULK-{n:02}") for n in range(30)]
    await db.fetch("select * from market_enqueue_many($1::jsonb, 100, 'ann')", json.dumps(items))
    await db.fetch("select * from market_enqueue_many($1::jsonb, 100, 'bob')", json.dumps([_item("BOBS")]))
    await db.fetchval("select market__fold($1)", MID_HOUR)
    assert (await _plan(db, MID_HOUR)).index("BOBS") <= 3


async def test_the_lane_takes_the_oldest_however_little_it_is_worth(db: Any) -> None:
    await db.execute("update market_planner set lane = 1")
    for n in range(4):
        await _watched(db, f"A-{n}", MID_HOUR, age=(n + 1) * HOUR)
    await _watched(db, "OLD", MID_HOUR, age=50 * HOUR)
    await db.execute("update market_units set a = 0.1, b = 4320 where sku = 'OLD'")
    assert (await _plan(db, MID_HOUR, interval_s=30))[0] == "OLD"


async def test_the_lane_takes_a_watched_unit_that_waits_for_its_first_price(db: Any) -> None:
    await db.execute("update market_planner set lane = 1")
    await db.execute(
        "update market_providers set quota_hour = 100, quota_day = null, pace_s = 0 where provider = 'stockx'"
    )
    await _call(db, "market_watch", [_item("NEW")], "anna")
    await db.fetchval("select market__fold($1)", MID_HOUR)
    for n in range(5):
        await _watched(db, f"A-{n}", MID_HOUR, age=(n + 1) * HOUR)
    # The others are looked at all the time, so by what it is worth it would come last.
    await db.execute("update market_units set views = 672, views_at = $1 where sku like 'A-%'", MID_HOUR)
    await db.execute(
        "update market_units set tracked_since = $1 where sku = 'NEW'", MID_HOUR - 60 * 24 * HOUR
    )
    assert (await _plan(db, MID_HOUR, interval_s=60))[0] == "NEW"
    assert await db.fetchval("select count(*) from market_jobs where sku = 'NEW'") == 1


async def test_prices_age_for_who_looks_at_the_gauges_of_a_lane_that_is_paused(db: Any) -> None:
    await _watched(db, "A-1", MID_HOUR, age=2 * HOUR)
    await db.execute("update market_units set views = 10, views_at = $1", MID_HOUR)
    await db.execute("insert into market_prices (provider, sku, size, currency, lowest_ask, observed_at, changed_at)"
                     " values ('stockx', 'A-1', '10', 'GBP', 100, $1, $1)", MID_HOUR - 2 * HOUR)  # fmt: skip
    await _plan(db, MID_HOUR)
    age_s = "select view_age_s from market_freshness where provider = 'stockx'"
    assert await db.fetchval(age_s) == pytest.approx(2 * 3600)
    await db.execute("delete from market_jobs; select market_pause('stockx', 'for repairs')")
    assert await _plan(db, MID_HOUR + 3 * HOUR) == []
    assert await db.fetchval(age_s) == pytest.approx(5 * 3600)


async def test_no_watched_unit_waits_longer_than_the_lane_needs_for_one_round(db: Any) -> None:
    """With a lane of 1 in 4 and one call a pass, six units are all seen within 24 passes."""
    await db.execute("update market_planner set lane = 0.25, kappa = 0")
    for n in range(6):
        await _watched(db, f"A-{n}", MID_HOUR, age=HOUR)
    await db.execute("update market_units set views = 1e6 where sku = 'A-0'")
    chance, seen = random.Random(5), set()
    for n in range(24 * 4):
        now = MID_HOUR + n * 11 * MINUTE
        await db.execute("delete from market_budgets")
        await db.fetchval("select market__plan('stockx', 'default', 36, $1, $2)", now, chance.random())
        for sku in await _planned(db):
            seen.add(sku)
            await db.execute("update market_units set last_fetch_at = $2 where sku = $1", sku, now)
        await db.execute("delete from market_jobs")
    assert seen == {f"A-{n}" for n in range(6)}


async def test_two_planners_at_once_plan_once(connect: Connect) -> None:
    one, other = await connect(), await connect()
    await _watched(one, "A-1", MID_HOUR, age=20 * HOUR)
    first = one.transaction()
    await first.start()
    assert await one.fetchval("select market__plan('stockx', 'default', 60, $1)", MID_HOUR) == 1
    assert await other.fetchval("select market__plan('stockx', 'default', 60, $1)", MID_HOUR) == 0
    await first.commit()
    assert await other.fetchval("select market__plan('stockx', 'default', 60, $1, 0)", MID_HOUR) == 0
    assert await other.fetchval("select count(*) from market_jobs") == 1


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York"])
async def test_the_share_does_not_depend_on_the_sessions_time_zone(db: Any, zone: str) -> None:
    """Kolkata's hours begin at :30; New York had 01:00 twice on this day."""
    await db.execute(f"set timezone = '{zone}'")
    shares = [
        await db.fetchval(
            "select market__plan_share(p, s, 60, $1) from market_providers p, market_settings s"
            " where provider = 'stockx'",
            datetime(2026, 11, 1, hour, 20, tzinfo=UTC),
        )
        for hour in range(4, 8)
    ]
    assert shares == pytest.approx([100 * 60 / 2220] * 4)


async def test_the_share_is_no_more_than_the_slowest_daemons_spacing_lets_go(db: Any) -> None:
    share = (
        "select market__plan_share(p, s, 60, $1) from market_providers p, market_settings s"
        " where provider = 'stockx'"
    )
    await db.execute("update market_providers set quota_hour = null, quota_day = null, pace_s = 1")
    assert await db.fetchval(share, MID_HOUR) == pytest.approx(60 / 1.1)
    await daemon(db, stockx={"pace_s": 5})
    assert await db.fetchval(share, MID_HOUR) == pytest.approx(60 / (1.1 * 5))


async def test_a_reserve_that_takes_all_still_leaves_what_is_kept_for_background(db: Any) -> None:
    await _watched(db, "A-1", MID_HOUR, age=20 * HOUR)
    await db.execute("update market_providers set reserve = 0.95, quota_hour = 20 where provider = 'stockx'")
    await db.execute(
        "insert into market_budgets (provider, window_kind, window_start, window_end, used, quota)"
        " values ('stockx', 'hour', '2026-11-02 12:00Z', '2026-11-02 13:00Z', 7, 20)"
    )
    assert await _plan(db, MID_HOUR, dice=0.999) == ["A-1"]


# --- what people see ----------------------------------------------------------------------------------------------


async def test_price_status_tells_the_chance_that_a_price_still_holds_and_when_it_will_be_looked_at(
    db: Any, jobs: JobStore
) -> None:
    await _fetched(jobs, db, "100")
    await _call(db, "market_watch", [_item("A-1")])
    await db.fetchval("select market__fold()")
    await db.execute("update market_prices set observed_at = observed_at - interval '12 hours'")
    await db.fetchval("select market__plan('stockx', 'default', 60)")
    await db.execute("update market_plans set marginal_value = 1")
    row = await db.fetchrow("select *, clock_timestamp() as now from market_price_status")
    assert row["freshness"] == pytest.approx(Rate().still(12), rel=1e-3)
    assert row["watched"] is True
    assert row["next_refresh_at"] > row["now"]
    await _call(db, "market_unwatch", [_item("A-1")])
    assert await db.fetchval("select next_refresh_at from market_price_status") is None


async def test_the_plan_can_be_read_with_values_and_reasons(db: Any) -> None:
    now = await db.fetchval("select clock_timestamp()")
    await _watched(db, "A-1", now, age=20 * HOUR)
    await _watched(db, "B-1", now, age=None)
    await db.fetch("select * from market_enqueue('stockx', 'C-1', '10')")
    await db.fetchval("select market__fold()")
    await db.fetchval("select market__plan('stockx', 'default', 0.001, clock_timestamp(), 0)")
    rows = await db.fetch("select * from market_plan('stockx', 10)")
    assert [row["place"] for row in rows] == [1, 2, 3]
    assert {row["sku"]: row["why"] for row in rows} == {
        "A-1": "39 of 100 views would see a wrong price now",
        "B-1": "never fetched",
        "C-1": "asked for, and waiting",
    }
    seen = {row["sku"]: (row["age_s"] is None, row["still_right"] is None) for row in rows}
    assert seen == {"A-1": (False, False), "B-1": (True, True), "C-1": (True, True)}
    with pytest.raises(asyncpg.InvalidParameterValueError, match="market_plan: provider 'zz' is unknown"):
        await db.fetch("select * from market_plan('zz')")


async def test_the_advice_says_what_another_budget_would_bring(db: Any) -> None:
    for n in range(30):
        await _watched(db, f"A-{n}", MID_HOUR, age=(n + 1) * HOUR)
    for n in range(30):
        await db.fetchval("select market__plan('stockx', 'default', 20, $1)", MID_HOUR + n * MINUTE)
    row = await db.fetchrow("select * from market_freshness")
    assert 0 < row["freshness"] < 1
    assert row["views_per_call"] > 0
    assert "of 100 views see a right price; 10 calls an hour more would make it about" in row["advice"]


async def test_a_budget_that_outlasts_the_list_has_no_marginal_call(db: Any) -> None:
    """What is planned in this interval is no call that more budget would buy."""
    for n in range(3):
        await _watched(db, f"A-{n}", MID_HOUR, age=(n + 1) * HOUR)
    await _plan(db, MID_HOUR, interval_s=600)
    row = await db.fetchrow("select * from market_freshness")
    assert (row["inserted"], row["views_per_call"]) == (3, 0)
    assert row["advice"].endswith("the budget is ample: a tenth less would hardly be noticed")


async def test_prices_that_are_not_there_have_no_age_and_are_seen_by_nobody(db: Any) -> None:
    await _watched(db, "A-1", MID_HOUR, age=HOUR)
    await _watched(db, "B-1", MID_HOUR, age=None)
    await _plan(db, MID_HOUR)
    row = await db.fetchrow("select * from market_freshness")
    assert row["view_age_s"] == pytest.approx(3600)
    assert row["freshness"] == pytest.approx(Rate().still(1) / 2)


async def test_a_marginal_call_that_was_worth_something_long_ago_fades_to_nothing(db: Any) -> None:
    """Not to a number so small that the next division by the rate of views would fail."""
    await _watched(db, "A-1", MID_HOUR, age=HOUR)
    await _plan(db, MID_HOUR, interval_s=600)
    await db.execute("update market_plans set marginal_gain = 1e-300, marginal_value = 1e-300")
    await _plan(db, MID_HOUR + MINUTE, interval_s=600)
    assert tuple(await db.fetchrow("select marginal_gain, marginal_value from market_plans")) == (0, 0)


async def test_views_of_long_ago_fade_to_nothing_however_short_the_memory(db: Any) -> None:
    await db.execute("update market_planner set memory_h = 1")
    await _watched(db, "A-1", MID_HOUR, age=HOUR)
    await db.execute("update market_units set views = 1, views_at = $1", MID_HOUR)
    for user, later in (("ann", 400 * HOUR), ("bob", 800 * HOUR)):
        await _call(db, "market_watch", [_item("A-1")], user)
        await db.fetchval("select market__fold($1)", MID_HOUR + later)
    assert await db.fetchval("select views from market_units") == 0
    assert await _plan(db, MID_HOUR + 1600 * HOUR, interval_s=600) == ["A-1"]


async def test_a_wrong_guess_of_where_to_search_costs_a_scan_and_changes_nothing(db: Any) -> None:
    for n in range(60):
        await _watched(db, f"A-{n:02}", MID_HOUR, age=(n + 1) * HOUR)
    await db.fetchrow("select * from market_enqueue('stockx', 'A-59', '10')")
    found = [
        [
            (row["unit_key"], row["waiting"], row["value"], row["units"])
            for row in await db.fetch(
                "select * from market__candidates('stockx', 'default', 10, $1, $2)", guess, MID_HOUR
            )
        ]
        for guess in (None, 0.0, 1e-3, 2.0, 1e9)
    ]
    assert found == [found[0]] * 5
    assert [row[0] for row in found[0] if not row[1]] == [
        f"stockx|default|A-{n}|GBP" for n in range(58, 48, -1)
    ]
    assert [row[0] for row in found[0] if row[1]] == ["stockx|default|A-59|GBP"]


async def test_the_store_writes_the_dials_and_plans_every_account(db: Any, database: str) -> None:
    pool = Database(database, size=2, timeout_s=10)
    await pool.open()
    try:
        plans = PlanStore(pool, lambda: HOUR)
        dials = Dials(
            enabled=True, kappa=0.1, lane=0, memory=14 * 24 * HOUR, size_weight=0.2, prior_a=0.5,
            prior_b=12 * HOUR, evidence_cap=10, slowest=180 * 24 * HOUR,
        )  # fmt: skip
        await pool.together([plans.dials_written(dials)])
        now = await db.fetchval("select clock_timestamp()")
        await _watched(db, "A-1", now, age=20 * HOUR)
        await _watched(db, "E-1", now, age=20 * HOUR, provider="ebay")
        await plans.plan()
    finally:
        await pool.close()
    assert await db.fetchval("select memory_h from market_planner") == 336
    assert sorted(await _planned(db)) == ["A-1", "E-1"]


async def _plan_cut_off(db: Any, database: str, *, at: str) -> None:
    """A pass over all accounts in which Postgres cancels the statement that gets here."""
    await db.execute(f"""
        create function late() returns trigger language plpgsql as
        $$ begin raise exception 'canceling statement due to statement timeout' using errcode = '57014'; end $$;
        create trigger late before {at} execute function late()""")
    pool = Database(database, size=2, timeout_s=10)
    await pool.open()
    try:
        await PlanStore(pool, lambda: HOUR).plan()
    finally:
        await pool.close()


async def test_an_account_whose_plan_fails_starves_no_other(db: Any, database: str) -> None:
    now = await db.fetchval("select clock_timestamp()")
    for provider in ("alias", "stockx"):
        await _watched(db, "A-1", now, age=20 * HOUR, provider=provider)
    with pytest.raises(DatabaseError, match=r"alias/default: .*statement timeout"):
        await _plan_cut_off(
            db, database, at="insert on market_plans for each row when (new.provider = 'alias')"
        )
    assert await db.fetchval("select array_agg(provider) from market_plans") == ["stockx"]


async def test_what_cannot_be_folded_keeps_no_account_from_its_plan(db: Any, database: str) -> None:
    now = await db.fetchval("select clock_timestamp()")
    await _watched(db, "A-1", now, age=20 * HOUR)
    await _call(db, "market_viewed", [_item("A-1")])
    with pytest.raises(DatabaseError, match=r"what apps told: .*statement timeout"):
        await _plan_cut_off(db, database, at="update on market_signals for each row")
    assert await _planned(db) == ["A-1"]


async def test_views_of_weeks_without_a_fold_are_each_compared_with_their_neighbours_only(db: Any) -> None:
    views = 2000
    await db.execute(
        "insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, user_id, at)"
        " select 'view', 'stockx', 'default', 'A-1', '10', 'GBP', 'k', 'u', 'ann', now() - n * interval '15 minutes'"
        " from generate_series($1::int, 1, -1) n",
        views,
    )
    await db.execute("analyze market_signals")
    async with db.transaction():
        assert await db.fetchval("select market__fold()") == views
        looked_at = await db.fetchval(
            "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'market_signals'"
        )
    assert looked_at < 20 * views


async def test_a_unit_whose_job_waits_is_not_forgotten(db: Any) -> None:
    await db.execute("select * from market_enqueue('stockx', 'A-1', '10', 100)")
    now = await db.fetchval("select clock_timestamp()")
    await db.fetchval("select market__fold($1)", now)
    late = now + 5 * await db.fetchval("select make_interval(hours => memory_h::int) from market_planner")
    await db.fetchval("select market__fold($1)", late)
    assert await db.fetchval("select count(*) from market_units") == 1
    await db.execute("delete from market_jobs")
    await db.fetchval("select market__fold($1)", late)
    assert await db.fetchval("select count(*) from market_units") == 0


async def test_a_pass_takes_up_all_views_however_many_came_since_the_last(db: Any, database: str) -> None:
    await db.execute(
        "insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, user_id)"
        " select 'view', 'stockx', 'default', 'A-1', '10', 'GBP', 'k', 'u', n::text from generate_series(1, 45000) n"
    )
    pool = Database(database, size=2, timeout_s=30)
    await pool.open()
    try:
        await PlanStore(pool, lambda: HOUR).plan()
    finally:
        await pool.close()
    assert await db.fetchval("select views from market_units") == pytest.approx(45000, rel=0.01)


async def test_a_hundred_thousand_units_are_planned_in_one_cheap_scan(db: Any) -> None:
    await db.execute(
        "insert into market_units (unit_key, provider, account, sku, currency, sizes, views, views_at, tracked_since,"
        "   last_fetch_at, a, b)"
        " select 'u' || n, 'stockx', 'default', 'u' || n, 'GBP', 1 + n % 7, n % 90, now(), now() - interval '9 days',"
        "   now() - n % 400 * interval '1 hour', 0.5 + n % 9, 1 + n % 200 from generate_series(1, 100000) n"
    )
    await db.execute("analyze market_units")
    plan = "select market__plan('stockx', 'default', 60)"
    await db.fetchval(plan)
    # The backend's own processor time, in hundredths: other work on the machine does not count.
    spent = (
        "select sum(split_part(pg_read_file('/proc/' || pg_backend_pid() || '/stat'), ' ', n)::int)"
        " from unnest(array[14, 15]) n"
    )
    try:
        began = await db.fetchval(spent)
    except asyncpg.PostgresError as error:
        pytest.skip(f"no /proc to read the processor time from: {error}")
    for _ in range(4):
        await db.fetchval(plan)
    # Four times the figure of a quiet machine (bench/freshness prints it): compiling, joining or spilling costs more.
    assert (await db.fetchval(spent) - began) * 10 / 4 < 1000


# --- the command line ---------------------------------------------------------------------------------------------


async def test_the_watchlist_and_the_plan_can_be_worked_from_the_command_line(
    db: Any,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARKETD_DSN", database)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))

    async def told(*arguments: str) -> str:
        code = await asyncio.to_thread(main, arguments)
        out, err = capsys.readouterr()
        return f"{code} {out}{err}".strip()

    assert await told("plan") == (
        "0 next refreshes in the background: nothing is watched, or all of it is fresh (see `marketd watch`)"
    )
    assert (await told("watch", "stockx", "A-1", "10")).startswith(
        "0 stockx A-1 size 10 is watched from now on; job 1"
    )
    assert (await told("watch", "stockx", "A-1", "10")).startswith("0 stockx A-1 size 10 was watched already")
    assert (await told("watch", "stockx", "A-1", "99")).startswith(
        "2 marketd: watch: size '99' cannot be read"
    )
    await db.execute("delete from market_jobs")
    await db.fetchval("select market__fold()")
    [row] = json.loads((await told("plan", "--json"))[2:])
    assert (row["sku"], row["why"], row["job_id"]) == ("A-1", "never fetched", None)
    assert "never fetched" in await told("plan", "--provider", "stockx")
    await db.fetchval("select market__plan('stockx', 'default', 60)")
    assert "freshness of what is watched" in await told("status")
    assert (
        await told("unwatch", "stockx", "A-1", "10")
        == "0 stockx A-1 size 10 is not watched any more; 1 row changed"
    )
    assert (
        await told("unwatch", "stockx", "A-1", "10") == "0 stockx A-1 size 10 was not watched; 0 rows changed"
    )
