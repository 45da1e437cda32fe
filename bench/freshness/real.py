"""The product's own planner as a policy: its SQL functions in a real Postgres, with the virtual clock as p_now."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import numpy as np

from .simulate import Conditions
from .world import Floats, Ints, World

_HOUR = timedelta(hours=1)
_CLOCKWORK = Path(__file__).with_name("clockwork.sql")
_VACUUM_H = 3.0
_VACUUM = """vacuum (analyze) market_units, market_jobs, market_signals, market_targets,
  market_watches, market_rates, market_budgets, market_plans"""
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class RealPlanner:
    """Keeps nothing itself: units, views, rates and budgets are in the database, as in production."""

    def __init__(self, world: World, conditions: Conditions, dsn: str) -> None:
        self._world = world
        self._conditions = conditions
        self._dsn = dsn
        self._db: Connection | None = None
        self._vacuumed = -_VACUUM_H

    async def open(self, *, coalesced: bool) -> None:
        """The bench's own functions, and the account as this world has it."""
        db = await self._connection()
        await db.execute(_CLOCKWORK.read_text())
        zone, day_quota = self._conditions.day_zone, self._conditions.day_quota
        await db.execute(
            "update market_providers set quota_hour = $2, quota_day = $3, day_zone = $4, all_sizes = $5, pace_s = 0.5"
            " where provider = $1",
            self._world.provider, self._world.quota, day_quota, zone, coalesced,
        )  # fmt: skip

    async def close(self) -> None:
        if self._db:
            await self._db.close()
            self._db = None

    async def restarted(self) -> None:
        """Another daemon takes over: a new session, nothing remembered."""
        await self.close()

    async def choose(
        self, now: float, limit: int, left: int, on_demand: float, tick_h: float, dice: float
    ) -> Ints:
        db = await self._connection()
        if now - self._vacuumed >= _VACUUM_H:  # autovacuum knows nothing of virtual days
            self._vacuumed = now
            await db.execute(_VACUUM)
        keys = await db.fetchval(
            "select bench.tick($1, $2, $3, $4, $5, $6)",
            self._world.provider, self._moment(now), tick_h * 3600, limit, on_demand, dice,
        )  # fmt: skip
        return np.array([int(key) for key in keys], dtype=np.int64)

    async def may_go(self, at: float, *, free: bool) -> bool:
        db = await self._connection()
        answer: bool = await db.fetchval(
            "select bench.may_go($1, $2)", self._world.provider, self._moment(at)
        )
        return answer

    async def fetched(
        self, units: Ints, at: Floats, gaps: list[Floats], changed: list[list[bool]], *, urgent: bool
    ) -> None:
        db = await self._connection()
        await db.execute(
            "select bench.fetched($1, $2, $3, $4, $5, $6, $7, $8)",
            self._world.provider, urgent, [str(u) for u in units], [str(p) for p in self._world.product_of[units]],
            [self._moment(when) for when in at], [len(gap) for gap in gaps],
            list(chain.from_iterable(map(np.ndarray.tolist, gaps))), list(chain.from_iterable(changed)),
        )  # fmt: skip

    async def viewed(self, now: float, at: Floats, records: Ints) -> None:
        db = await self._connection()
        moments = [self._moment(when) for when in at]
        await db.execute(
            "select bench.view($1, $2, $3, $4, $5)", self._world.provider, moments, *self._names(records)
        )

    async def added(self, now: float, records: Ints) -> None:
        db = await self._connection()
        await db.execute(
            "select bench.watch($1, $2, $3, $4, $5)",
            self._world.provider,
            self._moment(now),
            *self._names(records),
        )

    def _names(self, records: Ints) -> tuple[list[str], list[str], list[str]]:
        units = self._world.unit_of[records]
        return (
            [str(r) for r in records],
            [str(p) for p in self._world.product_of[units]],
            [str(u) for u in units],
        )

    async def _connection(self) -> Connection:
        if self._db is None:
            self._db = await asyncpg.connect(self._dsn, command_timeout=600)
            await self._db.execute("set jit = off; set work_mem = '64MB'")
        return self._db

    def _moment(self, hours: float) -> datetime:
        moment: Any = self._conditions.epoch + float(hours) * _HOUR
        return moment
