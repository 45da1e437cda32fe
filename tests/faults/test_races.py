"""Each race of two by name, stepped through by hand: one transaction stands open while the other side acts.

The other side waits until the first has ended, which is seen in pg_stat_activity, or it goes its way at once; in each
case it is looked at what both have done in the end. Random races are in test_state_machine.py and test_storm.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast
from uuid import UUID, uuid4

import asyncpg
import pytest

from faults.kit import broken
from marketd.errors import LeaseLost
from marketd.models import Unit
from marketd.outcome import Failed, Priced, Released, Retried, Snoozed
from marketd.store.jobs import JobStore
from marketd.store.pool import Database
from marketd.store.sqlfile import queries
from queue_kit import (
    LEASE,
    Connect,
    Connection,
    enqueue,
    enqueue_many,
    item,
    job,
    limits,
    now,
    open_jobs,
    plain_insert,
    plenty,
    quote,
    settings,
    until,
    value,
    waits_for_lock,
)

T = TypeVar("T")
AT_ONCE_S = 3.0  #: for what has to wait for nobody
TAKE = "select granted, reason from market_take('stockx', 'default', $1)"


class _OneConnection:
    """What a store wants of the pool, on one connection, whose transactions the test opens and ends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *args: Any, patience_s: float | None = None) -> list[asyncpg.Record]:
        return await self._connection.fetch(sql, *args, timeout=patience_s)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        return await self._connection.fetchval(sql, *args)


@dataclass
class Side:
    """One of the two: an app or a daemon with its one connection."""

    connection: Connection
    jobs: JobStore
    daemon_id: UUID

    @property
    def pid(self) -> int:
        return self.connection.get_server_pid()

    async def claim(self, units: int = 1, *, provider: str = "stockx") -> list[Unit]:
        return await self.jobs.claim(provider, "default", units=units, lease=LEASE)

    async def price(self, unit: Unit, ask: str = "200", *, age_s: float = 0, size: str = "10") -> Any:
        at = await self.connection.fetchval("select clock_timestamp()") - timedelta(seconds=age_s)
        return await self.jobs.settle(
            unit, [(j, Priced(size=size)) for j in unit.jobs], [quote(size, ask, at=at)]
        )


@dataclass
class Race:
    """The two sides, and a third connection that looks."""

    one: Side
    other: Side
    db: Connection

    async def run(
        self,
        first: Callable[[], Awaitable[Any]],
        second: Callable[[], Coroutine[Any, Any, T]],
        *,
        ends: str = "commit",
    ) -> T:
        """`first` inside a transaction of `one`; `second` begins, waits for it, and goes on when it has ended."""
        begun = self.one.connection.transaction()
        await begun.start()
        await first()
        racing = asyncio.create_task(second())
        try:
            await until(lambda: waits_for_lock(self.db, self.other.pid))
        except BaseException:
            racing.cancel()
            raise
        await (begun.commit() if ends == "commit" else begun.rollback())
        return await asyncio.wait_for(racing, AT_ONCE_S)

    async def pass_by(
        self,
        first: Callable[[], Awaitable[Any]],
        second: Callable[[], Coroutine[Any, Any, T]],
        *,
        ends: str = "commit",
    ) -> T:
        """`first` inside a transaction of `one`; `second` is over before that has ended."""
        begun = self.one.connection.transaction()
        await begun.start()
        await first()
        found = await asyncio.wait_for(second(), AT_ONCE_S)
        await (begun.commit() if ends == "commit" else begun.rollback())
        return found


@pytest.fixture
async def race(connect: Connect, db: Connection) -> AsyncIterator[Race]:
    await plenty(db)
    sides = []
    for _ in range(2):
        connection, daemon_id = await connect(), uuid4()
        pool = cast(Database, _OneConnection(connection))
        sides.append(Side(connection, JobStore(pool, daemon_id), daemon_id))
    yield Race(*sides, db)
    assert await broken(db) == {}


