"""One fetch, as far as it has come: what that means for its jobs, the circuit and the observers. No I/O."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from marketd import clock, errors, leases
from marketd.models import Job, Unit
from marketd.outcome import Outcome, Released
from marketd.provider import Ask, Found
from marketd.retry import RetryPolicy, decide_error, decide_found
from marketd.store.budgets import Report
from marketd.store.jobs import Settled
from marketd.telemetry import End, FetchReport, RequestReport


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


@dataclass(slots=True, kw_only=True)
class Fetch:
    """What one fetch was given, and what became of it."""

    unit: Unit
    settings: LaneSettings
    visit: Visit
    began: float  #: monotonic
    kept: leases.Kept = field(init=False)
    ended: float = 0.0
    found: Found | None = None
    error: BaseException | None = None
    aside: bool = False  #: lets others be the next probe
    busy: bool = False  #: a statement of it outlasted its time, perhaps for somebody's lock
    decided: Sequence[tuple[Job, Outcome]] = ()

    def ask(self) -> Ask:
        """What the provider is asked for."""
        unit = self.unit
        return Ask(
            sku=unit.sku,
            sizes=unit.sizes,
            currency=unit.currency,
            listing=unit.known.listing,
            references=unit.known.references,
            elsewhere=unit.known.elsewhere,
        )

    def outcomes(self) -> list[tuple[Job, Outcome]]:
        """What that means for each job. Neither found nor failed: it was cut off, for its lease was lost."""
        policy = self.settings.policy
        if self.found is not None:
            return decide_found(self.unit, self.found, policy)
        if self.error is None:
            return [(job, Released(reason="lease_lost")) for job in self.unit.jobs]
        return [(job, decide_error(job, self.error, policy)) for job in self.unit.jobs]

    def news(self) -> Report | None:
        """The word for the circuit; None where it has nothing to learn."""
        match self.error:
            case errors.Throttled():
                return "throttled"
            case errors.Unauthorized():
                return "unauthorized"
            case errors.Transient() | errors.BadPayload():
                return "errors"
            case None if self.found is None:
                return None  # cut off before there was an answer
            case None | errors.ProviderError():
                return "ok" if self.unit.troubled or self.visit.is_probe else None
            case errors.NotGranted() if (
                self.visit.is_probe and self.visit.calls and self.visit.calls[-1].status_class == "ok"
            ):
                return "ok"  # the probe was answered, although its fetch may not go on
        return None

    def report(self, end: End, settled: Settled | None) -> FetchReport:
        """For the observers; `settled` is None when that was not to be."""
        return FetchReport(
            unit=self.unit,
            outcomes=[outcome for _, outcome in self.decided],
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


def _unexpected(error: BaseException | None) -> bool:
    """Whether it is a fault of ours: neither an answer of the provider nor a state of the world."""
    ours = isinstance(error, errors.StatementRefused)
    return error is not None and (ours or not isinstance(error, errors.MarketdError))
