"""Several daemons, one Postgres, one provider: what the provider itself counts never exceeds any limit."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from harness import Daemon, settings, until
from marketd.sandbox import Request, Sandbox
from windows import SESSION

LONG = bool(
    os.environ.get("MARKETD_LONG")
)  #: as `make soak` runs it: an hour of a minute, 100 calls, 1,000 jobs
WINDOW_S = 60 if LONG else 15
QUOTA = 100 if LONG else 40
JOBS = 1000 if LONG else 300
RETRY_AFTER_S = 30 if LONG else 4
PER_SECOND = 5
CONCURRENCY = 2


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=3, limits={"*": None}) as server:
        yield server


def _config(
    database: str, sandbox: Sandbox, folder: Path, providers: tuple[str, ...] = ("stockx",)
) -> dict[str, object]:
    return settings(
        database,
        sandbox,
        folder / "state",
        providers=providers,
        stanza={
            "budget": {"per_hour": QUOTA},
            "pace": {"calls": PER_SECOND, "per": "1s"},
            "concurrency": CONCURRENCY,
        },
        testing={"hour": f"{WINDOW_S}s", "day": "1h"},
    )


async def _ask_for(db: asyncpg.Connection, count: int, priority: int, provider: str = "stockx") -> None:
    items = [{"provider": provider, "sku": f"NONE-{priority}-{n}", "size": "9"} for n in range(count)]
    await db.fetch("select * from market_enqueue_many($1::jsonb, $2)", json.dumps(items), priority)


@pytest.mark.timeout(400 if LONG else 150)
async def test_three_daemons_of_which_two_are_killed_again_and_again_stay_within_every_limit(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    dice = random.Random(20)
    await _ask_for(db, JOBS, 200)
    daemons = [Daemon(tmp_path / str(n), _config(database, sandbox, tmp_path / str(n))) for n in range(3)]
    await asyncio.gather(*(daemon.start() for daemon in daemons))
    kills = 0
    try:

        async def a_whole_window() -> bool:
            nonlocal kills
            victim = daemons[dice.randrange(2)]
            await asyncio.sleep(dice.uniform(1, 4))
            await victim.kill()
            kills += 1
            await victim.start()
            return len(_windows(sandbox)) >= (4 if LONG else 3)

        await until(a_whole_window, within_s=5 * WINDOW_S + 30, what="whole windows under fire")
    finally:
        codes = await asyncio.gather(*(daemon.stop() for daemon in daemons))
    assert set(codes) <= {0}, codes
    assert await db.fetchval("select count(*) from market_jobs where status = 'pending'") > 0, (
        "no work was left"
    )
    windows = _windows(sandbox)
    assert max(windows.values()) <= QUOTA, windows
    # While work waits nothing is hoarded: a whole window (neither the first nor the last) is charged to its last call,
    # and hardly anything is charged while it waits, so a kill rarely hits a call that is charged and not on the wire.
    for window in sorted(windows)[1:-1]:
        charged = await db.fetchval(
            "select used from market_budgets where window_kind = 'hour' and window_start = to_timestamp($1::float8)",
            float(window * WINDOW_S),
        )
        assert charged == QUOTA, (window, charged)
        assert windows[window] >= 0.98 * QUOTA - 1, (windows, kills)
    closest_s = _closest_s(sandbox)
    print(
        f"{dict(windows)} calls a window, {kills} kills, {PER_SECOND + 1} calls never within {closest_s:.3f} s"
    )
    assert closest_s > 1, f"{PER_SECOND + 1} calls within {closest_s:.3f} s"
    over = await db.fetchval("select count(*) from market_budgets where used > quota")
    assert over == 0
    assert (
        await db.fetchval(
            "select count(*) from market_jobs where status = 'failed' and error_code = 'poison'"
        )
        == 0
    )


def _closest_s(sandbox: Sandbox) -> float:
    """The shortest time within which the provider itself saw one call more than the pace allows in a second."""
    times = sorted(request.monotonic for request in _calls(sandbox))
    return min(later - earlier for earlier, later in zip(times, times[PER_SECOND:], strict=False))


@pytest.mark.timeout(RETRY_AFTER_S + 90)
async def test_a_429_closes_the_lane_for_every_daemon_and_one_probe_reopens_it(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    both = ("stockx", "alias")
    daemons = [
        Daemon(tmp_path / str(n), _config(database, sandbox, tmp_path / str(n), both)) for n in range(2)
    ]
    sandbox.fault("stockx", "status", times=1, endpoint="search", status=429, retry_after=RETRY_AFTER_S)
    await asyncio.gather(*(daemon.start() for daemon in daemons))
    await _ask_for(db, 20, 200)
    await _ask_for(db, 60, 200, "alias")
    try:
        await until(
            lambda: asyncio.sleep(0, len(_calls(sandbox)) >= 8),
            within_s=RETRY_AFTER_S + WINDOW_S + 15,
            what="requests after the pause",
        )
    finally:
        await asyncio.gather(*(daemon.stop() for daemon in daemons))
    calls = _calls(sandbox)
    refused = next(request for request in calls if request.status == 429)
    later = sorted((request for request in calls if request.wall > refused.wall), key=_at)
    after_s = [_at(request) - _at(refused) for request in later]
    first_s = min(seconds for seconds in after_s if seconds > 0.5)
    print(f"Retry-After {RETRY_AFTER_S}: the probe came after {first_s:.2f} s, {len(calls)} calls")
    # What had left before the answer was known may still arrive; then there is silence ...
    assert not [seconds for seconds in after_s if 0.5 < seconds < RETRY_AFTER_S], after_s
    # ... and then one request alone: nobody else goes before its answer is there.
    probe, second = [request for request in later if _at(request) - _at(refused) >= RETRY_AFTER_S][:2]
    assert probe.seconds is not None
    assert second.monotonic >= probe.monotonic + probe.seconds
    others = [
        request for request in _calls(sandbox, "alias") if 0 < _at(request) - _at(refused) < RETRY_AFTER_S
    ]
    assert len(others) >= 5, "the other lane stood still as well"
    assert await db.fetchval("select max(attempt) from market_jobs") <= 1


@pytest.mark.timeout(120)
async def test_a_probe_whose_daemon_is_killed_is_given_up_and_one_other_reopens_the_lane(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    data: Any = [_config(database, sandbox, tmp_path / str(n)) for n in range(2)]
    for one in data:
        one["testing"] = SESSION
    daemons = [Daemon(tmp_path / str(n), one) for n, one in enumerate(data)]
    sandbox.fault("stockx", "status", times=1, endpoint="search", status=429, retry_after=2)
    await asyncio.gather(*(daemon.start() for daemon in daemons))
    await _ask_for(db, 20, 200)
    try:
        await until(lambda: _lane(db, "open"), what="the 429")
        sandbox.fault("stockx", "stall", times=1, endpoint="search", seconds=15)  # too long for its daemon
        prober = await until(lambda: _lane(db, "half_open"), what="the probe")
        await until(
            lambda: asyncio.sleep(0, any(request.seconds is None for request in _calls(sandbox))),
            what="the probe's arrival",
        )
        killed = time.monotonic()
        await next(daemon for daemon in daemons if daemon.process.pid == prober["pid"]).kill()
        await until(lambda: _lane(db, "closed"), within_s=40, what="another probe")

        async def after_it() -> list[Request]:
            found = [request for request in _calls(sandbox) if request.monotonic > killed]
            return sorted(found, key=_at) if len(found) > 1 else []

        probe, second = (await until(after_it, what="the calls after it"))[:2]
        assert probe.seconds is not None
        assert second.monotonic >= probe.monotonic + probe.seconds, "two probes at a time"
    finally:
        await asyncio.gather(*(daemon.stop() for daemon in daemons))


async def _lane(db: asyncpg.Connection, circuit: str) -> asyncpg.Record | None:
    """The lane and its prober's process, once its circuit is like this."""
    return await db.fetchrow(
        "select p.circuit, d.pid from market_providers p left join market_daemons d on d.daemon_id = p.circuit_prober"
        " where p.provider = 'stockx' and p.circuit = $1 and ($1 <> 'half_open' or d.pid is not null)",
        circuit,
    )


