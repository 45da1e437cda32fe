"""aiohttp's session, held to one wire request per call."""

from __future__ import annotations

import select
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from marketd import __version__

KEPT_S = 3.0  #: a connection that idled longer is not used again: servers hang up after 5 s and more


@dataclass(slots=True)
class Wire:
    """What becomes of one request on the wire."""

    on_opened: Callable[[], Awaitable[None]]  #: awaited before the request is written, once it could be
    opened: bool = False  #: from here on the request may have left


class MissedError(Exception):
    """The request was not written, for its moment or its connection is past; another one may be."""


#: What the running task is about to send.
sending: ContextVar[Wire] = ContextVar("sending")


class Broken(aiohttp.ClientError):
    """The connection broke without an answer; the request may have arrived or not."""


class _Connector(aiohttp.TCPConnector):
    """Stands between a connection and the request that is written to it next: asks `sending` whether it may.

    What came on a kept connection since its last answer (a second answer, a late one, the end) would be taken for the
    next one's, a wrong price for another item: such a connection is closed.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._asked: WeakSet[ResponseHandler] = WeakSet()  #: those that carried a request

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        wire = sending.get()
        connection = await super().connect(req, traces, timeout)
        try:
            await wire.on_opened()
            if connection.protocol is None or not connection.protocol.is_connected():
                raise MissedError("the server hung up before the request was written")
            if self._spoiled(connection):
                connection.close()
                raise MissedError("the server spoke or hung up before the request was written")
        except BaseException:
            connection.release()  # nothing was written: the next request may have it
            raise
        self._asked.add(connection.protocol)
        wire.opened = True
        return connection

    def _spoiled(self, connection: Connection) -> bool:
        """Whether something came on a kept connection, be it that it waits to be read."""
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None or protocol not in self._asked:
            return False  # of a new one, TLS reads more than an answer
        waiting = select.poll()
        waiting.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        return protocol.should_close or bool(waiting.poll(0))


@asynccontextmanager
async def open_session() -> AsyncIterator[aiohttp.ClientSession]:
    """The process's connection pool: no cookies, no proxies of the environment, kept connections.

    aiohttp repeats an idempotent request whose connection broke, which would send two for one grant, and it has
    no public switch for that. It decides by the class of the error, so a middleware gives it another one. What
    is known to be closed is not used again; a kept connection that breaks under a request costs its charge.
    """
    # No limit here: each lane has its own, and a request that waited for a connection would do so after its charge.
    connector = _Connector(limit=0, keepalive_timeout=KEPT_S, ttl_dns_cache=60)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
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
