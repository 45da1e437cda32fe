"""Keeping the lease of a fetch under way."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from marketd import clock, errors
from marketd.models import Unit
from marketd.store.jobs import JobStore
from marketd.telemetry import Observer


async def keep(
    jobs: JobStore, unit: Unit, *, lease: timedelta, heartbeat_s: float, observer: Observer
) -> None:
    """Extend until cancelled; returns when the lease is lost, or when it cannot be kept in time."""
    kept_at = clock.monotonic()
    while clock.monotonic() - kept_at < lease.total_seconds():
        # At full beats of the clock, not of each fetch's own: so those under way share the statement.
        await asyncio.sleep(heartbeat_s - clock.monotonic() % heartbeat_s)
        try:
            await jobs.extend(unit, lease=lease)
            kept_at = clock.monotonic()
        except errors.LeaseLost:
            return
        except errors.DatabaseUnavailable as error:
            observer.event("lease_extension_failed", unit=unit.key, error=str(error))
