"""Words for tests of the queue: ask, look, and set the scene, all in plain SQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg

from marketd.models import Quote, Unit
from marketd.store.jobs import JobStore
from marketd.store.pool import Database

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Row: TypeAlias = asyncpg.Record
Connect: TypeAlias = Callable[[], Awaitable[Connection]]

SKU = "DD1391-100"
LEASE = timedelta(seconds=30)


@asynccontextmanager
async def opened(dsn: str, *, size: int = 8, pooled: bool = False) -> AsyncIterator[Database]:
    """A pool, as the daemon has one."""
    pool = Database(dsn, size=size, timeout_s=10, pooled=pooled)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


async def enqueue(
    db: Connection,
    sku: str | None = SKU,
    size: str | None = "10",
    priority: int = 100,
    *,
    provider: str | None = "stockx",
    user_id: str | None = None,
    not_before: datetime | None = None,
    currency: str | None = None,
) -> Row:
    """One call of market_enqueue."""
    row = await db.fetchrow(
        "select * from market_enqueue($1, $2, $3, $4, $5, $6, $7)",
        provider, sku, size, priority, user_id, not_before, currency,
    )  # fmt: skip
    assert row is not None
    return row


async def enqueue_many(db: Connection, items: Sequence[Any], priority: int = 100) -> list[Row]:
    return await db.fetch("select * from market_enqueue_many($1, $2)", json.dumps(items), priority)


def item(sku: str = SKU, size: str | None = "10", **more: Any) -> dict[str, Any]:
    return {"provider": "stockx", "sku": sku, "size": size, **more}


async def plain_insert(db: Connection, sku: str = SKU, size: str | None = "10", priority: int = 100) -> str:
    """An INSERT as an app writes it; the command tag."""
    return await db.execute(
        "insert into market_jobs (provider, sku, size, priority) values ('stockx', $1, $2, $3)",
        sku, size, priority,
    )  # fmt: skip


async def job(db: Connection, job_id: int) -> Row:
    row = await db.fetchrow("select * from market_jobs where id = $1", job_id)
    assert row is not None
    return row


async def value(db: Connection, sql: str, *args: Any) -> Any:
    return await db.fetchval(sql, *args)


async def open_jobs(db: Connection) -> int:
    return int(
        await db.fetchval(
            "select count(*) from market_jobs where status in ('pending', 'running', 'deferred')"
        )
    )


async def settings(db: Connection, **columns: Any) -> None:
    await _update(db, "market_settings", columns, "")


async def limits(db: Connection, provider: str = "stockx", **columns: Any) -> None:
    """Set columns of a provider's row."""
    await _update(db, "market_providers", columns, f" where provider = '{provider}'")


async def _update(db: Connection, table: str, columns: Mapping[str, Any], where: str) -> None:
    sets = ", ".join(f"{name} = ${i}" for i, name in enumerate(columns, 1))
    await db.execute(f"update {table} set {sets}{where}", *columns.values())


async def plenty(db: Connection) -> None:
    """Budgets and pace that stand in nobody's way."""
    await db.execute(
        "update market_providers set quota_hour = null, quota_day = null, pace_s = 0, background_min = 0"
    )


async def hold_background_back(db: Connection, provider: str = "stockx") -> None:
    """The spread lets no background call go for the rest of the hour's first 95 %; urgent work has calls left."""
    await limits(db, provider, quota_hour=100)
    await db.execute(
        "insert into market_budgets (provider, window_kind, window_start, window_end, background_tokens, background_at)"
        " select p.provider, 'hour', w.starts, w.ends, -1000, clock_timestamp() from market_providers p,"
        " market_settings s, market__window(p, s, 'hour', clock_timestamp()) w where p.provider = $1",
        provider,
    )


async def daemon(db: Connection, **quotas: Mapping[str, int]) -> UUID:
    """Registers a live daemon. `quotas`: stockx={"hour": 100}."""
    daemon_id = uuid4()
    await db.execute(
        "insert into market_daemons (daemon_id, host, pid, version, config_hash, quotas, alive_until)"
        " values ($1, 'test', 1, '0', 'hash', $2, clock_timestamp() + interval '1 hour')",
        daemon_id, json.dumps({f"{name}/default": told for name, told in quotas.items()}),
    )  # fmt: skip
    return daemon_id


async def now(db: Connection) -> datetime:
    found: datetime = await db.fetchval("select clock_timestamp()")
    return found


async def claim(jobs: JobStore, units: int = 1, *, provider: str = "stockx") -> list[Unit]:
    return await jobs.claim(provider, "default", units=units, lease=LEASE)


async def claim_one(jobs: JobStore, *, provider: str = "stockx") -> Unit:
    units = await claim(jobs, provider=provider)
    assert len(units) == 1
    return units[0]


def quote(
    size: str | None = "10", ask: str | None = "200", *, at: datetime | None = None, **more: Any
) -> Quote:
    return Quote(
        size=size,
        currency=more.pop("currency", "GBP"),
        lowest_ask=None if ask is None else Decimal(ask),
        observed_at=at or datetime.now(UTC),
        **more,
    )


async def until(condition: Callable[[], Awaitable[bool]], *, within_s: float = 10) -> None:
    """Wait for a condition; AssertionError when it does not come true."""
    async with asyncio.timeout(within_s):
        while not await condition():  # noqa: ASYNC110 - the condition is another process's state
            await asyncio.sleep(0.02)


async def waits_for_lock(watcher: Connection, backend: int) -> bool:
    """Whether that backend is waiting for a lock at this moment."""
    return bool(
        await watcher.fetchval(
            "select wait_event_type = 'Lock' from pg_stat_activity where pid = $1", backend
        )
    )
