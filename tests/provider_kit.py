"""What tests of provider clients need: a gate that remembers, an observer that remembers, a whole client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from marketd import providers
from marketd.errors import NotGranted
from marketd.http_client import Auth, Door, Pacer, ProviderHttp, open_session
from marketd.limiter import Grant
from marketd.models import Quote
from marketd.provider import Ask, Found, Reply
from marketd.telemetry import FetchReport, RequestReport

GRANTED_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SPECS = Path(__file__).resolve().parents[2] / "shared" / "providers" / "specs"


def example(name: str) -> Any:
    """The body of a written-down answer; skips where these are not at hand."""
    file = SPECS / "examples" / f"{name}.json"
    if not file.exists():
        pytest.skip("the providers' example answers are not beside this repository")
    return json.loads(file.read_text(), parse_float=Decimal)["body"]


@dataclass
class Gate:
    """Grants what `plan` says, then at once; remembers what was taken and given back."""

    plan: list[Grant | NotGranted] = field(default_factory=list)
    taken: list[tuple[str, str]] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    moved: int = 0
    troubles: int = 0
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)
    granted_at: datetime = GRANTED_AT

    async def take(self, endpoint: str, *, meter: str = "calls") -> Grant:
        answer = self.plan.pop(0) if self.plan else replace(grant(), granted_at=self.granted_at)
        if isinstance(answer, NotGranted):
            raise answer
        self.taken.append((endpoint, meter))
        self.was_asked.set()
        return replace(answer, receipt=f"{answer.receipt}{len(self.taken)}")

    async def move(self, grant: Grant, within_s: float) -> Grant | None:
        self.moved += 1
        return replace(grant, leave_at=monotonic())

    async def give_back(self, grant: Grant) -> None:
        self.returned.append(grant.receipt)

    def trouble(self) -> None:
        self.troubles += 1

    @property
    def charged(self) -> int:
        return len(self.taken) - len(self.returned)


def grant(*, delay_s: float = 0.0, valid_s: float = 5.0) -> Grant:
    now = monotonic()
    return Grant(granted_at=GRANTED_AT, leave_at=now + delay_s, until=now + valid_s, receipt="r")


@dataclass
class Notes:
    """An observer that keeps what it is told."""

    requests: list[RequestReport] = field(default_factory=list)
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def request_done(self, report: RequestReport) -> None:
        self.requests.append(report)

    def fetches_done(self, reports: Sequence[FetchReport]) -> None:
        raise AssertionError("no fetch is reported here")

    def event(self, name: str, **fields: object) -> None:
        self.events.append((name, fields))

    @property
    def classes(self) -> list[str]:
        return [report.status_class for report in self.requests]


@dataclass
class Client:
    """One provider account, wired up as the daemon does it, but with a gate of our own."""

    plugin: providers.Plugin
    door: Door
    gate: Gate = field(default_factory=Gate)
    notes: Notes = field(default_factory=Notes)

    def http(self) -> ProviderHttp:
        return ProviderHttp(self.door, gate=self.gate, observer=self.notes, priority=100)

    async def fetch(self, sku: str, *sizes: str | None, currency: str = "USD", **more: Any) -> Found:
        ask = Ask(sku=sku, sizes=sizes, currency=currency, **more)
        return await self.plugin.fetch(ask, self.http())


@asynccontextmanager
async def client(
    name: str,
    settings: Mapping[str, Any],
    state_dir: Path,
    options: Mapping[str, Any] | None = None,
    *,
    timeout_s: float = 5.0,
    max_bytes: int = 8 * 2**20,
    granted_at: datetime = GRANTED_AT,
) -> AsyncIterator[Client]:
    """A client of a provider at `base_url` and `token_url`, with `credentials`.

    `granted_at` is the time it lives in: the present, where the server's answers are of the present.
    """
    kind = providers.discover()[name]
    plugin = kind(kind.options_type(**(options or {})))
    auth = plugin.authorize(
        kind.credentials_type(**settings["credentials"]),
        token_url=settings.get("token_url"),
        token_file=state_dir / f"{name}-token.json",
    )
    async with open_door(name, settings["base_url"], auth, timeout_s, max_bytes, plugin.classify) as door:
        yield Client(plugin, door, Gate(granted_at=granted_at))


@asynccontextmanager
async def open_door(
    name: str,
    base_url: str,
    auth: Auth,
    timeout_s: float = 5.0,
    max_bytes: int = 8 * 2**20,
    classify: Any = None,
) -> AsyncIterator[Door]:
    async with open_session() as session:
        yield Door(
            provider=name,
            account="default",
            base_url=base_url,
            timeout_s=timeout_s,
            session=session,
            auth=auth,
            pacer=Pacer(0.0001),
            classify=classify,
            max_bytes=max_bytes,
        )


def quote_of(found: Found, size: str | None) -> Quote:
    """The quote that settled an asked size."""
    answer = found.answers[size]
    assert not isinstance(answer, Exception), answer
    return next(quote for quote in found.quotes if quote.size == answer)


class Scripted:
    """`provider.Http` for pure tests: answers by endpoint, in order; the last one of each stays."""

    def __init__(self, **answers: Any) -> None:
        self._answers: dict[str, Iterator[Any]] = {name: _held(value) for name, value in answers.items()}
        self.asked: list[tuple[str, str, dict[str, str]]] = []

    async def get(
        self,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        endpoint: str,
        headers: Mapping[str, str] | None = None,
        meter: str = "calls",
    ) -> Reply:
        self.asked.append((endpoint, path, dict(params or {})))
        answer = next(self._answers[endpoint])
        if isinstance(answer, Exception):
            raise answer
        return Reply(status=200, body=answer, headers={}, granted_at=GRANTED_AT)


@dataclass(frozen=True)
class Each:
    """Several answers of one endpoint, in order."""

    answers: tuple[Any, ...]


def _held(value: Any) -> Iterator[Any]:
    answers = value.answers if isinstance(value, Each) else (value,)
    yield from answers
    while True:
        yield answers[-1]
