"""Waiting for an event, for so long at most, without losing a cancel."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

import pytest

import marketd
from marketd import clock


async def test_it_tells_whether_the_event_happened() -> None:
    event = asyncio.Event()
    assert not await clock.happens(event, 0.01)
    asyncio.get_running_loop().call_later(0.01, event.set)
    assert await clock.happens(event, 5)
    assert await clock.happens(event, 0)


@pytest.mark.parametrize("within_s", [0.0, 5.0])
async def test_a_cancel_in_the_moment_of_the_event_is_not_lost(within_s: float) -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(clock.happens(event, within_s))
    await asyncio.sleep(0)
    event.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_nothing_waits_by_wait_for_which_loses_cancels_before_python_3_12() -> None:
    root = Path(marketd.__file__).parent
    for path in root.rglob("*.py"):
        names = {
            node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
        }
        assert "wait_for" not in names, path
