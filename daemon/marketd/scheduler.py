"""The timers: a poll that keeps every lane honest, and the scheduler's passes with their audit rows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, TypeVar

from marketd import clock, errors
from marketd.retry import database_backoff_s
from marketd.store.jobs import JobStore, LaneState
from marketd.store.runs import Run, RunStore
from marketd.telemetry import Observer

Done = TypeVar("Done")
_SWEEP_AT_MOST = timedelta(seconds=15)
_ALIVE_AT_LEAST = timedelta(seconds=5)  #: a shorter stall is no death
_LOOK_ROUND_S = 30.0  #: between passes the loop comes round so often, which the watchdog sees
_DEMAND_CAP_S = 3600.0
_HELD_UP_S = 0.5  #: before another look at an urgent request that meets a row in somebody's hands
_ASKED_TOGETHER = timedelta(seconds=1)  #: every daemon hears of a wish for a pass, and one pass is enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What the timers need of the configuration; swapped whole by a reload."""

    interval: timedelta
    poll: timedelta
    lease: timedelta
    keep_finished: timedelta
    keep_history: timedelta
    keep_requests: timedelta

    @property
    def alive_for(self) -> timedelta:
        """How long after its last sign of life this daemon counts as alive.

        Shorter than a lease: else the job that killed it would be taken from one who seems to live, and pay nothing.
        """
        return min(3 * self.poll + timedelta(seconds=10), max(self.lease * 0.75, _ALIVE_AT_LEAST))

    @property
    def sweep_every(self) -> timedelta:
        """How often to look for work of the dead."""
        return min(_SWEEP_AT_MOST, self.lease / 4)


class Poller:
    """Polls for all lanes at once, as often as `poll` or as the next due job says.

    Sweeps up after the dead by a time of its own: how long their work is held is for the lease to say.
    """

    def __init__(
        self,
        timing: Timing,
        jobs: JobStore,
        wake: Callable[[LaneState], None],
        observer: Observer,
        wake_all: Callable[[], None] = lambda: None,
    ) -> None:
        """`wake` a lane that has work; `wake_all` when Postgres refuses to say which have."""
        self.timing = timing
        self._jobs = jobs
        self._wake_lane = wake
        self._wake_all = wake_all
        self._observer = observer
        self._kick = asyncio.Event()
        self.last_poll: float | None = None  #: monotonic time of the last one that Postgres answered
        self.last_turn = clock.monotonic()  #: when the loop last came round, for the watchdog
        self.refused: str | None = None  #: why Postgres refuses the poll, as long as it does

    def kick(self) -> None:
        """Poll now: something was deferred, an urgent request met a locked row, or the listener is back."""
        self._kick.set()

    async def run(self) -> None:
        failures = 0
        swept = poll_at = float("-inf")
        while True:
            wanted = self._kick.is_set()
            self._kick.clear()
            now = self.last_turn = clock.monotonic()
            try:
                # The poll first: it says that we live, and no sweep that fails may keep it from that.
                if wanted or now >= poll_at:
                    poll_at = await self.poll() + clock.monotonic()
                if now >= swept + self.timing.sweep_every.total_seconds():
                    if await self.sweep():
                        poll_at = float("-inf")
                    swept = clock.monotonic()
                failures, self.refused = 0, None
                wait_s = min(poll_at, swept + self.timing.sweep_every.total_seconds()) - clock.monotonic()
            except errors.DatabaseError as error:
                failures += 1
                self._told(error)
                poll_at = float("-inf")  # whatever was wanted still is
                wait_s = database_backoff_s(failures, error)
            await clock.happens(self._kick, wait_s)

    async def poll(self) -> float:
        """Poll once and wake the lanes that have work. Returns the seconds until the next poll is due."""
        states = await self._jobs.poll(self.timing.alive_for)
        self.last_poll = clock.monotonic()
        for state in states:
            if state.ready:
                self._wake_lane(state)
        due = [state.next_due_s for state in states if state.next_due_s is not None]
        if any(state.held_up for state in states):
            due.append(_HELD_UP_S)
        return min(
            [clock.jittered(self.timing.poll.total_seconds(), spread=0.1), *(max(s, 0.01) for s in due)]
        )

    async def sweep(self) -> bool:
        """Return the jobs of dead workers to the queue; reopen what was asked too late to be served.

        Returns whether there were any.
        """
        if self.timing.poll > self.timing.sweep_every:
            await self._if_allowed(self._jobs.beat(self.timing.alive_for))
        found = await self._if_allowed(self._jobs.rescue()) or ()
        for rescued in found:
            self._observer.event(
                "rescued",
                provider=rescued.provider,
                count=1,
                job_id=rescued.job_id,
                poisoned=rescued.poisoned,
            )
        if reopened := await self._if_allowed(self._jobs.reopen()):
            self._observer.event("jobs_reopened", jobs=reopened)
        return bool(found or reopened)

    async def _if_allowed(self, statement: Awaitable[Done]) -> Done | None:
        """A part of the sweep; one that Postgres refuses is told, and keeps neither the other nor the poll."""
        try:
            return await statement
        except errors.StatementRefused as error:
            self._observer.event("database_refuses", error=str(error), lane="poller")
            return None

    def _told(self, error: errors.DatabaseError) -> None:
        refused = isinstance(error, errors.StatementRefused)
        self._observer.event(
            "database_refuses" if refused else "database_unavailable", error=str(error), lane="poller"
        )
        self.refused = str(error) if refused else None
        if refused:
            self._wake_all()


