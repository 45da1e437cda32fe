"""One run in which everything breaks: two daemons under load, killed at random, while Postgres and the network fail.

What an app was told to be queued must end, with the right price, without a call too many, whatever happened meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from faults.kit import BROKEN
from faults.proxy import Proxy
from harness import settings
from marketd.sandbox import Sandbox
from marketd.store.sqlfile import queries
from soak.figures import Figures, Ticks, closest, over_a_second, over_a_window, wrong_amounts
from soak.fleet import Kept
from soak.place import App, Server

PROVIDERS = ("stockx", "alias", "ebay")
TIMEOUT = timedelta(seconds=10)
NETWORK = ("reset", "reset", "half_open", "black_hole", "latency", "refuse")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of everything. `gap_s` are the least and the longest pause between two events."""

    seed: int
    jobs: int = 2000
    kills: int = 200
    restarts: int = 20
    postmaster_kills: int = 5
    network_faults: int = 50
    window_s: int = 60
    quota: int = 240
    per_second: int = 5
    counts_seconds: bool = True
    gap_s: tuple[float, float] = (0.3, 3.0)
    ends_within_s: float = 600
    back_within_s: float = 5
    noticed_within_s: float = 15

    def events(self, dice: random.Random) -> list[str]:
        found = (
            ["kill"] * self.kills + ["restart"] * self.restarts + ["kill_postgres"] * self.postmaster_kills
        )
        found += [NETWORK[n % len(NETWORK)] for n in range(self.network_faults)]
        dice.shuffle(found)
        return found


