"""Local time, for pauses and durations inside the process. Stored times come from the database's clock."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

monotonic = time.monotonic


async def happens(event: asyncio.Event, within_s: float) -> bool:
    """Waits for the event, so long at most. Returns whether it happened.

    Not by asyncio.wait_for: before Python 3.12 that swallows a cancel which comes in the moment of the event.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
    return event.is_set()


def jittered(seconds: float, *, spread: float = 0.25) -> float:
    """`seconds`, give or take `spread` of it, so that many processes do not act as one."""
    return seconds * random.uniform(1 - spread, 1 + spread)


def full_jitter(attempt: int, *, base_s: float, cap_s: float) -> float:
    """Backoff before try `attempt + 1`: uniform in (0, min(cap, base * 2**(attempt-1))].

    Full jitter as in Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
    """
    ceiling = min(cap_s, base_s * 2.0 ** min(attempt - 1, 40))
    return random.uniform(ceiling * 0.01, ceiling)
