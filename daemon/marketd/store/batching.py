"""Many askers, few statements: while one statement runs, what is asked next gathers for the one after it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Answers each call from a statement that serves many.

    A lone call starts at once, so nothing is ever late for the sake of a batch. Back-pressure is the caller's:
    it waits for its answer, and so many callers as there are make the longest batch, up to `at_most`.
    """

    def __init__(
        self, run: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]], *, at_most: int
    ) -> None:
        """`run` gives one answer for each item, in order; an exception among them is raised to its asker only.

        One that `run` itself raises is raised to all askers of the batch.
        """
        self._run = run
        self._at_most = at_most
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._at_most], self._waiting[self._at_most :]
                await self._answer([(item, answer) for item, answer in batch if not answer.cancelled()])
        finally:
            self._worker = None

    async def _answer(self, batch: Sequence[tuple[Item, asyncio.Future[Answer]]]) -> None:
        answers: Sequence[Answer | Exception]
        try:
            answers = await self._run([item for item, _ in batch]) if batch else ()
        except Exception as error:
            answers = [error] * len(batch)
        for (_, waiting), found in zip(batch, answers, strict=True):
            if waiting.cancelled():
                continue
            if isinstance(found, Exception):
                waiting.set_exception(found)
            else:
                waiting.set_result(found)
