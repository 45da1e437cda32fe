"""The floor: the same work in the fewest statements, or in the barest client loop. No promise is kept here."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import asyncpg

from bench.contenders import frame

_BATCH = 1000
_SCHEMA = """
create table jobs (id bigint generated always as identity primary key, dedupe_key text not null, priority int not null);
create index jobs_ready on jobs (priority desc, id);
create unique index jobs_key on jobs (dedupe_key);
"""


async def prepare(options: Mapping[str, Any]) -> None:
    """`jobs` urgent rows and `others` behind them."""
    connection = await asyncpg.connect(options["dsn"])
    await connection.execute(_SCHEMA)
    fill = "insert into jobs (dedupe_key, priority) select $2 || g, $3 from generate_series(1, $1::int) g"
    await connection.execute(fill, options["others"], "other-", 50)
    await connection.execute(fill, options["jobs"], "job-", 100)
    await connection.execute("vacuum analyze jobs")
    await connection.close()


async def refill(options: Mapping[str, Any]) -> None:
    """New urgent rows in place of those that are left."""
    connection = await asyncpg.connect(options["dsn"])
    await connection.execute("delete from jobs where priority = 100")
    fill = (
        "insert into jobs (dedupe_key, priority) select 'job-' || g, 100 from generate_series(1, $1::int) g"
    )
    await connection.execute(fill, options["jobs"])
    await connection.execute("vacuum analyze jobs")
    await connection.close()


async def drain(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Delete in batches, in the queue's order."""
    connection = await asyncpg.connect(options["dsn"])
    take = await connection.prepare(
        """delete from jobs where id in (select id from jobs where priority = 100 order by priority desc, id limit $1
           for update skip locked) returning id, dedupe_key"""
    )
    began, done = time.monotonic(), 0
    while rows := await take.fetch(_BATCH):
        done += len(rows)
    seconds = time.monotonic() - began
    await connection.close()
    return {"jobs": done, "seconds": seconds}


async def fetch(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """GET the same addresses with the same concurrency, and read the JSON."""
    left = iter(range(options["jobs"]))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def worker() -> None:
            for n in left:
                async with session.get(f"{options['url']}/price/JOB-{n}") as response:
                    json.loads(await response.read())

        began = time.monotonic()
        await asyncio.gather(*(worker() for _ in range(options["concurrency"])))
        return {"jobs": options["jobs"], "seconds": time.monotonic() - began}


async def enqueue(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """A bare INSERT: one by one, then in bulk with a unique key."""
    connection = await asyncpg.connect(options["dsn"])
    one = await connection.prepare("insert into jobs (dedupe_key, priority) values ($1, $2) returning id")
    began = time.monotonic()
    for n in range(options["single"]):
        await one.fetchval(f"single-{n}", 100)
    single_s = time.monotonic() - began
    many = await connection.prepare(
        """insert into jobs (dedupe_key, priority) select k, 100 from unnest($1::text[]) k
           on conflict do nothing returning id, dedupe_key"""
    )
    keys = [[f"bulk-{b}-{n}" for n in range(10_000)] for b in range(options["bulk"])]
    began = time.monotonic()
    for batch in keys:
        await many.fetch(batch)
    bulk_s = time.monotonic() - began
    await connection.close()
    return {"single": options["single"] / single_s, "bulk": options["bulk"] * 10_000 / bulk_s}


async def wake(options: Mapping[str, Any]) -> None:
    """A bare LISTEN; a job starts when its notification is heard and its row is taken."""
    connection = await asyncpg.connect(options["dsn"])
    heard = asyncio.Event()
    await connection.add_listener("wake", lambda *_: heard.set())
    taker = await asyncpg.connect(options["dsn"])
    take = await taker.prepare("delete from jobs where id in (select id from jobs order by priority desc, id limit 1 "
                               "for update skip locked) returning id")  # fmt: skip
    stop = asyncio.create_task(frame.asked_to_stop())
    frame.tell(ready=True)
    while not stop.done():
        waiting = asyncio.create_task(heard.wait())
        await asyncio.wait({stop, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        heard.clear()
        if await take.fetch():
            frame.tell(started=time.monotonic())
    await connection.close()
    await taker.close()


if __name__ == "__main__":
    frame.main(
        {
            "prepare": prepare,
            "refill": refill,
            "drain": drain,
            "fetch": fetch,
            "enqueue": enqueue,
            "wake": wake,
        }
    )
