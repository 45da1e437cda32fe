"""The connections of one process: who comes gets the one used last, and what nobody used for a minute is closed.

asyncpg's own pool spends two tasks and a proxy on each use: in an idle daemon as much as a small statement takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_UNUSED_S = 60.0  #: one is kept for longer: an idle daemon polls by it


class Connections:
    """At most `size` at a time. They are not reset in between: our statements leave no session state."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], *, size: int) -> None:
        self._connect = connect
        self._size = size
        self._slots = asyncio.Semaphore(size)
        self._idle: list[tuple[Connection, float]] = []  #: since when; the one used last is last
        self._taken: set[Connection] = set()
        self._expired: set[Connection] = set()  #: of those taken
        self._closing = False

    @property
    def counts(self) -> tuple[int, int]:
        """(open connections, idle ones)."""
        idle = sum(not connection.is_closed() for connection, _ in self._idle)
        return len(self._taken) + idle, idle

    async def take(self, within_s: float) -> Connection:
        """One for the caller alone, until it is put back. Raises TimeoutError, and what connecting raises."""
        self._check_open()
        async with asyncio.timeout(within_s):
            await self._slots.acquire()
            try:
                connection = self._open_one() or await self._connect()
            except BaseException:
                self._slots.release()
                raise
        self._taken.add(connection)
        return connection

    def _check_open(self) -> None:
        if self._closing:
            raise asyncpg.InterfaceError("the connections are being closed")

    def _open_one(self) -> Connection | None:
        self._check_open()  # it may have been waited for long
        while self._idle:
            connection, _ = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None

    def put(self, connection: Connection, *, cut_off: bool = False) -> None:
        """Back for others. `cut_off`: its last statement was, and may still run for a moment."""
        now = time.monotonic()
        expired = connection in self._expired
        self._expired.discard(connection)
        self._taken.discard(connection)
        self._slots.release()
        if connection.is_closed():
            pass
        elif expired or connection.is_in_transaction():
            connection.terminate()
        else:
            # asyncpg has asked the server to stop, and waits for that before the next statement: better not ours.
            self._idle.insert(0 if cut_off else len(self._idle), (connection, now))
        while len(self._idle) > 1 and now - self._idle[0][1] > _UNUSED_S:
            self._idle.pop(0)[0].terminate()

    def expire(self) -> None:
        """None of the present ones is used again."""
        self._expired |= self._taken
        while self._idle:
            self._idle.pop()[0].terminate()

    async def close(self, within_s: float) -> None:
        """Politely, once nobody uses them; after `within_s` by force."""
        self._closing = True
        try:
            async with asyncio.timeout(within_s):
                for _ in range(self._size):
                    await self._slots.acquire()
                await asyncio.gather(*(connection.close() for connection, _ in self._idle))
        except TimeoutError:
            for connection in (*self._taken, *(connection for connection, _ in self._idle)):
                connection.terminate()
