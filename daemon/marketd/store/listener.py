"""LISTEN on a connection of its own. NOTIFY is a hint: whoever hears nothing still polls.

A half-open connection looks like silence, so the same session is probed; the probe also proves that it still listens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg

from marketd.clock import full_jitter
from marketd.errors import DatabaseError

CHANNEL = "market_jobs"
_PROBE_EVERY_S = 10.0
_PROBE_TIMEOUT_S = 4.0
_RECONNECT_CAP_S = 5.0

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Listener:
    """Calls `on_notify(payload)` for each message, `on_connect()` after each (re)connect, since some may be lost.

    `knock` has another session notify a channel. What does not arrive then never will: behind a pooler in transaction
    mode LISTEN succeeds, and the session that listens is anybody's.
    """

    def __init__(
        self,
        dsn: str,
        *,
        on_notify: Callable[[str], None],
        on_connect: Callable[[], None],
        on_change: Callable[[bool, str], None],
        knock: Callable[[str], Awaitable[None]],
    ) -> None:
        self._dsn = dsn
        self._on_notify = on_notify
        self._on_connect = on_connect
        self._on_change = on_change
        self._knock = knock
        self.connected = False
        self._why = ""
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
                DatabaseError,
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
            await self._prove(connection)
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

    async def _prove(self, connection: Connection) -> None:
        """Raises unless this session hears what another one says."""
        channel, heard = f"marketd_echo_{uuid4().hex}", asyncio.Event()
        await connection.add_listener(channel, lambda *_: heard.set())
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                await self._knock(channel)
                await heard.wait()
        except TimeoutError as error:
            raise asyncpg.InterfaceError(
                "no notification arrives: a pooler in transaction mode? See database.listen_dsn"
            ) from error

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        self.last_echo = time.monotonic()
        self._on_notify(str(payload))

    def _changed(self, connected: bool, why: str) -> None:
        if (connected, why) != (self.connected, self._why):
            self._on_change(connected, why)
        self.connected, self._why = connected, why
