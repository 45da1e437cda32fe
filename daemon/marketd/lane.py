"""One provider account's claim loop: it claims no more units than it has slots for, and each runs as a task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from marketd import clock, errors
from marketd.fetch import LaneSettings
from marketd.fetching import Fetching, Stores
from marketd.models import Unit
from marketd.retry import database_backoff_s
from marketd.signals import Stop
from marketd.telemetry import Observer

_IDLE_WAIT_S = 1.0  #: before another look at work that cannot be claimed yet (its product is being fetched)
_GATHER_S = 0.005  #: with a backlog, slots that come free within this time share a claim
_RELEASE_S = 1.5  #: for a fetch that was cut off to give its jobs back
_LOOK_ROUND_S = 30.0  #: a lane comes round so often even when nothing happens, which the watchdog sees


class Lane:
    """Claims units of one provider account and runs them, never more than it has slots for."""

    def __init__(
        self, settings: LaneSettings, stores: Stores, observer: Observer, on_deferred: Callable[[], None]
    ) -> None:
        self.settings = settings  #: swapped whole by `reconfigure`
        self._stores = stores
        self._observer = observer
        self._fetching = Fetching(
            stores,
            observer,
            on_deferred,
            in_force=lambda: self.settings,
            on_fetched=lambda: self._freed.set(),
        )
        self._wake = asyncio.Event()
        self._freed = asyncio.Event()  #: a slot may be free
        self._running: set[asyncio.Task[None]] = set()
        self._backlog = False  #: the last claim got all it asked for
        self._halted = False  #: nothing is waited for any more
        self.refused: str | None = None  #: why Postgres refuses what this lane asks, as long as it does
        self.last_turn = clock.monotonic()  #: when the loop last came round, for the watchdog

    @property
    def busy(self) -> int:
        """Fetches under way."""
        return len(self._running)

    def wake(self) -> None:
        """There may be work: look now."""
        self._wake.set()

    def reconfigure(self, settings: LaneSettings) -> None:
        """From the next claim on these hold; fetches under way keep theirs."""
        self.settings = settings
        self._freed.set()
        self.wake()

    async def run(self, stop: Stop, grace_s: Callable[[], float]) -> None:
        """Work until `stop`; then let fetches finish for `grace_s`, and release the rest with attempts refunded."""
        working = asyncio.create_task(self._work(stop), name=f"claims {self._name}")
        stopping = asyncio.create_task(stop.wait())
        left_s = 0.0
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                # What the loop waits for ends now; a statement in it may take the grace period, if Postgres hangs.
                drained_by = clock.monotonic() + grace_s()
                self._halted = True
                self._freed.set()
                self._wake.set()
                await asyncio.wait({working}, timeout=drained_by - clock.monotonic())
                left_s = max(0.0, drained_by - clock.monotonic())
        finally:
            stopping.cancel()
            working.cancel()
            await self._drain(left_s)
            # What it was claiming when it was cut off is given back with the rest, by whoever waits for this to end.
            await asyncio.wait({working}, timeout=_RELEASE_S)
        if not working.cancelled() and working.done():
            working.result()

    async def _work(self, stop: Stop) -> None:
        failures = 0
        while not stop.is_set():
            self.last_turn = clock.monotonic()
            try:
                await self._turn()
                failures, self.refused = 0, None
            except errors.DatabaseError as error:
                failures += 1
                refused = isinstance(error, errors.StatementRefused)
                self.refused = str(error) if refused else None
                name = "database_refuses" if refused else "database_unavailable"
                self._observer.event(name, error=str(error), lane=self._name)
                # A wake tells that the database is back, but not that it was mended.
                event = self._freed if refused else self._wake
                await self._pause(event, database_backoff_s(failures, error))

    async def _turn(self) -> None:
        self._freed.clear()  # before the count: a slot that comes free from here on is heard of
        free = self._free()
        if free <= 0:
            await self._pause(self._freed, _LOOK_ROUND_S)
            return
        # Half of the slots at once: while these are fetched, the next are claimed.
        half = (self.settings.concurrency + 1) // 2
        if self._backlog and free < half:
            await asyncio.sleep(_GATHER_S)
            free = self._free()
            if free <= 0:  # a settle ended meanwhile whose task has not
                return
        self._wake.clear()  # before the claim: what is enqueued while it runs sets it again
        settings, wanted = self.settings, min(free, half)
        units = await self._claim(settings, wanted)
        self._backlog = len(units) >= wanted
        if not units:
            await self._wait_for_work()

    def _free(self) -> int:
        """Units that may be claimed. What is being settled holds no slot, so that claims, fetches and settles overlap;
        but no more of it than there are slots, or a slow Postgres would be asked for ever more.
        """
        slots = self.settings.concurrency
        return min(slots - len(self._running) + self._fetching.settling, 2 * slots - len(self._running))

    async def _claim(self, settings: LaneSettings, free: int) -> Sequence[Unit]:
        units = await self._stores.jobs.claim(
            settings.provider,
            settings.account,
            units=free,
            lease=settings.lease,
            # With nothing under way nobody else charges meanwhile, so the first charge makes the claim durable.
            durable=bool(self._running) or settings.charged_ahead(),
        )
        for unit in units:
            task = asyncio.create_task(self._fetching.run(unit, settings), name=f"fetch {unit.key}")
            self._running.add(task)
            task.add_done_callback(self._ended)
        await asyncio.sleep(0)  # they begin before this loop looks on
        return units

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        self._freed.set()
        self._wake.set()  # a slot is free, and the product's latecomers may go
        if not task.cancelled() and (error := task.exception()) is not None:
            words = f"{type(error).__name__}: {error}"
            self._observer.event("fetch_crashed", lane=self._name, error=words, exc_info=error)

    async def _wait_for_work(self) -> None:
        chance = await self._stores.jobs.next_chance_s(self.settings.provider, self.settings.account)
        if chance is not None:
            wait_s = chance + 0.005 if chance > 0 else _IDLE_WAIT_S
            await self._pause(self._wake, min(self.settings.poll_s, wait_s))
            return
        # Nothing waits: the poller or a notification wakes us, and no statement is spent on looking.
        while not self._wake.is_set() and not self._halted:
            await self._pause(self._wake, _LOOK_ROUND_S)
            self.last_turn = clock.monotonic()

    async def _pause(self, event: asyncio.Event, timeout_s: float) -> None:
        """Until the event, so long at most, and not at all once the stop has come."""
        if not self._halted:
            await clock.happens(event, timeout_s)

    async def _drain(self, grace_s: float) -> None:
        if not self._running:
            return
        _, late = await asyncio.wait(self._running, timeout=grace_s)
        for task in late:
            self._fetching.cut_off(task)
        if late:
            _, stuck = await asyncio.wait(late, timeout=_RELEASE_S)
            for task in stuck:  # settles, for whose sake nobody's stop takes as long as a lock
                task.cancel("grace period over")

    @property
    def _name(self) -> str:
        return f"{self.settings.provider}/{self.settings.account}"
