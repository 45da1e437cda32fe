"""Runs fetches, each from start to end.

`Fetching.run` is the table of contents: find the listing, fetch under a kept lease, decide, settle, report.
Nothing here logs or counts; observers are told once, after it is in the database.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from marketd import clock, errors, leases
from marketd.fetch import Fetch, LaneSettings
from marketd.models import Unit
from marketd.outcome import Retried, Snoozed
from marketd.store.budgets import Circuits, Report
from marketd.store.jobs import JobStore, Settled
from marketd.telemetry import End, FetchReport, Observer

Written = TypeVar("Written")

_FOR_LATER = (Retried, Snoozed)
_AT_ONCE_S = 0.001  #: a cool-down that is over as soon as it is told
_MENDED_WITHIN_S = (
    600.0  #: what a fetch brought is held so long where Postgres refuses to write anything down
)
_ASIDE = timedelta(minutes=1)  #: after the next probe, which is another's then


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    jobs: JobStore
    circuits: Circuits


class Fetching:
    """Runs the fetches of one lane."""

    def __init__(
        self,
        stores: Stores,
        observer: Observer,
        on_deferred: Callable[[], None],
        *,
        in_force: Callable[[], LaneSettings],
        on_fetched: Callable[[], None],
    ) -> None:
        """`on_deferred` is called when jobs wait for a time, `on_fetched` when a fetch has left the provider;
        `in_force` gives the lane's settings of now.
        """
        self._on_fetched = on_fetched
        self._stores = stores
        self._observer = observer
        self._on_deferred = on_deferred
        self._in_force = in_force
        self._keeper = leases.Keeper(stores.jobs, observer)
        self._under_way: set[asyncio.Task[Any]] = set()  #: those that are not back from the provider yet
        self.settling = 0  #: those that are
        self._refused: set[str] = set()  #: units that were a probe and met a 403, and no answer since
        self._to_tell: list[FetchReport] = []

    def cut_off(self, task: asyncio.Task[Any]) -> None:
        """End the fetch of this task of `run`; its jobs are released. One that is being settled is left alone."""
        if task in self._under_way:
            task.cancel("grace period over")

    async def run(self, unit: Unit, settings: LaneSettings) -> None:
        """One fetch: whatever happens to it ends as an outcome of each of its jobs."""
        task = asyncio.current_task()
        assert task is not None
        this = Fetch(unit=unit, settings=settings, visit=settings.visit(unit), began=clock.monotonic())
        this.kept = self._keeper.keep(
            unit, lease=settings.lease, heartbeat_s=settings.heartbeat_s, on_lost=lambda: self.cut_off(task)
        )
        self._under_way.add(task)
        try:
            this.found = await this.visit.fetch(this.ask())
        except asyncio.CancelledError:
            # Cut off. Why is known to the lease, if it was lost; else it was the stop, or somebody who awaits this.
            if not this.kept.lost:
                this.error = errors.NotGranted("shutdown", None)
        except Exception as error:
            this.error = error
        finally:
            self._under_way.discard(task)
            this.ended = clock.monotonic()
        self._judge(this)
        self.settling += 1
        self._on_fetched()
        try:
            await self._conclude(this)
        finally:
            self.settling -= 1
            self._keeper.let_go(this.kept)
            this.error = None  # its traceback leads here: a circle, with the answer's body in it

    def _judge(self, this: Fetch) -> None:
        """A 403 closes the lane, for mostly it means us. One that means a single product would close it for ever.

        It would be each probe. So a probe that meets one steps aside; and a unit that did, and meets one again in a
        lane that works for others, is refused by itself.
        """
        key = this.unit.key
        match this.error:
            case None if this.found is not None:
                self._refused.discard(key)
            case errors.Unauthorized() if self._renewed(this):
                pass
            case errors.Unauthorized(error_code="forbidden") if this.visit.is_probe:
                self._refused.add(key)
                this.aside = True
            case errors.Unauthorized(error_code="forbidden") as error if key in self._refused:
                if not this.unit.troubled:
                    this.error = errors.Rejected(str(error), code="forbidden", http_status=403)

    async def _conclude(self, this: Fetch) -> None:
        unit, this.decided = this.unit, this.outcomes()
        end: End = "given_up"
        settled: Settled | None = None
        if isinstance(this.error, errors.NotGranted) and this.error.reason != "shutdown":
            self._observer.event("refused", provider=unit.provider, reason=this.error.reason)
        news = this.news()
        try:
            probe_at = await self._told(this, news) if news else None
            if this.aside and probe_at is not None:
                rest = Snoozed(until=probe_at + _ASIDE, reason="unauthorized")
                this.decided = [(job, rest) for job in unit.jobs]
            if this.kept.lost:
                end = "lease_lost"
            else:
                settled = await self._settle(this)
                end = "settled"
        except errors.LeaseLost:
            end = "lease_lost"
            self._observer.event("stale_completion", provider=unit.provider, unit=unit.key)
        except errors.DatabaseUnavailable as trouble:
            # Any daemon takes the jobs up again: late, not lost.
            self._observer.event("settle_given_up", unit=unit.key, error=str(trouble))
            with contextlib.suppress(errors.DatabaseError):  # then their leases run out
                await self._stores.jobs.give_up(unit)
        finally:
            self._tell(this.report(end, settled))

    def _tell(self, report: FetchReport) -> None:
        """Together with what else ends in this turn of the loop, as all do that were settled by one statement."""
        if not self._to_tell:
            asyncio.get_running_loop().call_soon(self._tell_all)
        self._to_tell.append(report)

    def _tell_all(self) -> None:
        reports, self._to_tell = self._to_tell, []
        self._observer.fetches_done(reports)
        if any(isinstance(outcome, _FOR_LATER) for report in reports for outcome in report.outcomes):
            self._on_deferred()

    async def _settle(self, this: Fetch) -> Settled:
        settle = self._stores.jobs.settle
        if this.found is not None:
            quotes, listing = this.found.quotes, this.found.listing
            try:
                return await self._patiently(
                    this, lambda: settle(this.unit, this.decided, quotes, listing, alone=this.busy)
                )
            except (errors.LeaseLost, errors.DatabaseUnavailable):
                raise
            except Exception as error:
                # It cannot be written: a fault of ours, to be tried again as such, and not as if nobody had come back.
                this.found, this.error = None, error
                this.decided = this.outcomes()
        return await self._patiently(this, lambda: settle(this.unit, this.decided, alone=this.busy))

    async def _patiently(self, this: Fetch, write: Callable[[], Awaitable[Written]]) -> Written:
        """The calls are spent, so a restarting Postgres is waited for as long as a lease.

        One that is unfit, or busy, is waited for longer, until a person has mended it: it still keeps the lease.
        """
        tries = 0
        patience_s = this.settings.lease.total_seconds()
        while True:
            try:
                return await write()
            except errors.DatabaseUnavailable as error:
                tries += 1
                unfit = isinstance(error, errors.DatabaseUnfit)
                if unfit:
                    self._observer.event("database_refuses", error=str(error), unit=this.unit.key)
                this.busy = isinstance(error, errors.DatabaseBusy)
                if this.busy:
                    await self._keeper.renew(this.kept)
                there = unfit or this.busy
                limit_s = max(_MENDED_WITHIN_S, patience_s) if there else patience_s
                if (there and this.kept.lost) or clock.monotonic() > this.ended + limit_s:
                    raise
                await asyncio.sleep(clock.full_jitter(tries, base_s=0.2, cap_s=10 if unfit else 2))

    async def _told(self, this: Fetch, kind: Report) -> datetime | None:
        try:
            return await self._report_news(this, kind)
        except (errors.StatementRefused, errors.DatabaseBusy) as error:
            refused = isinstance(error, errors.StatementRefused)
            name = "database_refuses" if refused else "database_unavailable"
            self._observer.event(name, error=str(error), unit=this.unit.key)
            return None  # what the fetch brought is worth more than what its lane learns from it

    async def _report_news(self, this: Fetch, kind: Report) -> datetime | None:
        """Tell the account's circuit how it went. Returns until when it is open, if it is."""
        unit, error = this.unit, this.error
        detail = None if error is None else str(error)
        state = await self._patiently(
            this,
            lambda: self._stores.circuits.report(
                unit.provider,
                unit.account,
                kind,
                retry_after_s=self._retry_after_s(this),
                day_spent=isinstance(error, errors.Throttled) and error.day_spent,
                detail=detail,
                receipt=this.visit.receipt,
            ),
        )
        if state.changed:
            self._observer.event(
                "lane_closed" if state.state == "open" else "lane_resumed",
                lane=f"{unit.provider}/{unit.account}",
                reason=kind,
                until=state.until.isoformat() if state.until else None,
                detail=detail,
            )
        return state.until

    def _retry_after_s(self, this: Fetch) -> float | None:
        match this.error:
            case errors.Throttled(retry_after_s=retry_after_s):
                return retry_after_s
            case errors.Unauthorized() if self._renewed(this):
                return _AT_ONCE_S  # those in force are probed at once
        return None

    def _renewed(self, this: Fetch) -> bool:
        """Whether a reload replaced the credentials meanwhile."""
        return this.settings.credentials != self._in_force().credentials
