"""Readiness and the watchdog: a loop that hangs is told, an absent database is not mistaken for one."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from marketd.health import Health

LONG_AGO = 1000.0


@pytest.fixture
def parts() -> SimpleNamespace:
    """Loops that all came round just now."""
    now = time.monotonic()
    return SimpleNamespace(
        lane=SimpleNamespace(last_turn=now, busy=0, refused=None),
        poller=SimpleNamespace(
            last_turn=now, last_poll=now, refused=None, timing=SimpleNamespace(poll=timedelta(seconds=5))
        ),
        scheduler=SimpleNamespace(last_turn=now),
        listener=SimpleNamespace(connected=True, last_echo=now),
    )


def _health(parts: Any) -> Health:
    lanes = {("stockx", "default"): parts.lane}
    return Health(lanes, parts.poller, parts.scheduler, parts.listener, timedelta(seconds=10))


def test_a_daemon_that_gets_on_is_ready(parts: SimpleNamespace) -> None:
    assert _health(parts).reasons() == []


@pytest.mark.parametrize(
    ("part", "mark", "word"),
    [
        ("lane", "last_turn", "lane stockx/default"),
        ("poller", "last_turn", "poller"),
        ("scheduler", "last_turn", "scheduler"),
        ("listener", "last_echo", "listener"),
    ],
)
def test_a_loop_that_hangs_is_named(parts: SimpleNamespace, part: str, mark: str, word: str) -> None:
    setattr(getattr(parts, part), mark, time.monotonic() - LONG_AGO)
    [reason] = _health(parts).stuck()
    assert reason.startswith(word)


@pytest.mark.parametrize("part", ["lane", "poller", "scheduler"])
def test_a_loop_that_waits_for_a_statement_as_long_as_that_may_take_does_not_hang(
    parts: SimpleNamespace, part: str
) -> None:
    lanes = {("stockx", "default"): parts.lane}
    health = Health(lanes, parts.poller, parts.scheduler, parts.listener, timedelta(minutes=10))
    getattr(parts, part).last_turn = time.monotonic() - 1200  # for a connection, and then for its answer
    assert health.stuck() == []
    getattr(parts, part).last_turn = time.monotonic() - 3600
    assert len(health.stuck()) == 1


def test_a_lane_that_waits_for_a_slow_provider_does_not_hang(parts: SimpleNamespace) -> None:
    parts.lane.last_turn, parts.lane.busy = time.monotonic() - LONG_AGO, 1
    assert _health(parts).stuck() == []


def test_an_absent_database_makes_unready_and_does_not_starve_the_watchdog(parts: SimpleNamespace) -> None:
    parts.poller.last_poll = time.monotonic() - LONG_AGO
    parts.listener.connected = False
    parts.listener.last_echo = time.monotonic() - LONG_AGO
    health = _health(parts)
    assert "database" in health.reasons()[0]
    assert health.stuck() == []


def test_what_postgres_refuses_is_a_reason(parts: SimpleNamespace) -> None:
    parts.lane.refused = "permission denied for table market_jobs"
    [reason] = _health(parts).reasons()
    assert reason == "Postgres refuses what lane stockx/default asks: permission denied for table market_jobs"


def test_a_draining_daemon_takes_no_new_work(parts: SimpleNamespace) -> None:
    health = _health(parts)
    health.draining = True
    assert health.reasons() == ["draining: a stop was asked for"]


async def test_the_watchdog_starves_as_soon_as_a_loop_hangs(
    parts: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
        manager.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        monkeypatch.setenv("WATCHDOG_USEC", "20000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        loop = asyncio.get_running_loop()
        feeding = asyncio.create_task(_health(parts).feed_watchdog())
        assert await loop.sock_recv(manager, 100) == b"WATCHDOG=1"
        parts.lane.last_turn = time.monotonic() - LONG_AGO
        # One ping may have been sent before the hang; a second one never comes.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_pings(manager, 2), 0.3)
        feeding.cancel()


async def _pings(manager: socket.socket, count: int) -> None:
    for _ in range(count):
        await asyncio.get_running_loop().sock_recv(manager, 100)