async def _expire(db: Connection) -> None:
    """All leases run out."""
    await db.execute(
        "update market_jobs set lease_expires_at = now() - interval '1 second' where status = 'running'"
    )
    await db.execute("update market_fetches set lease_expires_at = now() - interval '1 second'")


async def _asked_long_ago(db: Connection) -> None:
    """All requests by now are older than any price of this test."""
    await db.execute("update market_job_requests set requested_at = now() - interval '1 hour'")


async def _states(db: Connection) -> list[tuple[Any, ...]]:
    rows = await db.fetch("select sku, status, attempt, rescues from market_jobs order by id")
    return [tuple(row) for row in rows]


# ------------------------------------------------------------------------------------------------ two apps


@pytest.mark.parametrize("ends", ["commit", "rollback"])
@pytest.mark.parametrize("second", ["function", "many", "insert"])
async def test_enqueue_against_enqueue_of_a_new_target(race: Race, second: str, ends: str) -> None:
    async def ask() -> str:
        if second == "insert":
            return {"INSERT 0 0": "raised", "INSERT 0 1": "queued"}[
                await plain_insert(race.other.connection, priority=200)
            ]
        if second == "function":
            return str((await enqueue(race.other.connection, priority=200))["result"])
        rows = await enqueue_many(race.other.connection, [item()], 200)
        return str(rows[0]["result"])

    result = await race.run(lambda: enqueue(race.one.connection), ask, ends=ends)
    assert result == ("raised" if ends == "commit" else "queued")
    assert await open_jobs(race.db) == 1
    assert await value(race.db, "select priority from market_jobs") == 200


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_retry_against_enqueue_of_the_same_target(race: Race, ends: str) -> None:
    first = (await enqueue(race.db))["job_id"]
    [unit] = await race.one.claim()
    no = Failed(error_code="unknown_sku", message="not there", cooldown=timedelta(0))
    await race.one.jobs.settle(unit, [(j, no) for j in unit.jobs])
    answer = await race.run(
        lambda: race.one.connection.fetchval("select market_retry()"),
        lambda: enqueue(race.other.connection),
        ends=ends,
    )
    if ends == "commit":
        assert (answer["result"], answer["job_id"]) == ("merged", first)
    else:
        assert answer["result"] == "queued"
    assert await open_jobs(race.db) == 1


async def test_retry_against_retry(race: Race) -> None:
    await enqueue(race.db)
    [unit] = await race.one.claim()
    no = Failed(error_code="unknown_sku", message="not there", cooldown=timedelta(0))
    await race.one.jobs.settle(unit, [(j, no) for j in unit.jobs])
    await race.run(
        lambda: race.one.connection.fetchval("select market_retry()"),
        lambda: race.other.connection.fetchval("select market_retry()"),
    )
    assert await open_jobs(race.db) == 1
    assert await value(race.db, "select count(*) from market_jobs") == 1


async def test_watch_against_watch(race: Race) -> None:
    watch = (
        """select result from market_watch('[{"provider": "stockx", "sku": "AA1-1", "size": "9"}]', 'ann')"""
    )
    result = await race.run(
        lambda: race.one.connection.fetchval(watch), lambda: race.other.connection.fetchval(watch)
    )
    assert result == "kept"
    assert await value(race.db, "select count(*) from market_watches") == 1
    assert await open_jobs(race.db) == 1


# ------------------------------------------------------------------------------------ an app and a daemon


async def test_enqueue_of_a_new_job_against_claim(race: Race) -> None:
    assert await race.pass_by(lambda: enqueue(race.one.connection), race.other.claim) == []
    assert len(await race.other.claim()) == 1


