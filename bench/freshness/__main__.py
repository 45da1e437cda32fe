"""`python -m bench.freshness`: every policy in every world, a table, a picture and the gates. See docs/FRESHNESS.md.

`MARKETD_BENCH_DSN` names a server where databases may be created; without it one is started for the run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import numpy as np

from marketd.embedded import TEST_SETTINGS, EmbeddedPostgres
from marketd.migrate import migrate

from . import policies, report
from .real import RealPlanner
from .simulate import Result, Run
from .world import Shape, World, make

QUOTAS = {"stockx": 100, "alias": 200, "ebay": 150}
PER_SIZE = {"ebay"}  #: each size costs a call
BASELINES = {
    "FIFO > 60 min, a call per size": policies.Fifo,
    "FIFO > 60 min": policies.Fifo,
    "oldest first": policies.Oldest,
    "views x age": policies.ViewsTimesAge,
    "known rates": policies.Known,
}
REAL = "the planner"


def worlds(shape: Shape, *, coalesced: bool = True) -> list[World]:
    return [
        make(shape, name, quota, coalesced=coalesced and name not in PER_SIZE)
        for name, quota in QUOTAS.items()
    ]


async def measure(
    name: str, shape: Shape, args: argparse.Namespace, server: str, limit: str = ""
) -> dict[str, object]:
    """One policy through one seed's world, all providers together."""
    results: list[Result] = []
    began = time.process_time()
    best: list[tuple[float, int]] = []
    for world in worlds(shape, coalesced="a call per size" not in name):
        timing = {"warm_h": args.warm * 24.0, "tick_h": args.tick / 60}
        limits = limit_of(limit, world.quota, shape.days - 2)
        if name == REAL:
            async with database(server) as db:
                policy = RealPlanner(world, db)
                await policy.prepare()
                results.append(await Run(world, policy, **timing, limit=limits).go())
        else:
            results.append(await Run(world, BASELINES[name](world), **timing, limit=limits).go())
        if name == "known rates":
            best.append((policies.bound(world, world.quota), len(world.view_of)))
    line = report.summary(name, shape, results, limit, time.process_time() - began)
    if best:
        line["bound"] = float(np.average([b for b, _ in best], weights=[n for _, n in best]))
    return line


def limit_of(word: str, quota: int, day: int) -> Callable[[int], int]:
    """The quota of each hour: an outage of six hours from 10:00 on that day, or half the quota from its noon on."""

    def limit(hour: int) -> int:
        if word == "outage" and day * 24 + 10 <= hour < day * 24 + 16:
            return 0
        return quota // 2 if word == "halved" and hour >= day * 24 + 12 else quota

    return limit


class database:
    """A migrated database of its own, dropped in the end."""

    def __init__(self, server: str) -> None:
        self._server, self._name = server, f"marketd_bench_{secrets.token_hex(5)}"

    async def __aenter__(self) -> asyncpg.Connection[asyncpg.Record]:
        await self._run(f"create database {self._name}")
        parts = urlsplit(self._server)
        dsn = f"{parts.scheme}://{parts.netloc}/{self._name}?{parts.query}"
        await migrate(dsn)
        self._db = await asyncpg.connect(dsn, command_timeout=600)
        return self._db

    async def __aexit__(self, *_: object) -> None:
        await self._db.close()
        await self._run(f"drop database {self._name} with (force)")

    async def _run(self, sql: str) -> None:
        connection = await asyncpg.connect(self._server)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()


async def planning_cost(server: str, units: int) -> dict[str, float]:
    """Milliseconds of one pass over so many units: wall, and the backend's own processor time."""
    async with database(server) as db:
        await db.execute(
            "insert into market_units (unit_key, provider, account, sku, currency, sizes, views, views_at,"
            " tracked_since, last_fetch_at, a, b) select 'u' || n, 'stockx', 'default', 'u' || n, 'USD',"
            " 1 + n % 7, n % 90, now(), now() - interval '9 days', now() - n % 400 * interval '1 hour', 0.5 + n % 9,"
            " 1 + n % 200"
            f" from generate_series(1, {units}) n"
        )
        await db.execute("analyze market_units")
        spent = (
            "select sum(split_part(pg_read_file('/proc/' || pg_backend_pid() || '/stat'), ' ', n)::int)"
            " from unnest(array[14, 15]) n"
        )
        plan, wall, passes = "select market__plan('stockx', 'default', 60)", [], 12
        await db.fetchval(plan)
        before = await db.fetchval(spent)
        for _ in range(passes):
            await db.fetchval(plan)
            wall.append(await db.fetchval("select took_ms from market_plans"))
        return {
            "units": units,
            "wall_ms": min(wall),
            "cpu_ms": (await db.fetchval(spent) - before) * 10 / passes,
        }


@contextmanager
def postgres() -> Iterator[str]:
    if given := os.environ.get("MARKETD_BENCH_DSN"):
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="mktb-", dir="/tmp"))
    folder.chmod(0o711)
    try:
        with EmbeddedPostgres(folder / "pg", TEST_SETTINGS) as server:
            yield server.dsn()
    finally:
        shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.freshness", description=__doc__)
    parser.add_argument("--items", type=int, nargs="*", default=[5000, 20000])
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3, 4, 5])
    parser.add_argument("--worlds", nargs="*", default=["plain"], choices=["plain", "uncorrelated", "spiky"])
    parser.add_argument("--limits", nargs="*", default=[""], choices=["", "outage", "halved"])
    parser.add_argument("--policies", nargs="*", default=[*BASELINES, REAL])
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--warm", type=int, default=4, help="days that do not count")
    parser.add_argument("--tick", type=float, default=3, help="minutes between two passes")
    parser.add_argument(
        "--cost", type=int, nargs="*", default=[], help="measure a planning pass over so many units"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("bench/freshness/results.jsonl"), help="appended to"
    )
    parser.add_argument("--report", type=Path, help="write the tables and the picture into this folder")
    args = parser.parse_args()
    with postgres() as server:
        for units in args.cost:
            record(args.results, {"cost": asyncio.run(planning_cost(server, units))})
        for kind in args.worlds:
            for items in args.items:
                for seed in args.seeds:
                    shape = Shape(items, args.days, seed, kind == "plain", kind == "spiky")
                    for limit in args.limits:
                        for name in args.policies:
                            record(
                                args.results,
                                asyncio.run(measure(name, shape, args, server, limit)) | {"world": kind},
                            )
    lines = [json.loads(line) for line in args.results.read_text().splitlines()]
    if args.report:
        report.write(lines, args.report)
    return report.gates(lines)


def record(path: Path, line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
