"""One metered door to one provider's account: pace, charge, send once, measure, report."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeAlias

import aiohttp
from yarl import URL

from marketd import errors
from marketd.clock import monotonic
from marketd.http_client import answers
from marketd.http_client.pacer import Pacer
from marketd.http_client.session import MissedError, Wire, sending
from marketd.limiter import Gate, Grant
from marketd.provider import Reply
from marketd.telemetry import Observer, RequestReport
from marketd.values import value

MAX_BYTES = 8 * 1024 * 1024  #: of a decompressed answer
CONNECT_S = 10.0
_NO_WAIT_S = 5e-5  #: what no timer can tell from now
_LATE_S = 0.025  #: a request that leaves so much later than its moment comes too close to the next
_SECRET_HEADERS = ("authorization", "x-api-key")


@value
class Request:
    """One request to be metered and sent. A form makes it a POST. Its repr holds nothing secret."""

    endpoint: str  #: short fixed name for metrics and the call record
    url: str
    params: Mapping[str, str] | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    meter: str = "calls"
    classify: answers.Classify | None = None

    def secrets(self) -> tuple[str, ...]:
        """Texts that no message may show, should the provider echo them."""
        held = [value for name, value in self.headers.items() if name.lower() in _SECRET_HEADERS]
        held += (self.form or {}).values()
        words = {word for value in held for word in (value, *value.split())}
        return tuple(sorted((word for word in words if len(word) >= 8), key=len, reverse=True))


Send: TypeAlias = Callable[[Request], Awaitable[Reply]]


class Auth(Protocol):
    """What proves who we are; one per account, shared by its fetches, living as long as its credentials."""

    async def headers(self, send: Send) -> Mapping[str, str]:
        """The headers of the next request. `send` meters and sends what it takes to get a token."""
        ...

    def refused(self, headers: Mapping[str, str]) -> bool:
        """Told that these headers got a 401; True if others can be had, so that one more try makes sense."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What all fetches of one provider account share. `pacer`: between its calls."""

    provider: str
    account: str
    base_url: str
    timeout_s: float
    session: aiohttp.ClientSession
    auth: Auth
    pacer: Pacer
    classify: answers.Classify | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)  #: the account's; no message may show them
    max_bytes: int = MAX_BYTES