async def test_raise_of_a_waiting_job_against_claim(race: Race) -> None:
    """The row is in the app's hands: the claim takes others meanwhile, and this one after it."""
    await enqueue(race.db, "AA1-1")
    await enqueue(race.db, "BB1-1")
    found = await race.pass_by(
        lambda: enqueue(race.one.connection, "AA1-1", priority=200), lambda: race.other.claim(2)
    )
    assert [unit.sku for unit in found] == ["BB1-1"]
    assert [(unit.sku, unit.priority) for unit in await race.other.claim(2)] == [("AA1-1", 200)]


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_claim_against_raise_of_the_same_job(race: Race, ends: str) -> None:
    """The app is answered at once; its wish reaches the job whatever became of the claim."""
    job_id = (await enqueue(race.db))["job_id"]
    answer = await race.pass_by(
        race.one.claim, lambda: enqueue(race.other.connection, priority=200), ends=ends
    )
    assert (answer["result"], answer["job_id"]) == ("merged", job_id)
    await race.other.jobs.poll(timedelta(minutes=1))
    if ends == "rollback":
        assert (await job(race.db, job_id))["priority"] == 200
    else:
        assert (await job(race.db, job_id))["status"] == "running"
        assert await value(race.db, "select max(priority) from market_job_requests where not served") == 200


async def test_settle_against_enqueue_of_the_same_target(race: Race) -> None:
    """The app does not wait for the settle; the price that is just being written serves it."""
    job_id = (await enqueue(race.db))["job_id"]
    [unit] = await race.one.claim()
    answer = await race.pass_by(
        lambda: race.one.price(unit), lambda: enqueue(race.other.connection, priority=200)
    )
    assert (answer["result"], answer["job_id"]) == ("merged", job_id)
    assert await race.other.jobs.reopen() == 0
    assert (await job(race.db, job_id))["status"] == "done"
    assert await value(race.db, "select bool_and(served) from market_job_requests where loose")


async def test_settle_with_an_old_price_against_enqueue_of_the_same_target(race: Race) -> None:
    """As before, but the price is too old for the new wish, of which the settle knows nothing: the job opens again."""
    await settings(race.db, fresh_for=timedelta(minutes=1))
    job_id = (await enqueue(race.db))["job_id"]
    await _asked_long_ago(race.db)
    [unit] = await race.one.claim()
    await race.pass_by(
        lambda: race.one.price(unit, age_s=90), lambda: enqueue(race.other.connection, priority=200)
    )
    assert (await job(race.db, job_id))["status"] == "done"
    assert await race.other.jobs.reopen() == 1
    assert (await job(race.db, job_id))["status"] == "pending"


async def test_enqueue_during_a_run_against_settle(race: Race) -> None:
    """The settle waits for no app; a wish that it could not see opens the job again if its price is too old."""
    await settings(race.db, fresh_for=timedelta(minutes=1))
    job_id = (await enqueue(race.db))["job_id"]
    await _asked_long_ago(race.db)
    [unit] = await race.other.claim()
    settled = await race.pass_by(
        lambda: enqueue(race.one.connection, priority=200), lambda: race.other.price(unit, age_s=90)
    )
    assert settled.skipped == ()
    assert await race.other.jobs.reopen() == 1
    assert (await job(race.db, job_id))["status"] == "pending"


async def test_enqueue_against_reopen(race: Race) -> None:
    """Somebody is just opening a job for the target: reopening leaves it alone, for the new job's price will serve."""
    await settings(race.db, fresh_for=timedelta(0))
    await enqueue(race.db)
    await _asked_long_ago(race.db)
    [unit] = await race.other.claim()
    begun = race.one.connection.transaction()
    await begun.start()
    await enqueue(race.one.connection)
    await race.other.price(unit, age_s=1)
    await begun.commit()
    assert await race.pass_by(lambda: enqueue(race.one.connection), race.other.jobs.reopen) == 0
    assert await open_jobs(race.db) == 1


async def test_reopen_against_enqueue(race: Race) -> None:
    await settings(race.db, fresh_for=timedelta(0))
    job_id = (await enqueue(race.db))["job_id"]
    await _asked_long_ago(race.db)
    [unit] = await race.other.claim()
    begun = race.one.connection.transaction()
    await begun.start()
    await enqueue(race.one.connection)
    await race.other.price(unit, age_s=1)
    await begun.commit()
    answer = await race.run(race.one.jobs.reopen, lambda: enqueue(race.other.connection))
    assert (answer["result"], answer["job_id"]) == ("merged", job_id)
    assert await open_jobs(race.db) == 1


