"""Where a long run happens: a Postgres of its own that may be killed, the sandbox, and proxies between."""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
import signal
import tempfile
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

import asyncpg

from marketd.embedded import EmbeddedPostgres
from marketd.migrate import migrate

#: as in production: what was committed survives a kill of the postmaster
SETTINGS = {"max_connections": "60", "shared_buffers": "64MB", "autovacuum_naptime": "10s"}
T = TypeVar("T")


class Server(Protocol):
    """Postgres as a storm sees it."""

    dsn: str

    async def restart(self) -> None: ...

    async def kill(self) -> None:
        """kill -9 of the postmaster, and a start with crash recovery."""
        ...


class OwnServer:
    """An embedded Postgres. It can be started in the main thread only, which may be another one than the loop's."""

    def __init__(
        self, server: EmbeddedPostgres, dsn: str, run: Callable[[Callable[[], None]], Awaitable[None]]
    ):
        self.dsn = dsn
        self._server = server
        self._run = run

    async def restart(self) -> None:
        await self._run(self._restart)

    async def kill(self) -> None:
        await self._run(self._kill)

    def _restart(self) -> None:
        self._server.stop()
        self._server.start()

    def _kill(self) -> None:
        assert self._server.pid is not None
        os.kill(self._server.pid, signal.SIGKILL)
        while self._server.pid is not None:
            threading.Event().wait(0.01)  # this process is its parent: it is gone when poll() has seen it
        self._server.start()


class Main:
    """Runs a coroutine in a loop of another thread, and in the main thread what it asks to be run there.

    So a Postgres that takes its time to start does not hold up the sandbox and the proxies.
    """

    def __init__(self) -> None:
        self._orders: queue.Queue[
            tuple[Callable[[], None], Callable[[BaseException | None], None]] | None
        ] = queue.Queue()

    async def call(self, work: Callable[[], None]) -> None:
        """Run `work` in the main thread; what it raises is raised here."""
        loop, done = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def finish(error: BaseException | None) -> None:
            if error is None:
                loop.call_soon_threadsafe(done.set_result, None)
            else:
                loop.call_soon_threadsafe(done.set_exception, error)

        self._orders.put((work, finish))
        await done

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Block until `work` is over; its result, or what it raised."""
        outcome: list[T] = []
        trouble: list[BaseException] = []

        def loop() -> None:
            try:
                with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                    outcome.append(runner.run(work))
            except BaseException as error:
                trouble.append(error)
            finally:
                self._orders.put(None)

        thread = threading.Thread(target=loop, name="loop")
        thread.start()
        while (order := self._orders.get()) is not None:
            task, finish = order
            try:
                task()
            except Exception as error:
                finish(error)
            else:
                finish(None)
        thread.join()
        if trouble:
            raise trouble[0]
        return outcome[0]


def with_server(work: Callable[[OwnServer, Path], Coroutine[Any, Any, T]]) -> T:
    """Run `work(server, folder)` against a fresh, migrated database; nothing of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="mks-", dir="/tmp"))  # short: it holds the socket
    folder.chmod(0o711)
    main = Main()
    try:
        with EmbeddedPostgres(folder / "pg", SETTINGS) as server:
            dsn = server.dsn()
            asyncio.run(migrate(dsn))
            return main.run(work(OwnServer(server, dsn, main.call), folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class App:
    """An app with one connection that it makes anew whenever it breaks."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: asyncpg.Connection | None = None

    async def fetch(self, sql: str, *args: Any, within_s: float = 60) -> list[asyncpg.Record]:
        """Run a statement again and again until it is answered. The same request twice is what apps do then."""
        async with asyncio.timeout(within_s):
            while True:
                try:
                    if self._connection is None or self._connection.is_closed():
                        self._connection = await asyncpg.connect(self._dsn, timeout=5, command_timeout=30)
                    return await self._connection.fetch(sql, *args)
                except (
                    OSError,
                    asyncpg.PostgresConnectionError,
                    asyncpg.OperatorInterventionError,
                    asyncpg.InterfaceError,
                    asyncpg.InternalClientError,
                ):
                    self.hang_up()
                    await asyncio.sleep(0.05)

    async def value(self, sql: str, *args: Any) -> Any:
        rows = await self.fetch(sql, *args)
        return rows[0][0] if rows else None

    def hang_up(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None
