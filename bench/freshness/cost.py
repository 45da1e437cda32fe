"""What the planner costs: one pass, folding a minute's views, and the lesson of one fetch."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg

from .server import database

_UNITS = """
insert into market_units (unit_key, provider, account, sku, currency, sizes, views, views_at, tracked_since,
                          last_fetch_at, a, b)
select 'u' || n, 'stockx', 'default', 'u' || n, 'USD', 1 + n % 7, n % 90, now(), now() - interval '9 days',
       now() - n % 400 * interval '1 hour', 0.5 + n % 9, 1 + n % 200
  from generate_series(1, $1::int) n"""
_TARGETS = """
with t as (
  insert into market_targets (provider, account, sku, size, currency, dedupe_key, unit_key)
  select u.provider, u.account, u.sku, 's' || n, u.currency, u.unit_key || '|s' || n, u.unit_key
    from market_units u, generate_series(1, 3) n returning *)
insert into market_watches (dedupe_key, provider, account, sku, size, currency, unit_key)
select dedupe_key, provider, account, sku, size, currency, unit_key from t"""
# A minute's views where each of three sizes is viewed once a day.
_VIEWS = """
insert into market_signals (kind, provider, account, sku, size, currency, dedupe_key, unit_key, user_id)
select 'view', 'stockx', 'default', 'u' || n, 's1', 'USD', 'u' || n || '|s1', 'u' || n, gen_random_uuid()::text
  from (select 1 + floor(random() * $1::int)::int as n from generate_series(1, 1 + $1::int * 3 / 1440)) x"""
_SPENT = """
select sum(split_part(pg_read_file('/proc/' || pg_backend_pid() || '/stat'), ' ', n)::int) * 10.0
  from unnest(array[14, 15]) n"""
_PLAN = "select market__plan('stockx', 'default', 60)"
_FOLD = "select market__fold()"
_LEARN = """
select market__learn(unit_key, 'stockx', 'default', sku, now(), array[1.0, 1.0, 1.0], array[true, false, false], false)
  from market_units tablesample bernoulli (50) limit 200"""
_PASSES = 20
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def planning(server: str, template: str, units: int) -> dict[str, Any]:
    """Milliseconds: wall (the least of all passes) and the backend's own processor time (their mean)."""
    async with database(server, template) as dsn:
        db = await asyncpg.connect(dsn, command_timeout=600)
        try:
            await db.execute(_UNITS, units)
            await db.execute(_TARGETS)
            await db.execute("vacuum analyze")
            await db.fetchval(_PLAN)
            plan = await _cost(db, _PLAN, "select took_ms from market_plans")
            views = await _cost(db, _FOLD, None, before=(_VIEWS, units))
            learn = await _cost(db, _LEARN, None)
            return {
                "wall_ms": plan[0],
                "cpu_ms": plan[1],
                "fold_cpu_ms": views[1],
                "views": 1 + units * 3 // 1440,
                "learn_cpu_ms": learn[1] / min(200, units),
                "planned": await db.fetchval("select count(*) from market_jobs"),
            }
        finally:
            await db.close()


async def _cost(
    db: Connection, sql: str, wall: str | None, before: tuple[str, int] | None = None
) -> tuple[float, float]:
    walls, cpu = [0.0], 0.0
    for _ in range(_PASSES):
        if before:
            await db.execute(*before)
        spent = await db.fetchval(_SPENT)
        await db.fetch(sql)
        cpu += float(await db.fetchval(_SPENT) - spent)
        if wall:
            walls.append(await db.fetchval(wall))
    return min(walls[1:], default=0.0), cpu / _PASSES
