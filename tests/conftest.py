"""A real Postgres for every test that wants one.

`MARKETD_TEST_DSN` names a server where databases may be created; without it each pytest process (each worker
of xdist) starts one of its own. Names are random, so several runs can share a server.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from marketd.embedded import TEST_SETTINGS, EmbeddedPostgres
from windows import DAY_S, HOUR_S, window_s

Connect = Callable[[], Awaitable["asyncpg.Connection[asyncpg.Record]"]]

_CLOSE_S = 5.0
_MEMORY = "/dev/shm"
_ROOM = 2 * 1024**3


def pytest_configure() -> None:
    """No event loop but those of tests: Python 3.11 makes one for whoever asks, and nobody closes it."""
    asyncio.set_event_loop(None)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """DSN of a database on a server where the tests may create and drop databases."""
    if given := os.environ.get("MARKETD_TEST_DSN"):
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="mkt-", dir=_quick_place()))
    folder.chmod(0o711)  # for root, whose Postgres runs as another user
    try:
        with EmbeddedPostgres(folder / "pg", {**TEST_SETTINGS, "max_connections": "100"}) as server:
            yield server.dsn()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def template_database(postgres_server: str) -> Iterator[str]:
    """Name of a database with the whole schema, to be cloned; nobody may connect to it. Its windows have just begun."""
    from marketd.migrate import migrate

    name = _random_name("template")

    async def create() -> None:
        await _execute(postgres_server, f"create database {name}")
        await migrate(_with_database(postgres_server, name))
        await _execute(
            _with_database(postgres_server, name),
            f"update market_settings set hour_s = {window_s(HOUR_S)}, day_s = {window_s(DAY_S)}",
        )

    _run(create())
    try:
        yield name
    finally:
        _run(_execute(postgres_server, f"drop database {name} with (force)"))


@pytest.fixture
async def database(postgres_server: str, template_database: str) -> AsyncIterator[str]:
    """DSN of this test's own migrated database; it is dropped afterwards, whoever is still connected."""
    name = _random_name("test")
    await _clone(postgres_server, template_database, name)
    yield _with_database(postgres_server, name)
    await _execute(postgres_server, f"drop database {name} with (force)")


@pytest.fixture
async def empty_database(postgres_server: str) -> AsyncIterator[str]:
    """DSN of this test's own database without any schema."""
    name = _random_name("empty")
    await _execute(postgres_server, f"create database {name}")
    yield _with_database(postgres_server, name)
    await _execute(postgres_server, f"drop database {name} with (force)")


@pytest.fixture
async def connect(database: str) -> AsyncIterator[Connect]:
    """Opens further connections to `database`; all are closed at the end."""
    opened: list[asyncpg.Connection[asyncpg.Record]] = []

    async def open_one() -> asyncpg.Connection[asyncpg.Record]:
        connection = await asyncpg.connect(database)
        opened.append(connection)
        return connection

    yield open_one
    for connection in opened:
        await _close(connection)


@pytest.fixture
async def db(connect: Connect) -> asyncpg.Connection[asyncpg.Record]:
    """A connection to `database`."""
    return await connect()


def _quick_place() -> str:
    """A short path, since it holds the socket; in memory, where a database is cloned and dropped at half the cost.

    Not where that is too small (containers have 64 MB by default), or where the copies of programs that root may need
    could not be run.
    """
    try:
        memory = os.statvfs(_MEMORY)
    except OSError:  # not Linux
        return "/tmp"
    roomy = memory.f_bavail * memory.f_frsize >= _ROOM
    return _MEMORY if roomy and not memory.f_flag & os.ST_NOEXEC and os.access(_MEMORY, os.W_OK) else "/tmp"


def _run(work: Coroutine[None, None, None]) -> None:
    # With a factory, Runner leaves the "current" loop alone, which belongs to pytest-asyncio.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(work)


async def _clone(server: str, template: str, name: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        # Copying files beats replaying them through the WAL when nothing is flushed to disk anyway.
        strategy = " strategy file_copy" if connection.get_server_version().major >= 15 else ""
        await connection.execute(f"create database {name} template {template}{strategy}")
    finally:
        await connection.close()


async def _execute(server: str, statement: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _close(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    try:
        await connection.close(timeout=_CLOSE_S)
    except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        connection.terminate()  # a test may have cut it, or left a statement running


def _random_name(kind: str) -> str:
    return f"marketd_{kind}_{secrets.token_hex(6)}"


def _with_database(dsn: str, name: str) -> str:
    parts = urlsplit(dsn)
    return f"{parts.scheme}://{parts.netloc}/{name}?{parts.query}"