async def test_promotion_against_raise_of_a_deferred_job(race: Race) -> None:
    job_id = (await enqueue(race.db, not_before=await now(race.db) + timedelta(hours=1)))["job_id"]
    await race.db.execute("update market_jobs set run_at = now() - interval '1 second'")
    answer = await race.pass_by(
        lambda: race.one.jobs.poll(timedelta(minutes=1)), lambda: enqueue(race.other.connection, priority=200)
    )
    assert answer["result"] == "merged"
    await race.other.jobs.poll(timedelta(minutes=1))
    row = await job(race.db, job_id)
    assert (row["status"], row["priority"]) == ("pending", 200)


async def test_plan_against_enqueue_and_enqueue_against_plan(race: Race) -> None:
    """Both open a job for one watched item: it is one job, and the planner waits for no app longer than a moment."""
    item = """[{"provider": "stockx", "sku": "AA1-1", "size": "9"}]"""
    await race.db.execute("select market_watch($1)", item)
    await race.db.execute("select market_viewed($1)", item)
    await race.db.execute("delete from market_jobs")
    await race.db.execute("select market__fold(clock_timestamp(), 100)")
    unit = await value(race.db, "select unit_key from market_units")
    planning = "select market__plan_open(market__plan_target($1, clock_timestamp()), 1, clock_timestamp())"
    answer = await race.run(
        lambda: race.one.connection.fetchval(planning, unit),
        lambda: enqueue(race.other.connection, "AA1-1", "9", 200),
    )
    assert answer["result"] == "raised"
    await race.db.execute("delete from market_jobs")
    patient = f"begin; set local lock_timeout = '200ms'; {planning.replace('$1', repr(unit))}; commit"
    await race.pass_by(
        lambda: enqueue(race.one.connection, "AA1-1", "9"), lambda: race.other.connection.execute(patient)
    )
    assert await open_jobs(race.db) == 1


# ---------------------------------------------------------------------------------------------- two daemons


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_claim_against_claim_of_one_unit(race: Race, ends: str) -> None:
    for size in ("9", "10"):
        await enqueue(race.db, size=size)
    assert await race.pass_by(race.one.claim, race.other.claim, ends=ends) == []
    assert len(await race.other.claim()) == (ends == "rollback")


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_claim_against_claim_of_a_job_that_came_to_the_unit_meanwhile(race: Race, ends: str) -> None:
    """The newcomer's row is free; the unit's own row lets one of them go."""
    await enqueue(race.db, size="9")

    async def claimed_and_then_asked() -> None:
        assert len(await race.one.claim()) == 1
        await enqueue(race.db, size="10")

    found = await race.run(claimed_and_then_asked, race.other.claim, ends=ends)
    assert sorted(str(j.size) for unit in found for j in unit.jobs) == (
        [] if ends == "commit" else ["10", "9"]
    )


async def test_rescue_against_rescue(race: Race) -> None:
    await enqueue(race.db)
    await race.one.claim()
    await _expire(race.db)
    assert await race.pass_by(race.one.jobs.rescue, race.other.jobs.rescue) == []
    assert await _states(race.db) == [("DD1391-100", "pending", 0, 1)]


async def test_settle_against_rescue(race: Race) -> None:
    """The late worker was quicker: its lease is gone with its price, and nothing is left to rescue."""
    await enqueue(race.db)
    [unit] = await race.one.claim()
    await _expire(race.db)
    assert await race.pass_by(lambda: race.one.price(unit), race.other.jobs.rescue) == []
    assert await race.other.jobs.rescue() == []
    assert await _states(race.db) == [("DD1391-100", "done", 1, 0)]


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_rescue_against_settle(race: Race, ends: str) -> None:
    await enqueue(race.db)
    [unit] = await race.other.claim()
    await _expire(race.db)
    late = lambda: race.other.price(unit, "1")  # noqa: E731
    if ends == "commit":
        with pytest.raises(LeaseLost):
            await race.run(race.one.jobs.rescue, late)
        assert await _states(race.db) == [("DD1391-100", "pending", 0, 1)]
        assert await value(race.db, "select count(*) from market_prices") == 0
    else:
        assert (await race.run(race.one.jobs.rescue, late, ends=ends)).changed == 1
        assert await _states(race.db) == [("DD1391-100", "done", 1, 0)]


