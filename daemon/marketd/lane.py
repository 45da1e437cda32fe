"""One provider account's claim loop, and one fetch from start to end.

`run_unit` is the table of contents of a fetch: find the listing, fetch under a kept lease, decide, settle, report.
Nothing here logs or counts; observers are told once, after it is in the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from marketd import clock, errors
from marketd.models import Job, Unit
from marketd.outcome import Outcome, Released, Retried, Snoozed
from marketd.provider import Ask, Found
from marketd.retry import RetryPolicy, decide_error, decide_found
from marketd.signals import Stop
from marketd.store.budgets import Circuits, Report
from marketd.store.catalog import CatalogStore
from marketd.store.jobs import JobStore, Settled
from marketd.telemetry import FetchReport, Observer, RequestReport

_AT_ONCE_S = 0.001  #: a cool-down that is over as soon as it is told
_IDLE_WAIT_S = 1.0  #: before another look at work that cannot be claimed yet (its product is being fetched)
_GATHER_S = 0.005  #: with a backlog, slots that come free within this time share a claim
_RELEASE_S = 1.5  #: for a fetch that was cut off to give its jobs back
_LOOK_ROUND_S = 30.0  #: a lane comes round so often even when nothing happens, which the watchdog sees


class Visit(Protocol):
    """One fetch's door to the provider; counts what it sends."""

    @property
    def requests(self) -> int: ...

    @property
    def calls(self) -> Sequence[RequestReport]: ...

    async def fetch(self, ask: Ask) -> Found: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSettings:
    """What a lane needs of the configuration. A fetch keeps the snapshot that it began with."""

    provider: str
    account: str
    credentials: str  #: a digest, to tell those of one configuration from those of the next
    concurrency: int
    lease: timedelta
    heartbeat_s: float
    poll_s: float
    policy: RetryPolicy
    visit: Callable[[Unit], Visit]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    jobs: JobStore
    catalog: CatalogStore
    circuits: Circuits


