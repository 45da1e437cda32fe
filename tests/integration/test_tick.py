"""`marketd tick`: one pass and what waits, at any rate, any number at once, over by its deadline."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml

from harness import GOLDEN, settings, until
from marketd import config as configuration
from marketd import wiring
from marketd.sandbox import Sandbox
from marketd.tick import Tally, tick
from queue_kit import Connect

Connection = asyncpg.Connection


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, limits={"*": None}) as server:
        yield server


@pytest.fixture
def data(database: str, sandbox: Sandbox, tmp_path: Path) -> dict[str, Any]:
    return settings(database, sandbox, tmp_path / "state")


async def _once(data: dict[str, Any], within_s: float = 20.0) -> Tally:
    """A tick inside this process, which saves the start of one."""
    config = configuration.from_mapping(data, wiring.provider_types())
    return await tick(config, timedelta(seconds=within_s))


async def _tick(folder: Path, data: dict[str, Any], within: str = "20s") -> tuple[int, dict[str, Any], str]:
    """Exit code, figures and log of one tick."""
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(data))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "marketd", "tick", "--config", str(file), "--within", within, "--json"),
        env={name: value for name, value in os.environ.items() if not name.startswith("MARKETD_")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(child.communicate(), 60)
    return child.returncode or 0, json.loads(out) if out else {}, errors.decode()


async def _ask(db: Connection, priority: int = 200) -> None:
    items = [{"provider": "stockx", "sku": sku, "size": size} for sku, size in GOLDEN]
    await db.execute("select market_enqueue_many($1, $2)", json.dumps(items), priority)


async def test_it_drains_the_queue_plans_once_and_leaves_nothing_behind(
    db: Connection, data: dict[str, Any], tmp_path: Path
) -> None:
    await _ask(db)
    data["scheduler"]["interval"] = "1h"
    told = await _once(data)
    assert (told.busy, told.planned, told.done, told.failed) == (False, True, len(GOLDEN), 0)
    assert told.calls >= len(GOLDEN)
    assert told.next_s is None
    assert await db.fetchval("select count(*) from market_jobs where status <> 'done'") == 0
    assert await db.fetchval("select count(*) from market_daemons") == 0
    # A second one within the interval plans nothing and finds nothing.
    told = await _once(data)
    assert (told.planned, told.done, told.calls) == (False, 0, 0)
    runs = await db.fetch("select trigger, completed_at, error from market_job_runs")
    assert [(row["trigger"], row["error"]) for row in runs] == [("tick", None)]
    assert runs[0]["completed_at"] is not None


async def test_many_at_once_do_each_job_once_and_the_surplus_ends_at_once(
    db: Connection, data: dict[str, Any], sandbox: Sandbox, tmp_path: Path
) -> None:
    await _ask(db)
    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        folder.mkdir()
    ended = await asyncio.gather(*(_tick(folder, data) for folder in folders))
    assert {code for code, _, _ in ended} == {0}, [log for _, _, log in ended]
    assert sum(told["done"] for _, told, _ in ended) == len(GOLDEN)
    # Token calls are calls as well, and the sandbox counts those apart.
    assert sum(told["calls"] for _, told, _ in ended) >= sandbox.count("stockx") > 0
    assert await db.fetchval("select count(*) from market_jobs where status = 'done'") == len(GOLDEN)
    assert await db.fetchval("select count(*) from market_daemons") == 0


async def test_while_three_are_at_work_a_fourth_does_nothing(
    db: Connection, data: dict[str, Any], tmp_path: Path
) -> None:
    await _ask(db)
    await db.execute(
        "insert into market_daemons (daemon_id, host, pid, version, kind, config_hash, alive_until)"
        " select gen_random_uuid(), 'box', n, '1', 'tick', '', clock_timestamp() + interval '1 minute'"
        " from generate_series(1, 3) n"
    )
    told = await _once(data)
    assert (told.busy, told.calls) == (True, 0)
    # Killed ones count no longer than their heartbeat lasts.
    await db.execute("update market_daemons set alive_until = clock_timestamp() where kind = 'tick'")
    told = await _once(data)
    assert (told.busy, told.done) == (False, len(GOLDEN))


async def test_it_ends_by_its_deadline_and_hands_back_what_hangs(
    db: Connection, data: dict[str, Any], sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.fault("stockx", "stall", times=None, seconds=60.0)
    await _ask(db)
    began = time.monotonic()
    code, told, log = await _tick(tmp_path, data, within="6s")
    assert time.monotonic() - began < 15  # 6 s, and the start of a process on a busy machine
    assert (code, told["done"]) == (0, 0), log
    rows = await db.fetch("select status, attempt from market_jobs")
    assert {row["status"] for row in rows} == {"pending"}
    assert max(row["attempt"] for row in rows) == 0  # refunded


async def test_one_that_somebody_s_lock_keeps_waiting_says_whose_and_hands_back(
    connect: Connect, db: Connection, data: dict[str, Any], tmp_path: Path
) -> None:
    await _ask(db)
    holder = await connect()
    held = holder.transaction()
    await held.start()
    await holder.execute("select from market_targets for update")
    code, told, log = await _tick(tmp_path, data, within="9s")
    assert (code, told["done"]) == (0, 0), log
    assert told["calls"] > 0
    assert re.search(rf'"lock_held".*"holder": {holder.get_server_pid()}\b', log), log
    await held.rollback()
    rows = await db.fetch("select status, attempt, rescues from market_jobs")
    assert {tuple(row) for row in rows} == {("pending", 0, 0)}
    assert await db.fetchval("select count(*) from market_fetches") == 0
    assert await db.fetchval("select count(*) from market_daemons") == 0


async def test_one_that_is_stopped_says_so_and_hands_back(
    db: Connection, data: dict[str, Any], sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.fault("stockx", "stall", times=None, seconds=60.0)
    await _ask(db)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(data))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "marketd", "tick", "--config", str(file), "--within", "5m"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    await until(lambda: asyncio.sleep(0, sandbox.count("stockx")), what="the request")
    child.terminate()
    out, errors = await asyncio.wait_for(child.communicate(), 20)
    assert child.returncode == 0, errors
    assert "0 done, 0 failed" in out.decode()
    assert "stopped by SIGTERM" in out.decode()
    assert "nothing waits" not in out.decode()
    assert await db.fetchval("select count(*) from market_jobs where status <> 'pending' or attempt > 0") == 0


async def test_what_cannot_start_before_the_deadline_is_not_waited_for(
    db: Connection, data: dict[str, Any], tmp_path: Path
) -> None:
    await db.execute(
        "select market_enqueue('stockx', 'CP9366', '9', 200, not_before => now() + interval '1 hour')"
    )
    began = time.monotonic()
    told = await _once(data, within_s=40)
    assert time.monotonic() - began < 20
    assert told.next_s is not None
    assert 3000 < told.next_s <= 3600


async def test_ticks_do_not_probe_refused_credentials_again_and_again(
    db: Connection, data: dict[str, Any], sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.fault("stockx", "status", times=None, endpoint="*", status=401)
    await _ask(db)
    await _once(data, within_s=6)
    assert (
        await db.fetchval("select circuit_reason from market_providers where provider = 'stockx'")
        == "unauthorized"
    )
    assert (await _once(data, within_s=6)).calls == 0


async def test_without_a_database_it_says_what_to_do(data: dict[str, Any], tmp_path: Path) -> None:
    away = {**data, "database": {"dsn": "postgresql://nobody@127.0.0.1:1/x"}}
    code, _, errors = await _tick(tmp_path, away)
    assert code == 75
    assert "cannot connect to Postgres" in errors
    code, _, errors = await _tick(tmp_path, {**data, "database": {}})
    assert code == 78
    assert "MARKETD_DSN" in errors
