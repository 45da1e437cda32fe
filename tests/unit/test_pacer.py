"""The pace of one process: one at a time, the most urgent who waits first."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from marketd.clock import monotonic
from marketd.http_client import Pacer

EACH_S = 0.02


class Queue:
    """Requests in front of a pacer, and the order in which it let them through."""

    def __init__(self) -> None:
        self.pacer = Pacer(EACH_S)
        self.passed: list[tuple[str, float]] = []

    def wait(self, name: str, priority: int) -> asyncio.Task[None]:
        return asyncio.create_task(self._wait(name, priority))

    async def _wait(self, name: str, priority: int) -> None:
        await self.pacer.acquire(priority)
        self.passed.append((name, monotonic()))

    def order(self) -> str:
        return "".join(name for name, _ in self.passed)


async def test_the_most_urgent_of_those_who_wait_is_next_and_among_equals_the_first() -> None:
    queue = Queue()
    tasks = [queue.wait(name, 100) for name in "abcd"]
    await asyncio.sleep(0)  # they stand in line: a went through, b is the next already
    tasks += [queue.wait("x", 150), queue.wait("y", 200), queue.wait("z", 200)]
    await asyncio.gather(*tasks)
    assert queue.order() == "abyzxcd"


async def test_one_goes_each_interval_and_never_two_together() -> None:
    queue = Queue()
    await asyncio.gather(*(queue.wait(name, 100 + number) for number, name in enumerate("abcdefgh")))
    times = [at for _, at in queue.passed]
    assert min(b - a for a, b in pairwise(times)) > 0.9 * EACH_S


async def test_who_gives_up_holds_up_nobody() -> None:
    queue = Queue()
    tasks = {name: queue.wait(name, 100) for name in "abcde"}
    await asyncio.sleep(0)
    tasks["b"].cancel()  # the next
    tasks["d"].cancel()  # one further behind
    await asyncio.sleep(0)
    tasks["c"].cancel()  # chosen in this moment, in the place of b
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    assert queue.order() == "ae"
    await queue.wait("f", 1)
    assert queue.order() == "aef"
