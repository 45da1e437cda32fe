"""Keeping the leases of all fetches under way, in one statement a beat."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from marketd import clock, errors
from marketd.models import Unit
from marketd.store.jobs import JobStore
from marketd.telemetry import Observer


@dataclass(slots=True, eq=False)
class Kept:
    """One lease. `lost` once it was taken over, or could not be kept in time: then the fetch must stop."""

    unit: Unit
    lease: timedelta
    heartbeat_s: float
    on_lost: Callable[[], object]
    kept_at: float  #: monotonic
    lost: bool = False


class Keeper:
    """Extends what it was given until that is let go. One task for all of them, and none while there is nothing."""

    def __init__(self, jobs: JobStore, observer: Observer) -> None:
        self._jobs = jobs
        self._observer = observer
        self._kept: set[Kept] = set()
        self._beating: asyncio.Task[None] | None = None
        self._extending = False
        self._beat_s = 0.0  #: between two extensions
        self._sooner = asyncio.Event()  #: a lease came that needs them sooner, as after a reload

    def keep(
        self, unit: Unit, *, lease: timedelta, heartbeat_s: float, on_lost: Callable[[], object]
    ) -> Kept:
        """Extend this lease from now on; `on_lost` is called when that fails, at most once."""
        kept = Kept(unit, lease, heartbeat_s, on_lost, clock.monotonic())
        self._kept.add(kept)
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat(), name="leases")
        elif heartbeat_s < self._beat_s:
            self._sooner.set()
        return kept

    def let_go(self, kept: Kept) -> None:
        """Its fetch has ended. The last one takes the beat along, so that nothing outlives a lane that has drained."""
        self._kept.discard(kept)
        if not self._kept and self._beating is not None and not self._extending:
            self._beating.cancel()
            self._beating = None

    async def renew(self, kept: Kept) -> None:
        """Extend this lease now, between two tries to settle, which keep its row from the beat."""
        await self._extend([kept], kept.lease)

    async def _beat(self) -> None:
        while self._kept:
            self._sooner.clear()
            # At full beats of the clock, not of each fetch's own: so all those under way share the statement.
            beat_s = self._beat_s = min(kept.heartbeat_s for kept in self._kept)
            if await clock.happens(self._sooner, beat_s - clock.monotonic() % beat_s):
                continue
            self._extending = True  # a statement under way is not torn off
            try:
                for lease in {kept.lease for kept in self._kept}:  # one, but for the time after a reload
                    if those := [kept for kept in self._kept if kept.lease == lease]:
                        await self._extend(those, lease)
            finally:
                self._extending = False
        self._beating = None

    async def _extend(self, those: Sequence[Kept], lease: timedelta) -> None:
        try:
            held = await self._jobs.extend_all([kept.unit for kept in those], lease=lease)
        except errors.DatabaseError as error:
            self._observer.event(
                "lease_extension_failed", unit=those[0].unit.key, fetches=len(those), error=str(error)
            )
            for kept in those:
                if clock.monotonic() - kept.kept_at >= kept.lease.total_seconds():
                    self._lose(kept)
            return
        now = clock.monotonic()
        for kept in those:
            if kept.unit.lease_id not in held:
                self._lose(kept)
            elif held[kept.unit.lease_id]:
                kept.kept_at = now

    def _lose(self, kept: Kept) -> None:
        if kept in self._kept and not kept.lost:
            kept.lost = True
            kept.on_lost()
