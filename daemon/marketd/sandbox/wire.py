"""Every request passes here: logged, counted against the limits, made to fail if so ordered, answered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from marketd.sandbox.face import Face, Refused, Route
from marketd.sandbox.faults import Faults
from marketd.sandbox.limits import Breach, Count, Limits
from marketd.sandbox.mishaps import Harmless, Scene, play, retry_after

_KEPT = 100_000  #: requests remembered; totals go on


@dataclass(slots=True, kw_only=True)
class Request:
    """One request that reached the wire, refused ones included. It holds no header and no body."""

    number: int
    monotonic: float
    wall: datetime
    provider: str
    account: str
    endpoint: str
    meter: str
    method: str
    path: str
    query: dict[str, str]
    tick: int
    status: int | None = (
        None  #: None while it runs, 0 when the connection broke before an answer was complete
    )
    breach: Breach | None = None  #: the limit that it broke
    fault: str | None = None
    seconds: float | None = None

    def told(self) -> dict[str, Any]:
        """For the control interface."""
        return asdict(self) | {"wall": self.wall.isoformat()}


class Wire:
    """The common way of all requests, and the count of them."""

    def __init__(self, faults: Faults, limits: Mapping[str, Limits], wall: Callable[[], float]) -> None:
        self.faults = faults
        self.stopping = asyncio.Event()
        self.log: deque[Request] = deque(maxlen=_KEPT)
        self.totals: Counter[tuple[str, str, str]] = Counter()
        self.wall = wall
        self._limits = dict(limits)
        self._counts = {provider: Count() for provider in limits}
        self._number = 0

    # -- limits ------------------------------------------------------------------------------------------

    def limits(self, provider: str) -> Limits:
        return self._limits[provider]

    def set_limits(self, provider: str, limits: Limits) -> None:
        self._limits[provider] = limits

    def used(self, provider: str, account: str, meter: str) -> int:
        return self._counts[provider].used(account, meter, self._limits[provider], wall=self.wall())

    def spend(self, provider: str, account: str, meter: str, calls: int) -> None:
        self._counts[provider].spend(account, meter, calls, self._limits[provider], wall=self.wall())

    def resets_at(self, provider: str) -> datetime:
        return self._limits[provider].day_of(self.wall())[1]

    # -- requests ----------------------------------------------------------------------------------------

    async def serve(self, face: Face, route: Route, request: web.Request) -> web.StreamResponse:
        entry = self._open(face, route, request)
        try:
            response = await self._answer(face, route, request, entry)
        except ConnectionError:  # the client hung up, as it should on an answer without end
            entry.status = 0
            return web.Response(status=500)  # never leaves: the connection is gone
        else:
            gone = request.transport is None or request.transport.is_closing()
            entry.status = 0 if gone else response.status
            return response
        finally:
            if entry.status is None:
                entry.status = 0
            entry.seconds = time.monotonic() - entry.monotonic

    async def _answer(
        self, face: Face, route: Route, request: web.Request, entry: Request
    ) -> web.StreamResponse:
        async def proceed() -> web.Response:
            try:
                return await route.handler(request)
            except Refused as refusal:
                return refusal.response

        if entry.breach:
            return self._too_many(face, entry.breach)
        fault = self.faults.take(face.name, route.endpoint, face.priced)
        if fault is None:
            return await proceed()
        entry.fault = fault.kind
        try:
            return await play(Scene(request, face, fault.kind, fault.options, proceed, self.stopping))
        except Harmless as harmless:
            self.faults.give_back(fault)
            entry.fault = None
            return harmless.response

    def _too_many(self, face: Face, breach: Breach) -> web.Response:
        response = face.over(breach)
        limits = self._limits[face.name]
        if limits.retry_after:
            wait_s = limits.window_s
            if breach != "window":
                wait_s = self.resets_at(face.name).timestamp() - self.wall()
            whole = max(1, round(wait_s))
            response.headers["Retry-After"] = retry_after(whole, form=limits.retry_after)
        return response

    def _open(self, face: Face, route: Route, request: web.Request) -> Request:
        self._number += 1
        monotonic, wall = time.monotonic(), self.wall()
        account = face.account(request) or "nobody"
        entry = Request(
            number=self._number,
            monotonic=monotonic,
            wall=datetime.fromtimestamp(wall, UTC),
            provider=face.name,
            account=account,
            endpoint=route.endpoint,
            meter=route.meter,
            method=request.method,
            path=request.path,
            query=dict(request.query),
            tick=face.world.tick,
        )
        entry.breach = self._counts[face.name].charge(
            account, route.meter, self._limits[face.name], monotonic=monotonic, wall=wall
        )
        self.log.append(entry)
        self.totals[face.name, route.endpoint, route.meter] += 1
        return entry
