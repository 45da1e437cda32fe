"""What all contenders share: the command line, the clock, and how a drain is timed."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import asyncpg
import uvloop

Verb = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any] | None]]

_LOOK_EVERY_S = 0.1


def tell(**fields: object) -> None:
    """One JSON line to whoever started this program."""
    print(json.dumps(fields), flush=True)


def main(verbs: Mapping[str, Verb]) -> None:
    """Run the verb of the command line and print its result, with this process's peak memory and CPU time."""
    verb, options = verbs[sys.argv[1]], json.loads(sys.argv[2])

    async def run() -> Mapping[str, Any]:
        return await verb(options) or {}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(run())
    tell(**result, peak_rss_mib=peak_rss_mib(), cpu_s=time.process_time())


def peak_rss_mib() -> float:
    """VmHWM, the most that this process ever held."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024, 1)


def read_stdin_lines(on_line: Callable[[str], None]) -> None:
    """Call `on_line` for each line of standard input, from the running loop."""
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), lambda: on_line(sys.stdin.readline().strip()))


async def asked_to_stop() -> None:
    """Returns when standard input says anything, or ends."""
    stop = asyncio.Event()
    read_stdin_lines(lambda _: stop.set())
    await stop.wait()


async def drained(dsn: str, left: str, done: str, began: float, cap_s: float) -> dict[str, Any]:
    """Wait until `left` is false or time is up; what was done and when it ended.

    `began` is a time.monotonic() of this machine; `left` and `done` are queries of one value.
    """
    connection = await asyncpg.connect(dsn)
    try:
        while await connection.fetchval(left) and time.monotonic() - began < cap_s:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY_S)  # another process drains: no event tells
        ended = time.monotonic()
        return {
            "jobs": await connection.fetchval(done),
            "began": began,
            "ended": ended,
            "seconds": ended - began,
        }
    finally:
        await connection.close()
