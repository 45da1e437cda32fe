"""An idle daemon costs next to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from harness import running, settings
from marketd import config, wiring
from marketd.sandbox import Sandbox


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=1) as server:
        yield server


async def test_an_idle_daemon_polls_no_faster_than_it_was_told(
    database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    data = settings(database, sandbox, tmp_path, providers=("stockx", "alias", "ebay"))
    data["scheduler"] = {"poll": "1s", "interval": "1h"}
    async with running(config.from_mapping(data, wiring.provider_types())) as app:
        polls = 0
        poll = app._poller.poll

        async def counted() -> float:
            nonlocal polls
            polls += 1
            return await poll()

        app._poller.poll = counted  # type: ignore[method-assign]  # only counts; the real one runs
        await asyncio.sleep(4)  # the time that is measured, not one that is waited out
    assert 2 <= polls <= 6
