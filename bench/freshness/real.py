"""The product's own planner as a policy: its SQL functions in a real Postgres, with the virtual clock as p_now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import numpy as np

from .world import Floats, Ints, World

EPOCH = datetime(2026, 6, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_SIGNAL = [
    "kind",
    "provider",
    "account",
    "sku",
    "size",
    "currency",
    "dedupe_key",
    "unit_key",
    "user_id",
    "at",
]


class RealPlanner:
    """Keeps nothing itself: units, views and rates are in the database, as in production, so a restart is no event."""

    def __init__(self, world: World, db: asyncpg.Connection[asyncpg.Record]) -> None:
        self._world = world
        self._db = db
        self._lane = 0.02
        self._waiting_views: list[tuple[Floats, Ints]] = []
        self._folded = 0.0

    async def prepare(self) -> None:
        """Statements, and the account with this world's budget."""
        db, provider = self._db, self._world.provider
        await db.execute("set jit = off")
        await db.execute("set work_mem = '64MB'")
        await db.execute(
            "update market_providers set quota_hour = $2, quota_day = null, pace_s = 0.5 where provider = $1",
            provider, self._world.quota,
        )  # fmt: skip
        await db.execute(
            "insert into market_plans (provider, account, planned_at, share) values ($1, 'default', $2, 0)"
            " on conflict do nothing", provider, EPOCH,
        )  # fmt: skip
        self._share = await db.prepare(
            "with demand as (update market_providers set on_demand_per_h = $5 where provider = $1 returning 1),"
            " budget as (insert into market_budgets (provider, window_kind, window_start, window_end, used)"
            "  values ($1, 'hour', $2, $2::timestamptz + interval '1 hour', $3)"
            "  on conflict (provider, account, window_kind, window_start) do update set used = $3 returning 1)"
            " select (select count(*) from demand), (select count(*) from budget), $4::float8"
        )
        self._plan_share = await db.prepare(
            "select market__plan_share(p, s, $3, $2) from market_providers p, market_settings s"
            " where p.provider = $1 and p.account = 'default'"
        )
        self._candidates = await db.prepare(
            "select unit_key from market__candidates($1, 'default', $2, $3) where not waiting"
        )
        self._oldest = await db.prepare("select * from market__oldest($1, 'default', $2, $3)")
        self._learn = await db.prepare("select market__learn($1, $2, 'default', $3, $4, $5, $6, false, $4)")

    async def choose(
        self, now: float, left: int, used: int, on_demand: float, tick_h: float, dice: float
    ) -> Ints:
        provider, at = self._world.provider, _moment(now)
        await self._fold(now)
        await self._share.fetch(provider, _moment(np.floor(now)), used, tick_h, on_demand)
        share = await self._plan_share.fetchval(provider, at, tick_h * 3600)
        quota = min(left, int(share + dice))
        lane = min(quota, int(quota * self._lane + (dice * 7919) % 1))
        chosen = [row[0] for row in await self._oldest.fetch(provider, lane, at)] if lane else []
        if quota > lane:
            for row in await self._candidates.fetch(provider, quota, at):
                if row[0] is not None and row[0] not in chosen and len(chosen) < quota:
                    chosen.append(row[0])
        return np.array([int(key) for key in chosen], dtype=np.int64)

    async def viewed(self, now: float, at: Floats, records: Ints) -> None:
        self._waiting_views.append((at, records))

    async def fetched(self, units: Ints, at: Floats, gaps: list[Floats], changed: list[list[bool]]) -> None:
        provider, product = self._world.provider, self._world.product_of
        await self._learn.executemany(
            [
                (str(unit), provider, str(product[unit]), _moment(when), list(gap), bits)
                for unit, when, gap, bits in zip(units, at, gaps, changed, strict=True)
            ]
        )

    async def added(self, now: float, records: Ints) -> None:
        await self._signal("watch", np.full(len(records), now), records)
        await self._db.execute(
            "insert into market_watches (dedupe_key, provider, account, sku, size, currency, unit_key)"
            " select r::text, $1, 'default', s, r::text, 'USD', u"
            " from unnest($2::int[], $3::text[], $4::text[]) x(r, s, u)",
            self._world.provider, records, *self._names(records),
        )  # fmt: skip
        await self._fold(now, force=True)

    async def _signal(self, kind: str, at: Floats, records: Ints) -> None:
        skus, units = self._names(records)
        rows = zip(at, records, skus, units, strict=True)
        # Every view is another user's: who looks twice in ten minutes is not what is measured here.
        await self._db.copy_records_to_table(
            "market_signals",
            columns=_SIGNAL,
            records=[
                (kind, self._world.provider, "default", sku, str(record), "USD", str(record), unit, str(n),
                 _moment(when))
                for n, (when, record, sku, unit) in enumerate(rows)
            ],
        )  # fmt: skip

    def _names(self, records: Ints) -> tuple[list[str], list[str]]:
        units = self._world.unit_of[records]
        return [str(p) for p in self._world.product_of[units]], [str(u) for u in units]

    async def _fold(self, now: float, *, force: bool = False) -> None:
        if not force and now - self._folded < 1:
            return
        self._folded = now
        for at, records in self._waiting_views:
            await self._signal("view", at, records)
        self._waiting_views.clear()
        while await self._db.fetchval("select market__fold($1)", _moment(now)):
            pass
        await self._db.execute(
            "update market_plans set typical_view_rate = market__typical_view_rate(provider, account, $2)"
            " where provider = $1", self._world.provider, _moment(now),
        )  # fmt: skip


def _moment(hours: float) -> datetime:
    return EPOCH + float(hours) * _HOUR
