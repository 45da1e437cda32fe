"""What the documents tell apps to do: every SQL and Python block runs, and the example listener hears prices."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from harness import configured, running, until
from marketd.sandbox import Sandbox

DOCS = Path(__file__).resolve().parents[2] / "docs"


def _blocks(language: str) -> list[str]:
    text = (DOCS / "INTEGRATION.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, limits={"*": None}) as server:
        yield server


async def _run(database: str, *arguments: str) -> tuple[int | None, str, str]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env={**os.environ, "MARKETD_DSN": database},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(child.communicate(), 30)
    return child.returncode, out.decode(), errors.decode()


async def test_every_sql_block_of_the_guide_runs(db: asyncpg.Connection) -> None:
    blocks = _blocks("sql")
    assert len(blocks) >= 9
    for block in blocks:
        try:
            await db.execute(block)
        except asyncpg.PostgresError as error:
            pytest.fail(f"{error}\n{block}")
    # What they asked for is there: one item was refused, all others are open.
    assert await db.fetchval("select count(*) from market_jobs where status = 'pending'") == 4


async def test_the_answers_are_those_that_the_guide_promises(db: asyncpg.Connection) -> None:
    _, many, refresh, *_ = _blocks("sql")
    rows = await db.fetch(many)
    assert [row["result"] for row in rows] == ["queued", "queued", "refused"]
    assert "sku" in rows[2]["error_message"]
    [row] = await db.fetch(refresh)
    assert row["result"] == "queued"


async def test_the_python_block_of_the_guide_runs(database: str) -> None:
    [block] = _blocks("python")
    code, out, errors = await _run(database, "-W", "error", "-c", block)
    assert (code, errors) == (0, "")
    assert out.startswith("queued 1 ")
    assert "queued None GBP" in out


async def test_the_example_listener_prints_changed_prices(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    listening = asyncio.create_task(
        _run(database, "-W", "error", str(DOCS / "examples" / "price_listener.py"), "5")
    )

    async def heard() -> bool:
        return bool(
            await db.fetchval(
                "select exists (select from pg_stat_activity where datname = current_database()"
                " and (query ilike 'listen%' or query = 'select clock_timestamp()'))"
            )
        )

    await until(heard, what="the listener's LISTEN")
    async with running(configured(database, sandbox, tmp_path)):
        await db.execute("select market_enqueue('stockx', 'DD1391-100', '10', 200)")
        code, out, _ = await listening
    assert code == 0
    truth = sandbox.truth("stockx", "DD1391-100", "10", "GBP")
    assert re.search(
        rf"^stockx DD1391-100 10: ask {truth.ask}\S* bid {truth.bid}\S* GBP$", out, re.MULTILINE
    ), out
