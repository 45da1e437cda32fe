"""Looking for images of products that have none, without ever taking more than a hundredth of a database session."""

from __future__ import annotations

from marketd import clock
from marketd.store.jobs import JobStore

_AT_MOST = 5  #: products a pass; they wait behind all other background work
_LOOK_S = 1.0  #: no further step of a look begins later
_REST = 99  #: times what the last look took: of many products most have no image anywhere


class Enrichment:
    """A chore of the scheduler's pass, which goes round all skus in many short looks."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs
        self._after = ""  #: the sku at which the last look ended
        self._rests_until = float("-inf")  #: monotonic

    async def enrich(self) -> None:
        """Queue fetches that may bring images, unless the last look was too long for another one so soon."""
        began = clock.monotonic()
        if began < self._rests_until:
            return
        try:
            await self._look(began + _LOOK_S)
        finally:
            ended = clock.monotonic()
            self._rests_until = ended + _REST * (ended - began)

    async def _look(self, until: float) -> None:
        queued = 0
        while True:
            found, after = await self._jobs.enrich(_AT_MOST - queued, self._after)
            queued += found
            self._after = after or ""
            if after is None or queued >= _AT_MOST or clock.monotonic() >= until:
                return
