"""Budget windows that began a known share ago, at whatever time the tests run.

What a window's end changes (it is then open to all) must be tested on purpose, and not whenever a suite happens to
run at five to.
"""

from __future__ import annotations

import math
import time

BEGUN = 0.1  #: part of the hour and of the day that is over when a test session starts
HOUR_S = 3600.0
DAY_S = 86400.0


def window_s(about_s: float = HOUR_S, *, begun: float = BEGUN) -> float:
    """A length in seconds, at most `about_s` and hardly less, whose present window began `begun` of it ago.

    Windows are keyed by the epoch: their ends are the multiples of the length. Whole microseconds, as a
    configuration can say it.
    """
    now = time.time()
    length = now / (math.ceil(now / about_s - begun) + begun)
    return math.floor(length * 1e6) / 1e6


#: The `testing` section of such windows; the same all session long, since daemons of one database are configured alike.
SESSION = {"hour": f"{window_s(HOUR_S):.6f}s", "day": f"{window_s(DAY_S):.6f}s"}
