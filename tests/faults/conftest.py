"""A Postgres that a test may restart, kill and misconfigure, apart from the one that the other tests share."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from faults.proxy import Proxy
from marketd.embedded import TEST_SETTINGS, EmbeddedPostgres
from marketd.migrate import migrate

MAX_CONNECTIONS = 40  #: of the server that may be broken


@dataclass(frozen=True)
class OwnServer:
    """`dsn` names a migrated database of this test's own."""

    server: EmbeddedPostgres
    dsn: str

    def restart(self) -> None:
        """An orderly restart: open connections are told that it is shutting down."""
        self.server.stop()
        self.server.start()

    def kill(self) -> None:
        """kill -9 of the postmaster, and a start with crash recovery."""
        assert self.server.pid is not None
        os.kill(self.server.pid, signal.SIGKILL)
        while self.server.pid is not None:
            time.sleep(0.01)  # this process is its parent: it is gone when poll() has seen it
        self.server.start()


@pytest.fixture(scope="session")
def own_postgres() -> Iterator[EmbeddedPostgres]:
    folder = Path(tempfile.mkdtemp(prefix="mkf-", dir="/tmp"))
    folder.chmod(0o711)
    # What was committed has to survive a kill of the postmaster, if not one of the machine.
    settings = {**TEST_SETTINGS, "synchronous_commit": "on", "max_connections": str(MAX_CONNECTIONS)}
    try:
        with EmbeddedPostgres(folder / "pg", settings) as server:
            yield server
    finally:
        shutil.rmtree(folder)


@pytest.fixture
async def own(own_postgres: EmbeddedPostgres) -> AsyncIterator[OwnServer]:
    own_postgres.start()  # a test may have left it dead
    name = f"own_{secrets.token_hex(4)}"
    await _execute(own_postgres, f"create database {name}")
    dsn = own_postgres.dsn(name)
    await migrate(dsn)
    yield OwnServer(own_postgres, dsn)
    own_postgres.start()
    await _execute(own_postgres, f"drop database {name} with (force)")


async def _execute(server: EmbeddedPostgres, statement: str) -> None:
    connection = await asyncpg.connect(server.dsn("postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def proxy(database: str) -> AsyncIterator[Proxy]:
    """In front of this test's database."""
    async with Proxy(database) as running:
        yield running
