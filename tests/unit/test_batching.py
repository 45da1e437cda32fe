"""Many askers, few statements: nobody is late for a batch, nobody is forgotten, no more statements than allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.store.batching import Batcher


class Statements:
    """What a batcher runs: each waits until it is told to end. Items are their own weights."""

    def __init__(self) -> None:
        self.running: list[tuple[list[int], asyncio.Event]] = []
        self.most = 0

    async def run(self, items: Sequence[int]) -> list[int | Exception]:
        ended = asyncio.Event()
        this = (list(items), ended)
        self.running.append(this)
        self.most = max(self.most, len(self.running))
        await ended.wait()
        self.running.remove(this)
        return [ValueError(f"{item} is refused") if item == 13 else item * 10 for item in items]

    def batcher(self, *, at_most: int = 4, at_once: int = 1) -> Batcher[int, int]:
        return Batcher(self.run, at_most=at_most, at_once=at_once, weight=lambda item: item)

    @property
    def batches(self) -> list[list[int]]:
        return [items for items, _ in self.running]

    async def end(self, place: int = 0) -> None:
        self.running[place][1].set()
        await turns()


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_lone_call_starts_at_once_and_what_comes_meanwhile_shares_the_next_statement() -> None:
    statements = Statements()
    ask = statements.batcher()
    first, *later = ask(1), ask(2), ask(1)
    await turns()
    assert statements.batches == [[1, 2, 1]]  # asked in one breath
    more = [ask(1), ask(1)]
    await turns()
    assert statements.batches == [[1, 2, 1]]
    await statements.end()
    assert (await first, [await answer for answer in later]) == (10, [20, 10])
    assert statements.batches == [[1, 1]]
    await statements.end()
    assert [await answer for answer in more] == [10, 10]


async def test_a_batch_ends_with_the_item_that_makes_it_full_and_one_over_the_limit_goes_all_the_same() -> (
    None
):
    statements = Statements()
    ask = statements.batcher()
    answers = [ask(item) for item in (9, 2, 2, 2)]
    for batch in ([9], [2, 2], [2]):
        await turns()
        assert statements.batches == [batch]
        await statements.end()
    assert [await answer for answer in answers] == [90, 20, 20, 20]


async def test_a_second_statement_begins_for_a_full_batch_only() -> None:
    statements = Statements()
    ask = statements.batcher(at_once=2)
    answers = [ask(1)]
    await turns()
    answers += [ask(2)]
    await turns()
    assert statements.batches == [[1]]  # half a batch waits
    answers += [ask(2)]
    await turns()
    assert statements.batches == [[1], [2, 2]]
    answers += [ask(4)]
    await turns()
    assert statements.batches == [[1], [2, 2]]  # two are enough
    await statements.end(1)
    assert statements.batches == [[1], [4]]
    answers += [ask(1)]
    await statements.end(1)
    assert statements.batches == [[1]]  # what is left waits for the first to end
    await statements.end()
    assert statements.batches == [[1]]
    await statements.end()
    assert [await answer for answer in answers] == [10, 20, 20, 40, 10]


async def test_a_refused_item_is_its_own_askers_trouble_and_one_who_gave_up_is_left_out() -> None:
    statements = Statements()
    ask = statements.batcher(at_most=100)
    busy = ask(1)
    await turns()
    refused, gone, fine = ask(13), ask(2), ask(3)
    gone.cancel()
    await statements.end()
    assert statements.batches == [[13, 3]]
    await statements.end()
    assert (await busy, await fine) == (10, 30)
    with pytest.raises(ValueError, match="13 is refused"):
        await refused


async def test_a_statement_that_fails_tells_all_its_askers_and_the_next_one_runs() -> None:
    failing = True

    async def run(items: Sequence[int]) -> list[int | Exception]:
        if failing:
            raise ConnectionError("gone")
        return list(items)

    ask: Batcher[int, int] = Batcher(run, at_most=10)
    told = await asyncio.gather(ask(1), ask(2), return_exceptions=True)
    assert [str(error) for error in told] == ["gone", "gone"]
    failing = False
    assert await ask(3) == 3


@given(
    steps=st.lists(st.one_of(st.integers(1, 5), st.just("end"), st.just("turn")), max_size=60),
    at_most=st.integers(1, 8),
    at_once=st.integers(1, 3),
)
def test_whatever_comes_when_each_is_answered_and_never_are_there_too_many_statements(
    steps: list[int | str], at_most: int, at_once: int
) -> None:
    async def history() -> None:
        statements = Statements()
        ask = statements.batcher(at_most=at_most, at_once=at_once)
        answers: list[tuple[int, asyncio.Future[int]]] = []
        for step in steps:
            if isinstance(step, int):
                answers.append((step, ask(step)))
            elif step == "turn":
                await turns()
            elif statements.running:
                await statements.end(len(answers) % len(statements.running))
        await turns()
        while statements.running:
            await statements.end()
        assert [await answer for _, answer in answers] == [item * 10 for item, _ in answers]
        assert statements.most <= at_once

    asyncio.run(history())
