"""The floor of marketd's own tables: a bare INSERT of the very rows that its enqueue functions leave behind.

All that the functions look up, derive or check is given by the client. Beside the thin floor it shows what the tables
cost, beside marketd what the functions do.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from bench.contenders import frame

_INSERT = """
with item as materialized (
  select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) i(sku, dedupe_key, unit_key, turn)
), target as (
  insert into market_targets (provider, account, sku, size, currency, dedupe_key, unit_key)
  select 'bench', 'default', sku, '10', 'USD', dedupe_key, unit_key from item
), view as (
  insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key)
  select 'view', 'bench', 'default', sku, '10', 'USD', dedupe_key, unit_key from item
), job as (
  insert into market_jobs (provider, sku, size, currency, dedupe_key, unit_key, turn)
  select 'bench', sku, '10', 'USD', dedupe_key, unit_key, turn from item returning id, dedupe_key
), request as (
  insert into market_job_requests (job_id, priority, opened) select id, 100, true from job
)
select id, dedupe_key from job
"""


def _rows(prefix: str, numbers: range) -> Sequence[Sequence[object]]:
    """The statement's arguments, a column each."""
    skus = [f"{prefix}-{n}" for n in numbers]
    units = [f"bench|default|{sku}|USD" for sku in skus]
    return skus, [f"{unit}|10" for unit in units], units, list(numbers)


async def enqueue(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """One by one, then in bulk, with one prepared statement."""
    connection = await asyncpg.connect(options["dsn"])
    insert = await connection.prepare(_INSERT)
    single = [_rows("SINGLE", range(n, n + 1)) for n in range(options["single"])]
    bulk = [_rows("BULK", range(10_000 * b, 10_000 * (b + 1))) for b in range(options["bulk"])]
    began = time.monotonic()
    for columns in single:
        await insert.fetch(*columns)
    single_s = time.monotonic() - began
    began = time.monotonic()
    for columns in bulk:
        await insert.fetch(*columns)
    bulk_s = time.monotonic() - began
    await connection.close()
    return {"single": options["single"] / single_s, "bulk": options["bulk"] * 10_000 / bulk_s}


if __name__ == "__main__":
    frame.main({"enqueue": enqueue})
