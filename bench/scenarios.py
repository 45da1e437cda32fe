"""The scenarios. Each is run in rounds, its contenders one after the other; a sample is one number per figure."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from pgqueuer import Queries

from bench import place
from bench.place import Place

JOBS = 50_000
OTHERS = 1_000_000
CAP_S = 3.0  #: of a drain; what is done by then counts
CALLS = 10_000  #: over HTTP
CONCURRENCY = 64  #: requests under way
IN_FLIGHT = 512  #: jobs under way where nothing is waited for; pgqueuer is given batches of 1,000
WAKES = 25

Sample = dict[str, float]


@dataclass
class Bench:
    """Samples by (scenario, contender, figure), and what else used the machine meanwhile."""

    at: Place
    others: int = OTHERS  #: jobs that wait in c
    samples: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)
    others_busy: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    async def take(self, scenario: str, contender: str, sampling: Callable[[], Awaitable[Sample]]) -> None:
        """One sample, and the share of the machine that nobody of ours can have used."""
        began, busy, own = time.monotonic(), place.busy_s(), place.own_s()
        sample = await sampling()
        others = (place.busy_s() - busy) - (place.own_s() - own)
        self.others_busy.setdefault((scenario, contender), []).append(others / (time.monotonic() - began))
        for figure, value in sample.items():
            self.samples.setdefault((scenario, contender, figure), []).append(value)

    def median(self, scenario: str, contender: str, figure: str) -> float | None:
        found = self.samples.get((scenario, contender, figure))
        return statistics.median(found) if found else None

    def disturbance(self, scenario: str) -> float | None:
        """Cores that processes which are not ours kept busy meanwhile, median."""
        found = [n for (key, _), samples in self.others_busy.items() if key == scenario for n in samples]
        return max(0.0, statistics.median(found)) if found else None


async def prepare(at: Place, wanted: set[str], contenders: Sequence[str], others: int) -> None:
    """Make what the rounds copy, so that the first of them takes no longer than the rest."""
    for name in contenders:
        sizes = {"sizes": 1} if name == "ours" else {}
        if wanted & set("aef"):
            await at.template(name, jobs=0, others=0, **sizes)
        if wanted & set("bi"):
            await at.template(name, jobs=JOBS, others=0, **sizes)
        if "c" in wanted and name != "procrastinate_":
            await at.standing(name, others=others, **sizes)
    if "b" in wanted:
        await at.template("ours", jobs=JOBS, others=0, sizes=10)


async def drain(
    at: Place, contender: str, *, of: str | None = None, others: int = 0, sizes: int = 1
) -> Sample:
    """b, c and g: jobs a second through a no-op handler; of the contender's own tables or another's."""
    tables = of or contender
    options: dict[str, Any] = {"jobs": JOBS, "others": others} | (
        {"sizes": sizes} if tables == "ours" else {}
    )
    async with contextlib.AsyncExitStack() as stack:
        if others:
            dsn = await at.refilled(tables, **options)
        else:
            dsn = await stack.enter_async_context(at.clone(tables, **options))
        result = await place.call(contender, "drain", dsn=dsn, jobs=JOBS, cap_s=CAP_S, concurrency=IN_FLIGHT)
    return {"per_s": result["jobs"] / result["seconds"], "rss_mib": result["peak_rss_mib"]}


async def many_daemons(at: Place, daemons: int) -> Sample:
    """i: the same drain by several processes at once."""
    async with at.clone("ours", jobs=JOBS, others=0, sizes=1) as dsn:
        programs = [
            await place.begin("ours", "drain", dsn=dsn, cap_s=CAP_S, concurrency=IN_FLIGHT)
            for _ in range(daemons)
        ]
        results = [await program.line() for program in programs]
        for program in programs:
            await program.process.wait()
    seconds = max(r["ended"] for r in results) - min(r["began"] for r in results)
    return {"per_s": max(r["jobs"] for r in results) / seconds}


async def fetch(at: Place, contender: str, *, sizes: int = 1, delay_s: float = 0.0) -> Sample:
    """d, g and h: jobs a second over HTTP, calls for a price, and memory."""
    calls = CALLS // sizes
    jobs = calls * sizes
    async with place.http_server(delay_s=delay_s) as (url, _):
        if contender == "floor":
            result = await place.call("floor", "fetch", url=url, jobs=calls, concurrency=CONCURRENCY)
            return {"calls_per_s": result["jobs"] / result["seconds"]}
        if contender == "pgqueuer_":
            async with at.clone(contender, jobs=jobs, others=0) as dsn:
                # That many at once suits it best of 64, 256 and 1,000.
                more = {"batch": CONCURRENCY, "concurrency": CONCURRENCY}
                result = await place.call(
                    contender, "fetch", dsn=dsn, url=url, jobs=jobs, cap_s=CAP_S, **more
                )
            return {"calls_per_s": result["jobs"] / result["seconds"]}
        async with at.clone("ours", jobs=jobs, others=0, sizes=sizes) as dsn:
            result = await place.call("ours", "fetch", dsn=dsn, url=url, cap_s=CAP_S, concurrency=CONCURRENCY)
            connection = await asyncpg.connect(dsn)
            calls = await connection.fetchval("select count(*) from market_requests")
            prices = await connection.fetchval("select count(*) from market_prices")
            await connection.close()
    return {
        "calls_per_s": result["jobs"] / sizes / result["seconds"],
        "rss_mib": result["peak_rss_mib"],
        "calls_per_price": calls / max(1, prices),
    }


async def enqueue(at: Place, contender: str, *, into: str | None = None) -> Sample:
    """a: one by one, and in batches of 10,000 with a unique key; into the contender's own tables or another's."""
    tables = into or contender
    options: dict[str, Any] = {"jobs": 0, "others": 0} | ({"sizes": 1} if tables == "ours" else {})
    async with at.clone(tables, **options) as dsn:
        bulk = 1 if contender == "procrastinate_" else 2  # it takes seconds for each, and they tell the same
        result = await place.call(contender, "enqueue", dsn=dsn, single=300, bulk=bulk)
    return {"single_per_s": result["single"], "bulk_per_s": result["bulk"]}


_ENQUEUE_ONE = {
    "floor": "with j as (insert into jobs (dedupe_key, priority) values ($1, 200)) select pg_notify('wake', '')",
    "procrastinate_": "insert into procrastinate_jobs (queue_name, task_name, priority, args) "
    "values ('default', 'fetch', 200, jsonb_build_object('sku', $1::text))",
    "ours": "select * from market_enqueue('bench', $1, '10', 200)",
}


async def wake(at: Place, contender: str) -> Sample:
    """e: from the commit of one enqueue on an idle worker to the job's start, and to the request's arrival."""
    starts: list[float] = []
    arrivals: list[float] = []
    options: dict[str, Any] = {"jobs": 0, "others": 0} | ({"sizes": 1} if contender == "ours" else {})
    async with contextlib.AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(at.clone(contender, **options))
        more: dict[str, Any] = {}
        server = None
        if contender == "ours":
            url, server = await stack.enter_async_context(place.http_server(tell=True))
            more = {"url": url, "concurrency": 1}
        worker = await place.begin(contender, "wake", dsn=dsn, **more)
        await worker.line()
        connection = await asyncpg.connect(dsn)
        for n in range(WAKES):
            await asyncio.sleep(0.05)
            await connection.execute("begin")
            if contender == "pgqueuer_":
                await Queries.from_asyncpg_connection(connection).enqueue("fetch", b"WAKE-%d" % n, 200)
            else:
                await connection.fetch(_ENQUEUE_ONE[contender], f"WAKE-{n}")
            committed = time.monotonic()
            await connection.execute("commit")
            starts.append((await worker.line(within_s=15))["started"] - committed)
            if server is not None:
                arrivals.append((await server.line(within_s=15))["arrived"] - committed)
        await connection.close()
        await worker.stop()
    return _percentiles("start", starts) | (_percentiles("arrival", arrivals) if arrivals else {})


def _percentiles(name: str, seconds: list[float]) -> Sample:
    ordered = sorted(seconds)
    return {
        f"{name}_p{p}_ms": 1000 * ordered[min(len(ordered) - 1, int(p / 100 * len(ordered)))]
        for p in (50, 95, 99)
    }


async def idle(at: Place, contenders: list[str], seconds: float) -> dict[str, Sample]:
    """f: statements and CPU a minute of workers with nothing to do, side by side, each in its own database."""
    async with contextlib.AsyncExitStack() as stack:
        watched = {name: await stack.enter_async_context(_idling(at, name)) for name in contenders}
        await asyncio.sleep(5)
        before = {name: await _spent(at, *watch) for name, watch in watched.items()}
        await asyncio.sleep(seconds)
        after = {name: await _spent(at, *watch) for name, watch in watched.items()}
    return {
        name: {
            figure: (after[name][figure] - before[name][figure]) * 60 / seconds
            for figure in ("statements", "cpu_s")
        }
        for name in contenders
    }


@contextlib.asynccontextmanager
async def _idling(at: Place, contender: str) -> AsyncIterator[tuple[str, int]]:
    options: dict[str, Any] = {"jobs": 0, "others": 0} | ({"sizes": 1} if contender == "ours" else {})
    async with at.clone(contender, **options) as dsn:
        database = dsn.split("/")[3].split("?")[0]
        await at.execute(
            "create extension if not exists pg_stat_statements",
            f"alter database {database} set pg_stat_statements.track = 'top'",
        )
        worker = await place.begin(contender, "idle", dsn=dsn)
        await worker.line()
        try:
            yield database, worker.process.pid
        finally:
            await worker.stop()


async def _spent(at: Place, database: str, pid: int) -> Sample:
    connection = await asyncpg.connect(at.dsn())
    statements = await connection.fetchval(
        "select coalesce(sum(s.calls), 0) from pg_stat_statements s join pg_database d on d.oid = s.dbid "
        "where d.datname = $1",
        database,
    )
    sessions = await connection.fetch("select pid from pg_stat_activity where datname = $1", database)
    await connection.close()
    return {"statements": float(statements), "cpu_s": place.cpu_s([pid, *(row["pid"] for row in sessions)])}
