"""An HTTP server with no limit and as little work as possible: `python -m bench.server`.

Prints its port, and with `--tell` a line for each request that arrives. `/price/<sku>` answers one price.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop

_BODY = b'{"ask": "210.5", "bid": "180"}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_BODY),
    _BODY,
)


class Answering(asyncio.Protocol):
    """Keeps connections; answers each complete head of a request after `delay_s`."""

    def __init__(self, delay_s: float, telling: bool) -> None:
        self._delay_s = delay_s
        self._telling = telling
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        *heads, self._head = (self._head + data).split(b"\r\n\r\n")
        for _ in heads:
            if self._telling:
                print(json.dumps({"arrived": time.monotonic()}), flush=True)
            if self._delay_s:
                asyncio.get_running_loop().call_later(self._delay_s, self._transport.write, _ANSWER)
            else:
                self._transport.write(_ANSWER)


async def serve(delay_s: float, telling: bool) -> None:
    """Until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answering(delay_s, telling), "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    options = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options.get("delay_s", 0), options.get("tell", False)))
