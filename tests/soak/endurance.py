"""Half an hour of steady work in compressed time: memory, tables, tasks and connections must not grow.

An hour's window lasts seconds and everything is kept for a minute only, so the daemon goes through a hundred hours of
pruning, planning and reconnecting.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from faults.kit import BROKEN, resident_bytes
from faults.proxy import Proxy
from harness import settings
from marketd.sandbox import Sandbox
from soak.figures import Figures, over_a_window
from soak.fleet import Kept
from soak.place import App, Server

PROVIDERS = ("stockx", "alias", "ebay")
WINDOW_S, QUOTA = 10, 60
_SAMPLE_S = 10.0
_WORK_S = 0.5
#: what a table may grow from the second third of the run to its last one; a page more or less is no growth
_GROWTH, _SLACK_BYTES = 1.25, 256 * 1024
_SIZES = """
    select c.relname as name, pg_table_size(c.oid) as tables, pg_indexes_size(c.oid) as indexes
      from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'"""
#: kinds of trouble that come by in turn, so that what leaks on the ways of failure leaks here too
_TROUBLE: Sequence[tuple[str, dict[str, Any]]] = (
    ("status", {"status": 500}), ("reset", {}), ("status", {"status": 429, "retry_after": 1}), ("truncated", {}),
    ("stall", {"seconds": 3}), ("html", {}), ("huge", {"size": 2**24}), ("gzip_bomb", {"size": 2**24}),
    ("drip", {"seconds": 2}),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The daemon and its database at one moment."""

    at_s: float
    rss: int
    fds: int
    tasks: int
    connections: int
    sizes: dict[str, int]

    @property
    def database(self) -> int:
        return sum(self.sizes.values())


class Endurance:
    """One run of `minutes`. `go` returns the figures."""

    def __init__(
        self, seed: int, minutes: float, server: Server, folder: Path, say: Callable[[str], None]
    ) -> None:
        self._seconds = minutes * 60
        self._dice = random.Random(seed)
        self._seed = seed
        self._server = server
        self._folder = folder
        self._say = say
        self._app = App(server.dsn)
        self._samples: list[Sample] = []
        self._asked = 0

    async def go(self) -> Figures:
        # eBay has no catalogue of its own that needs so many.
        async with (
            Sandbox(seed=self._seed, products=200, limits={"*": None}, move_every_s=1) as self._sandbox,
            Proxy(self._server.dsn) as self._proxy,
        ):
            self._daemon = Kept(self._folder / "one", self._settings())
            await self._daemon.start()
            self._items = self._world()
            await self._app.fetch("select market_watch($1::jsonb)", json.dumps(self._items[:60]))
            self._began = time.monotonic()
            await self._work()
            found = await self._figures()
            found.none("daemon that did not stop in order", [c for c in [await self._daemon.stop()] if c])
        self._app.hang_up()
        return found

    def _settings(self) -> dict[str, Any]:
        data = settings(
            self._proxy.dsn,
            self._sandbox,
            self._folder / "state",
            providers=PROVIDERS,
            stanza={
                "budget": {"per_hour": QUOTA, "per_day": QUOTA * 24},
                "pace": {"calls": 10, "per": "1s"},
                "concurrency": 2,
                "timeout": "2s",
                "circuit": {"failures": 5, "open": "1s"},
            },
            jobs={
                "lease": "10s",
                "fresh_for": "5s",
                "backoff": {"base": "100ms", "cap": "2s"},
                "not_listed_cooldown": "5s",
                "keep_finished": "60s",
                "keep_history": "60s",
                "keep_requests": "60s",
            },
            scheduler={"poll": "1s", "interval": "2s"},
            testing={"hour": f"{WINDOW_S}s", "day": f"{24 * WINDOW_S}s"},
        )
        found: dict[str, Any] = json.loads(json.dumps(data))
        return found

    def _world(self) -> list[dict[str, Any]]:
        shoes = [shoe for shoe in self._sandbox.world if shoe.key.startswith("ZQ") and shoe.quoted]
        items = [
            {"provider": provider, "sku": shoe.style, "size": shoe.quoted}
            for shoe in shoes
            for provider in PROVIDERS
            if provider == "stockx" or (shoe.alias_id if provider == "alias" else shoe.shelf)
        ]
        items += [{"provider": "stockx", "sku": f"NONE-{n}", "size": "9"} for n in range(20)]
        self._dice.shuffle(items)
        return items

    async def _work(self) -> None:
        turn, sampled = 0, 0.0
        while (now := time.monotonic() - self._began) < self._seconds:
            wishes = self._dice.sample(self._items, 3)
            await self._app.fetch(
                "select * from market_enqueue_many($1::jsonb, $2)",
                json.dumps(wishes),
                self._dice.choice((100, 150, 200)),
            )
            await self._app.fetch("select market_viewed($1::jsonb)", json.dumps(wishes))
            self._asked += len(wishes)
            turn += 1
            if turn % 20 == 0:
                await self._trouble(turn // 20)
            if now - sampled >= _SAMPLE_S:
                sampled = now
                await self._sample()
            await asyncio.sleep(_WORK_S)

    async def _trouble(self, number: int) -> None:
        kind, options = _TROUBLE[number % len(_TROUBLE)]
        # One at a time: each waits for a request, and a lane that sends one probe now and then would to the end of the
        # run meet nothing but the trouble that has piled up meanwhile.
        self._sandbox.clear_faults()
        self._sandbox.fault(self._dice.choice(PROVIDERS), kind, **options)
        if number % 6 == 0:
            self._proxy.reset()
        if number % 30 == 0:
            self._proxy.silence(also_new=False)

    async def _sample(self) -> None:
        rows = await self._app.fetch(_SIZES)
        connections = await self._app.value(
            "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
            " and backend_type = 'client backend'"
        )
        with suppress(aiohttp.ClientError, OSError):  # a scrape is lost now and then
            sample = Sample(
                at_s=time.monotonic() - self._began,
                rss=resident_bytes(self._daemon.pid),
                fds=len(list(Path(f"/proc/{self._daemon.pid}/fd").iterdir())),
                tasks=await self._tasks(),
                connections=connections,
                sizes={f"{row['name']} {part}": row[part] for row in rows for part in ("tables", "indexes")},
            )
            self._samples.append(sample)
            if len(self._samples) % 12 == 1:
                self._say(
                    f"{sample.at_s:.0f} s: {sample.rss >> 20} MB resident, {sample.database >> 20} MB in the database,"
                    f" {sample.tasks} tasks, {sample.connections} connections, {sample.fds} files"
                )

    async def _tasks(self) -> int:
        where = re.findall(r'"metrics": "([^"]+)"', self._daemon.daemon.text())[-1]
        async with aiohttp.ClientSession() as session, session.get(where) as answer:
            told = re.search(r"^marketd_tasks (\S+)$", await answer.text(), re.MULTILINE)
        assert told
        return int(float(told[1]))

    async def _figures(self) -> Figures:
        found = Figures()
        third = len(self._samples) // 3
        middle, last = self._samples[third : 2 * third], self._samples[2 * third :]
        found.add("minutes", round((time.monotonic() - self._began) / 60, 1))
        found.add("windows of an hour", int(self._seconds // WINDOW_S))
        found.add("wishes", self._asked)
        found.add("requests", sum(self._sandbox.count(provider) for provider in PROVIDERS))
        found.add("runs of the planner", await self._app.value("select max(run_id) from market_job_runs"))
        found.add("ends of the daemon", dict(self._daemon.exits))
        found.none("crashes", list(self._daemon.exits.elements()))
        resident = [statistics.median(s.rss for s in part) for part in (middle, last)]
        self._flat(found, "resident bytes", [s.rss for s in middle], [s.rss for s in last], 1.10, 0)
        if resident[1] < 0.9 * resident[0]:
            found.wrong.append("resident bytes: not flat within 10 %, they fell")
        self._flat(found, "tasks", [s.tasks for s in middle], [s.tasks for s in last], 1.0, 2)
        self._flat(
            found, "connections", [s.connections for s in middle], [s.connections for s in last], 1.0, 1
        )
        self._flat(found, "open files", [s.fds for s in middle], [s.fds for s in last], 1.0, 2)
        self._flat(
            found,
            "bytes in the database",
            [s.database for s in middle],
            [s.database for s in last],
            _GROWTH,
            0,
        )
        grown = []
        for name in sorted(last[-1].sizes):
            before = statistics.median(s.sizes[name] for s in middle)
            after = statistics.median(s.sizes[name] for s in last)
            if after > before * _GROWTH + _SLACK_BYTES:
                grown.append((name, before, after))
        found.none("tables or indexes that grow", grown)
        biggest = sorted(last[-1].sizes.items(), key=lambda pair: -pair[1])[:3]
        found.add("the biggest", {name: f"{size >> 10} kB" for name, size in biggest})
        for name, query in BROKEN.items():
            found.none(name, await self._app.fetch(query))
        found.none(f"over {QUOTA} calls a window", over_a_window(self._sandbox.requests, QUOTA, WINDOW_S))
        waits = await self._app.fetch(
            """select j.provider, w.waiting_for, w.detail, w.until, now() - j.run_at as late
                 from market_jobs j, market_why(j.id) w
                where j.status = 'pending' and j.priority >= 150 and j.run_at < now() - interval '2 minutes'
                order by j.run_at"""
        )
        found.none("urgent jobs over two minutes late", [dict(row) for row in waits])
        return found

    def _flat(
        self, found: Figures, name: str, before: Sequence[int], after: Sequence[int], times: float, slack: int
    ) -> None:
        """The median of the last third may be so many times that of the second third, and `slack` more."""
        first, second = statistics.median(before), statistics.median(after)
        found.add(name, f"{first:,.0f} in the second third, {second:,.0f} in the last")
        if second > first * times + slack:
            found.wrong.append(f"{name}: grew from {first:,.0f} to {second:,.0f}")
