"""kill -9 at every step of a job, held there by a proxy that freezes its statement; the next daemon finishes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from faults.kit import QUICK_JOBS, Connection, ask, broken, ended, load, wrong_prices
from faults.proxy import Proxy
from harness import Daemon, settings, until
from marketd.sandbox import Sandbox

CLAIM, TAKE, SETTLE = (
    "insert into market_fetches as",
    "from market_take(",
    "insert into market_price_history",
)


@dataclass(frozen=True)
class Step:
    """Where a daemon is when it dies, and what that may cost its job."""

    name: str
    statement: str | None = None  #: frozen there; None: the provider stalls
    when: Literal["before", "after"] = "before"
    skip: int = 0
    rescues: int = 1  #: what the job has paid in the end
    unsent: int = 0  #: calls that were charged and never left


#: the charges of a first fetch are: token, search, sizes, prices
STEPS = [
    Step("after the claim has committed", CLAIM, "after"),
    Step("before the token is charged", TAKE),
    Step("after the token is charged", TAKE, "after", unsent=1),
    Step("after the search is charged", TAKE, "after", skip=1, unsent=1),
    Step("after the list of sizes is charged", TAKE, "after", skip=2, unsent=1),
    Step("after the prices are charged", TAKE, "after", skip=3, unsent=1),
    Step("while the provider answers"),
    Step("before the settle reaches Postgres", SETTLE),
    Step("after the settle has committed", SETTLE, "after", rescues=0),
    # Last: its job stays pending, and any further victim would take it first.
    Step("before the claim reaches Postgres", CLAIM, rescues=0),
]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, products=40, limits={"*": None}) as server:
        yield server


def _settings(dsn: str, sandbox: Sandbox, folder: Path, **database: Any) -> dict[str, Any]:
    return settings(
        dsn,
        sandbox,
        folder / "state",
        stanza={"pace": {"calls": 100, "per": "1s"}, "timeout": "10s"},
        jobs={**QUICK_JOBS, "lease": "60s"},
        # Nothing but what the step is about shall pass the proxy while it waits for its statement.
        scheduler={"poll": "1s", "interval": "1h"},
        database={"dsn": dsn, **database},
    )


async def _die_at(step: Step, db: Connection, proxy: Proxy, sandbox: Sandbox, folder: Path, sku: str) -> int:
    # A listen_dsn of its own makes the daemon send every statement's text, by which it is known.
    victim = Daemon(folder, _settings(proxy.dsn, sandbox, folder, listen_dsn=proxy.dsn))
    job = await ask(db, "stockx", sku, None)
    if step.statement is None:
        fault = sandbox.fault("stockx", "stall", endpoint="market_data", seconds=30)
        reached = lambda: asyncio.sleep(0, fault.left == 0)  # noqa: E731
    else:
        trap = proxy.trap(step.statement, step.when, skip=step.skip)
        reached = lambda: asyncio.sleep(0, trap.sprung.is_set())  # noqa: E731
    await victim.spawn()
    try:
        await until(reached, what=f"being {step.name}")
    finally:
        await victim.kill()
    return job


async def _time_passes(db: Connection) -> None:
    """All leases of the dead run out."""
    await db.execute("update market_fetches set lease_expires_at = clock_timestamp() - interval '1 s'")
    await db.execute(
        "update market_jobs set lease_expires_at = clock_timestamp() - interval '1 s' where status = 'running'"
    )


@pytest.mark.timeout(150)
async def test_a_daemon_that_is_killed_at_any_step_loses_no_job_and_no_call(
    db: Connection, database: str, proxy: Proxy, sandbox: Sandbox, tmp_path: Path
) -> None:
    items = load(sandbox, len(STEPS))
    jobs: dict[int, Step] = {}
    charged = "select coalesce(sum(used), 0)::int from market_budgets where window_kind in ('hour', 'mints')"
    for number, (step, item) in enumerate(zip(STEPS, items, strict=True)):
        before = await db.fetchval(charged), len(sandbox.requests)
        job = await _die_at(step, db, proxy, sandbox, tmp_path / str(number), item["sku"])
        jobs[job] = step
        assert await broken(db) == {}, step.name
        spent, sent = await db.fetchval(charged) - before[0], len(sandbox.requests) - before[1]
        assert spent - sent == step.unsent, (step.name, spent, sent)
    waiting = {job for job, step in jobs.items() if step.rescues} | {list(jobs)[-1]}
    held = await db.fetch("select id from market_jobs where status in ('pending', 'running')")
    assert {row["id"] for row in held} == waiting
    await _time_passes(db)
    rescuer = Daemon(tmp_path / "rescuer", _settings(database, sandbox, tmp_path / "rescuer"))
    await rescuer.start()
    try:
        rows = await ended(db, jobs)
    finally:
        assert await rescuer.stop() == 0
    for job, step in jobs.items():
        row = rows[job]
        told = (step.name, row["status"], row["error_message"])
        assert (row["status"], row["attempt"], row["rescues"]) == ("done", 1, step.rescues), told
    assert await broken(db) == {}
    assert await wrong_prices(db, sandbox) == []
    used = await db.fetchval(charged)
    assert used - len(sandbox.requests) == sum(step.unsent for step in STEPS), "every request was charged"
