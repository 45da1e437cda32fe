"""The scheduler's passes: their audit rows, pruning, and figures read for gauges."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from marketd.store.pool import Database
from marketd.store.sqlfile import queries


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    run_id: int
    started_at: datetime
    previous_at: datetime


class RunStore:
    def __init__(self, db: Database) -> None:
        self._db = db
        self._sql = queries("runs")

    async def begin(self, trigger: str, at_least_since: timedelta) -> Run | None:
        """Start a run, unless any daemon started one within `at_least_since`."""
        row = await self._db.fetchrow(self._sql["begin_run"], trigger, at_least_since)
        if row is None:
            return None
        return Run(run_id=row["run_id"], started_at=row["started_at"], previous_at=row["previous_at"])

    async def end(self, run: Run, counts: tuple[int, int, int], error: str | None) -> None:
        await self._db.fetch(self._sql["end_run"], run.run_id, *counts, error)

    async def learn_demand(self, seconds: float) -> None:
        """Update the smoothed on-demand rate from which `reserve: auto` is computed."""
        await self._db.fetch(self._sql["learn_demand"], seconds)

    async def prune(
        self, *, jobs: timedelta, history: timedelta, requests: timedelta, batch: int = 2000
    ) -> None:
        """Delete one batch of each kind of what is too old; what is left over is taken by the next pass."""
        await self._db.fetch(self._sql["prune_jobs"], jobs, batch)
        await self._db.fetch(self._sql["prune_history"], history, batch)
        await self._db.fetch(self._sql["prune_requests"], requests, batch)
        await self._db.fetch(self._sql["prune_rest"])

    async def last_wish(self) -> int:
        """The number of the latest request by an app."""
        return int(await self._db.fetchval(self._sql["last_wish"]))

    async def wishes(self, after: int, upto: int) -> list[asyncpg.Record]:
        """How many requests apps made with numbers in (after, upto], by provider and band."""
        return await self._db.fetch(self._sql["wishes"], after, upto)

    async def gauges(self) -> dict[str, list[asyncpg.Record]]:
        """Figures for the database-derived gauges, by name of their query."""
        sources = {
            "jobs": queries("jobs")["gauges"],
            "budgets": queries("limits")["budget_gauges"],
            "lanes": queries("limits")["lane_states"],
            "prices": self._sql["price_ages"],
            "targets": self._sql["target_states"],
            "freshness": queries("plan")["freshness"],
            "xmin": self._sql["oldest_xmin"],
        }
        return {name: await self._db.fetch(sql) for name, sql in sources.items()}