class ProviderHttp:
    """`provider.Http` for one fetch.

    Raises what `provider.Http` says; a request that provably never left is given back to the gate.
    """

    def __init__(
        self, door: Door, *, gate: Gate, observer: Observer, priority: int, of_fetch: bool = False
    ) -> None:
        """`of_fetch`: these requests are a fetch's, whose report will have them all."""
        self._of_fetch = of_fetch
        self.calls: list[RequestReport] = []  #: every request that was granted, as it was reported
        self._door = door
        self._gate = gate
        self._observer = observer
        self._priority = priority
        self._requests = 0

    @property
    def requests(self) -> int:
        """How many requests of this fetch stayed charged."""
        return self._requests

    async def get(
        self,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        endpoint: str,
        headers: Mapping[str, str] | None = None,
        meter: str = "calls",
    ) -> Reply:
        """GET base_url + path; `path` starts with a slash and is already percent-encoded.

        A 401 costs one more request when a new token can be had.
        """
        if not path.startswith("/"):
            raise ValueError(f"path {path!r} must start with /")

        async def attempt(proof: Mapping[str, str]) -> Reply:
            return await self.send(
                Request(
                    endpoint=endpoint,
                    url=self._door.base_url + path,
                    params=params,
                    headers={"Accept": "application/json", **(headers or {}), **proof},
                    classify=self._door.classify,
                    meter=meter,
                )
            )

        proof = await self._door.auth.headers(self.send)
        try:
            return await attempt(proof)
        except errors.Unauthorized as error:
            if error.http_status != 401 or not self._door.auth.refused(proof):
                raise
        return await attempt(await self._door.auth.headers(self.send))

    async def send(self, request: Request) -> Reply:
        """Takes a grant, sends at most once, reports exactly once if granted."""
        while True:
            try:
                return await self._send_once(request)
            except MissedError:
                continue  # given back; another grant, another moment

    async def _send_once(self, request: Request) -> Reply:
        grant = await self._granted(request)
        started = monotonic()
        wire = Wire(on_opened=partial(self._opened, request, grant))
        status: list[int] = []
        try:
            body, headers = await self._exchange(request, wire, status, grant.until - started)
        except BaseException as error:
            if isinstance(error, errors.Throttled | errors.Unauthorized | errors.Transient):
                self._gate.trouble()
            given_back = not wire.opened and await self._give_back(grant)
            self._report(request, grant, started, status, error, given_back)
            raise
        self._report(request, grant, started, status, None, False)
        return Reply(status=status[0], body=body, headers=headers, granted_at=grant.granted_at)

    async def _granted(self, request: Request) -> Grant:
        """A grant whose time to leave has come."""
        while True:
            if request.meter == "calls":
                await self._door.pacer.acquire(self._priority)
            grant = await self._gate.take(request.endpoint, meter=request.meter)
            try:
                if (wait_s := grant.leave_at - monotonic()) > _NO_WAIT_S:
                    await asyncio.sleep(wait_s)
            except asyncio.CancelledError as error:
                given_back = await self._give_back(grant)
                self._report(request, grant, monotonic(), [], error, given_back)
                raise
            if grant.until > monotonic():
                return grant
            await self._give_back(grant)

    async def _opened(self, request: Request, grant: Grant) -> None:
        """The connection stands, and the request is written next: unless its moment is past, then at another.

        All are spaced by their moments, so one that leaves later than its own comes too close to the next. Each try
        may be a little later than the one before, lest a slow way to Postgres make every moment a missed one.
        Raises MissedError when the grant does not hold so long, and what `Gate.move` raises.
        """
        late_s = _LATE_S + grant.slack_s
        while (
            request.meter == "calls"
            and monotonic() - grant.leave_at > late_s
            and (left_s := grant.until - monotonic()) > 0
        ):
            moved = await self._gate.move(grant, left_s)
            if moved is None:
                raise MissedError("no other moment was to be had in time")
            grant = moved
            await asyncio.sleep(grant.leave_at - monotonic())
            late_s *= 1.5
        if monotonic() >= grant.until:
            raise MissedError("the grant ran out before the request was written")

    async def _exchange(
        self, request: Request, wire: Wire, status: list[int], left_s: float
    ) -> tuple[object, Mapping[str, str]]:
        door = self._door
        # A connection that takes longer than the grant holds would send in a window that was not charged.
        connect_s = min(CONNECT_S, door.timeout_s, left_s)
        sending.set(wire)
        try:
            async with door.session.request(
                "GET" if request.form is None else "POST",
                _address(request),
                headers=request.headers,
                data=request.form,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=door.timeout_s, connect=connect_s),
            ) as response:
                status.append(response.status)
                if not 200 <= response.status < 300:
                    hidden = (*door.secrets, *request.secrets())
                    raise await answers.error_of(response, request.classify, hidden)
                return await answers.json_of(response, door.max_bytes), response.headers
        except TimeoutError as error:
            what = f"no answer in {door.timeout_s:g} s" if wire.opened else "no connection in time"
            raise errors.Transient(f"{request.endpoint}: {what}", code="timeout") from error
        except (aiohttp.ClientError, OSError) as error:
            raise errors.Transient(f"{request.endpoint}: {_fault(error)}", code="connection") from error

    async def _give_back(self, grant: Grant) -> bool:
        """Whether the charge was returned; a failure to do so leaves it charged, which breaks no limit."""
        try:
            await asyncio.shield(asyncio.ensure_future(self._gate.give_back(grant)))
        except errors.MarketdError as error:
            self._observer.event("give_back_failed", provider=self._door.provider, error=str(error))
            return False
        return True

    def _report(
        self,
        request: Request,
        grant: Grant,
        started: float,
        status: list[int],
        error: BaseException | None,
        given_back: bool,
    ) -> None:
        http_status = status[0] if status else None
        self._requests += not given_back
        report = RequestReport(
            provider=self._door.provider,
            account=self._door.account,
            endpoint=request.endpoint,
            priority=self._priority,
            status_class=answers.status_class(http_status, error),
            http_status=http_status,
            granted_at=grant.granted_at,
            took_s=monotonic() - started,
            given_back=given_back,
            meter=request.meter,
            cost_window=grant.cost_window,
            of_fetch=self._of_fetch,
        )
        self.calls.append(report)
        self._observer.request_done(report)


def _address(request: Request) -> URL:
    url = URL(request.url, encoded=True)
    return url.update_query(request.params) if request.params else url


def _fault(error: Exception) -> str:
    """What broke, without addresses: `ClientOSError: Connection reset by peer`."""
    detail = error.strerror if isinstance(error, OSError) else str(error) if not error.args[1:] else ""
    return f"{type(error).__name__}: {detail}" if detail else type(error).__name__
