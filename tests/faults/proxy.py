"""A TCP proxy in front of Postgres that can be slow, go silent, cut connections, or freeze one statement.

It knows just enough of the protocol to see statement texts, so a daemon can be held at a named step of its work: the
client must send texts each time (a DSN that `leads through a pooler` does).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

_LINGER_NOT = struct.pack("ii", 1, 0)  # close() then sends a reset
_PARSE, _BIND, _QUERY = ord("P"), ord("B"), ord("Q")


@dataclass(eq=False)
class Trap:
    """Holds the connection that runs a statement with `text` in it: before Postgres sees it, or before its answer."""

    text: bytes
    when: Literal["before", "after"]
    skip: int = 0
    sprung: asyncio.Event = field(default_factory=asyncio.Event)
    freed: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let what is held go on."""
        self.freed.set()


@dataclass(eq=False)
class _Line:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    armed: Trap | None = None  #: its statement was parsed; the next Bind runs it
    caught: list[Trap] = field(default_factory=list)
    holding: Trap | None = None  #: its answer is kept back
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    started: bool = False
    rest: bytes = b""

    def reset(self) -> None:
        for writer in (self.client, self.server):
            endpoint = writer.get_extra_info("socket")
            with suppress(OSError):  # a connection that has gone already cannot be told to go rudely
                endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            writer.transport.abort()


class Proxy:
    """Listens on loopback from `start` to `stop`; `dsn` leads through it."""

    def __init__(self, target: str) -> None:
        """`target` is the DSN of the real server, by TCP or by its socket's directory."""
        self._target = urlsplit(target)
        self._lines: set[_Line] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._traps: list[Trap] = []
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self.latency_s = 0.0
        self.accepted = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after a `stop` on the same port again."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse new connections and reset the open ones."""
        if self._server is not None:
            self._server.close()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def dsn(self) -> str:
        """As the target's, by way of the proxy."""
        user = self._target.username or "postgres"
        return f"postgresql://{user}@127.0.0.1:{self._port}{self._target.path}"

    @property
    def connections(self) -> int:
        return len(self._lines)

    def silence(self, *, also_new: bool) -> None:
        """A black hole: connections stand, and nothing passes any more, in either direction.

        With `also_new`, who connects is accepted and hears nothing; else only the present ones are half-open.
        """
        for line in self._lines:
            line.flowing.clear()
        if also_new:
            self._open.clear()

    def speak(self) -> None:
        """The end of all `silence`; what was swallowed up arrives late."""
        self._open.set()
        for line in self._lines:
            line.flowing.set()

    def reset(self) -> int:
        """Reset all open connections; how many they were."""
        lines = list(self._lines)
        for line in lines:
            line.reset()
        return len(lines)

    def trap(self, text: str, when: Literal["before", "after"], *, skip: int = 0) -> Trap:
        """Hold the next statement that contains `text`, after `skip` others that do."""
        trap = Trap(text.encode(), when, skip)
        self._traps.append(trap)
        return trap

    async def _accept(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        try:
            await self._open.wait()
            server_reader, server = await self._connect()
        except (OSError, asyncio.CancelledError):
            client.transport.abort()
            return
        line = _Line(client, server)
        line.flowing.set()
        self._lines.add(line)
        try:
            await asyncio.gather(self._upward(client_reader, line), self._downward(server_reader, line))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return  # either end went away, which is what this proxy is for
        finally:
            self._lines.discard(line)
            line.reset()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        query = parse_qs(self._target.query)
        host = unquote(query.get("host", [self._target.hostname or ""])[0])
        port = int(query.get("port", [str(self._target.port or 5432)])[0])
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _upward(self, reader: asyncio.StreamReader, line: _Line) -> None:
        while data := await reader.read(65536):
            await self._weather(line)
            for message in _messages(line, data):
                await self._hold_if_trapped(line, message)
                line.server.write(message)
            await line.server.drain()
        raise ConnectionResetError

    async def _downward(self, reader: asyncio.StreamReader, line: _Line) -> None:
        kept = b""
        while data := await reader.read(65536):
            await self._weather(line)
            if trap := line.holding:
                kept += data
                if kept[-6:-1] != b"Z\x00\x00\x00\x05":  # not ready for the next query: still running
                    continue
                trap.sprung.set()
                await trap.freed.wait()
                data, kept, line.holding = kept, b"", None
            line.client.write(data)
            await line.client.drain()
        raise ConnectionResetError

    async def _weather(self, line: _Line) -> None:
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        await line.flowing.wait()

    async def _hold_if_trapped(self, line: _Line, message: bytes) -> None:
        if message[0] in (_PARSE, _QUERY):
            # A statement may be parsed twice, with looks into the catalogue in between; only then it runs.
            line.armed = self._caught(message) or next((t for t in line.caught if t.text in message), None)
            if line.armed is not None:
                line.caught.append(line.armed)
            if line.armed is not None and line.armed.when == "before":
                line.armed.sprung.set()
                await line.armed.freed.wait()
        if line.armed is not None and line.armed.when == "after" and message[0] in (_BIND, _QUERY):
            line.holding = line.armed
            line.armed = None
            line.caught.clear()

    def _caught(self, message: bytes) -> Trap | None:
        for trap in self._traps:
            if trap.text not in message:
                continue
            if trap.skip > 0:
                trap.skip -= 1
                continue
            self._traps.remove(trap)
            return trap
        return None


def _messages(line: _Line, data: bytes) -> list[bytes]:
    """The whole messages that a client has sent by now; what is left of one is kept for the next time."""
    line.rest += data
    found: list[bytes] = []
    while len(line.rest) >= (at := int(line.started)) + 4:  # all but the first messages begin with a letter
        size = at + int.from_bytes(line.rest[at : at + 4], "big")
        if len(line.rest) < size:
            break
        message, line.rest = line.rest[:size], line.rest[size:]
        if not line.started and int.from_bytes(message[4:8], "big") >> 16 == 3:
            line.started = True  # the startup message itself; before it come requests for TLS
        found.append(message)
    return found
