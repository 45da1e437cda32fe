"""The daemon as an operator has it: a process that starts, is reloaded, watched, stopped, killed and started anew."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml

from harness import settings, until
from marketd.sandbox import Sandbox
from processes import daemon

Connection = asyncpg.Connection


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, limits={"*": None}) as server:
        yield server


@pytest.fixture
def plain(database: str, sandbox: Sandbox, tmp_path: Path) -> dict[str, Any]:
    """What the daemon's file says, as data."""
    return settings(database, sandbox, tmp_path / "state")


async def _enqueue(db: Connection, sku: str = "DD1391-100", size: str = "10") -> int:
    job: int = await db.fetchval("select job_id from market_enqueue('stockx', $1, $2, 200)", sku, size)
    return job


async def _is(db: Connection, job: int, status: str) -> bool:
    return bool(await db.fetchval("select status = $2 from market_jobs where id = $1", job, status))


def _with_budget(plain: dict[str, Any], per_hour: Any) -> dict[str, Any]:
    stockx = plain["providers"]["stockx"]
    budget = {**stockx["budget"], "per_hour": per_hour, "background_min": "0%"}
    return plain | {"providers": {"stockx": stockx | {"budget": budget}}}


async def test_it_says_ready_serves_and_stops_with_exit_code_0(
    db: Connection, plain: dict[str, Any], tmp_path: Path
) -> None:
    async with daemon(tmp_path, plain) as process:
        assert "lanes: stockx/default" in await process.told("READY=1")
        job = await _enqueue(db)
        await until(lambda: _is(db, job, "done"))
        await process.told("STATUS=0 pending, 0 running, 0 deferred; lanes: stockx ready; calls left")
        await process.counted('marketd_jobs_finished_total{outcome="priced",provider="stockx"}', 1)
        assert await process.metric("marketd_config_last_reload_successful") == 1
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
        assert "STOPPING=1" in await process.told("STOPPING=1")
        await process.told("EXTEND_TIMEOUT_USEC=17000000")  # shutdown_grace, and 15 s
    assert process.stderr == ""
    assert await db.fetchval("select count(*) from market_daemons where alive_until > clock_timestamp()") == 0


async def test_a_lowered_budget_applies_to_the_very_next_request(
    db: Connection, plain: dict[str, Any], sandbox: Sandbox, tmp_path: Path
) -> None:
    async with daemon(tmp_path, plain) as process:
        first = await _enqueue(db)
        await until(lambda: _is(db, first, "done"))
        spent = sandbox.count("stockx")
        process.write_config(_with_budget(plain, spent))
        line = await process.reload()
        assert line["event"] == "config_reloaded"
        assert any("per_hour" in change for change in line["changes"])
        second = await _enqueue(db, "CP9366", "10.5")
        why = await db.fetchrow("select * from market_why($1::bigint)", second)
        assert why is not None
        assert why["waiting_for"] == "budget"
        assert sandbox.count("stockx") == spent
        process.write_config(_with_budget(plain, spent + 10))
        await process.reload()
        await until(lambda: _is(db, second, "done"))


async def test_reloads_during_load_lose_nothing(
    db: Connection, plain: dict[str, Any], sandbox: Sandbox, tmp_path: Path
) -> None:
    async with daemon(tmp_path, plain) as process:
        jobs = [await _enqueue(db, f"NONE-{number}", "9") for number in range(20)]
        for quota in (1000, 2000, 3000):
            process.write_config(_with_budget(plain, quota))
            assert (await process.reload())["event"] == "config_reloaded"
        jobs.append(await _enqueue(db))

        async def settled() -> bool:
            return bool(
                await db.fetchval(
                    "select bool_and(status in ('done', 'failed')) from market_jobs where id = any($1)", jobs
                )
            )

        await until(settled, what="every job's end")
        assert not [line for line in process.log if line["level"] == "error"]
    assert await db.fetchval("select sum(rescues) from market_jobs") == 0


async def test_a_broken_file_keeps_the_old_one_and_is_told_with_line_and_column(
    db: Connection, plain: dict[str, Any], tmp_path: Path
) -> None:
    async with daemon(tmp_path, plain) as process:
        said = len(process.said)
        process.write_config(_with_budget(plain, "many"))
        rejected = await process.reload()
        assert rejected["event"] == "config_rejected"
        number, text = next(
            (number, text)
            for number, text in enumerate(process.config.read_text().splitlines(), 1)
            if "per_hour: many" in text
        )
        where = f"{process.config}:{number}:{text.index('per_hour') + 1}: providers.stockx.budget.per_hour: "
        assert rejected["problem"].startswith(where)
        # Type=notify-reload waits for both, or `systemctl reload` would hang.
        await process.told("RELOADING=1\nMONOTONIC_USEC=", since=said)
        assert "per_hour" in await process.told("READY=1", since=said)
        assert await process.metric("marketd_config_last_reload_successful") == 0
        refused = f"; a newer file is refused: {where}"
        await until(lambda: _status_shows(plain, tmp_path, refused))
        job = await _enqueue(db)
        await until(lambda: _is(db, job, "done"))
        process.write_config(plain)
        assert (await process.reload())["event"] == "config_reloaded"
        assert await process.metric("marketd_config_last_reload_successful") == 1
        assert await db.fetchval("select reload_refused from market_daemons") is None
        assert not await _status_shows(plain, tmp_path, refused)


