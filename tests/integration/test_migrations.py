"""Bringing a database up to this program, and refusing every database that it was not written for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from marketd import migrate
from marketd.errors import SchemaError
from marketd.store.sqlfile import migrations
from queue_kit import Connection
from schema_text import describe

ALL = [step.version for step in migrations()]
SCHEMA = Path(__file__).resolve().parents[2] / "sql" / "schema.sql"


async def _execute(dsn: str, sql: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(sql)
    await connection.close()


async def _check(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await migrate.check(connection)
    finally:
        await connection.close()


async def test_an_empty_database_gets_every_step_and_a_second_run_does_nothing(empty_database: str) -> None:
    assert await migrate.migrate(empty_database) == ALL
    assert await migrate.migrate(empty_database) == []
    await _check(empty_database)


async def test_six_runs_at_once_apply_each_step_once(empty_database: str) -> None:
    runs = await asyncio.gather(*(migrate.migrate(empty_database) for _ in range(6)))
    assert sorted(runs, key=len) == [*[[]] * 5, ALL]


async def test_a_plan_tells_the_steps_and_applies_none(empty_database: str) -> None:
    assert await migrate.migrate(empty_database, plan=True) == ALL
    assert await migrate.migrate(empty_database, plan=True) == ALL


async def test_a_step_that_fails_leaves_the_database_as_it_was(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = migrations()[0].__class__(version=2, name="broken", sql="select 1 / 0", sha256="x")
    monkeypatch.setattr(migrate, "migrations", lambda: (migrations()[0], broken))
    with pytest.raises((asyncpg.DivisionByZeroError, SchemaError)):
        await migrate.migrate(empty_database)
    monkeypatch.undo()
    assert await migrate.migrate(empty_database) == ALL


async def test_a_newer_database_is_refused(database: str) -> None:
    await _execute(
        database, "insert into market_schema (version, name, sha256, took_ms) values (9999, 'later', 'x', 1)"
    )
    for refused in (migrate.migrate(database), _check(database)):
        with pytest.raises(SchemaError, match="newer than this program"):
            await refused


async def test_a_step_that_was_changed_after_it_was_applied_is_refused(database: str) -> None:
    await _execute(database, "update market_schema set sha256 = 'other' where version = 2")
    for refused in (migrate.migrate(database), _check(database)):
        with pytest.raises(SchemaError, match=r"0002_words\.sql was changed .*restore a backup"):
            await refused


async def test_tables_of_the_first_system_are_refused_with_the_way_out(empty_database: str) -> None:
    await _execute(empty_database, "create table market_jobs (id serial primary key)")
    with pytest.raises(SchemaError, match=r"sql/legacy\.sql"):
        await migrate.migrate(empty_database)


async def test_check_says_what_to_do_about_a_missing_and_an_old_schema(
    empty_database: str, database: str
) -> None:
    with pytest.raises(SchemaError, match=r"schema is missing.*marketd migrate"):
        await _check(empty_database)
    await _execute(database, f"delete from market_schema where version = {ALL[-1]}")
    with pytest.raises(SchemaError, match=rf"at {ALL[-2]}, this program needs {ALL[-1]}.*marketd migrate"):
        await _check(database)


async def test_no_function_may_be_called_by_everybody(db: Connection) -> None:
    rows = await db.fetch(
        "select p.oid::regprocedure::text as name from pg_proc p where p.pronamespace = 'public'::regnamespace"
        " and has_function_privilege('public', p.oid, 'execute')"
    )
    assert [row["name"] for row in rows] == []


async def test_what_apps_call_runs_with_a_search_path_of_its_own(db: Connection) -> None:
    rows = await db.fetch(
        "select proname, proconfig from pg_proc where pronamespace = 'public'::regnamespace and prosecdef"
    )
    paths = {
        row["proname"]: [c for c in row["proconfig"] or [] if c.startswith("search_path=")] for row in rows
    }
    assert {"market_enqueue", "market_enqueue_many", "market_why", "market_retry", "market_pause"} <= set(
        paths
    )
    assert {tuple(path) for path in paths.values()} == {("search_path=pg_catalog, public, pg_temp",)}


async def test_the_written_schema_is_that_of_the_migrations(db: Connection) -> None:
    assert SCHEMA.read_text(encoding="utf-8") == await describe(db), "run `make schema`"


async def test_a_sequence_that_was_left_behind_gives_no_job_its_number(empty_database: str) -> None:
    await _execute(empty_database, "create sequence market_jobs_id_seq")  # of a table that is gone
    await migrate.migrate(empty_database)
    db = await asyncpg.connect(empty_database)
    try:
        many = "select * from market_enqueue_many($1)"
        items = '[{"provider": "stockx", "sku": "AA1-1"}, {"provider": "stockx", "sku": "BB1-1"}]'
        ids = [row["job_id"] for row in await db.fetch(many, items)]
        for sku in ("CC1-1", "DD1-1"):
            ids.append(await db.fetchval("select job_id from market_enqueue('stockx', $1)", sku))
        assert sorted(ids) == ids == [1, 2, 3, 4]
    finally:
        await db.close()
