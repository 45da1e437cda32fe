"""Postgres in another region: an answer is on its way for longer than a request may be late."""

from __future__ import annotations

import asyncio
import statistics
from itertools import pairwise

from faults.proxy import Proxy
from marketd import clock
from marketd.limiter import Grant
from marketd.store.budgets import Charger
from provider_kit import Notes
from queue_kit import Connection, opened

FAR_S = 0.08  #: one way
APART_S = 0.2


async def _left(charger: Charger, count: int) -> list[tuple[Grant, float]]:
    """So many requests, one after the other: the grant of each, and when it was at the door."""
    left = []
    for _ in range(count):
        grant = await charger.gate(200).take("x")
        await asyncio.sleep(grant.leave_at - clock.monotonic())
        left.append((grant, clock.monotonic()))
    return left


async def test_a_request_does_not_miss_its_moment_for_the_answers_way(db: Connection, database: str) -> None:
    await db.execute("update market_providers set pace_s = $1, quota_hour = null", APART_S)
    async with Proxy(database) as proxy, opened(proxy.dsn) as pool:
        proxy.latency_s = FAR_S
        left = await _left(Charger(pool, "stockx", "default", Notes()), 9)
    late_s = [at - grant.leave_at for grant, at in left]
    assert statistics.median(late_s) < 0.025, late_s  # more, and it had to ask for another moment
    took_s = left[-1][1] - left[1][1]
    assert took_s < 1.5 * 7 * 1.1 * APART_S, "waits for the pace and the ways to Postgres were added up"


async def test_requests_of_a_daemon_near_by_and_of_one_far_away_are_spaced(
    db: Connection, database: str
) -> None:
    await db.execute("update market_providers set pace_s = $1, quota_hour = null", APART_S)
    async with Proxy(database) as proxy, opened(database) as near, opened(proxy.dsn) as far:
        proxy.latency_s = FAR_S
        both = [Charger(pool, "stockx", "default", Notes()) for pool in (near, far)]
        for charger in both:
            # The server's clock is told by answers, of which the first may have been slow.
            await _left(charger, 3)
        left = await asyncio.gather(*(_left(charger, 7) for charger in both))
    moments = sorted(grant.leave_at for some in left for grant, _ in some)
    assert min(b - a for a, b in pairwise(moments)) > 0.95 * APART_S, moments
