"""Procrastinate as its documentation runs it: an async worker with LISTEN/NOTIFY and some concurrency."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import asyncpg
import procrastinate

from bench.contenders import frame

_LEFT = "select exists (select from procrastinate_jobs where status in ('todo', 'doing') and priority = 100)"
_DONE = "select count(*) from procrastinate_jobs where status = 'succeeded'"
_FILL = """insert into procrastinate_jobs (queue_name, task_name, priority, args)
select 'default', 'fetch', $2, jsonb_build_object('sku', 'JOB-' || g) from generate_series(1, $1::int) g"""


def _app(dsn: str) -> procrastinate.App:
    return procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn))


async def prepare(options: Mapping[str, Any]) -> None:
    async with _app(options["dsn"]).open_async() as app:
        await app.schema_manager.apply_schema_async()
    connection = await asyncpg.connect(options["dsn"])
    await connection.execute(_FILL, options["others"], 50)
    await connection.execute(_FILL, options["jobs"], 100)
    await connection.execute("vacuum analyze")
    await connection.close()


async def drain(options: Mapping[str, Any]) -> Mapping[str, Any]:
    app = _app(options["dsn"])

    @app.task(name="fetch")
    async def fetch(sku: str) -> None:
        """Nothing: what is measured is the queue."""

    async with app.open_async():
        began = time.monotonic()
        working = asyncio.create_task(app.run_worker_async(concurrency=16, install_signal_handlers=False))
        result = await frame.drained(options["dsn"], _LEFT, _DONE, began, options["cap_s"])
        working.cancel()
        await asyncio.wait({working})
    return result


async def enqueue(options: Mapping[str, Any]) -> Mapping[str, Any]:
    app = _app(options["dsn"])

    @app.task(name="fetch")
    async def fetch(sku: str) -> None:
        """Never run here."""

    async with app.open_async():
        began = time.monotonic()
        for n in range(options["single"]):
            await fetch.configure(priority=100).defer_async(sku=f"single-{n}")
        single_s = time.monotonic() - began
        began = time.monotonic()
        for b in range(options["bulk"]):
            await fetch.configure(priority=100).batch_defer_async(
                *({"sku": f"{b}-{n}"} for n in range(10_000))
            )
        bulk_s = time.monotonic() - began
    return {"single": options["single"] / single_s, "bulk": options["bulk"] * 10_000 / bulk_s}


async def wake(options: Mapping[str, Any]) -> None:
    app = _app(options["dsn"])

    @app.task(name="fetch")
    async def fetch(sku: str) -> None:
        frame.tell(started=time.monotonic())

    async with app.open_async():
        working = asyncio.create_task(app.run_worker_async(concurrency=4, install_signal_handlers=False))
        await asyncio.sleep(0.5)  # its listener tells nobody when it listens
        frame.tell(ready=True)
        await frame.asked_to_stop()
        working.cancel()
        await asyncio.wait({working})


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    frame.main({"prepare": prepare, "drain": drain, "enqueue": enqueue, "wake": wake, "idle": wake})