async def test_extend_against_rescue(race: Race) -> None:
    await enqueue(race.db)
    [unit] = await race.one.claim()
    await _expire(race.db)
    assert (
        await race.pass_by(lambda: race.one.jobs.extend_all([unit], lease=LEASE), race.other.jobs.rescue)
        == []
    )
    assert await race.other.jobs.rescue() == []
    assert (await race.one.price(unit)).changed == 1


async def test_rescue_against_extend(race: Race) -> None:
    await enqueue(race.db)
    [unit] = await race.other.claim()
    await _expire(race.db)
    assert (
        await race.pass_by(race.one.jobs.rescue, lambda: race.other.jobs.extend_all([unit], lease=LEASE))
        == {}
    )


async def test_takeover_by_a_claim_against_settle(race: Race) -> None:
    """Another job of the unit was claimed after the lease ran out: the first worker's result is dropped."""
    await enqueue(race.db, size="10")
    [late] = await race.other.claim()
    await _expire(race.db)
    await enqueue(race.db, size="11")
    with pytest.raises(LeaseLost):
        await race.run(race.one.claim, lambda: race.other.price(late, "1"))
    assert await value(race.db, "select count(*) from market_prices") == 0
    assert [row.status for row in await race.other.jobs.rescue() if hasattr(row, "status")] == []
    assert await open_jobs(race.db) == 2


async def test_settle_against_takeover_by_a_claim(race: Race) -> None:
    await enqueue(race.db, size="10")
    [late] = await race.one.claim()
    await _expire(race.db)
    await enqueue(race.db, size="11")
    found = await race.run(lambda: race.one.price(late), race.other.claim)
    assert await value(race.db, "select count(*) from market_price_history") == 1
    assert len(found) <= 1
    assert await value(race.db, "select status from market_jobs where size = '10'") == "done"


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_settle_against_the_same_settle_again(race: Race, ends: str) -> None:
    """A daemon whose connection broke does not know whether its settle was committed, and sends it once more."""
    await enqueue(race.db)
    [unit] = await race.one.claim()
    again = lambda: race.other.price(unit, "300")  # noqa: E731
    if ends == "commit":
        with pytest.raises(LeaseLost):
            await race.run(lambda: race.one.price(unit), again)
    else:
        assert (await race.run(lambda: race.one.price(unit), again, ends=ends)).changed == 1
    assert await value(race.db, "select lowest_ask from market_prices") == (200 if ends == "commit" else 300)
    assert await value(race.db, "select count(*) from market_price_history") == 1


@pytest.mark.parametrize("newer_first", [True, False])
async def test_an_older_price_against_a_newer_one_of_another_unit(race: Race, newer_first: bool) -> None:
    """At eBay two sizes that are asked for may be one size of its own: whoever commits last, the newer price stays."""
    for size in ("10", "UK 9"):
        await enqueue(race.db, size=size, provider="ebay")
    one, other = await race.one.claim(2, provider="ebay")

    def settle(side: Side, unit: Unit, newer: bool) -> Callable[[], Coroutine[Any, Any, Any]]:
        return lambda: side.price(unit, "222" if newer else "111", age_s=0 if newer else 30)

    await race.run(settle(race.one, one, newer_first), settle(race.other, other, not newer_first))
    assert await value(race.db, "select lowest_ask from market_prices") == 222


async def test_release_at_shutdown_against_rescue(race: Race) -> None:
    """A daemon gives back what it holds while another one takes its leases for expired: nobody pays a rescue."""
    await enqueue(race.db)
    await race.one.claim()
    await _expire(race.db)
    assert await race.pass_by(race.one.jobs.release_all, race.other.jobs.rescue) == []
    assert await _states(race.db) == [("DD1391-100", "pending", 0, 0)]