class Chore(Protocol):
    """A part of a pass; its name is told when it fails."""

    __name__: str

    def __call__(self) -> Awaitable[None]: ...


class Scheduler:
    """One pass per interval over all daemons: planning, pruning, learning, and the audit row."""

    def __init__(
        self,
        timing: Timing,
        runs: RunStore,
        jobs: JobStore,
        observer: Observer,
        chores: Sequence[Chore] = (),
    ) -> None:
        self.timing = timing
        self._runs = runs
        self._jobs = jobs
        self._observer = observer
        self._chores = chores
        self._now = asyncio.Event()
        self._retimed = asyncio.Event()
        self.last_pass = clock.monotonic()  #: when the last one was over: the interval begins
        self.last_turn = clock.monotonic()  #: when the loop last got on, for the watchdog

    def run_now(self) -> None:
        """Somebody asked for a pass (market_run_now)."""
        self._now.set()

    def turned(self) -> None:
        """A part of a pass is done. Its statements are limited in time each, not together."""
        self.last_turn = clock.monotonic()

    async def run(self) -> None:
        while True:
            forced = self._now.is_set()
            self._now.clear()
            try:
                await self.one_pass("notify" if forced else "timer", forced=forced)
            except errors.DatabaseError as error:
                self._observer.event("run_done", result="failed", error=str(error))
            self.last_pass = clock.monotonic()
            await self._until_next()

    def retime(self, timing: Timing) -> None:
        """From now on these hold, also for the pass that is waited for."""
        self.timing = timing
        self._retimed.set()

    async def _until_next(self) -> None:
        late = clock.jittered(1.0, spread=0.05)
        while not self._now.is_set():
            self._retimed.clear()
            self.turned()
            left_s = self.last_pass + self.timing.interval.total_seconds() * late - clock.monotonic()
            if left_s <= 0:
                return
            await _either(self._now, self._retimed, min(left_s, _LOOK_ROUND_S))

    async def one_pass(self, trigger: str, *, forced: bool = False) -> bool:
        """Do one pass unless another daemon did within the interval.

        Raises DatabaseError when it cannot be begun or ended; what fails in it is told. One that is cut off has no end.
        """
        distance = _ASKED_TOGETHER if forced else self.timing.interval * 0.9
        run = await self._runs.begin(trigger, distance, asked=forced)
        if run is None:
            self._observer.event("run_done", result="skipped")
            return False
        failed = await self._chores_of(run)
        error = "; ".join(failed)[:300] or None
        counts = await self._jobs.finished_between(run.previous_at, run.started_at)
        await self._runs.end(run, counts, error)
        if error is None:
            self._observer.event("run_done", result="ok", run_id=run.run_id)
        else:
            self._observer.event("run_done", result="failed", run_id=run.run_id, error=error)
        return True

    async def _chores_of(self, run: Run) -> list[str]:
        """All of them, also those after one that failed: a statement that is slow, or refused, starves no other.

        Returns what failed.
        """

        async def learn_demand() -> None:
            since = min(_DEMAND_CAP_S, max(1.0, (run.started_at - run.previous_at).total_seconds()))
            await self._runs.learn_demand(since)

        chores: Sequence[Chore] = (learn_demand, *self._chores, self._prune)
        failed = []
        for chore in chores:
            try:
                await chore()
            except errors.DatabaseError as error:
                failed.append(f"{chore.__name__.strip('_')}: {error}")
            self.turned()
        return failed

    async def _prune(self) -> None:
        await self._runs.prune(
            jobs=self.timing.keep_finished,
            history=self.timing.keep_history,
            requests=self.timing.keep_requests,
            turned=self.turned,
        )


async def _either(one: asyncio.Event, other: asyncio.Event, timeout_s: float) -> None:
    waiting = {asyncio.create_task(one.wait()), asyncio.create_task(other.wait())}
    try:
        await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
