"""marketd: the whole daemon (lanes, poller, scheduler, metrics, /metrics), with a provider that answers at once."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from bench.contenders import bench_provider, frame
from marketd import config, process, wiring
from marketd.app import App
from marketd.migrate import migrate
from marketd.signals import Stop

# In the terms of the queue's indexes: asked again and again, a walk through a million others would keep a core busy.
_LEFT = """
select exists (select from market_jobs
                where provider = 'bench' and account = 'default' and status = 'pending' and priority = 100)
    or exists (select from market_jobs where status = 'running')"""
_DONE = "select count(*) from market_jobs where status = 'done'"
_SCHEMA_OF_BENCH = """
insert into market_providers (provider, all_sizes, currency, pace_s) values ('bench', true, 'USD', 0)
"""
# What market_enqueue leaves behind, for items of `per_product` sizes each; a test of the functions this is not.
_FILL = """
with wanted as (
  select 'bench' as provider, $2 || (g / $4::int) as sku, (4 + g % $4::int)::text as size
    from generate_series(0, $1::int - 1) g
), keyed as (
  select w.*, 'bench|default|' || w.sku || '|USD|' || w.size as dedupe_key,
         'bench|default|' || w.sku || '|USD' as unit_key from wanted w
), targets as (
  insert into market_targets (provider, account, sku, size, currency, dedupe_key, unit_key)
  select provider, 'default', sku, size, 'USD', dedupe_key, unit_key from keyed
), jobs as (
  insert into market_jobs (provider, sku, size, currency, priority, dedupe_key, unit_key, turn)
  select provider, sku, size, 'USD', $3, dedupe_key, unit_key, row_number() over () from keyed returning id, priority
)
insert into market_job_requests (job_id, priority) select id, priority from jobs
"""

# The provider is found as any other outside the package: through an entry point, here of a distribution beside us.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "plugin"))


async def prepare(options: Mapping[str, Any]) -> None:
    await migrate(options["dsn"])
    connection = await asyncpg.connect(options["dsn"], command_timeout=None)
    await connection.execute(_SCHEMA_OF_BENCH)
    await connection.execute(_FILL, options["others"], "OTHER-", 50, options["sizes"])
    await connection.execute(_FILL, options["jobs"], "JOB-", 100, options["sizes"])
    await connection.execute("vacuum analyze")
    await connection.close()


async def refill(options: Mapping[str, Any]) -> None:
    """New jobs, of items that were never asked for, in place of those of the sample before."""
    connection = await asyncpg.connect(options["dsn"], command_timeout=None)
    await connection.execute(
        "with gone as (delete from market_jobs where priority = 100 returning id) "
        "delete from market_job_requests where job_id in (select id from gone)"
    )
    prefix = f"JOB{await connection.fetchval('select count(*) from market_prices')}-"
    await connection.execute(_FILL, options["jobs"], prefix, 100, options["sizes"])
    await connection.execute("vacuum analyze market_jobs, market_targets, market_job_requests")
    await connection.close()


def _configuration(options: Mapping[str, Any], state_dir: str) -> config.Config:
    """As shipped, but for: log level warning, no budget, no pace to speak of, and the given concurrency."""
    return config.from_mapping(
        {
            "database": {"dsn": options["dsn"]},
            "state_dir": state_dir,
            "http": {"port": 0},
            "log": {"level": "warning"},
            "providers": {
                "bench": {
                    "base_url": options.get("url", "http://127.0.0.1:9"),
                    "currency": "USD",
                    "credentials": {"key": "none"},
                    "pace": {"calls": 1000, "per": "1ms"},
                    "concurrency": options.get("concurrency", 64),
                    "options": {"http": "url" in options},
                }
            },
        },
        wiring.provider_types(),
    )


@asynccontextmanager
async def _daemon(options: Mapping[str, Any]) -> AsyncIterator[float]:
    """A running daemon, as `process.run` has it; gives the time at which it was ready."""
    process.collect_seldom()
    with tempfile.TemporaryDirectory() as state_dir:
        app, stop, ready = App(_configuration(options, state_dir)), Stop(), asyncio.Event()
        serving = asyncio.create_task(app.serve(stop, on_ready=ready.set))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            waiting.cancel()
            serving.result()
        try:
            yield time.monotonic()
        finally:
            stop.set()
            await serving


async def drain(options: Mapping[str, Any]) -> Mapping[str, Any]:
    async with _daemon(options) as began:
        return await frame.drained(options["dsn"], _LEFT, _DONE, began, options["cap_s"])


async def enqueue(options: Mapping[str, Any]) -> Mapping[str, Any]:
    connection = await asyncpg.connect(options["dsn"])
    one = await connection.prepare("select * from market_enqueue('bench', $1, '10', 100)")
    began = time.monotonic()
    for n in range(options["single"]):
        await one.fetch(f"SINGLE-{n}")
    single_s = time.monotonic() - began
    batches = [
        json.dumps([{"provider": "bench", "sku": f"BULK-{b}-{n}", "size": "10"} for n in range(10_000)])
        for b in range(options["bulk"])
    ]
    many = await connection.prepare("select * from market_enqueue_many($1::jsonb, 100)")
    began = time.monotonic()
    for batch in batches:
        await many.fetch(batch)
    bulk_s = time.monotonic() - began
    await connection.close()
    return {"single": options["single"] / single_s, "bulk": options["bulk"] * 10_000 / bulk_s}


async def idle(options: Mapping[str, Any]) -> None:
    bench_provider.on_start = lambda: frame.tell(started=time.monotonic())
    async with _daemon(options):
        await asyncio.sleep(0.5)
        frame.tell(ready=True)
        await frame.asked_to_stop()


if __name__ == "__main__":
    frame.main(
        {
            "prepare": prepare,
            "refill": refill,
            "drain": drain,
            "fetch": drain,
            "enqueue": enqueue,
            "wake": idle,
            "idle": idle,
        }
    )
