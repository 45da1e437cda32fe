"""What observers (metrics, logs, the call record) are told, after it is in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from datetime import datetime
from typing import Literal, Protocol, TypeAlias

from marketd.models import Unit
from marketd.outcome import Failed, Outcome, Priced, Retried
from marketd.values import value


@value
class RequestReport:
    """One HTTP request that was granted. `status_class` is a closed word: ok, throttled, timeout, ..."""

    provider: str
    account: str
    endpoint: str
    priority: int
    status_class: str
    http_status: int | None
    granted_at: datetime
    took_s: float
    given_back: bool = False  #: it provably never left, and its charge was returned
    meter: str = "calls"
    cost_window: datetime | None = None  #: start of the shortest window that was charged
    of_fetch: bool = False  #: a fetch's report follows, which has this one among its `calls`


#: How a fetch ended: what it brought is written, or was not to be written any more, or Postgres did not take it.
End: TypeAlias = Literal["settled", "lease_lost", "given_up"]


@value
class FetchReport:
    """One fetch at its end."""

    unit: Unit
    outcomes: Sequence[Outcome]  #: one for each of the unit's jobs
    requests: int
    quotes: int
    changed: int
    wait_s: float  #: longest time a job of the unit was due before the claim
    fetch_s: float
    settle_s: float
    end: End = "settled"
    calls: Sequence[RequestReport] = ()  #: the fetch's requests, in order
    stored: int | None = None  #: prices that were newer than what was known; None: it was not settled
    error: BaseException | None = field(default=None, compare=False)  #: an unexpected one, for its traceback


#: Why a call was wasted.
WASTE = (
    "stale",  # its fetch had lost the lease: the result was dropped
    "duplicate",  # what it brought was known already, and as new
    "not_found",  # the product or the size cannot be had there, or not told for certain
    "rejected",  # the provider called the request wrong
    "unauthorized",
    "throttled",
    "unreadable",  # an answer, but not one that can be read
    "failed",  # no answer
    "unfinished",  # itself well answered, but its fetch was stopped (budget, pause, shutdown), failed or not written
)
_WASTED_BY_CLASS = {
    "bad_request": "rejected",
    "unauthorized": "unauthorized",
    "forbidden": "unauthorized",
    "not_found": "not_found",
    "throttled": "throttled",
    "bad_payload": "unreadable",
    "server_error": "failed",
    "timeout": "failed",
    "connection": "failed",
    "other": "failed",
}
_UNREADABLE = ("bad_payload", "bad_json", "too_large", "content_type", "no_answer")
_NO_ANSWER = ("timeout", "connection", "server_error", "internal")


def waste_of(call: RequestReport, fetch: FetchReport) -> str | None:
    """Why a fetch's call was wasted, one of `WASTE`; None: it was of use (or was given back, and cost nothing)."""
    if call.given_back:
        return None
    if (reason := _WASTED_BY_CLASS.get(call.status_class)) is not None:
        return reason
    if call.meter != "calls":
        return None  # a token serves every fetch of its life
    if fetch.end == "lease_lost":
        return "stale"
    if fetch.end == "given_up":
        return "unfinished"
    if any(isinstance(outcome, Priced) for outcome in fetch.outcomes):
        return "duplicate" if fetch.quotes and fetch.stored == 0 else None
    codes = [outcome.error_code for outcome in fetch.outcomes if isinstance(outcome, Failed | Retried)]
    if not codes or any(code in _NO_ANSWER for code in codes):
        return "unfinished"
    return "unreadable" if any(code in _UNREADABLE for code in codes) else "not_found"


class Observer(Protocol):
    """Receives reports; must not raise and must not block."""

    def request_done(self, report: RequestReport) -> None: ...
    def fetches_done(self, reports: Sequence[FetchReport]) -> None:
        """Those that ended together: under load hundreds, each of which should cost little."""
        ...

    def event(self, name: str, **fields: object) -> None:
        """A rare thing an operator wants to know: `listener_lost`, `rescued`, `lane_closed`, ..."""
        ...


class Observers:
    """Several observers as one."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def request_done(self, report: RequestReport) -> None:
        for observer in self._observers:
            observer.request_done(report)

    def fetches_done(self, reports: Sequence[FetchReport]) -> None:
        for observer in self._observers:
            observer.fetches_done(reports)

    def event(self, name: str, **fields: object) -> None:
        for observer in self._observers:
            observer.event(name, **fields)
