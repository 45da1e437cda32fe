"""Looking for images of products that have none, without ever taking more than a hundredth of a database session."""

from __future__ import annotations

from marketd import clock
from marketd.store.jobs import JobStore

_AT_MOST = 5  #: products a pass; they wait behind all other background work
_REST = 99  #: times what the last look took: it reads every sku, and of many most have no image anywhere


class Enrichment:
    """A chore of the scheduler's pass."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs
        self._rests_until = float("-inf")  #: monotonic

    async def enrich(self) -> None:
        """Queue fetches that may bring images, unless the last look was too long for another one so soon."""
        began = clock.monotonic()
        if began < self._rests_until:
            return
        try:
            await self._jobs.enrich(_AT_MOST)
        finally:
            ended = clock.monotonic()
            self._rests_until = ended + _REST * (ended - began)
