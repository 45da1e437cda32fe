"""The scheduler's passes: their audit rows, pruning, and figures read for gauges."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from marketd.errors import DatabaseError
from marketd.store.pool import Database
from marketd.store.sqlfile import queries

_PRUNE_BATCHES = 20  #: of a kind in one pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    run_id: int
    started_at: datetime
    previous_at: datetime


class RunStore:
    def __init__(self, db: Database) -> None:
        self._db = db
        self._sql = queries("runs")

    async def begin(self, trigger: str, at_least_since: timedelta, *, asked: bool = False) -> Run | None:
        """Start a run, unless any daemon started one within `at_least_since`; if `asked`, since it was asked for."""
        row = await self._db.fetchrow(self._sql["begin_run"], trigger, at_least_since, asked)
        if row is None:
            return None
        return Run(run_id=row["run_id"], started_at=row["started_at"], previous_at=row["previous_at"])

    async def end(self, run: Run, counts: tuple[int, int, int], error: str | None) -> None:
        await self._db.fetch(self._sql["end_run"], run.run_id, *counts, error)

    async def learn_demand(self, seconds: float) -> None:
        """Update the smoothed on-demand rate from which `reserve: auto` is computed."""
        await self._db.fetch(self._sql["learn_demand"], seconds)

    async def prune(
        self,
        *,
        jobs: timedelta,
        history: timedelta,
        requests: timedelta,
        turned: Callable[[], None] = lambda: None,
        batch: int = 2000,
    ) -> None:
        """Delete what is too old, in batches that are a transaction each, so that no lock is held for long.

        After some batches of a kind the rest is left to the next pass. `turned` is called after each.
        """
        kinds = {
            "prune_jobs": jobs,
            "prune_joined": requests,
            "prune_history": history,
            "prune_requests": requests,
        }
        for name, age in kinds.items():
            for _ in range(_PRUNE_BATCHES):
                gone = await self._db.fetchval(self._sql[name], age, batch)
                turned()
                if gone < batch:
                    break
        await self._db.fetch(self._sql["prune_rest"])

    async def wishes_to_come(self, after: int, upto: int, awaited: Sequence[int]) -> list[int]:
        """Those of the numbers in (after, upto] and `awaited` that no request has, or none that is committed yet."""
        return list(await self._db.fetchval(self._sql["wishes_to_come"], after, upto, awaited))

    async def wishes(
        self, after: int, upto: int, awaited: Sequence[int], to_come: Sequence[int]
    ) -> list[asyncpg.Record]:
        """How many requests apps made with those numbers, by provider, band and result; not of those `to_come`."""
        return await self._db.fetch(self._sql["wishes"], after, upto, awaited, to_come)

    async def gauges(self) -> tuple[dict[str, list[Mapping[str, Any]]], dict[str, DatabaseError]]:
        """Figures for the database-derived gauges, by name of their query; and why some could not be read."""
        # A statement each for what grows with the tables, so that one that outlasts the time limit takes none along.
        large = {
            "jobs": queries("jobs")["gauges"],
            "prices": self._sql["price_ages"],
            "targets": self._sql["target_states"],
        }
        small = {
            "budgets": queries("limits")["budget_gauges"],
            "lanes": queries("limits")["lane_states"],
            "freshness": queries("plan")["freshness"],
            "xmin": self._sql["oldest_xmin"],
            "last_wish": self._sql["last_wish"],
        }
        found: dict[str, list[Mapping[str, Any]]] = {name: [] for name in small}
        for row in await self._db.fetch(_as_one(small)):
            found[row["name"]].append(json.loads(row["figures"]))
        failed: dict[str, DatabaseError] = {}
        for name, sql in large.items():
            try:
                found[name] = [dict(row) for row in await self._db.fetch(sql)]
            except DatabaseError as error:
                failed[name] = error
        return found, failed


def _as_one(statements: Mapping[str, str]) -> str:
    """One statement for several: its rows are JSON, each with the name of where it comes from."""
    parts = (
        f"select '{name}' as name, to_json(q)::text as figures from ({sql.rstrip().rstrip(';')}\n) q"
        for name, sql in statements.items()
    )
    return " union all ".join(parts)
