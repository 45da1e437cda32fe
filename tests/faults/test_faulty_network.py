"""The network between daemon and Postgres goes silent, breaks, or is slow: noticed in time, nothing lost."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import marketd
from faults.kit import QUICK_JOBS, Connection, ask, ask_many, broken, ended, load, wrong_prices
from faults.proxy import Proxy
from harness import configured, running, until
from marketd.app import App
from marketd.errors import DatabaseUnavailable
from marketd.sandbox import Sandbox
from marketd.store.pool import Database

NOTICED_WITHIN_S = 15.0


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, products=40, limits={"*": None}) as server:
        yield server


def _configured(proxy: Proxy, sandbox: Sandbox, folder: Path, **sections: Any) -> Any:
    stanza = {"pace": {"calls": 30, "per": "1s"}, "concurrency": 2}
    return configured(proxy.dsn, sandbox, folder, stanza=stanza, jobs=QUICK_JOBS, **sections)


async def _listening(app: App) -> bool:
    return b"marketd_listener_connected 1.0" in app.metrics.render()[0]


async def test_half_open_connections_of_pool_and_listener_are_noticed_within_fifteen_seconds(
    db: Connection, proxy: Proxy, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with running(_configured(proxy, sandbox, tmp_path)) as app:
        await until(lambda: _listening(app), what="the listener")
        assert proxy.connections >= 2
        proxy.silence(also_new=False)
        buried, lives = time.monotonic(), "select max(alive_until) from market_daemons"
        sessions = {
            row["pid"]
            for row in await db.fetch("select pid from pg_stat_activity where query like 'LISTEN%'")
        }
        last_word = await db.fetchval(lives)
        job = await ask(db, "stockx", *_item(sandbox))

        async def noticed() -> bool:
            listening = {
                row["pid"]
                for row in await db.fetch("select pid from pg_stat_activity where query like 'LISTEN%'")
            }
            return await db.fetchval(lives) > last_word and bool(listening - sessions)

        await until(noticed, within_s=NOTICED_WITHIN_S, what="new connections of poll and listener")
        # A statement that was under way at that moment ends by its own timeout.
        left_s = NOTICED_WITHIN_S + 10 - (time.monotonic() - buried)
        assert (await ended(db, [job], within_s=left_s))[job]["status"] == "done"
    assert await broken(db) == {}


def _item(sandbox: Sandbox) -> tuple[str, str]:
    item = load(sandbox, 1)[0]
    return item["sku"], item["size"]


async def test_a_black_hole_swallows_no_job_and_the_daemon_goes_on_when_it_ends(
    db: Connection, proxy: Proxy, sandbox: Sandbox, tmp_path: Path
) -> None:
    section = {"dsn": proxy.dsn, "statement_timeout": "500ms"}
    async with running(_configured(proxy, sandbox, tmp_path, database=section)):
        ids = await ask_many(db, load(sandbox, 24), 200)
        await until(lambda: db.fetchval("select count(*) > 3 from market_jobs where status = 'done'"))
        proxy.silence(also_new=True)
        await asyncio.sleep(2)
        quiet = sandbox.count("stockx")
        await asyncio.sleep(0.5)
        assert sandbox.count("stockx") == quiet, "no request leaves without a charge"
        proxy.speak()
        rows = await ended(db, ids, within_s=20)
    assert {row["status"] for row in rows.values()} == {"done"}
    assert await broken(db) == {}
    assert await wrong_prices(db, sandbox) == []


async def test_connections_that_are_reset_again_and_again_cost_no_job(
    db: Connection, proxy: Proxy, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with running(_configured(proxy, sandbox, tmp_path)):
        ids = await ask_many(db, load(sandbox, 24), 200)
        cut = 0
        for _ in range(10):
            await asyncio.sleep(0.15)
            cut += proxy.reset()
        assert cut > 10
        rows = await ended(db, ids, within_s=20)
    assert {row["status"] for row in rows.values()} == {"done"}
    assert await broken(db) == {}


async def test_a_database_a_tenth_of_a_second_away_is_merely_slow(
    db: Connection, proxy: Proxy, sandbox: Sandbox, tmp_path: Path
) -> None:
    proxy.latency_s = 0.05  # each way
    async with running(_configured(proxy, sandbox, tmp_path)):
        rows = await ended(db, await ask_many(db, load(sandbox, 2), 200), within_s=20)
    assert {(row["status"], row["attempt"], row["rescues"]) for row in rows.values()} == {("done", 1, 0)}


async def test_every_database_call_ends_by_itself_when_nobody_answers(proxy: Proxy) -> None:
    pool = Database(proxy.dsn, size=2, timeout_s=0.3)
    await pool.open()
    try:
        proxy.silence(also_new=True)
        for statements in ([("select 1", ())], [("select 1", ()), ("select 2", ())]):
            began = time.monotonic()
            with pytest.raises(DatabaseUnavailable):
                await pool.together(statements)
            assert time.monotonic() - began < 3
        proxy.speak()
        await until(lambda: pool.fetchval("select 1"), what="an answer")
    finally:
        await pool.close()


def test_every_connection_that_the_program_makes_has_a_timeout_for_connecting_and_for_statements() -> None:
    root = Path(marketd.__file__).parent
    makes = r"asyncpg\.(?:connect|create_pool)\("
    made = []
    for path in root.rglob("*.py"):
        text = path.read_text()
        calls = re.findall(makes + r"((?:[^()]|\([^()]*\))*)\)", text)
        assert len(calls) == len(re.findall(makes, text)), f"{path}: a call that this test cannot read"
        made += [(path.relative_to(root), given) for given in calls]
    assert len(made) >= 5
    for where, given in made:
        assert re.search(r"\btimeout=", given), where
        assert "command_timeout=" in given, where


async def test_a_daemon_that_cannot_listen_lives_by_its_poll_alone(
    db: Connection, database: str, proxy: Proxy, sandbox: Sandbox, tmp_path: Path
) -> None:
    nowhere = proxy.dsn
    await proxy.stop()
    section = {"dsn": database, "listen_dsn": nowhere}
    async with running(_configured(proxy, sandbox, tmp_path, database=section)) as app:
        for sku, size in ((item["sku"], item["size"]) for item in load(sandbox, 3)):
            job = await ask(db, "stockx", sku, size)
            assert (await ended(db, [job], within_s=5))[job]["status"] == "done"
        assert not await _listening(app)