class Lane:
    """Claims units of one provider account and runs them, never more than it has slots for."""

    def __init__(
        self, settings: LaneSettings, stores: Stores, observer: Observer, on_deferred: Callable[[], None]
    ) -> None:
        self.settings = settings  #: swapped whole by `reconfigure`
        self._stores = stores
        self._observer = observer
        self._on_deferred = on_deferred
        self._wake = asyncio.Event()
        self._reconfigured = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._backlog = False  #: the last claim filled every free slot
        self._drained_by: float | None = None  #: when the grace period ends, if it began during a turn
        self._closed = False
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
        self._reconfigured.set()
        self.wake()

    async def run(self, stop: Stop, grace_s: Callable[[], float]) -> None:
        """Work until `stop`; then let fetches finish for `grace_s`, and release the rest with attempts refunded."""
        stopping = asyncio.create_task(stop.wait())
        failures = 0
        try:
            while not stop.is_set():
                self.last_turn = clock.monotonic()
                try:
                    await self._turn_or_stop(stopping, grace_s)
                    failures = 0
                except errors.DatabaseUnavailable as error:
                    failures += 1
                    self._observer.event("database_unavailable", error=str(error), lane=self._name)
                    await self._sleep(clock.full_jitter(failures, base_s=0.25, cap_s=3), stopping)
        finally:
            stopping.cancel()
            left_s = grace_s() if self._drained_by is None else max(0.0, self._drained_by - clock.monotonic())
            await self._drain(left_s if stop.is_set() else 0)

    async def _turn_or_stop(self, stopping: asyncio.Task[Any], grace_s: Callable[[], float]) -> None:
        """One turn; when the stop comes meanwhile it may take the grace period, if Postgres hangs, and no longer."""
        turn = asyncio.create_task(self._turn(stopping))
        try:
            await asyncio.wait({turn, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                left_s = grace_s()
                self._drained_by = clock.monotonic() + left_s
                await asyncio.wait({turn}, timeout=left_s)
        finally:
            turn.cancel()
        if turn.done():
            turn.result()

    async def _turn(self, stopping: asyncio.Task[Any]) -> None:
        free = self.settings.concurrency - len(self._running)
        if free <= 0:
            await self._wait_for_slot(stopping)
            return
        if self._backlog and free < self.settings.concurrency // 4:
            await asyncio.sleep(_GATHER_S)
            free = self.settings.concurrency - len(self._running)
        self._wake.clear()  # before the claim: what is enqueued while it runs sets it again
        settings = self.settings
        units = await asyncio.shield(self._claim(settings, free))
        self._backlog = len(units) >= free
        if not units:
            await self._wait_for_work(stopping)

    async def _claim(self, settings: LaneSettings, free: int) -> Sequence[Unit]:
        # Shielded and started here: a claim that is under way when the stop comes still gets its tasks.
        units = await self._stores.jobs.claim(
            settings.provider, settings.account, units=free, lease=settings.lease
        )
        if self._closed:
            return units  # too late: released with all that is held
        for unit in units:
            task = asyncio.create_task(self.run_unit(unit, settings), name=f"fetch {unit.key}")
            self._running.add(task)
            task.add_done_callback(self._ended)
        return units

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        self._wake.set()  # a slot is free, and the product's latecomers may go
        if not task.cancelled() and (error := task.exception()) is not None:
            words = f"{type(error).__name__}: {error}"
            self._observer.event("fetch_crashed", lane=self._name, error=words, exc_info=error)

    async def _wait_for_work(self, stopping: asyncio.Task[Any]) -> None:
        chance = await self._stores.jobs.next_chance_s(self.settings.provider, self.settings.account)
        if chance is not None:
            wait_s = chance + 0.005 if chance > 0 else _IDLE_WAIT_S
            await self._sleep(min(self.settings.poll_s, wait_s), stopping)
            return
        # Nothing waits: the poller or a notification wakes us, and no statement is spent on looking.
        while not self._wake.is_set() and not stopping.done():
            await self._sleep(_LOOK_ROUND_S, stopping)
            self.last_turn = clock.monotonic()

    async def _wait_for_slot(self, stopping: asyncio.Task[Any]) -> None:
        # A full lane must still hear the stop, and that it was given more slots; not each wake, which it cannot follow.
        self._reconfigured.clear()
        resized = asyncio.create_task(self._reconfigured.wait())
        try:
            await asyncio.wait(
                {stopping, resized, *self._running},
                timeout=_LOOK_ROUND_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            resized.cancel()

    async def _sleep(self, timeout_s: float, stopping: asyncio.Task[Any]) -> None:
        waking = asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait({stopping, waking}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()

    async def _drain(self, grace_s: float) -> None:
        self._closed = True
        if not self._running:
            return
        _, late = await asyncio.wait(self._running, timeout=grace_s)
        for task in late:
            task.cancel("grace period over")
        if late:
            await asyncio.wait(late, timeout=_RELEASE_S)

    async def run_unit(self, unit: Unit, settings: LaneSettings) -> None:
        """One fetch: whatever happens to it ends as an outcome of each of its jobs."""
        visit = settings.visit(unit)
        began = clock.monotonic()
        keeper = asyncio.create_task(self._keep_lease(unit, settings))
        fetch = asyncio.create_task(self._fetch(unit, visit))
        cancelled: asyncio.CancelledError | None = None
        try:
            await asyncio.wait({fetch, keeper}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError as stopped:
            cancelled = stopped
        fetch.cancel()  # without effect on a finished one
        await asyncio.wait({fetch})
        found, error = _result(fetch)
        if cancelled is not None and found is None:
            error = errors.NotGranted("shutdown", None)
        fetched = clock.monotonic()
        # Shielded: a cancel must not tear a settle apart.
        await asyncio.shield(self._conclude(unit, settings, visit, found, error, began, fetched, keeper))
        if cancelled is not None:
            raise cancelled

    async def _fetch(self, unit: Unit, visit: Visit) -> Found:
        known = await self._stores.catalog.known(unit.provider, unit.sku, unit.currency)
        ask = Ask(
            sku=unit.sku,
            sizes=unit.sizes,
            currency=unit.currency,
            listing=known.listing,
            references=known.references,
            elsewhere=known.elsewhere,
        )
        return await visit.fetch(ask)

    async def _keep_lease(self, unit: Unit, settings: LaneSettings) -> None:
        """Extend until cancelled; returns when the lease is lost, or when it cannot be kept in time."""
        kept_at = clock.monotonic()
        while clock.monotonic() - kept_at < settings.lease.total_seconds():
            # At full beats of the clock, not of each fetch's own: so those under way share the statement.
            await asyncio.sleep(settings.heartbeat_s - clock.monotonic() % settings.heartbeat_s)
            try:
                await self._stores.jobs.extend(unit, lease=settings.lease)
                kept_at = clock.monotonic()
            except errors.LeaseLost:
                return
            except errors.DatabaseUnavailable as error:
                self._observer.event("lease_extension_failed", unit=unit.key, error=str(error))

    async def _conclude(
        self,
        unit: Unit,
        settings: LaneSettings,
        visit: Visit,
        found: Found | None,
        error: BaseException | None,
        began: float,
        fetched: float,
        keeper: asyncio.Task[None],
    ) -> None:
        outcomes = self._decide(unit, settings, found, error)
        settled: Settled | None = None
        try:
            await self._report_trouble(unit, settings, error)
            if not keeper.done():
                settled = await self._settle(unit, settings, outcomes, found)
        except errors.LeaseLost:
            self._observer.event("stale_completion", provider=unit.provider, unit=unit.key)
        except errors.DatabaseUnavailable as trouble:
            # The lease will expire and any daemon takes the jobs up again: late, not lost.
            self._observer.event("settle_given_up", unit=unit.key, error=str(trouble))
        finally:
            keeper.cancel()
        self._observer.fetch_done(
            FetchReport(
                unit=unit,
                outcomes=[(job.id, outcome) for job, outcome in outcomes],
                requests=visit.requests,
                quotes=len(found.quotes) if found else 0,
                changed=settled.changed if settled else 0,
                wait_s=max((unit.claimed_at - job.due_at).total_seconds() for job in unit.jobs),
                fetch_s=fetched - began,
                settle_s=clock.monotonic() - fetched,
                lease_lost=settled is None,
                calls=visit.calls,
                stored=settled.stored if settled else None,
                error=error if _unexpected(error) else None,
            )
        )
        if any(isinstance(outcome, Retried | Snoozed) for _, outcome in outcomes):
            self._on_deferred()

    def _decide(
        self, unit: Unit, settings: LaneSettings, found: Found | None, error: BaseException | None
    ) -> list[tuple[Job, Outcome]]:
        if found is not None:
            return decide_found(unit, found, settings.policy)
        if error is None:
            return [(job, Released(reason="lease_lost")) for job in unit.jobs]
        return [(job, decide_error(job, error, settings.policy)) for job in unit.jobs]

    async def _settle(
        self,
        unit: Unit,
        settings: LaneSettings,
        outcomes: Sequence[tuple[Job, Outcome]],
        found: Found | None,
    ) -> Settled:
        """Settle, patiently: the calls are spent, so a restarting Postgres is waited for as long as a lease."""
        deadline = clock.monotonic() + settings.lease.total_seconds()
        tries = 0
        while True:
            try:
                return await self._stores.jobs.settle(
                    unit, outcomes, found.quotes if found else (), found.listing if found else None
                )
            except errors.DatabaseUnavailable:
                tries += 1
                if clock.monotonic() > deadline:
                    raise
                await asyncio.sleep(clock.full_jitter(tries, base_s=0.2, cap_s=2))

    async def _report_trouble(self, unit: Unit, settings: LaneSettings, error: BaseException | None) -> None:
        kind: Report | None = None
        retry_after_s, day_spent = None, False
        match error:
            case errors.Throttled():
                kind, retry_after_s, day_spent = "throttled", error.retry_after_s, error.day_spent
            case errors.Unauthorized():
                kind = "unauthorized"
                if settings.credentials != self.settings.credentials:
                    # A reload replaced them meanwhile: those in force are probed at once.
                    retry_after_s = _AT_ONCE_S
            case errors.Transient() | errors.BadPayload():
                kind = "errors"
            case None | errors.ProviderError():
                kind = "ok" if unit.troubled else None
            case errors.NotGranted(reason=reason) if reason != "shutdown":
                self._observer.event("refused", provider=unit.provider, reason=reason)
        if kind is None:
            return
        detail = None if error is None else str(error)
        state = await self._stores.circuits.report(
            unit.provider,
            unit.account,
            kind,
            retry_after_s=retry_after_s,
            day_spent=day_spent,
            detail=detail,
        )
        if state.changed:
            self._observer.event(
                "lane_closed" if state.state == "open" else "lane_resumed",
                lane=self._name,
                reason=kind,
                until=state.until.isoformat() if state.until else None,
                detail=detail,
            )

    @property
    def _name(self) -> str:
        return f"{self.settings.provider}/{self.settings.account}"


def _result(fetch: asyncio.Task[Found]) -> tuple[Found | None, BaseException | None]:
    """What the fetch returned or raised; (None, None) when it was cancelled because its lease was lost."""
    if fetch.cancelled():
        return None, None
    error = fetch.exception()
    return (None, error) if error is not None else (fetch.result(), None)


def _unexpected(error: BaseException | None) -> bool:
    return error is not None and not isinstance(error, errors.MarketdError)
