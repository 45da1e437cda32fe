"""aiohttp's session, held to one wire request per call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp

from marketd import __version__

MAX_CONNECTIONS = 64
KEPT_S = 3.0  #: a connection that idled longer is not used again: servers hang up after 5 s and more


@dataclass(slots=True)
class Wire:
    """What became of one request on the wire; handed to aiohttp as `trace_request_ctx`."""

    opened: bool = False  #: a connection stood, TLS included: from here on the request may have left
    on_opened: Callable[[], Awaitable[None]] | None = (
        None  #: awaited once it stands, before the request is written
    )


class Broken(aiohttp.ClientError):
    """The connection broke without an answer; the request may have arrived or not."""


@asynccontextmanager
async def open_session() -> AsyncIterator[aiohttp.ClientSession]:
    """The process's connection pool: no cookies, no proxies of the environment, kept connections.

    aiohttp repeats an idempotent request whose connection broke, which would send two for one grant, and it has
    no public switch for that. It decides by the class of the error, so a middleware gives it another one. What
    is known to be closed is not used again; a kept connection that breaks under a request costs its charge.
    """
    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(_connected)
    trace.on_connection_reuseconn.append(_connected)
    connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=KEPT_S, ttl_dns_cache=60)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[trace],
        middlewares=(_once,),
        auto_decompress=False,
        trust_env=False,
        headers={"User-Agent": f"marketd/{__version__}", "Accept-Encoding": "gzip"},
    ) as session:
        yield session


async def _once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise  # no connection stood, and aiohttp leaves it at that
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise Broken("the connection broke without an answer") from error


async def _connected(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceConnectionCreateEndParams | aiohttp.TraceConnectionReuseconnParams,
) -> None:
    wire: Wire = context.trace_request_ctx
    wire.opened = True
    if wire.on_opened is not None:
        await wire.on_opened()