async def test_two_daemons_that_differ_are_told_the_lower_limit_holds_and_no_lane_is_stopped_by_the_last_to_start(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    def of(number: int, **stanza: Any) -> Any:
        data: Any = _config(database, sandbox, tmp_path / str(number))
        data["testing"] = SESSION
        data["providers"]["stockx"].update(json.loads(json.dumps(stanza)))
        return data

    generous = of(0, budget={"per_hour": 50}, pace={"calls": 100, "per": "1s"})
    strict = of(1, budget={"per_hour": 5}, pace={"calls": 50, "per": "1s"}, enabled=False)
    first, second = (Daemon(tmp_path / str(n), data) for n, data in enumerate((generous, strict)))
    try:
        await first.start()
        await second.start()  # is off there, and asked for less
        await _ask_for(db, 20, 200)
        await until(lambda: asyncio.sleep(0, len(_calls(sandbox)) >= 5), what="the calls of the lower limit")
        why = await db.fetchrow(
            "select w.* from (select max(id) as id from market_jobs where status = 'pending') j, market_why(j.id) w"
        )
        assert why is not None
        assert why["waiting_for"] == "budget", dict(why)
        for daemon in (first, second):  # also the one that was there before
            await until(
                lambda daemon=daemon: asyncio.sleep(0, '"config_differs"' in daemon.text()),
                what="a word of it",
            )
        assert await db.fetchval("select enabled from market_providers where provider = 'stockx'")
        assert await second.stop() == 0
        # With the strict one gone the other's limit holds.
        await until(
            lambda: asyncio.sleep(0, len(_calls(sandbox)) >= 15), what="the calls of the other's limit"
        )
        # And when nobody runs the lane any more it is off.
        await second.start()
        assert await first.stop() == 0
        off = "select not enabled and off_reason ~ 'enabled: false' from market_providers where provider = 'stockx'"
        await until(lambda: db.fetchval(off), what="the lane's end")
    finally:
        await asyncio.gather(*(daemon.stop() for daemon in (first, second)))
    assert len(_calls(sandbox)) <= 50


def _calls(sandbox: Sandbox, provider: str = "stockx") -> list[Request]:
    return [
        request
        for request in sandbox.requests
        if request.provider == provider and request.endpoint != "token"
    ]


def _at(request: Request) -> float:
    return request.wall.timestamp()


def _windows(sandbox: Sandbox) -> Counter[int]:
    return Counter(int(_at(request) // WINDOW_S) for request in _calls(sandbox))
