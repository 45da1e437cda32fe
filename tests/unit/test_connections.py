"""Who gets which connection, and which are not used again."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import asyncpg
import pytest

from marketd.store import connections
from marketd.store.connections import Connections


class _Fake:
    """As much of a connection as the pool looks at."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = False
        self.in_transaction = False

    def __repr__(self) -> str:
        return f"<{self.number}>"

    def is_closed(self) -> bool:
        return self.closed

    def is_in_transaction(self) -> bool:
        return self.in_transaction

    def terminate(self) -> None:
        self.closed = True

    async def close(self) -> None:
        self.closed = True


def _pool(size: int = 2) -> Connections:
    numbers = itertools.count(1)

    async def connect() -> Any:
        return _Fake(next(numbers))

    return Connections(connect, size=size)


async def test_the_one_used_last_is_used_next() -> None:
    pool = _pool()
    first, second = await pool.take(1), await pool.take(1)
    pool.put(first)
    pool.put(second)
    assert pool.counts == (2, 2)
    assert await pool.take(1) is second


async def test_one_whose_statement_was_cut_off_is_used_last() -> None:
    pool = _pool()
    first, second = await pool.take(1), await pool.take(1)
    pool.put(first)
    pool.put(second, cut_off=True)
    assert await pool.take(1) is first
    assert await pool.take(1) is second


async def test_no_more_than_its_size_are_open_and_who_comes_then_waits_for_one() -> None:
    pool = _pool(size=1)
    only = await pool.take(1)
    with pytest.raises(TimeoutError):
        await pool.take(0.01)
    waiting = asyncio.create_task(pool.take(1))
    await asyncio.sleep(0)
    pool.put(only)
    assert await waiting is only


async def test_one_that_was_lost_or_left_in_a_transaction_is_replaced() -> None:
    pool = _pool()
    lost: Any = await pool.take(1)
    lost.closed = True
    pool.put(lost)
    assert pool.counts == (0, 0)
    left: Any = await pool.take(1)
    left.in_transaction = True
    pool.put(left)
    assert left.closed
    idle: Any = await pool.take(1)
    pool.put(idle)
    idle.closed = True
    assert await pool.take(1) not in (lost, left, idle)


async def test_after_expire_none_is_used_again() -> None:
    pool = _pool()
    taken: Any = await pool.take(1)
    idle: Any = await pool.take(1)
    pool.put(idle)
    pool.expire()
    assert idle.closed
    assert not taken.closed  # its statement may end
    pool.put(taken)
    assert taken.closed
    assert pool.counts == (0, 0)


async def test_a_failed_connect_leaves_room_for_the_next() -> None:
    async def refuse() -> Any:
        raise OSError("nobody listens")

    pool = Connections(refuse, size=1)
    for _ in range(3):
        with pytest.raises(OSError, match="nobody listens"):
            await pool.take(1)


async def test_what_nobody_used_for_long_is_closed_but_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_UNUSED_S", 0.0)
    pool = _pool()
    first, second = await pool.take(1), await pool.take(1)
    pool.put(first)
    await asyncio.sleep(0.001)
    pool.put(second)
    assert pool.counts == (1, 1)
    assert first.is_closed()
    assert await pool.take(1) is second


async def test_close_waits_for_those_in_use_and_then_there_are_none() -> None:
    pool = _pool()
    taken = await pool.take(1)
    closing = asyncio.create_task(pool.close(1))
    await asyncio.sleep(0)
    assert not closing.done()
    pool.put(taken)
    await closing
    assert taken.is_closed()
    stuck = _pool()
    held = await stuck.take(1)
    await stuck.close(0.01)
    assert held.is_closed()


async def test_nothing_is_opened_once_it_closes() -> None:
    pool = _pool(size=1)
    held = await pool.take(1)
    waiting = asyncio.create_task(pool.take(1))
    await asyncio.sleep(0)
    closing = asyncio.create_task(pool.close(1))
    await asyncio.sleep(0)
    pool.put(held)
    for late in (waiting, pool.take(1)):
        with pytest.raises(asyncpg.InterfaceError):
            await late
    await closing