async def test_settle_against_release_at_shutdown(race: Race) -> None:
    """The settle of a fetch and the last act of the same daemon, whichever commits first: the result stands."""
    await enqueue(race.db)
    [unit] = await race.one.claim()
    release = queries("jobs")["release_daemon"]
    await race.run(
        lambda: race.one.price(unit), lambda: race.other.connection.fetch(release, race.one.daemon_id)
    )
    assert await _states(race.db) == [("DD1391-100", "done", 1, 0)]


async def test_promotion_against_promotion(race: Race) -> None:
    await enqueue(race.db, not_before=await now(race.db) + timedelta(hours=1))
    await race.db.execute("update market_jobs set run_at = now() - interval '1 second'")
    await race.pass_by(
        lambda: race.one.jobs.poll(timedelta(minutes=1)), lambda: race.other.jobs.poll(timedelta(minutes=1))
    )
    assert await _states(race.db) == [("DD1391-100", "pending", 0, 0)]


async def test_retry_against_pruning_of_the_same_job(race: Race) -> None:
    job_id = (await enqueue(race.db))["job_id"]
    [unit] = await race.one.claim()
    no = Failed(error_code="unknown_sku", message="not there", cooldown=timedelta(0))
    await race.one.jobs.settle(unit, [(j, no) for j in unit.jobs])
    await race.db.execute("update market_jobs set completed_at = now() - interval '1 day'")
    prune = queries("runs")["prune_jobs"]
    await race.pass_by(
        lambda: race.one.connection.fetchval("select market_retry()"),
        lambda: race.other.connection.execute(prune, timedelta(minutes=1), 100),
    )
    assert (await job(race.db, job_id))["status"] == "pending"
    assert await value(race.db, "select count(*) from market_job_requests") == 1


# -------------------------------------------------------------------------------------------------- budgets


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_take_of_the_last_call_against_take(race: Race, ends: str) -> None:
    await limits(race.db, quota_hour=1)
    second = await race.run(
        lambda: race.one.connection.fetchrow(TAKE, 200),
        lambda: race.other.connection.fetchrow(TAKE, 200),
        ends=ends,
    )
    assert tuple(second or ()) == ((False, "budget") if ends == "commit" else (True, None))
    assert await value(race.db, "select max(used) from market_budgets") == 1


async def test_take_against_give_back(race: Race) -> None:
    """Both lock the account's row first, so they wait for one another and never deadlock."""
    receipt = await race.db.fetchval("select receipt from market_take('stockx', 'default', 200)")
    await race.run(
        lambda: race.one.connection.fetchrow(TAKE, 200),
        lambda: race.other.connection.fetchval("select market_give_back($1)", receipt),
    )
    assert await value(race.db, "select used from market_budgets where window_kind = 'hour'") == 1


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("select market_pause('stockx', 'a test')", "paused"),
        ("select * from market_report('stockx', 'default', 'throttled', 30)", "cooldown"),
        ("update market_providers set quota_hour = 0 where provider = 'stockx'", "budget"),
        ("update market_providers set enabled = false where provider = 'stockx'", "off"),
    ],
    ids=["pause", "a 429", "a reload that lowers the quota", "a reload that switches it off"],
)
async def test_what_closes_a_lane_against_take(race: Race, trouble: str, reason: str) -> None:
    second = await race.run(
        lambda: race.one.connection.execute(trouble), lambda: race.other.connection.fetchrow(TAKE, 200)
    )
    assert tuple(second or ()) == (False, reason)


async def test_probe_against_probe(race: Race) -> None:
    """A cool-down is over: of two daemons that ask at once one goes, and the other hears of its probe."""
    await race.db.execute("select market_report('stockx', 'default', 'throttled', 0.001)")
    second = await race.run(
        lambda: race.one.connection.fetchrow(TAKE, 200), lambda: race.other.connection.fetchrow(TAKE, 200)
    )
    assert tuple(second or ()) == (False, "cooldown")


