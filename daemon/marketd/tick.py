"""`marketd tick`: one pass of the scheduler, then the work that waits, and an end by a deadline.

For hosts that have cron and no place for a daemon. A tick is a short-lived daemon without /metrics and LISTEN: the
same claims, leases and budgets hold, so any number of ticks and daemons may work beside each other.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TextIO

from marketd import clock, database, errors
from marketd.app import App
from marketd.config import Config
from marketd.lock_watch import LockWatch
from marketd.outcome import Failed, Priced
from marketd.signals import Stop
from marketd.telemetry import FetchReport, RequestReport

AT_ONCE = 3  #: ticks that work on one database; a further one ends at once, and costs Postgres no connections
_CONNECTIONS = 3  #: two may wait for a lock, a settle and the extension behind it
_LAST_ACTS_S = 2.0  #: of the time, for releasing what is left
_LOOK_EVERY_S = 0.25


@dataclass(slots=True)
class Tally:
    """What came of one tick. Also an observer, to hear of it."""

    busy: bool = False  #: others were at work, and nothing was done
    planned: bool = False  #: the scheduler's pass was ours to do
    done: int = 0
    failed: int = 0
    again: int = 0  #: runs of jobs after which the job waits once more
    calls: int = 0
    next_s: float | None = None  #: seconds after the end until more could be done; None: nothing waits
    stopped: str | None = None  #: the signal that cut it off
    error: errors.DatabaseUnavailable | None = field(default=None, repr=False)

    def request_done(self, report: RequestReport) -> None:
        self.calls += not report.given_back

    def fetches_done(self, reports: Sequence[FetchReport]) -> None:
        for outcome in [
            outcome for report in reports if report.end == "settled" for outcome in report.outcomes
        ]:
            match outcome:
                case Priced():
                    self.done += 1
                case Failed():
                    self.failed += 1
                case _:
                    self.again += 1

    def event(self, name: str, **fields: object) -> None:
        """Nothing: events are for the log."""


class Tick(App):
    """One tick. It ends by itself when nothing that waits could start before the deadline."""

    def __init__(self, config: Config, within: timedelta) -> None:
        """`within`: when it is over, fetches that were still under way included."""
        self.tally = Tally()
        super().__init__(config, observers=(self.tally,))
        whole_s = within.total_seconds()
        self._drain_s = min(config.jobs.shutdown_grace.total_seconds(), whole_s / 4)
        self._claim_until = clock.monotonic() + whole_s - self._drain_s - _LAST_ACTS_S

    @property
    def _pool_size(self) -> int:
        return min(_CONNECTIONS, self._config.database.pool_size)

    def grace_s(self) -> float:
        return self._drain_s

    @property
    def _log_stream(self) -> TextIO:
        return sys.stderr  # stdout is for the figures

    def _announce(self, on_ready: Callable[[], None] | None) -> None:
        self._observer.event("tick_started", lanes=self._lanes.names)

    async def _database(self, stack: AsyncExitStack) -> str:
        if (running := database.running_embedded(self._config)) is not None:
            return running
        return await super()._database(stack)

    async def _serve_http(self, stack: AsyncExitStack) -> None:
        """Not at all: a daemon on this machine may have the port, and nobody scrapes what is gone in a minute."""

    async def _may_enter(self) -> bool:
        entered = await self._daemons.enter_as_tick(most=AT_ONCE, alive_for=self._scheduler.timing.alive_for)
        self.tally.busy = not entered
        return entered

    async def _renewed(self, old: Config | None, new: Config) -> list[tuple[str, str]]:
        # Refused credentials are probed anew when they change, not with every tick.
        if await self._daemons.is_in_force(new.digest(shared=True)):
            return []
        return await super()._renewed(old, new)

    def _side_tasks(self) -> Sequence[tuple[str, Callable[[], Coroutine[Any, Any, None]]]]:
        return (
            ("poller", self._poller.run),
            ("recorder", self._recorder.run),
            ("lock watch", LockWatch(self._db, self._observer).run),
            ("errand", self._errand),
        )

    async def _errand(self) -> None:
        try:
            self.tally.planned = await self._scheduler.one_pass("tick")
            async with asyncio.timeout(max(0.0, self._claim_until - clock.monotonic())):
                await self._wait_out()
        except TimeoutError:
            pass  # whatever hangs: for its last acts there is time
        except errors.DatabaseUnavailable as error:
            self.tally.error = error
        self._stop.set()

    async def _wait_out(self) -> None:
        """Until nothing that waits could start in time."""
        while not self._stop.is_set():
            chance_s = self.tally.next_s = await self._next_chance_s()
            left_s = self._claim_until - clock.monotonic()
            if not self._lanes.busy and (chance_s is None or chance_s > left_s):
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _next_chance_s(self) -> float | None:
        """Seconds until something that waits could start, here; None when nothing waits."""
        states = await self._stores.jobs.poll(self._scheduler.timing.alive_for)
        due = [state.next_due_s for state in states if state.next_due_s is not None]
        waiting = [await self._stores.jobs.next_chance_s(*lane) for lane in self._lanes]
        return min([*due, *(chance for chance in waiting if chance is not None)], default=None)


async def tick(config: Config, within: timedelta) -> Tally:
    """One tick. Raises ConfigError, SchemaError or DatabaseUnavailable."""
    work = Tick(config, within)
    stop = Stop()
    await work.serve(stop)
    work.tally.stopped = stop.signal_name
    if work.tally.error is not None:
        with database.fitting(lambda: work.dsn or ""):
            raise work.tally.error
    return work.tally
