"""The daemon, or a tick of it, as a process: its event loop, its log, its exit code."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

from marketd import errors, logs, signals
from marketd.app import App
from marketd.config import Config
from marketd.signals import Stop
from marketd.tick import Tally
from marketd.tick import tick as one_tick

_TEMPORARY = 75
#: New objects between two rounds of the garbage collector, and rounds before older objects are looked at, too. A claim
#: brings thousands that go by themselves at their settle; by the default of 700 they are gone through again and again.
_COLLECT_AFTER = (10_000, 20, 20)
_OVERTIME_S = 4.5  #: after the grace period a stopped process ends, whatever still hangs
_CLOSE_S = 1.0  #: and so long after its work is over


def run(config: Config, path: Path | None = None) -> int:
    """Serve until a signal, as `marketd run` does. Returns the exit code; expected failures are told in one line."""
    logs.setup(config.log)
    logs.hide(config.secrets())
    faulthandler.enable()
    return _in_loop(lambda: _coded(_serve(App(config, path))))


async def _coded(serving: Coroutine[Any, Any, None]) -> int:
    """The exit code; what failed is told."""
    log = logs.LogObserver()
    try:
        await serving
    except errors.ConfigError as error:
        for problem in error.problems:
            log.event("cannot_start", problem=problem)
        return 78
    except errors.SchemaError as error:
        log.event("cannot_start", problem=str(error))
        return 78
    except errors.DatabaseUnavailable as error:
        log.event("cannot_start", problem=str(error))
        return _TEMPORARY
    except errors.MarketdError as error:
        log.event("cannot_start", problem=str(error))
        return 1
    except BaseExceptionGroup as group:
        for crash in _leaves(group):
            log.event("crashed", error=f"{type(crash).__name__}: {crash}", exc_info=crash)
        return 1
    return 0


async def _serve(app: App) -> None:
    """Serve, and see to it that a stop is over in time."""
    stop = Stop()
    late: list[threading.Timer] = []

    async def watch() -> None:
        await stop.wait()
        # In a thread, so that neither a hanging Postgres nor a hanging event loop can keep the process.
        late.append(_after(app.grace_s() + _OVERTIME_S, _end))

    watching = asyncio.create_task(watch())
    try:
        await app.serve(stop)
    finally:
        watching.cancel()
        for timer in late:
            timer.cancel()


def _end() -> None:
    # Leases return what this process holds.
    logs.LogObserver().event("stopped", released=0, error="something hangs")
    os._exit(1)


def tick(config: Config, within: timedelta, tell: Callable[[Tally], int]) -> int:
    """One tick, with its log on stderr; `tell` prints what came of it and gives the exit code.

    The process ends with exit code 75 if it is not over after `within`. Raises ConfigError, SchemaError or
    DatabaseUnavailable, and an exception group for what is a bug.
    """
    logs.setup(config.log, stream=sys.stderr)
    logs.hide(config.secrets())
    late = _after(within.total_seconds(), _give_up)

    async def told() -> int:
        return tell(await one_tick(config, within))

    try:
        return _in_loop(told)
    finally:
        late.cancel()


def _give_up() -> None:
    # Whatever hangs, cron shall not pile up processes. Leases return what this one holds.
    print("marketd: tick: its time is over, and what it waits for hangs", file=sys.stderr, flush=True)
    os._exit(_TEMPORARY)


def collect_seldom() -> None:
    """Have the garbage collector go by the rhythm of a daemon's work."""
    gc.set_threshold(*_COLLECT_AFTER)


def _in_loop(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Its exit code. No thread that hangs (a name is looked up, nobody answers) keeps a process whose work is over."""
    collect_seldom()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(work())
        signals.go_deaf()
        kept = _after(_CLOSE_S, lambda: _leave(code))
    kept.cancel()
    return code


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _after(seconds: float, act: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    return timer


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where the extra `fast` is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
