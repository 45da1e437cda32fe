"""LISTEN on a connection of its own. NOTIFY is a hint: whoever hears nothing still polls.

A half-open connection looks like silence, so the same session is probed; the probe also proves that it still listens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import asyncpg

from marketd.clock import full_jitter

CHANNEL = "market_jobs"
_PROBE_EVERY_S = 10.0
_PROBE_TIMEOUT_S = 4.0
_RECONNECT_CAP_S = 5.0

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Listener:
    """Calls `on_notify(payload)` for each message, `on_connect()` after each (re)connect, since some may be lost."""

    def __init__(
        self,
        dsn: str,
        *,
        on_notify: Callable[[str], None],
        on_connect: Callable[[], None],
        on_change: Callable[[bool, str], None],
    ) -> None:
        self._dsn = dsn
        self._on_notify = on_notify
        self._on_connect = on_connect
        self._on_change = on_change
        self.connected = False
        self.last_echo: float | None = None  #: monotonic time at which the session last proved alive

    async def run(self) -> None:
        """Listen until cancelled; reconnects by itself with jittered backoff."""
        failures = 0
        while True:
            try:
                await self._session()
            except (
                OSError,
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,
            ) as error:
                failures = 1 if self.connected else failures + 1
                self._changed(False, f"{type(error).__name__}: {error}")
            await asyncio.sleep(full_jitter(failures, base_s=0.2, cap_s=_RECONNECT_CAP_S))

    async def _session(self) -> None:
        connection: Connection = await asyncpg.connect(
            self._dsn, timeout=_PROBE_TIMEOUT_S, command_timeout=_PROBE_TIMEOUT_S
        )
        try:
            await connection.add_listener(CHANNEL, self._heard)
            self.last_echo = time.monotonic()
            self._changed(True, "listening")
            # Only now: what was enqueued before LISTEN took effect is found by the lanes' own look.
            self._on_connect()
            while True:
                await asyncio.sleep(_PROBE_EVERY_S)
                channels = await connection.fetch("select pg_listening_channels() as name")
                if CHANNEL not in {row["name"] for row in channels}:
                    raise asyncpg.InterfaceError("the session does not listen any more")
                self.last_echo = time.monotonic()
        finally:
            # By force: a polite goodbye to a dead peer would wait for it.
            connection.terminate()

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        self.last_echo = time.monotonic()
        self._on_notify(str(payload))

    def _changed(self, connected: bool, why: str) -> None:
        if connected != self.connected or not connected:
            self._on_change(connected, why)
        self.connected = connected
