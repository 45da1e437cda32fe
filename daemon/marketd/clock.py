"""Local time, for pauses and durations inside the process. Stored times come from the database's clock."""

from __future__ import annotations

import random
import time

monotonic = time.monotonic


def jittered(seconds: float, *, spread: float = 0.25) -> float:
    """`seconds`, give or take `spread` of it, so that many processes do not act as one."""
    return seconds * random.uniform(1 - spread, 1 + spread)


def full_jitter(attempt: int, *, base_s: float, cap_s: float) -> float:
    """Backoff before try `attempt + 1`: uniform in (0, min(cap, base * 2**(attempt-1))].

    Full jitter as in Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
    """
    ceiling = min(cap_s, base_s * 2.0 ** min(attempt - 1, 40))
    return random.uniform(ceiling * 0.01, ceiling)
