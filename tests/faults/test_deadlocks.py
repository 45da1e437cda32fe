"""Apps and daemons on the same items at once, in random overlapping sets: nobody is ever the victim of a deadlock."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from faults.kit import broken
from marketd import errors
from marketd.models import Listing, Product, Unit, Variant
from marketd.outcome import Failed, Outcome, Priced, Retried
from marketd.store.jobs import JobStore
from marketd.store.sqlfile import queries
from queue_kit import LEASE, Connect, Connection, plenty, quote, settings

LASTS_S = 8.0
SKUS = [f"AA{n}-100" for n in range(12)]
SIZES = ("9", "10", "11")
PROVIDERS = ("stockx", "alias", "ebay")
CURRENCIES = {"stockx": "GBP", "alias": "USD", "ebay": "USD"}
RUNS, PLAN, LIMITS = queries("runs"), queries("plan"), queries("limits")


class Session:
    """A connection of one app or daemon: as the stores want the pool, without its second tries."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._free = asyncio.Lock()
        self.pid = connection.get_server_pid()
        self.latest = ""
        self.deadlocks: list[str] = []

    async def fetch(self, sql: str, *args: Any, patience_s: float | None = None) -> list[asyncpg.Record]:
        async with self._free:
            self.latest = sql
            try:
                return await self._connection.fetch(sql, *args, timeout=patience_s)
            except asyncpg.DeadlockDetectedError as error:
                self.deadlocks.append(f"{self.pid} {error.detail} {error.context}")
                raise

    async def fetchval(self, sql: str, *args: Any) -> Any:
        [row] = await self.fetch(sql, *args)
        return row[0]


class App:
    """Asks, watches and looks."""

    def __init__(self, db: Session, dice: random.Random) -> None:
        self._db, self._dice = db, dice

    def _items(self, most: int = 30) -> str:
        dice = self._dice
        found = [
            {"provider": dice.choice(PROVIDERS), "sku": dice.choice(SKUS), "size": dice.choice(SIZES)}
            for _ in range(dice.randint(1, most))
        ]
        return json.dumps(found)

    async def act(self) -> None:
        dice, db = self._dice, self._db
        match dice.randrange(6):
            case 0:
                await db.fetch("select * from market_watch($1, $2)", self._items(), dice.choice("abc"))
            case 1:
                await db.fetch("select * from market_unwatch($1, $2)", self._items(), dice.choice("abc"))
            case 2:
                await db.fetch("select * from market_viewed($1, $2)", self._items(), dice.choice("abc"))
            case 3:
                await db.fetch(
                    "insert into market_jobs (provider, sku, size, priority)"
                    " values ($1, $2, $3, $4) on conflict do nothing",
                    dice.choice(PROVIDERS), dice.choice(SKUS), dice.choice(SIZES), dice.choice((50, 200)),
                )  # fmt: skip
            case 4:
                await db.fetch("select market_retry($1)", dice.choice(PROVIDERS))
            case _:
                await db.fetch(
                    "select * from market_enqueue_many($1, $2, $3)",
                    self._items(), dice.choice((50, 100, 150, 200)), dice.choice("abc"),
                )  # fmt: skip


class Worker:
    """The lanes of a daemon."""

    def __init__(self, db: Session, dice: random.Random) -> None:
        self._db, self._dice = db, dice
        self._jobs = JobStore(db, uuid4())  # type: ignore[arg-type]

    async def act(self) -> None:
        provider = self._dice.choice(PROVIDERS)
        units = await self._jobs.claim(provider, "default", units=self._dice.randint(1, 12), lease=LEASE)
        if units and self._dice.random() < 0.3:
            await self._jobs.extend_all(units, lease=LEASE)
        if self._dice.random() < 0.2:
            await self._jobs.release_all()
        self._dice.shuffle(units)
        at = await self._db.fetchval("select clock_timestamp()")
        # Together, and so in one statement.
        told = [asyncio.ensure_future(self._settle(unit, at)) for unit in units]
        for one in asyncio.as_completed(told):
            try:
                await one
            except errors.LeaseLost:
                continue

    def _settle(self, unit: Unit, at: Any) -> Awaitable[Any]:
        dice = self._dice
        ways: list[Callable[[], Outcome]] = [
            lambda: Retried(delay=timedelta(milliseconds=1), error_code="timeout", message="x"),
            lambda: Failed(error_code="unknown_sku", message="x", cooldown=timedelta(milliseconds=1)),
        ]
        if dice.random() < 0.3:
            return self._jobs.settle(unit, [(job, dice.choice(ways)()) for job in unit.jobs])
        sizes = SIZES if unit.provider != "ebay" else [job.size for job in unit.jobs]
        quotes = [
            quote(size, str(Decimal(dice.randint(100, 103))), at=at, currency=CURRENCIES[unit.provider])
            for size in dict.fromkeys(sizes)
        ]
        product = Product(id=f"p-{unit.sku[:3]}", style_code=unit.sku, name="n")  # some skus are the same one
        listing = Listing(product=product, variants=tuple(Variant(id=f"v{s}", size=s) for s in SIZES))
        priced = [(job, Priced(size=job.size)) for job in unit.jobs]
        return self._jobs.settle(unit, priced, quotes, listing if dice.random() < 0.5 else None)