async def _status_shows(plain: dict[str, Any], folder: Path, text: str) -> bool:
    """Whether `marketd status` says so, asked with the database's address only."""
    path = folder / "operator.yaml"
    path.write_text(yaml.safe_dump({"database": plain["database"]}))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "marketd", "status", "--config", str(path)), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    assert child.returncode == 0
    return text in out.decode()


async def test_a_key_that_needs_a_restart_is_named_and_the_rest_applied(
    plain: dict[str, Any], tmp_path: Path
) -> None:
    async with daemon(tmp_path, plain) as process:
        process.write_config(plain | {"http": {"port": 9999}, "log": {"level": "warning"}})
        line = await process.reload()
        assert "http.port" in (await process.logged("config_needs_restart"))["change"]
        # Who turns the log down still sees that this was taken.
        assert line["changes"] == ["log.level: info -> warning"]


async def test_no_secret_of_the_file_reaches_log_or_status(
    plain: dict[str, Any], sandbox: Sandbox, tmp_path: Path
) -> None:
    plain["log"] = {"level": "debug"}
    async with daemon(tmp_path, plain) as process:
        changed = {**plain["providers"]["stockx"]["credentials"], "client_secret": "another-secret-of-ours"}
        process.write_config(
            plain | {"providers": {"stockx": plain["providers"]["stockx"] | {"credentials": changed}}}
        )
        line = await process.reload()
        assert any("client_secret" in change for change in line["changes"])
        process.signal(signal.SIGTERM)
        await process.ended()
    everything = f"{process.log} {process.said} {process.stderr}"
    for secret in (*sandbox.credentials["stockx"].values(), "another-secret-of-ours"):
        assert secret not in everything


async def test_the_watchdog_is_fed_while_it_gets_on(plain: dict[str, Any], tmp_path: Path) -> None:
    async with daemon(tmp_path, plain, watchdog_s=0.4) as process:

        async def fed() -> bool:
            return process.said.count("WATCHDOG=1") >= 3

        await until(fed, what="three pings")


async def test_the_watchdogs_abort_prints_where_it_hung(plain: dict[str, Any], tmp_path: Path) -> None:
    async with daemon(tmp_path, plain) as process:
        process.signal(signal.SIGABRT)
        assert await process.ended() == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in process.stderr
    assert re.search(r'File ".*marketd/process.py", line \d+ in run', process.stderr)


async def test_a_stop_hands_a_running_job_back_and_refunds_the_attempt(
    db: Connection, plain: dict[str, Any], sandbox: Sandbox, tmp_path: Path
) -> None:
    plain["jobs"]["shutdown_grace"] = "100ms"
    sandbox.fault("stockx", "stall", times=None, seconds=25.0)
    async with daemon(tmp_path, plain) as process:
        job = await _enqueue(db)
        await until(lambda: _reached(sandbox), what="the request")
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
    row = await db.fetchrow("select status, attempt, rescues, lease_id from market_jobs where id = $1", job)
    assert row is not None
    assert tuple(row) == ("pending", 0, 0, None)


async def test_a_stop_lets_a_running_job_finish_within_its_grace(
    db: Connection, plain: dict[str, Any], sandbox: Sandbox, tmp_path: Path
) -> None:
    plain["jobs"]["shutdown_grace"] = "10s"
    sandbox.fault("stockx", "drip", seconds=0.5)
    async with daemon(tmp_path, plain) as process:
        job = await _enqueue(db)
        await until(lambda: _reached(sandbox), what="the request")
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
    assert await _is(db, job, "done")


async def test_a_killed_daemons_job_is_finished_by_the_next_one(
    db: Connection, plain: dict[str, Any], sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.fault("stockx", "stall", times=None, seconds=25.0)
    async with daemon(tmp_path, plain) as process:
        job = await _enqueue(db)
        await until(lambda: _reached(sandbox), what="the request")
        process.signal(signal.SIGKILL)
        assert await process.ended() == -signal.SIGKILL
    assert await _is(db, job, "running")
    sandbox.clear_faults()
    async with daemon(tmp_path, plain) as process:
        await until(lambda: _is(db, job, "done"), what="the rescue")
        await process.counted('marketd_jobs_rescued_total{provider="stockx"}', 1)
    assert await db.fetchval("select rescues from market_jobs where id = $1", job) == 1


async def _reached(sandbox: Sandbox) -> bool:
    return sandbox.count("stockx") > 0
