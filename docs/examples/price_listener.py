"""Prints prices as they change: an example of how an app hears of them.

    MARKETD_DSN=postgresql://... python docs/examples/price_listener.py [COUNT]

It needs a session of its own (no pooler in transaction mode), and asyncpg. With COUNT it ends after so many prices.
A notification is a hint that can be lost with the connection: whoever must not miss a change reads market_prices
after each (re)connect, as `catch_up` does here.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import datetime, timedelta
from typing import Any

import asyncpg

CHANNEL = "market_prices"
RETRY_S = 5


def show(provider: str, sku: str, currency: str, price: dict[str, Any]) -> None:
    """One changed price. None means that the provider has no ask (or bid, or sale): never 0."""
    size = price["size"] or "-"
    print(
        f"{provider} {sku} {size}: ask {price['lowest_ask']} bid {price['highest_bid']} {currency}",
        flush=True,
    )


async def catch_up(connection: asyncpg.Connection, since: datetime) -> None:
    """What changed since we last looked."""
    rows = await connection.fetch(
        "select provider, sku, size, currency, lowest_ask, highest_bid from market_prices where changed_at >= $1",
        since,
    )
    for row in rows:
        show(row["provider"], row["sku"], row["currency"], dict(row))


async def listen(dsn: str, left: int | None) -> None:
    """Listen for ever, or until `left` prices have been printed; reconnects by itself."""
    messages: asyncio.Queue[str | None] = asyncio.Queue()  # None: the connection is gone
    since: datetime | None = None
    while True:
        try:
            connection = await asyncpg.connect(dsn)
        except (OSError, asyncpg.PostgresError) as error:
            print(f"no connection ({error}), again in {RETRY_S} s", file=sys.stderr, flush=True)
            await asyncio.sleep(RETRY_S)
            continue
        connection.add_termination_listener(lambda _: messages.put_nowait(None))
        await connection.add_listener(
            CHANNEL, lambda _c, _pid, _channel, payload: messages.put_nowait(payload)
        )
        now: datetime = await connection.fetchval("select clock_timestamp()")
        if since is not None:
            await catch_up(connection, since - timedelta(seconds=5))
        since = now
        print("listening", file=sys.stderr, flush=True)
        while (payload := await messages.get()) is not None:
            told = json.loads(payload)
            for price in told["prices"]:
                show(told["provider"], told["sku"], told["currency"], price)
                since = max(since, datetime.fromisoformat(price["observed_at"]))
            if left is not None and (left := left - len(told["prices"])) <= 0:
                await connection.close()
                return


if __name__ == "__main__":
    asyncio.run(listen(os.environ["MARKETD_DSN"], int(sys.argv[1]) if len(sys.argv) > 1 else None))