class Storm:
    """One run. `go` returns the figures."""

    def __init__(self, plan: Plan, server: Server, folder: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._server = server
        self._folder = folder
        self._say = say
        self._dice = random.Random(plan.seed)
        self._app = App(server.dsn)
        self._asked: list[dict[str, Any]] = []
        self._ids: set[int] = set()
        self._happened: Counter[str] = Counter()
        self._back: list[float] = []
        self._noticed: list[float] = []

    async def go(self) -> Figures:
        began = time.monotonic()
        plan = self._plan
        # eBay has a unit for each size, the others for each product.
        async with (
            Sandbox(seed=plan.seed, products=plan.jobs // 2 + 30, limits={"*": None}) as self._sandbox,
            Proxy(self._server.dsn) as one,
            Proxy(self._server.dsn) as other,
        ):
            self._ticks = Ticks(self._sandbox)
            self._proxies = (one, other)
            self._daemons = [Kept(self._folder / str(n), self._settings(n)) for n in range(2)]
            await asyncio.gather(*(daemon.start() for daemon in self._daemons))
            await self._all_events()
            await self._calm()
            codes = await asyncio.gather(*(daemon.stop() for daemon in self._daemons))
            found = await self._figures()
        found.none("daemons that did not stop in order", [code for code in codes if code])
        found.add("seconds", round(time.monotonic() - began))
        self._app.hang_up()
        return found

    def _settings(self, number: int) -> dict[str, Any]:
        plan = self._plan
        data = settings(
            self._proxies[number].dsn,
            self._sandbox,
            self._folder / str(number) / "state",
            providers=PROVIDERS,
            stanza={
                "budget": {"per_hour": plan.quota, "per_day": plan.quota * 20},
                "pace": {"calls": plan.per_second, "per": "1s"},
                "concurrency": 2,
                "timeout": f"{TIMEOUT.seconds}s",
                "circuit": {"failures": 50, "open": "1s"},
            },
            jobs={"lease": "6s", "fresh_for": "1ms", "backoff": {"base": "100ms", "cap": "2s"}},
            testing={"hour": f"{plan.window_s}s", "day": f"{20 * plan.window_s}s"},
        )
        found: dict[str, Any] = json.loads(
            json.dumps(data)
        )  # nothing shared, which YAML would write as an alias
        return found

    # -- load ----------------------------------------------------------------------------------------------

    def _items(self) -> Iterator[dict[str, Any]]:
        shoes = [p for p in self._sandbox.world if p.key.startswith("ZQ") and p.quoted]
        for shoe in shoes:
            yield {"provider": "stockx", "sku": shoe.style, "size": shoe.quoted}
            if shoe.alias_id:
                yield {"provider": "alias", "sku": shoe.style, "size": shoe.quoted}
            if shoe.shelf:
                yield {"provider": "ebay", "sku": shoe.style, "size": shoe.quoted}

    async def _ask(self, items: list[dict[str, Any]]) -> None:
        """Half of it by function, half by plain INSERT; now and then one of the old ones again."""
        priority = self._dice.choice((100, 150, 200, 200))
        again = self._dice.sample(self._asked, min(1, len(self._asked)))
        half = len(items) // 2
        rows = await self._app.fetch(
            "select job_id, result, error_message from market_enqueue_many($1::jsonb, $2)",
            json.dumps(items[:half] + again),
            priority,
        )
        refused = [row for row in rows if row["result"] == "refused"]
        assert not refused, refused
        self._ids |= {row["job_id"] for row in rows if row["job_id"]}
        for item in items[half:]:
            await self._app.fetch(
                "insert into market_jobs (provider, sku, size, priority) values ($1, $2, $3, $4)",
                item["provider"], item["sku"], item["size"], priority,
            )  # fmt: skip
        self._asked += items

    # -- trouble -------------------------------------------------------------------------------------------

    async def _all_events(self) -> None:
        events = self._plan.events(self._dice)
        items = self._items()
        for number, event in enumerate(events, 1):
            due = self._plan.jobs * number // len(events) - len(self._asked)
            await self._ask([next(items) for _ in range(due)])
            if self._dice.random() < 0.2:
                self._ticks.advance(datetime.now(UTC))
            await asyncio.sleep(self._dice.uniform(*self._plan.gap_s))
            await getattr(self, f"_{event}")()
            self._happened[event] += 1
            if number % 25 == 0:
                self._say(
                    f"{number} of {len(events)} events, {await self._open()} of {len(self._asked)} jobs open"
                )

    async def _kill(self) -> None:
        victim, witness = self._dice.sample(self._daemons, 2)
        await witness.ready()
        victim.kill()

    async def _restart(self) -> None:
        await self._away(self._server.restart)

    async def _kill_postgres(self) -> None:
        await self._away(self._server.kill)

    async def _away(self, trouble: Callable[[], Any]) -> None:
        await self._daemons[self._dice.randrange(2)].ready()
        self._app.hang_up()
        await trouble()
        if (seconds := await self._until_a_claim(30)) is not None:
            self._back.append(seconds)

    async def _reset(self) -> None:
        self._dice.choice(self._proxies).reset()

    async def _half_open(self) -> None:
        for proxy in self._proxies:
            proxy.silence(also_new=False)
        if (seconds := await self._until_a_claim(40)) is not None:
            self._noticed.append(seconds)

    async def _black_hole(self) -> None:
        victim = self._dice.choice(self._proxies)
        victim.silence(also_new=True)
        await asyncio.sleep(self._dice.uniform(0.5, 2))
        victim.speak()

    async def _latency(self) -> None:
        victim = self._dice.choice(self._proxies)
        victim.latency_s = self._dice.uniform(0.02, 0.15)
        await asyncio.sleep(self._dice.uniform(0.5, 2))
        victim.latency_s = 0

    async def _refuse(self) -> None:
        victim = self._dice.choice(self._proxies)
        await victim.stop()
        await asyncio.sleep(self._dice.uniform(0.2, 1))
        await victim.start()

    async def _until_a_claim(self, at_most_s: float) -> float | None:
        """Seconds until something was claimed, counted from now; None when nothing could be."""
        began, since = time.monotonic(), await self._app.value("select clock_timestamp()")
        chance = queries("jobs")["next_chance"]
        while time.monotonic() - began < at_most_s:
            if await self._app.value("select exists (select from market_jobs where started_at > $1)", since):
                return time.monotonic() - began
            chances = [await self._app.value(chance, provider, "default") for provider in PROVIDERS]
            if not any(seconds == 0 for seconds in chances):
                return None  # no work, or no calls left in this window
            await asyncio.sleep(0.05)
        return time.monotonic() - began

    # -- the end -------------------------------------------------------------------------------------------

    async def _open(self) -> int:
        count: int = await self._app.value(
            "select count(*) from market_jobs where status in ('pending', 'running', 'deferred')"
        )
        return count

    async def _calm(self) -> None:
        for proxy in self._proxies:
            proxy.speak()
            proxy.latency_s = 0
        deadline = time.monotonic() + self._plan.ends_within_s
        while (left := await self._open()) and time.monotonic() < deadline:
            self._say(f"calm; {left} of {len(self._asked)} jobs open")
            await asyncio.sleep(5)

    async def _figures(self) -> Figures:
        plan, found = self._plan, Figures()
        rows = await self._app.fetch("select * from market_jobs")
        by_target = {(row["provider"], row["sku"], row["size"]) for row in rows}
        known = {row["id"] for row in rows}
        found.add("what happened", dict(self._happened))
        found.add("how daemons ended", dict(sum((daemon.exits for daemon in self._daemons), Counter())))
        ends = Counter(code for daemon in self._daemons for code in daemon.exits.elements())
        # 75: Postgres was away when it started.
        found.none("crashes", [code for code in ends.elements() if code not in (-9, 75)])
        found.add("jobs asked for", len(self._asked))
        found.add("outcomes", dict(Counter(row["outcome"] or row["status"] for row in rows)))
        found.add("rescues", sum(row["rescues"] for row in rows))
        found.none(
            "lost",
            [item for item in self._asked if (item["provider"], item["sku"], item["size"]) not in by_target]
            + sorted(self._ids - known),
        )
        found.none("stuck", [dict(row) for row in rows if row["status"] not in ("done", "failed")])
        # The daemon's own looks for images may well find nothing; what was asked for exists.
        asked = {(item["provider"], item["sku"], item["size"]) for item in self._asked}
        found.none(
            "failed",
            [
                dict(row)
                for row in rows
                if row["status"] == "failed"
                and (
                    (row["provider"], row["sku"], row["size"]) in asked or row["error_code"] != "unknown_sku"
                )
            ],
        )
        for name, query in BROKEN.items():
            found.none(name, await self._app.fetch(query))
        await self._prices(found)
        requests = self._sandbox.requests
        found.add("requests", len(requests))
        found.none(f"over {plan.quota} calls a window", over_a_window(requests, plan.quota, plan.window_s))
        if plan.counts_seconds:
            found.none(f"over {plan.per_second} calls a second", over_a_second(requests, plan.per_second))
            found.add(
                f"closest {plan.per_second + 1} calls of a provider",
                f"{closest(requests, plan.per_second):.3f} s",
            )
        uncharged = "select coalesce(sum(used), 0)::int from market_budgets where window_kind = 'hour'"
        charged = await self._app.value(uncharged)
        metered = sum(request.meter == "calls" for request in requests)
        found.add("calls charged and never sent", charged - metered)
        found.none("calls not charged", range(max(0, metered - charged)))
        found.within("back at work after Postgres", self._back, plan.back_within_s)
        found.within("half-open connections noticed", self._noticed, plan.noticed_within_s)
        return found

    async def _prices(self, found: Figures) -> None:
        prices = await self._app.fetch("select * from market_prices")
        products = {(row["provider"], row["sku"]): row["product_id"] for row in prices}
        history = await self._app.fetch("select *, null::text as product_id from market_price_history")
        found.add("prices", len(prices))
        found.add("rows of price history", len(history))
        assert products
        answered_in = TIMEOUT + timedelta(seconds=10)  # a grant may wait for its moment
        found.none("wrong prices", wrong_amounts(prices, self._sandbox, self._ticks, answered_in))
        found.none("wrong rows of history", wrong_amounts(history, self._sandbox, self._ticks, answered_in))
        keys = Counter((r["provider"], r["sku"], r["size"], r["currency"], r["observed_at"]) for r in history)
        found.none("duplicate rows of history", [key for key, count in keys.items() if count > 1])
