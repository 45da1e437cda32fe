"""`Sandbox`: a real HTTP server that behaves as the providers do, under the caller's control."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from marketd.sandbox.control import Control
from marketd.sandbox.face import Face, Route, Truth
from marketd.sandbox.faces import discover
from marketd.sandbox.faults import KINDS, Fault, Faults
from marketd.sandbox.limits import Limits
from marketd.sandbox.tokens import DEFAULT_ACCOUNT, credentials_of
from marketd.sandbox.wire import Request, Wire
from marketd.sandbox.world import World


class Sandbox:
    """All providers on one port. It may be stopped and started again; it then keeps its port and its memory.

    `limits` maps a provider, or `*` for all, to limits that replace the real ones; None means no limit.
    `wall` gives the Unix time by which days begin, `monotonic` the clock by which prices move.
    """

    def __init__(
        self,
        seed: int = 1,
        host: str = "127.0.0.1",
        port: int = 0,
        products: int = 0,
        *,
        limits: Mapping[str, Limits | None] | None = None,
        move_every_s: float = 0.0,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host, self._port = host, port
        self._runner: web.AppRunner | None = None
        self.world = World(seed=seed, products=products, move_every_s=move_every_s, monotonic=monotonic)
        kinds = discover()
        asked = dict(limits or {})
        unknown = sorted(set(asked) - set(kinds) - {"*"})
        if unknown:
            raise ValueError(f"limits for unknown providers: {', '.join(unknown)}")
        chosen = {name: asked.get(name, asked.get("*", kind.limits)) for name, kind in kinds.items()}
        self._faults = Faults(seed)
        self._wire = Wire(self._faults, {name: some or Limits() for name, some in chosen.items()}, wall)
        self._faces: dict[str, Face] = {name: kind(self.world, self._wire) for name, kind in kinds.items()}

    # -- lifetime ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen. OSError when the port is taken."""
        if self._runner is not None:
            raise RuntimeError("the sandbox is running already")
        self._wire.stopping.clear()
        runner = web.AppRunner(
            self._application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.5
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port)
            await site.start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening; requests that stall are ended. Stopping twice is harmless."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self._wire.stopping.set()
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=2**20)
        for face in self._faces.values():
            for route in (*face.routes(), face.lost()):
                application.router.add_route(route.method, route.path, self._served(face, route))
        application.add_routes(Control(self).routes())
        return application

    def _served(self, face: Face, route: Route) -> Callable[[web.Request], Any]:
        async def handler(request: web.Request) -> web.StreamResponse:
            return await self._wire.serve(face, route, request)

        return handler

    # -- what a client has to be told --------------------------------------------------------------------

    @property
    def url(self) -> str:
        """`http://host:port`, known once started."""
        if not self._port:
            raise RuntimeError("the sandbox has no port before it is started")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def credentials(self) -> dict[str, dict[str, str]]:
        """The words that each provider accepts."""
        return {name: dict(face.credentials) for name, face in self._faces.items()}

    def credentials_for(self, provider: str, account: str = DEFAULT_ACCOUNT) -> dict[str, str]:
        """Credentials of a further account, which has limits of its own."""
        return credentials_of(self._face(provider).credentials, account)

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """For each provider what a config has to say: `base_url`, `token_url`, `credentials`."""
        return {
            name: {
                "base_url": self.url + face.base_path,
                "token_url": self.url + face.token_path if face.token_path else None,
                "credentials": dict(face.credentials),
            }
            for name, face in self._faces.items()
        }

    # -- the world ---------------------------------------------------------------------------------------

    @property
    def tick(self) -> int:
        """Grows with every chance of prices to move."""
        return self.world.tick

    def advance(self, ticks: int = 1) -> int:
        """Let prices move at once; returns the new tick."""
        return self.world.advance(ticks)

    def truth(
        self,
        provider: str,
        product: str,
        size: str | None = None,
        currency: str = "USD",
        *,
        tick: int | None = None,
        **basis: Any,
    ) -> Truth:
        """What a correct client must store for this product and size, at this moment or at `tick`.

        StockX: standard ask (`flex=True`: the flex ask) and bid. Alias: the global view of new pairs in a
        good box (`region`, `consigned` narrow it). eBay: the cheapest right listing with its known shipping
        (`shipping=False`: by price alone; `sold=True`: the last sale as well). `product` is a style code, key,
        provider's id or title. LookupError when the provider does not have it, or the code is ambiguous.
        """
        found = self.world.find(product)
        moment = self.tick if tick is None else tick
        return self._face(provider).truth(found, size, currency, moment, **basis)

    def retire(self, product: str, provider: str = "stockx") -> str:
        """From now on the provider's id of this product is unknown and a new one, returned, is in use."""
        return self.world.retire(self.world.find(product), provider)

    def add_size(self, product: str, size: str) -> None:
        """Start to trade a further size of a product."""
        self.world.add_size(self.world.find(product), size)

    # -- what came in ------------------------------------------------------------------------------------

    @property
    def requests(self) -> list[Request]:
        """The last 100,000 requests that reached the wire, oldest first, refused ones included."""
        return list(self._wire.log)

    def count(self, provider: str, *, since: float | None = None, endpoint: str | None = None) -> int:
        """How many metered calls a provider got (tokens apart), or how many calls of one endpoint.

        `since` is a `time.monotonic()`; without it the count goes back to the beginning.
        """
        self._face(provider)
        if since is None:
            return sum(
                times
                for (name, place, meter), times in self._wire.totals.items()
                if name == provider and (place == endpoint if endpoint else meter == "calls")
            )
        return sum(
            entry.provider == provider
            and entry.monotonic >= since
            and (entry.endpoint == endpoint if endpoint else entry.meter == "calls")
            for entry in self._wire.log
        )

    def breaches(self, provider: str | None = None) -> list[Request]:
        """Requests that were over one of the sandbox's limits; empty for a well-behaved client."""
        return [entry for entry in self._wire.log if entry.breach and provider in (None, entry.provider)]

    # -- limits ------------------------------------------------------------------------------------------

    def set_limits(self, provider: str, **changes: Any) -> Limits:
        """Change some limits of a provider. TypeError names an unknown one."""
        self._face(provider)
        limits = self._wire.limits(provider).changed(changes)
        self._wire.set_limits(provider, limits)
        return limits

    def spend(
        self, provider: str, calls: int, *, meter: str = "calls", account: str = DEFAULT_ACCOUNT
    ) -> None:
        """Use up part of today's quota without any request."""
        self._face(provider)
        self._wire.spend(provider, account, meter, calls)

    def usage(self) -> dict[str, dict[str, Any]]:
        """Limits in force, calls and mints of today, and when the day ends."""
        return {
            name: asdict(self._wire.limits(name))
            | {
                "used_calls": self._wire.used(name, DEFAULT_ACCOUNT, "calls"),
                "used_mints": self._wire.used(name, DEFAULT_ACCOUNT, "mints"),
                "resets_at": self._wire.resets_at(name).isoformat(),
            }
            for name in self._faces
        }

    # -- trouble -----------------------------------------------------------------------------------------

    def fault(
        self,
        provider: str,
        kind: str,
        times: int | None = 1,
        endpoint: str | None = None,
        *,
        after: int = 0,
        probability: float = 1.0,
        **options: Any,
    ) -> Fault:
        """Make the next `times` requests (None: all until cleared) to an endpoint go wrong.

        Without `endpoint` any but `token` is met; `*` means every one. `after` lets so many pass first.
        Kinds and their options are in `faults.KINDS`. ValueError for what does not exist.
        """
        face = self._face(provider)
        known = {route.endpoint for route in face.routes()} | {"unknown", "*"}
        if endpoint is not None and endpoint not in known:
            raise ValueError(f"{provider} has no endpoint {endpoint!r}; known: {', '.join(sorted(known))}")
        if kind == "invalid_grant" and face.token_refused() is None:
            raise ValueError(f"{provider} has no token endpoint")
        return self._faults.order(
            provider,
            kind,
            times=times,
            endpoint=endpoint,
            after=after,
            probability=probability,
            **options,
        )

    def clear_faults(self) -> int:
        """Drop all faults; returns how many could still have struck."""
        return self._faults.clear()

    def open_faults(self) -> dict[str, Any]:
        """Faults that can still strike, and all kinds with their options."""
        return {"open": [fault.told() for fault in self._faults.open], "kinds": KINDS}

    def expire_tokens(self, provider: str) -> int:
        """End all access tokens of a provider now; returns how many there were."""
        return self._face(provider).tokens.expire()

    def grant_insights(self, granted: bool = True) -> None:
        """Whether eBay's keyset may see sold prices."""
        self._face("ebay").insights_granted = granted  # type: ignore[attr-defined]

    def _face(self, provider: str) -> Face:
        try:
            return self._faces[provider]
        except KeyError:
            known = ", ".join(self._faces)
            raise ValueError(f"unknown provider {provider!r}; known: {known}") from None
