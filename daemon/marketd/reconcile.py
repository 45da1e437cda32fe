"""Holds our count of a provider's day against the provider's own, where it tells one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from marketd import clock, errors
from marketd.provider import Usage
from marketd.store.budgets import Circuits
from marketd.telemetry import FetchReport, Observer, RequestReport

_EVERY_S = 900.0
_SOON_S = 1.0

Lane = tuple[str, str]


class Reconciler:
    """Asks every quarter of an hour, and at once when a lane was throttled. Also an observer, to hear of that."""

    def __init__(
        self,
        lanes: Callable[[], Iterable[Lane]],
        usage: Callable[[str, str], Awaitable[Usage | None]],
        circuits: Circuits,
    ) -> None:
        self._lanes = lanes
        self._usage = usage
        self._circuits = circuits
        self._throttled = asyncio.Event()
        self.observer: Observer | None = None  #: set after construction, since it observes too

    def request_done(self, report: RequestReport) -> None:
        """Nothing: single requests are no news here."""

    def fetches_done(self, reports: Sequence[FetchReport]) -> None:
        """Nothing: neither are fetches."""

    def event(self, name: str, **fields: object) -> None:
        if name == "lane_closed" and fields.get("reason") == "throttled":
            self._throttled.set()

    async def run(self) -> None:
        """Reconcile until cancelled."""
        while True:
            if await clock.happens(self._throttled, clock.jittered(_EVERY_S)):
                await asyncio.sleep(_SOON_S)  # several lanes tend to be throttled together
            self._throttled.clear()
            for provider, account in list(self._lanes()):
                await self._reconcile(provider, account)

    async def _reconcile(self, provider: str, account: str) -> None:
        try:
            said = await self._usage(provider, account)
            if said is None:
                return
            drift = await self._circuits.reconcile(provider, account, said.remaining, said.reset)
        except errors.MarketdError as error:
            self._tell("reconcile_failed", lane=f"{provider}/{account}", error=str(error))
            return
        except Exception as error:
            # Maybe of someone else's module: one provider's word is not worth the daemon.
            words = f"{type(error).__name__}: {error}"
            self._tell("reconcile_failed", lane=f"{provider}/{account}", error=words, exc_info=error)
            return
        self._tell(
            "reconciled",
            provider=provider,
            lane=f"{provider}/{account}",
            remaining=said.remaining,
            drift=drift,
        )

    def _tell(self, name: str, **fields: object) -> None:
        if self.observer is not None:
            self.observer.event(name, **fields)
