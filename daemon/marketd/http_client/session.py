"""aiohttp's session, held to one wire request per call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp

from marketd import __version__

MAX_CONNECTIONS = 64


@dataclass(slots=True)
class Wire:
    """What became of one request on the wire; handed to aiohttp as `trace_request_ctx`."""

    attempts: int = 0
    opened: bool = False  #: a connection stood, TLS included: from here on the request may have left
    on_opened: Callable[[], Awaitable[None]] | None = (
        None  #: awaited once it stands, before the request is written
    )


class Repeated(aiohttp.ClientError):
    """The connection broke without an answer, and aiohttp set out to send the request again by itself."""


@asynccontextmanager
async def open_session() -> AsyncIterator[aiohttp.ClientSession]:
    """The process's connection pool: no cookies, no proxies of the environment, no kept connections.

    aiohttp repeats an idempotent request whose connection broke, which would send two for one grant, and it
    has no public switch for that. A trace of ours sees the second attempt before it connects and stops it.
    Connections are not kept: at a call a second the handshake is cheap, and a kept connection that the other
    side has given up costs a charged call.
    """
    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(_connecting)
    trace.on_connection_create_end.append(_connected)
    connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, force_close=True, ttl_dns_cache=60)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[trace],
        auto_decompress=False,
        trust_env=False,
        headers={"User-Agent": f"marketd/{__version__}", "Accept-Encoding": "gzip"},
    ) as session:
        yield session


async def _connecting(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceConnectionCreateStartParams,
) -> None:
    wire: Wire = context.trace_request_ctx
    wire.attempts += 1
    if wire.attempts > 1:
        raise Repeated("connection broke without an answer")


async def _connected(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceConnectionCreateEndParams,
) -> None:
    wire: Wire = context.trace_request_ctx
    wire.opened = True
    if wire.on_opened is not None:
        await wire.on_opened()