class Timers:
    """The poller, the planner and the scheduler of a daemon."""

    def __init__(self, db: Session, dice: random.Random) -> None:
        self._db, self._dice = db, dice
        self._jobs = JobStore(db, uuid4())  # type: ignore[arg-type]

    async def act(self) -> None:
        acts = (
            self._poll,
            self._rescue,
            self._jobs.reopen,
            self._fold,
            self._plan,
            self._enrich,
            self._pass,
            self._charge,
        )
        await self._dice.choice(acts)()

    async def _poll(self) -> None:
        await self._jobs.poll(timedelta(minutes=1))

    async def _rescue(self) -> None:
        await self._db.fetch(
            "update market_jobs set lease_expires_at = now() where id in"
            " (select id from market_jobs where status = 'running' and random() < 0.1 for update skip locked)"
        )
        await self._jobs.rescue()

    async def _fold(self) -> None:
        await self._db.fetch(PLAN["fold"])

    async def _plan(self) -> None:
        for provider in PROVIDERS:
            await self._db.fetch(PLAN["plan"], provider, "default", 60.0)

    async def _enrich(self) -> None:
        await self._jobs.enrich(5, "")

    async def _pass(self) -> None:
        soon = timedelta(milliseconds=200)
        await self._db.fetch(RUNS["learn_demand"], 60.0)
        await self._db.fetch(RUNS["prune_jobs"], soon, 50)
        await self._db.fetch(RUNS["prune_joined"], soon, 50)
        await self._db.fetch(RUNS["prune_rest"])

    async def _charge(self) -> None:
        priorities = [self._dice.choice((50, 200)) for _ in range(3)]
        provider = self._dice.choice(PROVIDERS)
        granted = await self._db.fetch(
            LIMITS["take"], provider, "default", priorities, ["calls"] * 3, [None] * 3, None, 0.0
        )
        for row in granted:
            if row["granted"]:
                await self._db.fetch(LIMITS["give_back"], row["receipt"])


async def _goes_on(actor: App | Worker | Timers, until: float) -> None:
    while time.monotonic() < until:
        with contextlib.suppress(asyncpg.DeadlockDetectedError):  # each is noted
            await actor.act()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1, 2])
async def test_nobody_is_the_victim_of_a_deadlock(connect: Connect, db: Connection, seed: int) -> None:
    await plenty(db)
    await settings(db, fresh_for=timedelta(milliseconds=1), max_attempts=3)
    kinds: list[type[App | Worker | Timers]] = [App] * 4 + [Worker] * 3 + [Timers] * 2
    until = time.monotonic() + LASTS_S
    sessions, actors = [], []
    for n, kind in enumerate(kinds):
        connection = await connect()
        # Shorter than as shipped (1 s), longer than the plan waits for a lock, which ends first and makes no victim.
        await connection.execute("set deadlock_timeout = '400ms'; set enable_seqscan = off; set jit = off")
        sessions.append(Session(connection))
        actors.append(kind(sessions[-1], random.Random(f"{seed} {n}")))
    await asyncio.gather(*(_goes_on(actor, until) for actor in actors))
    assert [words for session in sessions for words in session.deadlocks] == []
    assert await broken(db) == {}
