"""One fetch from start to end.

`Fetching.run` is the table of contents: find the listing, fetch under a kept lease, decide, settle, report.
Nothing here logs or counts; observers are told once, after it is in the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

from marketd import clock, errors, leases
from marketd.models import Job, Unit
from marketd.outcome import Outcome, Released, Retried, Snoozed
from marketd.provider import Ask, Found
from marketd.retry import RetryPolicy, decide_error, decide_found
from marketd.store.budgets import Circuits, Report
from marketd.store.jobs import JobStore, Settled
from marketd.telemetry import End, FetchReport, Observer, RequestReport

Written = TypeVar("Written")

_FOR_LATER = (Retried, Snoozed)
_AT_ONCE_S = 0.001  #: a cool-down that is over as soon as it is told
_ASIDE = timedelta(minutes=1)  #: after the next probe, which is another's then


class Visit(Protocol):
    """One fetch's door to the provider; counts what it sends."""

    @property
    def requests(self) -> int: ...

    @property
    def calls(self) -> Sequence[RequestReport]: ...

    @property
    def receipt(self) -> str | None:
        """Of its latest call: what the circuit knows its probe by."""
        ...

    @property
    def is_probe(self) -> bool: ...

    def fetch(self, ask: Ask) -> Awaitable[Found]: ...


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
    charged_ahead: Callable[[], bool]  #: whether a request could leave without another charge


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    jobs: JobStore
    circuits: Circuits


@dataclass(slots=True, kw_only=True)
class _Fetch:
    """What became of one fetch, as far as it has come."""

    unit: Unit
    settings: LaneSettings
    visit: Visit
    began: float  #: monotonic
    kept: leases.Kept = field(init=False)
    ended: float = 0.0
    found: Found | None = None
    error: BaseException | None = None
    aside: bool = False  #: lets others be the next probe

    def outcomes(self) -> list[tuple[Job, Outcome]]:
        """What that means for each job. Neither found nor failed: it was cut off, for its lease was lost."""
        policy = self.settings.policy
        if self.found is not None:
            return decide_found(self.unit, self.found, policy)
        if self.error is None:
            return [(job, Released(reason="lease_lost")) for job in self.unit.jobs]
        return [(job, decide_error(job, self.error, policy)) for job in self.unit.jobs]

    def report(
        self, outcomes: Sequence[tuple[Job, Outcome]], end: End, settled: Settled | None
    ) -> FetchReport:
        """For the observers; `settled` is None when that was not to be."""
        return FetchReport(
            unit=self.unit,
            outcomes=[outcome for _, outcome in outcomes],
            requests=self.visit.requests,
            quotes=len(self.found.quotes) if self.found else 0,
            changed=settled.changed if settled else 0,
            wait_s=(self.unit.claimed_at - min([job.due_at for job in self.unit.jobs])).total_seconds(),
            fetch_s=self.ended - self.began,
            settle_s=clock.monotonic() - self.ended,
            end=end,
            calls=self.visit.calls,
            stored=settled.stored if settled else None,
            error=self.error if _unexpected(self.error) else None,
        )


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
        this = _Fetch(unit=unit, settings=settings, visit=settings.visit(unit), began=clock.monotonic())
        this.kept = self._keeper.keep(
            unit, lease=settings.lease, heartbeat_s=settings.heartbeat_s, on_lost=lambda: self.cut_off(task)
        )
        self._under_way.add(task)
        try:
            this.found = await this.visit.fetch(_ask(unit))
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

    def _judge(self, this: _Fetch) -> None:
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

    async def _conclude(self, this: _Fetch) -> None:
        unit, outcomes = this.unit, this.outcomes()
        end: End = "given_up"
        settled: Settled | None = None
        if isinstance(this.error, errors.NotGranted) and this.error.reason != "shutdown":
            self._observer.event("refused", provider=unit.provider, reason=this.error.reason)
        news = _news(this.error, unit, this.visit)
        try:
            probe_at = await self._report_news(this, news) if news else None
            if this.aside and probe_at is not None:
                rest = Snoozed(until=probe_at + _ASIDE, reason="unauthorized")
                outcomes = [(job, rest) for job in unit.jobs]
            if this.kept.lost:
                end = "lease_lost"
            else:
                settled = await self._settle(this, outcomes)
                end = "settled"
        except errors.LeaseLost:
            end = "lease_lost"
            self._observer.event("stale_completion", provider=unit.provider, unit=unit.key)
        except errors.DatabaseUnavailable as trouble:
            # The lease will expire and any daemon takes the jobs up again: late, not lost.
            self._observer.event("settle_given_up", unit=unit.key, error=str(trouble))
        finally:
            self._tell(this.report(outcomes, end, settled))

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

    def _settle(self, this: _Fetch, outcomes: Sequence[tuple[Job, Outcome]]) -> Awaitable[Settled]:
        quotes = this.found.quotes if this.found else ()
        listing = this.found.listing if this.found else None
        return self._patiently(this, lambda: self._stores.jobs.settle(this.unit, outcomes, quotes, listing))

    async def _patiently(self, this: _Fetch, write: Callable[[], Awaitable[Written]]) -> Written:
        """The calls are spent, so a restarting Postgres is waited for as long as a lease."""
        tries = 0
        while True:
            try:
                return await write()
            except errors.DatabaseUnavailable:
                tries += 1
                if clock.monotonic() > this.ended + this.settings.lease.total_seconds():
                    raise
                await asyncio.sleep(clock.full_jitter(tries, base_s=0.2, cap_s=2))

    async def _report_news(self, this: _Fetch, kind: Report) -> datetime | None:
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

    def _retry_after_s(self, this: _Fetch) -> float | None:
        match this.error:
            case errors.Throttled(retry_after_s=retry_after_s):
                return retry_after_s
            case errors.Unauthorized() if self._renewed(this):
                return _AT_ONCE_S  # those in force are probed at once
        return None

    def _renewed(self, this: _Fetch) -> bool:
        """Whether a reload replaced the credentials meanwhile."""
        return this.settings.credentials != self._in_force().credentials


def _ask(unit: Unit) -> Ask:
    return Ask(
        sku=unit.sku,
        sizes=unit.sizes,
        currency=unit.currency,
        listing=unit.known.listing,
        references=unit.known.references,
        elsewhere=unit.known.elsewhere,
    )


def _news(error: BaseException | None, unit: Unit, visit: Visit) -> Report | None:
    """The word for the circuit; None where it has nothing to learn."""
    match error:
        case errors.Throttled():
            return "throttled"
        case errors.Unauthorized():
            return "unauthorized"
        case errors.Transient() | errors.BadPayload():
            return "errors"
        case None | errors.ProviderError():
            return "ok" if unit.troubled or visit.is_probe else None
        case errors.NotGranted() if visit.is_probe and visit.calls and visit.calls[-1].status_class == "ok":
            return "ok"  # the probe was answered, although its fetch may not go on
    return None


def _unexpected(error: BaseException | None) -> bool:
    """Whether it is a fault of ours: neither an answer of the provider nor a state of the world."""
    ours = isinstance(error, errors.StatementRefused)
    return error is not None and (ours or not isinstance(error, errors.MarketdError))
