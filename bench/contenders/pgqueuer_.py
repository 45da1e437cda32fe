"""PgQueuer as its documentation runs it: one connection, a batch size that suits the load."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import aiohttp
import asyncpg
from pgqueuer import PgQueuer, Queries
from pgqueuer.models import Job

from bench.contenders import frame

_BATCH = 1000
# In the terms of the queue's indexes: asked again and again, a walk through a million others would keep a core busy.
_LEFT = """
select exists (select from pgqueuer where entrypoint = 'fetch' and status = 'queued' and priority = 100)
    or exists (select from pgqueuer where status = 'picked')"""
_DONE = "select $1::int - count(*) from pgqueuer where priority = 100"


async def prepare(options: Mapping[str, Any]) -> None:
    connection = await asyncpg.connect(options["dsn"])
    queries = Queries.from_asyncpg_connection(connection)
    await queries.install()
    for count, priority in ((options["others"], 50), (options["jobs"], 100)):
        for start in range(0, count, 10_000):
            n = min(10_000, count - start)
            await queries.enqueue(
                ["fetch"] * n, [b"JOB-%d" % i for i in range(start, start + n)], [priority] * n
            )
    await connection.execute("vacuum analyze")
    await connection.close()


async def refill(options: Mapping[str, Any]) -> None:
    connection = await asyncpg.connect(options["dsn"])
    await connection.execute("delete from pgqueuer where priority = 100")
    queries = Queries.from_asyncpg_connection(connection)
    for start in range(0, options["jobs"], 10_000):
        n = min(10_000, options["jobs"] - start)
        await queries.enqueue(["fetch"] * n, [b"JOB-%d" % i for i in range(start, start + n)], [100] * n)
    await connection.execute("vacuum analyze pgqueuer")
    await connection.close()


async def drain(options: Mapping[str, Any]) -> Mapping[str, Any]:
    connection = await asyncpg.connect(options["dsn"])
    pgq = PgQueuer.from_asyncpg_connection(connection)

    @pgq.entrypoint("fetch")
    async def fetch(job: Job) -> None:
        """Nothing: what is measured is the queue."""

    return await _drained(connection, pgq, options)


async def fetch_over_http(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The bare client loop's request as the handler: neither a charge nor a price is written."""
    connection = await asyncpg.connect(options["dsn"])
    pgq = PgQueuer.from_asyncpg_connection(connection)
    # Bounded here: with a `concurrency_limit` of its own it made a quarter of the calls.
    connector = aiohttp.TCPConnector(limit=options["concurrency"])
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        @pgq.entrypoint("fetch")
        async def fetch(job: Job) -> None:
            assert job.payload is not None
            async with session.get(f"{options['url']}/price/{job.payload.decode()}") as response:
                json.loads(await response.read())

        return await _drained(connection, pgq, options)


async def _drained(
    connection: asyncpg.Connection, pgq: PgQueuer, options: Mapping[str, Any]
) -> Mapping[str, Any]:
    began = time.monotonic()
    working = asyncio.create_task(
        pgq.qm.run(batch_size=options.get("batch", _BATCH), dequeue_timeout=timedelta(seconds=1))
    )
    done = _DONE.replace("$1", str(options["jobs"]))
    result = await frame.drained(options["dsn"], _LEFT, done, began, options["cap_s"])
    pgq.shutdown.set()
    await working
    await connection.close()
    return result


async def enqueue(options: Mapping[str, Any]) -> Mapping[str, Any]:
    connection = await asyncpg.connect(options["dsn"])
    queries = Queries.from_asyncpg_connection(connection)
    began = time.monotonic()
    for n in range(options["single"]):
        await queries.enqueue("fetch", b"single-%d" % n, 100)
    single_s = time.monotonic() - began
    began = time.monotonic()
    for b in range(options["bulk"]):
        keys: list[str | None] = [f"bulk-{b}-{n}" for n in range(10_000)]
        await queries.enqueue(
            ["fetch"] * 10_000, [None] * 10_000, [100] * 10_000, dedupe_key=keys, on_conflict="skip"
        )
    bulk_s = time.monotonic() - began
    await connection.close()
    return {"single": options["single"] / single_s, "bulk": options["bulk"] * 10_000 / bulk_s}


async def wake(options: Mapping[str, Any]) -> None:
    connection = await asyncpg.connect(options["dsn"])
    pgq = PgQueuer.from_asyncpg_connection(connection)

    @pgq.entrypoint("fetch")
    async def fetch(job: Job) -> None:
        frame.tell(started=time.monotonic())

    working = asyncio.create_task(pgq.qm.run(batch_size=10))
    await asyncio.sleep(0.5)  # its listener tells nobody when it listens
    frame.tell(ready=True)
    await frame.asked_to_stop()
    pgq.shutdown.set()
    await working
    await connection.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    frame.main(
        {
            "prepare": prepare,
            "refill": refill,
            "drain": drain,
            "fetch": fetch_over_http,
            "enqueue": enqueue,
            "wake": wake,
            "idle": wake,
        }
    )
