"""One process's pace: aiolimiter, with the most urgent request of those that wait in front."""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from itertools import count

from aiolimiter import AsyncLimiter

_TIMER_S = 0.001  #: what no timer can tell apart goes together
#: As much wider than asked as Postgres spaces the grants (market__limits). Quicker, and who is let through would wait
#: there instead, where nobody is sent ahead.
_WIDER = 1.1


class Pacer:
    """Lets one request through each interval: the one of the greatest priority, among equals the first."""

    def __init__(self, interval_s: float) -> None:
        together = max(1, int(_TIMER_S / interval_s))  # (n, a longer period) would allow a burst of n
        self._limiter = AsyncLimiter(together, together * interval_s * _WIDER)
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._ticket = count()
        self._next_is_chosen = False  #: somebody is the next, and waits for the limiter alone

    async def acquire(self, priority: int) -> None:
        """Wait for one's turn."""
        if self._next_is_chosen:
            await self._to_be_next(priority)
        self._next_is_chosen = True
        try:
            await self._limiter.acquire()
        finally:
            self._choose()

    async def _to_be_next(self, priority: int) -> None:
        chosen: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (-priority, next(self._ticket), chosen))
        try:
            await chosen
        except asyncio.CancelledError:
            if not chosen.cancelled():  # chosen in the same moment
                self._choose()
            raise

    def _choose(self) -> None:
        while self._waiting:
            *_, chosen = heappop(self._waiting)
            if not chosen.done():
                chosen.set_result(None)
                return
        self._next_is_chosen = False
