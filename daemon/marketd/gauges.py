"""Reads figures from the database at a fixed pace and sets the gauges; a scrape never waits for Postgres."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import asyncpg

from marketd import clock
from marketd.errors import DatabaseUnavailable
from marketd.metrics import DatabaseGauge, Metrics
from marketd.store.pool import Database
from marketd.store.runs import RunStore

_EVERY_S = 30.0
_LAG_EVERY_S = 1.0
_QUANTILES = ("0.5", "0.95", "1")
Rows = Sequence[asyncpg.Record]


class Gauges:
    """The refresh task. When Postgres is away the gauges keep their values and their timestamp shows it."""

    def __init__(self, metrics: Metrics, runs: RunStore, db: Database) -> None:
        self._metrics = metrics
        self._runs = runs
        self._db = db

    async def run(self) -> None:
        """Refresh and measure the loop's lateness, until cancelled."""
        due = clock.monotonic()
        while True:
            began = clock.monotonic()
            if began >= due:
                await self._refresh_if_possible()
                due = clock.monotonic() + clock.jittered(_EVERY_S, spread=0.1)
                began = clock.monotonic()
            await asyncio.sleep(_LAG_EVERY_S)
            self._metrics.loop_lag(max(0.0, clock.monotonic() - began - _LAG_EVERY_S))
            self._metrics.pool(*self._db.size)

    async def _refresh_if_possible(self) -> None:
        try:
            await self.refresh()
        except DatabaseUnavailable:
            return  # the gauges' own timestamp tells their age, and the pollers log the outage

    async def refresh(self) -> None:
        """Read once and set all. Raises DatabaseUnavailable."""
        figures = await self._runs.gauges()
        for name, values in _by_gauge(figures).items():
            self._metrics.replace(name, values)
        for row in figures["lanes"]:
            self._metrics.lane_state(row["provider"], row["state"])
        self._metrics.database_read(time.time(), figures["xmin"][0]["age"])


def _by_gauge(figures: Mapping[str, Rows]) -> dict[DatabaseGauge, dict[tuple[str, ...], float]]:
    """Summed over accounts: the metrics know providers only."""
    found: dict[DatabaseGauge, dict[tuple[str, ...], float]] = {}
    for gauge, column in (("jobs", "jobs"), ("oldest_ready", "oldest_ready_s")):
        sums: dict[tuple[str, ...], float] = defaultdict(float)
        for row in figures["jobs"]:
            words = (row["provider"], row["status"], row["band"])
            if gauge == "jobs":
                sums[words] += row[column]
            elif row["status"] == "pending":
                sums[words[0], words[2]] = max(sums[words[0], words[2]], row[column])
        found["jobs" if gauge == "jobs" else "oldest_ready"] = dict(sums)
    columns: tuple[tuple[DatabaseGauge, str], ...] = (
        ("budget_quota", "quota"),
        ("budget_used", "used"),
        ("budget_remaining", "remaining"),
        ("budget_reset", "resets_in_s"),
    )
    for name, column in columns:
        sums = defaultdict(float)
        for row in figures["budgets"]:
            sums[row["provider"], row["window_kind"]] += float(row[column])
        found[name] = dict(sums)
    found["targets"] = {(row["provider"], row["state"]): row["targets"] for row in figures["targets"]}
    found["price_age"] = {
        (row["provider"], quantile): age
        for row in figures["prices"]
        for quantile, age in zip(_QUANTILES, row["ages_s"], strict=True)
    }
    return found
