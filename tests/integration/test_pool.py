"""The one connection that stays at hand: used again while it is good, and never a reason for a failure."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from harness import until
from marketd.errors import DatabaseUnavailable, StatementRefused
from marketd.store.pool import Database
from queue_kit import Connection, opened

_PID = "select pg_backend_pid()"


async def test_statements_that_follow_each_other_use_one_connection(database: str) -> None:
    async with opened(database, size=3) as pool:
        assert len({await pool.fetchval(_PID) for _ in range(5)}) == 1
        assert pool.size == (1, 1)


async def test_statements_at_once_use_others_and_all_are_idle_afterwards(database: str) -> None:
    async with opened(database, size=3) as pool:
        slow = f"select pg_backend_pid() as pid, pg_sleep(0.2) from ({_PID}) x"
        rows = await asyncio.gather(*(pool.fetchrow(slow) for _ in range(6)))
        assert len({row["pid"] for row in rows if row}) == 3
        assert pool.size == (3, 3)


@pytest.mark.parametrize("size", [1, 2])
async def test_who_waits_gets_the_next_free_connection(database: str, size: int) -> None:
    async with opened(database, size=size) as pool:
        long = [asyncio.create_task(pool.fetch("select pg_sleep(5)")) for _ in range(size - 1)]
        order: list[str] = []

        async def timed(name: str, sql: str) -> None:
            await pool.fetch(sql)
            order.append(name)

        short = asyncio.create_task(timed("short", "select pg_sleep(0.1)"))
        await asyncio.sleep(0)  # it has its connection, or asks for it before the next
        await asyncio.wait_for(asyncio.gather(short, timed("who waits", "select 1")), 3)
        assert order == ["short", "who waits"]
        for task in long:
            task.cancel()
        await asyncio.gather(*long, return_exceptions=True)


async def test_a_connection_that_the_server_ended_while_it_idled_costs_nothing(
    db: Connection, database: str
) -> None:
    async with opened(database, size=1) as pool:
        for _ in range(3):
            pid = await pool.fetchval(_PID)
            await db.execute("select pg_terminate_backend($1)", pid)
            await until(partial(_replaced, db, pid), what="the pool's next one, once it has noticed")
            assert await pool.fetchval(_PID) != pid
            assert pool.size[0] == pool.size[1]


async def _replaced(db: Connection, pid: int) -> bool:
    rows = await db.fetch(
        "select pid from pg_stat_activity where datname = current_database() and application_name = 'marketd'"
    )
    return bool(rows) and pid not in {row["pid"] for row in rows}


async def test_after_a_statement_that_was_cut_off_the_connection_goes_back_to_the_pool(database: str) -> None:
    async with opened(database) as pool:
        await pool.fetchval(_PID)
        cut_off = asyncio.create_task(pool.fetchval("select pg_sleep(30)"))
        await asyncio.sleep(0)  # let it begin
        cut_off.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cut_off
        assert await pool.fetchval("select 1") == 1


async def test_a_statement_under_way_when_all_are_given_up_leaves_no_old_connection_at_hand(
    db: Connection, database: str
) -> None:
    async with opened(database, size=3) as pool:
        old = asyncio.create_task(pool.fetchrow("select pg_backend_pid() as pid, pg_sleep(0.3)"))
        sleeping = "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
        await until(lambda: db.fetchval(sleeping), what="its start")
        with pytest.raises(DatabaseUnavailable):
            await pool.fetch("select pg_sleep(30)", patience_s=0.05)
        row = await old
        assert row is not None
        assert await pool.fetchval(_PID) != row["pid"]


async def test_an_argument_that_cannot_be_sent_is_no_outage(database: str) -> None:
    async with opened(database) as pool:
        with pytest.raises(StatementRefused):
            await pool.fetch("select $1::text", "\ud800")
        with pytest.raises(StatementRefused):
            await pool.fetch("select $1::int", 2**31)


async def test_closing_waits_for_no_statement_of_the_connection_at_hand(database: str) -> None:
    pool = Database(database, size=2, timeout_s=5)
    await pool.open()
    await pool.fetchval(_PID)
    await asyncio.wait_for(pool.close(), 1)
    assert pool.size == (0, 0)
    with pytest.raises(DatabaseUnavailable, match="not open"):
        await pool.fetchval(_PID)
