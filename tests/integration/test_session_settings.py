"""Settings of a session, a role or a database that marketd did not choose: they change nothing, or are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from harness import configured, running, until
from marketd import migrate
from marketd.cli.access import connected
from marketd.database import check_schema
from marketd.errors import SchemaError
from marketd.sandbox import Sandbox
from queue_kit import Connection, enqueue, enqueue_many, item, value

_LEGACY = Path(__file__).resolve().parents[2] / "sql" / "legacy.sql"


async def _set_for_all(dsn: str, setting: str) -> None:
    """From the next connection to this database on."""
    connection = await asyncpg.connect(dsn)
    try:
        name = await connection.fetchval("select current_database()")
        await connection.execute(f"alter database {name} set {setting}")
    finally:
        await connection.close()


@pytest.mark.parametrize("size", ["105", "1x5", "10/5", "9+5"])
@pytest.mark.parametrize("strings", ["on", "off"])
async def test_a_dot_in_a_size_is_a_dot_however_the_session_reads_backslashes(
    db: Connection, size: str, strings: str
) -> None:
    await db.execute(f"set standard_conforming_strings = {strings}")
    with pytest.raises(asyncpg.InvalidParameterValueError, match="size"):
        await enqueue(db, size=size)
    with pytest.raises(asyncpg.InvalidParameterValueError, match="size"):
        await db.execute("insert into market_jobs (provider, sku, size) values ('stockx', 'AA1-1', $1)", size)
    [refused, queued] = await enqueue_many(db, [item("AA1-1", size=size), item("AA1-1", size="10.5")])
    assert (refused["result"], queued["result"]) == ("refused", "queued")
    assert await value(db, "select array_agg(size) from market_jobs") == ["10.5"]


@pytest.mark.parametrize(
    "setting", ["search_path = ''", "search_path = nowhere", "standard_conforming_strings = off"]
)
async def test_migrate_and_roles_come_to_the_same_whatever_the_login_has_set(
    empty_database: str, setting: str
) -> None:
    await _set_for_all(empty_database, setting)
    db = await asyncpg.connect(empty_database)
    try:
        await db.execute("create function public.marketplace() returns int language sql as 'select 1'")
        await migrate.migrate(empty_database)
        await migrate.apply_roles(empty_database)
        assert await migrate.migrate(empty_database) == []
        homes = await db.fetch(
            "select distinct relnamespace::regnamespace::text as home from pg_class where relname like 'market%'"
        )
        assert [row["home"] for row in homes] == ["public"]
        everybody = "select has_function_privilege('public', 'public.marketplace()', 'execute')"
        assert await db.fetchval(everybody), "an app's function is none of ours"
    finally:
        await db.close()


async def test_the_first_systems_tables_are_moved_whatever_the_login_has_set(empty_database: str) -> None:
    await _set_for_all(empty_database, "search_path = ''")
    old = "create table public.market_jobs (sku text); insert into public.market_jobs values ('DD1391-100')"
    for step in (old, _LEGACY.read_text(), None, _LEGACY.read_text()):
        if step is None:
            await migrate.migrate(empty_database)
            continue
        db = await asyncpg.connect(empty_database)
        await db.execute(step)
        await db.close()
    db = await asyncpg.connect(empty_database)
    assert await db.fetch("select sku, status from public.market_jobs") == [("DD1391-100", "pending")]
    await db.close()


@pytest.mark.parametrize("path", ["''", "nowhere"])
async def test_a_daemon_and_commands_work_for_a_login_whose_search_path_lacks_public(
    db: Connection, database: str, tmp_path: Path, path: str
) -> None:
    async with Sandbox(seed=7, products=20, limits={"*": None}) as sandbox:
        await _set_for_all(database, f"search_path = {path}")
        async with connected(database) as commands:
            assert await commands.fetchval("select count(*) from market_jobs") == 0
        async with running(configured(database, sandbox, tmp_path)):
            job = (await enqueue(db, priority=200))["job_id"]
            ended = f"select status = 'done' from market_jobs where id = {job}"
            await until(lambda: db.fetchval(ended), what="the job's end")


async def test_where_no_session_setting_can_be_made_such_a_login_is_told_what_to_do(database: str) -> None:
    await _set_for_all(database, "search_path = nowhere")
    told: dict[str, Any] = {"match": r"search_path.*public.*alter role \w+ set search_path"}
    with pytest.raises(SchemaError, **told):
        await check_schema(database, pooled=True)
    with pytest.raises(SchemaError, **told):
        async with connected(database, pooled=True):
            pass
