"""An idle daemon costs next to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
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


async def test_a_daemon_that_seldom_polls_is_missed_before_its_work_is_given_to_others(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    data = settings(
        database, sandbox, tmp_path, scheduler={"poll": "1h", "interval": "1h"}, jobs={"lease": "8s"}
    )
    left = "select extract(epoch from alive_until - clock_timestamp())::float8 from market_daemons"
    async with running(config.from_mapping(data, wiring.provider_types())):
        for _ in range(8):
            assert 0 < await db.fetchval(left) < 8
            await asyncio.sleep(1)  # the time that is measured, not one that is waited out


_MEASURED_S = 12.0
_MOST_A_MINUTE = 60


async def test_an_idle_daemon_with_all_its_sessions_makes_less_than_a_statement_a_second(
    database: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    connect = asyncpg.Connection.__init__

    def overheard(connection: asyncpg.Connection, *args: Any, **kwargs: Any) -> None:
        connect(connection, *args, **kwargs)
        connection.add_query_logger(lambda record: made.append(record.query))

    monkeypatch.setattr(asyncpg.Connection, "__init__", overheard)
    data = settings(database, sandbox, tmp_path, providers=("stockx", "alias", "ebay"))
    data |= {"scheduler": {}, "jobs": {}}  # what holds when nothing is said
    async with running(config.from_mapping(data, wiring.provider_types())) as app:
        await _quiet(made)
        before = len(made)
        # Twice a minute, so more than this time's share of them; they count wherever they fall.
        await app._gauges.refresh()
        await asyncio.sleep(_MEASURED_S)  # the time that is measured, not one that is waited out
        idle = made[before:]
    assert any("pg_listening_channels" in query for query in idle)
    assert any("alive_until" in query for query in idle)
    assert len(idle) < _MOST_A_MINUTE * _MEASURED_S / 60, idle


async def _quiet(made: list[str], for_s: float = 1.0) -> None:
    """Wait until the start is over: no statement for so long."""
    while True:
        count = len(made)
        await asyncio.sleep(for_s)
        if count == len(made):
            return
