"""Many askers, few statements: while one statement runs, what is asked next gathers for the one after it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Answers each call from a statement that serves many.

    A lone call starts at once, so nothing is ever late for the sake of a batch. Back-pressure is the caller's:
    it waits for its answer.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        at_most: int,
        at_once: int = 1,
        weight: Callable[[Item], int] = lambda _: 1,
        unclaimed: Callable[[Answer], None] = lambda _: None,
    ) -> None:
        """`run` gives one answer for each item, in order; an exception among them is raised to its asker only.

        One that `run` itself raises is raised to all askers of the batch. A batch is full when its items weigh
        `at_most`; while a statement runs, further ones begin for full batches only, `at_once` of them together.
        `unclaimed` is called with an answer whose asker was cancelled while its statement ran.
        """
        self._run = run
        self._at_most = at_most
        self._at_once = at_once
        self._weight = weight
        self._unclaimed = unclaimed
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._waits = 0  #: what those weigh together
        self._running = 0  #: statements
        self._workers: set[asyncio.Task[None]] = set()  #: the loop itself holds them weakly only

    def __call__(self, item: Item) -> asyncio.Future[Answer]:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        self._waits += self._weight(item)
        if self._worth_another():
            self._running += 1
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return answer

    async def cut_off(self) -> None:
        """End the statements under way; nobody waits for their answers any more."""
        for worker in self._workers:
            worker.cancel()
        if self._workers:
            await asyncio.wait(self._workers)

    def _worth_another(self) -> bool:
        """Whether a statement should begin beside those that run."""
        if self._running == 0:
            return bool(self._waiting)
        return self._running < self._at_once and self._waits >= self._at_most

    async def _work(self) -> None:
        while True:
            try:
                await self._answer(self._next_batch())
            finally:
                self._running -= 1
            if not self._worth_another():
                return
            self._running += 1

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        batch, weight = [], 0
        while self._waiting and weight < self._at_most:
            item, answer = self._waiting.popleft()
            weight += self._weight(item)
            if not answer.cancelled():
                batch.append((item, answer))
        self._waits -= weight
        return batch

    async def _answer(self, batch: Sequence[tuple[Item, asyncio.Future[Answer]]]) -> None:
        answers: Sequence[Answer | Exception]
        try:
            answers = await self._run([item for item, _ in batch]) if batch else ()
        except Exception as error:
            answers = [error] * len(batch)
        for (_, waiting), found in zip(batch, answers, strict=True):
            if isinstance(found, Exception):
                if not waiting.cancelled():
                    waiting.set_exception(found)
            elif waiting.cancelled():
                self._unclaimed(found)
            else:
                waiting.set_result(found)
