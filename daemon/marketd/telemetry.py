"""What observers (metrics, logs, the call record) are told, after it is in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from marketd.models import Unit
from marketd.outcome import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReport:
    """One HTTP request that was granted. `status_class` is a closed word: 2xx, 4xx, 429, timeout, ..."""

    provider: str
    account: str
    endpoint: str
    priority: int
    status_class: str
    http_status: int | None
    granted_at: datetime
    took_s: float
    given_back: bool = False  #: it provably never left, and its charge was returned


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchReport:
    """One fetch, settled (or not: `lease_lost`)."""

    unit: Unit
    outcomes: Sequence[tuple[int, Outcome]]  #: (job id, outcome)
    requests: int
    quotes: int
    changed: int
    wait_s: float  #: longest time a job of the unit was due before the claim
    fetch_s: float
    settle_s: float
    lease_lost: bool = False
    error: BaseException | None = field(default=None, compare=False)  #: an unexpected one, for its traceback


class Observer(Protocol):
    """Receives reports; must not raise and must not block."""

    def request_done(self, report: RequestReport) -> None: ...
    def fetch_done(self, report: FetchReport) -> None: ...
    def event(self, name: str, **fields: object) -> None:
        """A rare thing an operator wants to know: `listener_lost`, `rescued`, `cooldown_started`, ..."""
        ...


class Observers:
    """Several observers as one."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def request_done(self, report: RequestReport) -> None:
        for observer in self._observers:
            observer.request_done(report)

    def fetch_done(self, report: FetchReport) -> None:
        for observer in self._observers:
            observer.fetch_done(report)

    def event(self, name: str, **fields: object) -> None:
        for observer in self._observers:
            observer.event(name, **fields)
