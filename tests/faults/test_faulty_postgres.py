"""Postgres goes away, comes back, refuses, hangs, or changes under a running daemon: nothing is lost, work goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from faults.conftest import MAX_CONNECTIONS, OwnServer
from faults.kit import QUICK_JOBS, Connection, ask, ask_many, broken, ended, load, wrong_prices
from harness import GOLDEN, configured, running, until
from marketd.errors import DatabaseUnavailable
from marketd.sandbox import Sandbox
from marketd.store.pool import Database

BACK_WITHIN_S = 5.0
SLOW = {"calls": 30, "per": "1s"}  #: so that a load lasts through the trouble


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, products=60, limits={"*": None}) as server:
        yield server


def _configured(dsn: str, sandbox: Sandbox, folder: Path, **sections: Any) -> Any:
    stanza = {"pace": SLOW, "concurrency": 2}
    return configured(dsn, sandbox, folder, stanza=stanza, jobs=QUICK_JOBS, **sections)


async def _connect(dsn: str) -> Connection:
    return await asyncpg.connect(dsn, timeout=5, command_timeout=10)


async def _others(db: Connection) -> list[int]:
    rows = await db.fetch(
        "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and backend_type = 'client backend'"
    )
    return [row["pid"] for row in rows]


@pytest.mark.parametrize(
    "trouble", [OwnServer.restart, OwnServer.kill], ids=["restart", "kill -9 of the postmaster"]
)
async def test_after_postgres_was_away_claims_go_on_within_five_seconds_and_nothing_is_lost(
    own: OwnServer, sandbox: Sandbox, tmp_path: Path, trouble: Callable[[OwnServer], None]
) -> None:
    async with running(_configured(own.dsn, sandbox, tmp_path)):
        db = await _connect(own.dsn)
        ids = await ask_many(db, load(sandbox, 24), 200)
        await _some_done(db)
        db.terminate()
        trouble(own)
        db = await _connect(own.dsn)
        back = await db.fetchval("select clock_timestamp()")

        async def claimed() -> bool:
            return bool(await db.fetchval("select max(started_at) > $1 from market_jobs", back))

        await until(claimed, within_s=BACK_WITHIN_S, what="the first claim")
        rows = await ended(db, ids, within_s=20)
    assert {row["status"] for row in rows.values()} == {"done"}
    assert await broken(db) == {}
    assert await wrong_prices(db, sandbox) == []
    await db.close()


async def _some_done(db: Connection) -> None:
    done = "select count(*) > 3 from market_jobs where status = 'done'"
    await until(lambda: db.fetchval(done), what="the first answers")


async def test_terminated_backends_cost_no_job_and_no_attempt(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with running(_configured(database, sandbox, tmp_path)):
        ids = await ask_many(db, load(sandbox, 24), 200)
        for _ in range(8):
            await db.fetch("select pg_terminate_backend(pid) from unnest($1::int[]) pid", await _others(db))
            await asyncio.sleep(0.2)
        rows = await ended(db, ids, within_s=20)
    assert {(row["status"], row["rescues"]) for row in rows.values()} <= {("done", 0), ("done", 1)}
    assert await broken(db) == {}


async def test_a_login_that_is_refused_for_a_while_is_waited_for(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    name = await db.fetchval("select current_database()")
    async with running(_configured(database, sandbox, tmp_path)):
        ids = await ask_many(db, load(sandbox, 24), 200)
        await _some_done(db)
        # To new sessions only: as a rotated password, a slip in pg_hba.conf, or a restore do it.
        elsewhere = await _connect(database.replace(name, "postgres"))
        await elsewhere.execute(f"alter database {name} with allow_connections false")
        await db.fetch("select pg_terminate_backend(pid) from unnest($1::int[]) pid", await _others(db))
        await asyncio.sleep(1)
        await elsewhere.execute(f"alter database {name} with allow_connections true")
        await elsewhere.close()
        rows = await ended(db, ids, within_s=20)
    assert {(row["status"], row["rescues"]) for row in rows.values()} <= {("done", 0), ("done", 1)}
    assert await broken(db) == {}


async def test_a_server_that_turns_read_only_is_left_for_a_new_connection(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    name = await db.fetchval("select current_database()")
    async with running(_configured(database, sandbox, tmp_path)):
        ids = await ask_many(db, load(sandbox, 24), 200)
        await _some_done(db)
        await db.execute(f"alter database {name} set default_transaction_read_only = on")
        former, own_pid = await _others(db), db.get_server_pid()
        await db.fetch("select pg_terminate_backend(pid) from unnest($1::int[]) pid", former)
        alive = "select count(*) from pg_stat_activity where datname = current_database() and pid <> all ($1)"
        await until(lambda: db.fetchval(alive, [*former, own_pid]), what="a connection to the standby")
        await asyncio.sleep(0.5)
        assert await db.fetchval("select count(*) from market_jobs where status <> 'done'") > 0
        await db.execute(f"alter database {name} set default_transaction_read_only = off")
        rows = await ended(db, ids, within_s=20)
    assert {row["status"] for row in rows.values()} == {"done"}
    assert await broken(db) == {}


async def test_without_a_free_connection_the_daemon_waits_for_one(
    own: OwnServer, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with running(_configured(own.dsn, sandbox, tmp_path)):
        db = await _connect(own.dsn)
        ids = await ask_many(db, load(sandbox, 24), 200)
        await _some_done(db)
        held = await _take_every_connection(own.dsn, db)
        before = await db.fetchval("select count(*) from market_jobs where status = 'done'")
        await asyncio.sleep(0.7)
        assert await db.fetchval("select count(*) from market_jobs where status = 'done'") == before
        for connection in held:
            connection.terminate()
        rows = await ended(db, ids, within_s=20)
    assert {row["status"] for row in rows.values()} == {"done"}
    assert await broken(db) == {}
    await db.close()


async def _take_every_connection(dsn: str, db: Connection) -> list[Connection]:
    """Until nobody but `db` and these can have one."""
    held: list[Connection] = []
    while len(held) + 1 < MAX_CONNECTIONS:
        try:
            held.append(await _connect(dsn))
        except asyncpg.TooManyConnectionsError:
            ours = [connection.get_server_pid() for connection in held]
            others = [pid for pid in await _others(db) if pid not in ours]
            await db.fetch("select pg_terminate_backend(pid) from unnest($1::int[]) pid", others)
    return held


@pytest.mark.parametrize("limit", ["statement_timeout", "lock_timeout", "the daemon's own"])
async def test_a_lock_that_somebody_keeps_delays_work_and_costs_nothing(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path, limit: str
) -> None:
    if limit != "the daemon's own":
        name = await db.fetchval("select current_database()")
        await db.execute(f"alter database {name} set {limit} = '200ms'")
    section = {"dsn": database, "statement_timeout": "500ms"}
    async with running(_configured(database, sandbox, tmp_path, database=section)):
        ids = await ask_many(db, load(sandbox, 10), 200)
        async with db.transaction():
            await db.execute("select from market_providers where provider = 'stockx' for update")
            before = sandbox.count("stockx")
            await asyncio.sleep(1.2)
            assert sandbox.count("stockx") - before <= 2, "no request leaves without a charge"
        rows = await ended(db, ids, within_s=20)
    assert {(row["status"], row["attempt"], row["rescues"]) for row in rows.values()} == {("done", 1, 0)}
    assert await broken(db) == {}


async def test_a_full_disk_at_the_settle_is_waited_for_and_the_call_is_not_made_again(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    await db.execute("""
        create function full_disk() returns trigger language plpgsql as
        $$ begin raise exception 'could not extend file: No space left on device' using errcode = '53100'; end $$;
        create trigger full_disk before insert on market_prices for each row execute function full_disk()""")
    async with running(_configured(database, sandbox, tmp_path)):
        job = await ask(db, "stockx", *GOLDEN[0])
        asked = lambda: asyncio.sleep(0, sandbox.count("stockx", endpoint="market_data"))  # noqa: E731
        await until(asked, what="the fetch")
        await asyncio.sleep(0.5)
        await db.execute("drop trigger full_disk on market_prices")
        row = (await ended(db, [job]))[job]
    assert (row["status"], row["attempt"]) == ("done", 1)
    assert sandbox.count("stockx", endpoint="market_data") == 1
    assert await broken(db) == {}


async def test_a_price_that_cannot_be_written_is_our_fault_and_tried_again_as_such(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    await db.execute("""
        create function out_of_range() returns trigger language plpgsql as
        $$ begin raise exception 'numeric field overflow' using errcode = '22003'; end $$;
        create trigger out_of_range before insert on market_prices for each row execute function out_of_range()""")
    async with running(_configured(database, sandbox, tmp_path)):
        job = await ask(db, "stockx", *GOLDEN[0])
        told = "select * from market_jobs where id = $1 and error_code is not null"
        row = await until(lambda: db.fetchrow(told, job), what="the fault")
        assert (row["error_code"], row["attempt"], row["rescues"]) == ("internal", 1, 0)
        assert "numeric field overflow" in row["error_message"]
        await db.execute("drop trigger out_of_range on market_prices")
        row = (await ended(db, [job]))[job]
    assert (row["status"], row["attempt"], row["rescues"]) == ("done", 2, 0)
    assert await broken(db) == {}


@pytest.mark.parametrize("error_code", ["53100", "22003"], ids=["no space left", "what can never be written"])
async def test_a_price_is_not_dropped_when_the_account_s_circuit_cannot_be_told(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path, error_code: str
) -> None:
    signature = await db.fetchval("select pg_get_function_arguments('market_report'::regproc)")
    await db.execute(f"""
        alter function market_report rename to market_report_of_a_good_day;
        create function market_report({signature}) language plpgsql as
        $$ begin raise exception 'not to be told' using errcode = '{error_code}'; end $$""")
    async with running(_configured(database, sandbox, tmp_path)):
        await db.execute("update market_providers set circuit_failures = 1 where provider = 'stockx'")
        job = await ask(db, "stockx", *GOLDEN[0])
        asked = lambda: asyncio.sleep(0, sandbox.count("stockx", endpoint="market_data"))  # noqa: E731
        await until(asked, what="the fetch")
        await asyncio.sleep(0.5)
        await db.execute("""
            drop function market_report;
            alter function market_report_of_a_good_day rename to market_report""")
        row = (await ended(db, [job]))[job]
    assert (row["status"], row["attempt"], row["rescues"]) == ("done", 1, 0)
    assert sandbox.count("stockx", endpoint="market_data") == 1


async def test_a_schema_that_grows_under_a_running_daemon_does_not_stop_it(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with running(_configured(database, sandbox, tmp_path)):
        ids = await ask_many(db, load(sandbox, 20), 200)
        await _some_done(db)
        for table in ("market_jobs", "market_providers", "market_prices", "market_fetches"):
            await db.execute(f"alter table {table} add column of_a_newer_version int")
            await db.execute(f"alter table {table} alter column of_a_newer_version type text")
        rows = await ended(db, ids, within_s=20)
        again = await ask(db, "stockx", *GOLDEN[0])
        assert (await ended(db, [again]))[again]["status"] == "done"
    assert {row["status"] for row in rows.values()} == {"done"}


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Database]:
    opened = Database(database, size=3, timeout_s=5)
    await opened.open()
    yield opened
    await opened.close()


async def test_the_victim_of_a_deadlock_is_run_again(db: Connection, pool: Database) -> None:
    await db.execute(
        "create table pair (id int primary key, n int not null); insert into pair values (1, 0), (2, 0)"
    )
    await db.execute(
        "set deadlock_timeout = '10s'"
    )  # so that the other side is the victim, after its own 1 s
    turn = db.transaction()
    await turn.start()
    await db.execute("update pair set n = n + 1 where id = 1")
    ours = asyncio.create_task(
        pool.together(
            [
                ("update pair set n = n + 1 where id = 2", ()),
                ("update pair set n = n + 1 where id = 1 returning n", ()),
            ]
        )
    )
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    await until(lambda: db.fetchval(waiting), what="the other's wait")
    await db.execute("update pair set n = n + 1 where id = 2")
    await turn.commit()
    assert (await ours)[0]["n"] == 2
    assert [row["n"] for row in await db.fetch("select n from pair order by id")] == [2, 2]


async def test_a_serialization_failure_is_run_again(db: Connection, pool: Database) -> None:
    await db.execute("create table single (n int not null); insert into single values (0)")
    turn = db.transaction()
    await turn.start()
    await db.execute("update single set n = n + 1")
    ours = asyncio.create_task(
        pool.together(
            [
                ("set transaction isolation level repeatable read", ()),
                ("select n from single", ()),
                ("update single set n = n + 1 returning n", ()),
            ]
        )
    )
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    await until(lambda: db.fetchval(waiting), what="the other's wait")
    await turn.commit()
    assert (await ours)[0]["n"] == 2


async def test_a_fair_fight_that_is_lost_every_time_ends_as_unavailable(pool: Database) -> None:
    lost = "do $$ begin raise exception 'again and again' using errcode = '40001'; end $$"
    with pytest.raises(DatabaseUnavailable, match="gave up after 5 tries"):
        await pool.fetch(lost)


@pytest.mark.parametrize("inside_a_transaction", [False, True])
async def test_a_plan_that_ddl_made_stale_is_made_anew(
    db: Connection, pool: Database, inside_a_transaction: bool
) -> None:
    await db.execute("create table shape (a int); insert into shape values (1)")

    async def look() -> asyncpg.Record:
        query = ("select * from shape where a = $1", (1,))
        rows = await (
            pool.together([("select 1", ()), query]) if inside_a_transaction else pool.fetch(query[0], 1)
        )
        return rows[0]

    assert list((await look()).keys()) == ["a"]
    await db.execute("alter table shape add column b text default 'new'")
    assert dict(await look()) == {"a": 1, "b": "new"}
    await db.execute("alter table shape drop column b, add column c int default 7")
    assert dict(await look()) == {"a": 1, "c": 7}
