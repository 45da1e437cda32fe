"""Starts the demo's parts, keeps them together, and ends them together."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from marketd import wiring
from marketd.app import App
from marketd.clock import monotonic
from marketd.config import Config, from_mapping
from marketd.demo.asking import Asker, Snapshot, items
from marketd.errors import DatabaseUnavailable
from marketd.sandbox import Limits, Sandbox
from marketd.sandbox.generated import generated
from marketd.sandbox.golden import golden
from marketd.signals import Stop
from marketd.store.pool import Database

_BACKGROUND_PRODUCTS = 8
_LOOK_S = 0.5
_ASK_AGAIN_S = 30.0
_PATIENCE_S = 180.0  #: of `once`

# Quicker than the real providers allow, so that nobody has to wait. The hourly budgets are the shipped ones.
_PACE = {"calls": 6, "per": "1s"}
_SANDBOX_LIMITS = {"stockx": Limits(per_window=10, per_day=25_000)}
_BUDGETS: dict[str, dict[str, Any]] = {
    "stockx": {"currency": "GBP", "budget": {"per_hour": 100, "per_day": 25_000}},
    "alias": {"currency": "USD", "budget": {"per_hour": 200}},
    "ebay": {
        "currency": "USD",
        "budget": {"per_hour": 150, "per_day": 5_000, "day_starts": "00:00 America/Los_Angeles"},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where the demo lives, and whether it ends by itself."""

    state_dir: Path
    host: str = "127.0.0.1"
    port: int = 9464  #: of /metrics; a free one is taken when it is not to be had
    once: bool = False


class Audience(Protocol):
    """Who watches. Neither call may block for long."""

    def say(self, line: str) -> None: ...
    def show(self, snapshot: Snapshot) -> None: ...


async def run(plan: Plan, audience: Audience) -> Snapshot | None:
    """Show it until a signal, or with `once` until all is settled. Returns what was seen last.

    Raises what `App.serve` raises, and TimeoutError when `once` does not come to its end.
    """
    port = _free(plan.host, plan.port)
    async with Sandbox(products=_BACKGROUND_PRODUCTS, limits=_SANDBOX_LIMITS, move_every_s=5.0) as sandbox:
        audience.say(f"stand-ins of {', '.join(sandbox.settings)} at {sandbox.url}")
        audience.say(f"starting Postgres and the daemon; data and demo.log are kept in {plan.state_dir}")
        app = App(configured(plan.state_dir, plan.host, port, sandbox.settings))
        stop, ready = Stop(), asyncio.Event()
        serving = asyncio.create_task(app.serve(stop, on_ready=ready.set))
        try:
            await _either(serving, ready)
            if serving.done():
                return None
            # A closed terminal ends the demo: there is no configuration file to be read again.
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, stop.set)
            audience.say(f"database: {app.dsn}")
            taken = f" (port {plan.port} is taken)" if app.admin_port != plan.port else ""
            audience.say(f"metrics:  http://{plan.host}:{app.admin_port}/metrics{taken}")
            return await _watched(app.dsn or "", sandbox, plan, stop, audience)
        finally:
            stop.set()
            if not ready.is_set():
                serving.cancel()
            await serving


async def _either(serving: asyncio.Task[None], ready: asyncio.Event) -> None:
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


async def _watched(dsn: str, sandbox: Sandbox, plan: Plan, stop: Stop, audience: Audience) -> Snapshot | None:
    db = Database(dsn, size=1, timeout_s=10, application="marketd demo")
    await db.open()
    providers = _in_order(sandbox.settings)
    asker = Asker(db, items(golden(), providers), sandbox.count)
    further = items([p for p in generated(_BACKGROUND_PRODUCTS) if p.alias_id and p.shelf], providers)
    seen: Snapshot | None = None
    ask_again_at: float | None = None
    try:
        await asker.urgently()
        while not stop.is_set():
            seen = await asker.snapshot()
            audience.show(seen)
            if plan.once and ask_again_at is not None and seen.settled:
                return seen
            if plan.once and seen.elapsed_s > _PATIENCE_S:
                raise TimeoutError(f"{seen.answered} of {len(seen.rows)} answered")
            if seen.answered == len(seen.rows) and monotonic() >= (ask_again_at or 0.0):
                await asker.in_background(further)
                ask_again_at = monotonic() + _ASK_AGAIN_S
            await _pause(stop)
    except DatabaseUnavailable:
        if not stop.is_set():  # at a stop, Postgres may end before the last look
            raise
    finally:
        await db.close()
    return seen


def _in_order(providers: Iterable[str]) -> list[str]:
    """Those that everybody knows first, in the order in which their budgets are written above."""
    return sorted(providers, key=lambda name: (list(_BUDGETS).index(name) if name in _BUDGETS else 99, name))


async def _pause(stop: Stop) -> None:
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait({waiting}, timeout=_LOOK_S)
    waiting.cancel()


def _free(host: str, port: int) -> int:
    """The port if it is to be had, else 0."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return 0
    return port


def configured(state_dir: Path, host: str, port: int, sandbox: Mapping[str, Mapping[str, Any]]) -> Config:
    """The demo's configuration; `sandbox` says for each provider where it is and what it accepts."""
    common = {"pace": _PACE, "concurrency": 2, "timeout": "10s", "currency": "USD"}
    return from_mapping(
        {
            "database": {"embedded": True},
            "state_dir": str(state_dir),
            "http": {"host": host, "port": port},
            "scheduler": {"interval": "10s", "poll": "1s"},
            "jobs": {"fresh_for": "2m", "shutdown_grace": "2s"},
            "providers": {
                name: common | _BUDGETS.get(name, {}) | dict(settings) for name, settings in sandbox.items()
            },
        },
        wiring.provider_types(),
    )
