"""Prints prices as they change: an example of how an app hears of them.

    MARKETD_DSN=postgresql://... python docs/examples/price_listener.py [COUNT]

It needs a session of its own (no pooler in transaction mode), and asyncpg. With COUNT it ends after so many prices.
A notification is a hint that is lost with the connection: whoever must not miss a change reads after each reconnect
what was written meanwhile, as `catch_up` does. That may show a price twice, or one that is as before: take it for what
holds now. An app that must not miss what changes while it is stopped keeps `since` with its own data.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg

CHANNEL = "market_prices"
RETRY_S = 5
LOOK_S = 10  # how often to see whether the connection lives, which a dead one does not tell by itself
# A price is there for others when its transaction ends: after its updated_at, by database.statement_timeout (10 s) at
# most. Never go by observed_at or changed_at: they are when the provider was asked, and its answer may take a minute.
OVERLAP = timedelta(seconds=60)


def show(provider: str, sku: str, currency: str, price: dict[str, Any]) -> None:
    """One price. None means that the provider has no ask (or bid, or sale): never 0."""
    size = price["size"] or "-"
    print(
        f"{provider} {sku} {size}: ask {price['lowest_ask']} bid {price['highest_bid']} {currency}",
        flush=True,
    )


async def catch_up(connection: asyncpg.Connection, since: datetime) -> None:
    """What was written after `since`."""
    rows = await connection.fetch(
        "select provider, sku, size, currency, lowest_ask, highest_bid from market_prices where updated_at >= $1",
        since,
    )
    for row in rows:
        show(row["provider"], row["sku"], row["currency"], dict(row))


async def listen(dsn: str, left: int | None) -> None:
    """Listen for ever, or until `left` prices have been heard; reconnects by itself."""
    messages: asyncio.Queue[str] = asyncio.Queue()
    since: datetime | None = None  # all that was written before then was heard: the database's time, not ours
    while True:
        connection: asyncpg.Connection | None = None
        try:
            connection = await asyncpg.connect(dsn, command_timeout=60)
            await connection.add_listener(
                CHANNEL, lambda _connection, _pid, _channel, payload: messages.put_nowait(payload)
            )
            if since is not None:
                await catch_up(connection, since - OVERLAP)
            print("listening", file=sys.stderr, flush=True)
            look_at = time.monotonic()
            while left is None or left > 0:
                if time.monotonic() >= look_at:
                    since = await connection.fetchval("select clock_timestamp()", timeout=LOOK_S)
                    look_at = time.monotonic() + LOOK_S
                try:
                    async with asyncio.timeout(LOOK_S):
                        told = json.loads(await messages.get(), parse_float=Decimal)
                except TimeoutError:
                    continue
                for price in told["prices"]:
                    show(told["provider"], told["sku"], told["currency"], price)
                left = None if left is None else left - len(told["prices"])
            return await connection.close()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            print(f"no connection ({error}), again in {RETRY_S} s", file=sys.stderr, flush=True)
            await asyncio.sleep(RETRY_S)
        finally:
            if connection is not None:
                connection.terminate()


if __name__ == "__main__":
    asyncio.run(listen(os.environ["MARKETD_DSN"], int(sys.argv[1]) if len(sys.argv) > 1 else None))
