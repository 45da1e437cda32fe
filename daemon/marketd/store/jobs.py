"""Transitions of jobs in Postgres; each is one statement of sql/queries/jobs.sql."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from marketd.models import Job, Listing, Quote, Unit
from marketd.outcome import Outcome
from marketd.store.pool import Database
from marketd.store.rows import units_of
from marketd.store.settles import Fetched, Settled, Settles
from marketd.store.sqlfile import queries

__all__ = ["JobStore", "LaneState", "Rescued", "Settled"]

_PROBE_S = 8.0  #: polling and sweeping also find out whether the server is still there, within 15 s of a poll every 5
_RESCUED_AT_ONCE = 500  #: as the statement has it
_RESCUES = 20  #: statements of a sweep; what is left after them is the next one's


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneState:
    """What one poll says of a lane."""

    provider: str
    account: str
    ready: bool
    next_due_s: float | None
    held_up: bool = False  #: an urgent request waits for a job's row that somebody holds, in whatever lane


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescued:
    job_id: int
    provider: str
    poisoned: bool


class JobStore:
    """The queue as one daemon sees it."""

    def __init__(self, db: Database, daemon_id: UUID) -> None:
        self._db = db
        self._daemon_id = daemon_id
        self._sql = queries("jobs")
        self._settles = Settles(db)

    async def claim(
        self, provider: str, account: str, *, units: int, lease: timedelta, durable: bool = True
    ) -> list[Unit]:
        """Take up to `units` units, the most urgent first, each under a fresh lease and with what is known of its sku.

        Not `durable`: their requests are charged only after this has answered, and that makes the claim durable.
        """
        while True:
            rows = await self._db.fetch(
                self._sql["claim"], provider, account, units, self._daemon_id, lease, durable
            )
            if not rows or rows[0]["known"] != "skipped":
                return units_of(provider, account, rows)

    async def extend_all(self, units: Sequence[Unit], *, lease: timedelta) -> dict[UUID, bool]:
        """Keep their leases for another `lease`, in one statement; which of them are still held.

        False: as long as before, for a settle that waits for somebody's lock has the row.
        """
        rows = await self._db.fetch(
            self._sql["extend"],
            [unit.key for unit in units],
            [unit.lease_id for unit in units],
            lease,
        )
        return {row["lease_id"]: row["extended"] for row in rows}

    def settle(
        self,
        unit: Unit,
        outcomes: Sequence[tuple[Job, Outcome]],
        quotes: Sequence[Quote] = (),
        listing: Listing | None = None,
        *,
        alone: bool = False,
    ) -> Awaitable[Settled]:
        """Write everything a fetch brought, or (LeaseLost) nothing; together with what others settle meanwhile.

        `alone`: after a try that may have met somebody's lock.
        """
        fetched = Fetched(unit=unit, outcomes=outcomes, quotes=quotes, listing=listing)
        return self._settles(fetched, alone=alone)

    async def give_up(self, unit: Unit) -> None:
        """Return the lease of a fetch that is over and could not be settled. Its jobs pay nothing for that."""
        await self._db.fetch(self._sql["give_up"], unit.key, unit.lease_id)

    async def poll(self, alive_for: timedelta) -> list[LaneState]:
        """Say that this daemon lives, promote what became due, and tell the lanes' states."""
        rows = await self._poll(alive_for)
        if rows and rows[0]["unfolded"]:
            await self._db.fetch(self._sql["fold"])
            rows = await self._poll(alive_for)  # what was folded in may have made a job due, or urgent
        return [
            LaneState(
                provider=row["provider"],
                account=row["account"],
                ready=row["ready"],
                next_due_s=row["next_due_s"],
                held_up=bool(row["held_up"]),
            )
            for row in rows
        ]

    async def _poll(self, alive_for: timedelta) -> list[asyncpg.Record]:
        return await self._db.fetch(self._sql["poll"], self._daemon_id, alive_for, patience_s=_PROBE_S)

    async def beat(self, alive_for: timedelta) -> None:
        """Say that this daemon lives, between two polls that are far apart."""
        await self._db.fetch(self._sql["beat"], self._daemon_id, alive_for, patience_s=_PROBE_S)

    async def next_chance_s(self, provider: str, account: str) -> float | None:
        """Seconds until something that waits could be claimed; None when nothing waits."""
        found: float | None = await self._db.fetchval(self._sql["next_chance"], provider, account)
        return found

    async def rescue(self) -> list[Rescued]:
        """Return jobs of dead workers to the queue, or fail what killed too many; all, if not too many thousands."""
        found: list[Rescued] = []
        for _ in range(_RESCUES):
            rows = await self._db.fetch(self._sql["rescue"], patience_s=_PROBE_S)
            found += [
                Rescued(job_id=r["id"], provider=r["provider"], poisoned=r["status"] == "failed")
                for r in rows
            ]
            if len(rows) < _RESCUED_AT_ONCE:
                break
        return found

    async def enrich(self, at_most: int, after: str) -> tuple[int, str | None]:
        """Queue fetches that bring an image for products without one, of some thousand skus after `after`.

        Returns how many, and the sku after which the next look begins; None: that was the last one.
        """
        [row] = await self._db.fetch(self._sql["enrich"], at_most, after)
        return row["queued"], row["after"]

    async def reopen(self) -> int:
        """Reopen jobs for requests that were committed too late to be served. Returns how many."""
        return len(await self._db.fetch(self._sql["reopen"]))

    async def release_all(self) -> int:
        """Give back whatever this daemon still holds, attempts refunded: the end of all its fetches."""
        await self._settles.cut_off()  # one that waits for somebody's lock would keep others waiting
        return len(await self._db.fetch(self._sql["release_daemon"], self._daemon_id))

    async def finished_between(self, since: datetime, until: datetime) -> tuple[int, int, int]:
        """(finished, done, failed) jobs of that time."""
        row = await self._db.fetchrow(self._sql["finished_since"], since, until)
        return (0, 0, 0) if row is None else (row["selected"], row["succeeded"], row["failed"])