async def test_run_against_run_of_the_scheduler(race: Race) -> None:
    begin = queries("runs")["begin_run"]
    second = await race.run(
        lambda: race.one.connection.fetchrow(begin, "timer", timedelta(seconds=30), False),
        lambda: race.other.connection.fetchrow(begin, "timer", timedelta(seconds=30), False),
    )
    assert second is None


async def test_snooze_against_raise_of_the_same_job(race: Race) -> None:
    """A job goes to sleep while somebody asks for it urgently: the wish is not lost with the row's lock."""
    job_id = (await enqueue(race.db))["job_id"]
    [unit] = await race.one.claim()
    sleep = Snoozed(until=await now(race.db) + timedelta(hours=1), reason="budget")
    await race.pass_by(
        lambda: race.one.jobs.settle(unit, [(j, sleep) for j in unit.jobs]),
        lambda: enqueue(race.other.connection, priority=200),
    )
    await race.other.jobs.poll(timedelta(minutes=1))
    assert (await job(race.db, job_id))["priority"] == 200


async def test_release_against_raise_of_the_same_job(race: Race) -> None:
    job_id = (await enqueue(race.db))["job_id"]
    [unit] = await race.one.claim()
    await race.pass_by(
        lambda: race.one.jobs.settle(unit, [(j, Released(reason="shutdown")) for j in unit.jobs]),
        lambda: enqueue(race.other.connection, priority=200),
    )
    await race.other.jobs.poll(timedelta(minutes=1))
    row = await job(race.db, job_id)
    assert (row["status"], row["priority"]) == ("pending", 200)


@pytest.mark.parametrize("way", ["rescue", "release", "snooze", "retry"])
async def test_a_raise_that_is_committed_after_its_job_went_back_to_the_queue(race: Race, way: str) -> None:
    """An app asked urgently while the job ran, and commits when no settle can see it any more."""
    job_id = (await enqueue(race.db))["job_id"]
    [unit] = await race.other.claim()
    begun = race.one.connection.transaction()
    await begun.start()
    assert (await enqueue(race.one.connection, priority=200))["job_id"] == job_id
    match way:
        case "rescue":
            await _expire(race.db)
            await race.other.jobs.rescue()
        case "release":
            await race.other.jobs.release_all()
        case "snooze":
            until_then = Snoozed(until=await now(race.db) + timedelta(hours=1), reason="budget")
            await race.other.jobs.settle(unit, [(j, until_then) for j in unit.jobs])
        case _:
            later = Retried(delay=timedelta(hours=1), error_code="timeout", message="no answer")
            await race.other.jobs.settle(unit, [(j, later) for j in unit.jobs])
    await begun.commit()
    await race.other.jobs.poll(timedelta(minutes=1))
    row = await job(race.db, job_id)
    assert (row["status"], row["priority"]) == ("pending", 200)


async def test_a_raise_that_the_settle_saw_does_not_look_past_the_backoff_that_came_after_it(
    race: Race,
) -> None:
    job_id = (await enqueue(race.db))["job_id"]
    [unit] = await race.one.claim()
    await enqueue(race.other.connection, priority=200)
    later = Retried(delay=timedelta(hours=1), error_code="timeout", message="no answer")
    await race.one.jobs.settle(unit, [(j, later) for j in unit.jobs])
    await race.other.jobs.poll(timedelta(minutes=1))
    row = await job(race.db, job_id)
    assert (row["status"], row["priority"]) == ("deferred", 200)


async def test_a_raise_during_a_run_whose_worker_dies_is_kept(race: Race) -> None:
    job_id = (await enqueue(race.db))["job_id"]
    await race.one.claim()
    await enqueue(race.other.connection, priority=200)
    await _expire(race.db)
    await race.other.jobs.rescue()
    await race.other.jobs.poll(timedelta(minutes=1))
    assert (await job(race.db, job_id))["priority"] == 200
