"""What fault tests share: asking for prices, waiting for answers, reading a running daemon's own figures."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg

from harness import until
from marketd.app import App
from marketd.sandbox import Sandbox

Connection = asyncpg.Connection

#: pending retries come back at once, and nothing that was fetched keeps a later wish from being fetched
QUICK_JOBS = {"fresh_for": "1ms", "backoff": {"base": "10ms", "cap": "50ms"}}
_SERIES = re.compile(rb'^marketd_(\w+)\{(?:class|code)="(\w+)",provider="(\w+)"\} ([0-9.e+]+)$', re.MULTILINE)
#: statements over the whole queue; each must return no row, at any moment and whatever died
BROKEN = {
    "two open jobs of a target": """
        select dedupe_key from market_jobs where status in ('pending', 'running', 'deferred')
         group by dedupe_key having count(*) > 1""",
    "two live holders of a unit": """
        select unit_key from market_jobs where status = 'running' and lease_expires_at > clock_timestamp()
         group by unit_key having count(distinct lease_id) > 1""",
    "a running job without a lease that runs out": """
        select id from market_jobs
         where status = 'running' and lease_expires_at > clock_timestamp() + interval '10 minutes'""",
    "a deferred job without a time": "select id from market_jobs where status = 'deferred' and run_at is null",
    "a failure without a reason": """
        select id from market_jobs where status = 'failed' and (error_code is null or error_message is null)""",
    "a window over its quota": "select provider from market_budgets where used > quota",
    "a history row that repeats the one before": """
        select sku from (
          select h.*, lag((lowest_ask, highest_bid, last_sale, basis)) over w as before
            from market_price_history h
          window w as (partition by provider, account, sku, size, currency order by observed_at)) x
         where (lowest_ask, highest_bid, last_sale, basis) is not distinct from before""",
}


async def ask(
    db: Connection, provider: str, sku: str, size: str | None, priority: int = 200, **more: Any
) -> int:
    """Enqueue one item; the job's id. Fails when no job is opened or joined."""
    row = await db.fetchrow(
        "select * from market_enqueue($1, $2, $3, $4, currency => $5)",
        provider,
        sku,
        size,
        priority,
        more.get("currency"),
    )
    assert row is not None
    assert row["job_id"] is not None, row
    return int(row["job_id"])


async def ask_many(db: Connection, items: Sequence[dict[str, Any]], priority: int) -> list[int]:
    """Enqueue items; ids of their jobs in order."""
    rows = await db.fetch("select * from market_enqueue_many($1::jsonb, $2)", json.dumps(items), priority)
    assert all(row["job_id"] for row in rows), [dict(row) for row in rows if not row["job_id"]]
    return [row["job_id"] for row in rows]


def load(sandbox: Sandbox, count: int, *, provider: str = "stockx") -> list[dict[str, Any]]:
    """Items of so many products that every provider finds at the first try; the sandbox needs as many `products`."""
    found = [
        {"provider": provider, "sku": product.style, "size": product.quoted}
        for product in sandbox.world
        if product.key.startswith("ZQ") and product.quoted and (provider == "stockx" or product.alias_id)
    ][:count]
    assert len(found) == count, f"the sandbox has only {len(found)} such products"
    return found


async def ended(db: Connection, ids: Iterable[int], *, within_s: float = 15) -> dict[int, asyncpg.Record]:
    """Wait until all these jobs are final; their rows by id."""
    wanted = sorted(set(ids))

    async def final() -> list[asyncpg.Record] | None:
        rows: list[asyncpg.Record] = await db.fetch(
            "select * from market_jobs where id = any ($1) and status in ('done', 'failed')", wanted
        )
        return rows if len(rows) == len(wanted) else None

    rows = await until(final, within_s=within_s, what=f"the end of {len(wanted)} jobs")
    return {row["id"]: row for row in rows}


async def broken(db: Connection) -> dict[str, list[asyncpg.Record]]:
    """Invariants that do not hold, with the rows that show it; empty is good."""
    found = {name: await db.fetch(query) for name, query in BROKEN.items()}
    return {name: rows for name, rows in found.items() if rows}


async def wrong_prices(db: Connection, sandbox: Sandbox) -> list[tuple[Any, ...]]:
    """Stored amounts that differ from what the provider has; for worlds whose prices do not move."""
    found = []
    for row in await db.fetch("select * from market_prices"):
        truth = sandbox.truth(row["provider"], row["product_id"] or row["sku"], row["size"], row["currency"])
        stored = (row["lowest_ask"], row["highest_bid"], row["last_sale"])
        if stored != tuple(_decimal(amount) for amount in (truth.ask, truth.bid, truth.last_sale)):
            found.append((row["provider"], row["sku"], row["size"], stored, truth))
    return found


def _decimal(amount: Any) -> Decimal | None:
    return None if amount is None else Decimal(amount)


def figures(app: App) -> Counter[tuple[str, str, str]]:
    """The daemon's counters as (metric, provider, class or code)."""
    found = _SERIES.findall(app.metrics.render()[0])
    return Counter(
        {(metric.decode(), name.decode(), word.decode()): int(float(n)) for metric, word, name, n in found}
    )


def resident_bytes(pid: int | str = "self") -> int:
    """Memory of a process that is in RAM."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096
