"""The floor of marketd's own tables: bare statements that write the very rows that it leaves behind.

All that it looks up, derives or checks is given by the client, and no promise is kept. Beside the thin floor it shows
what the tables cost, beside marketd what the rest does.
"""

from __future__ import annotations

import asyncio
import time
import uuid
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

# A job is written twice, its product's lease comes and goes, its price, its history and its target are written once.
_CLAIM = """
with head as materialized (
  select id, unit_key, dedupe_key, sku, size from market_jobs
   where provider = 'bench' and account = 'default' and status = 'pending' and priority = 100
   order by priority desc, rank desc, turn, run_at, id limit $1 for update skip locked
), claimed as (
  update market_jobs set status = 'running', attempt = 1, lead = true, lease_id = $2, locked_by = $2,
         lease_expires_at = now() + interval '2 min', started_at = now(), updated_at = now()
   where id = any (array(select id from head))
), leases as (
  insert into market_fetches (unit_key, provider, account, sku, currency,
                              lease_id, lease_expires_at, locked_by, claimed_at)
  select unit_key, 'bench', 'default', min(sku), 'USD', $2, now() + interval '2 min', $2, now()
    from head group by unit_key order by unit_key
  on conflict do nothing  -- the other session may have other sizes of it
)
select * from head
"""
_SETTLE = """
with leases as (
  delete from market_fetches where unit_key = any ($1::text[])
), jobs as (
  update market_jobs set status = 'done', outcome = 'priced', completed_at = now(), updated_at = now(),
         lease_id = null, lease_expires_at = null, locked_by = null, lead = false
   where id = any ($2::bigint[])
), quote as materialized (
  select * from unnest($3::text[], $4::text[]) q(sku, size)
), prices as (
  insert into market_prices (provider, account, sku, size, currency, lowest_ask, highest_bid, basis, parser,
                             observed_at, changed_at)
  select 'bench', 'default', sku, size, 'USD', 210.5, 180, '{}', 1, now(), now() from quote
), history as (
  insert into market_price_history (provider, account, sku, size, currency, lowest_ask, highest_bid, basis, observed_at)
  select 'bench', 'default', sku, size, 'USD', 210.5, 180, '{}', now() from quote
)
update market_targets set last_attempt_at = now(), observed_at = now(), last_success_at = now(),
       last_outcome = 'priced', price_size = size
 where dedupe_key = any ($5::text[])
"""
_BATCH = 256  #: as many as marketd claims at once
_SESSIONS = 2


async def drain(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a claim and a settle write, in two sessions, until nothing is left."""

    async def work() -> int:
        connection = await asyncpg.connect(options["dsn"])
        claim, settle = await connection.prepare(_CLAIM), await connection.prepare(_SETTLE)
        done = 0
        while rows := await claim.fetch(_BATCH, uuid.uuid4()):
            columns = {name: [row[name] for row in rows] for name in ("id", "sku", "size", "dedupe_key")}
            units = list({row["unit_key"] for row in rows})
            await settle.fetch(units, columns["id"], columns["sku"], columns["size"], columns["dedupe_key"])
            done += len(rows)
        await connection.close()
        return done

    began = time.monotonic()
    done = sum(await asyncio.gather(*(work() for _ in range(_SESSIONS))))
    return {"jobs": done, "seconds": time.monotonic() - began}


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
    frame.main({"enqueue": enqueue, "drain": drain})
