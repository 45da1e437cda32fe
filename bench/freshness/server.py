"""A Postgres for the benchmark, and migrated databases in it."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from marketd.embedded import TEST_SETTINGS, EmbeddedPostgres
from marketd.migrate import migrate


@contextmanager
def postgres() -> Iterator[str]:
    """DSN of the server that MARKETD_BENCH_DSN names, else of one that lives as long as this context."""
    if given := os.environ.get("MARKETD_BENCH_DSN"):
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="mktb-", dir="/tmp"))
    folder.chmod(0o711)  # for root, whose Postgres runs as another user
    try:
        with EmbeddedPostgres(folder / "pg", {**TEST_SETTINGS, "shared_buffers": "128MB"}) as server:
            yield server.dsn()
    finally:
        shutil.rmtree(folder)


@asynccontextmanager
async def database(server: str) -> AsyncIterator[str]:
    """DSN of a migrated database of its own, dropped in the end."""
    name = f"marketd_bench_{secrets.token_hex(5)}"
    await _execute(server, f"create database {name}")
    try:
        parts = urlsplit(server)
        dsn = f"{parts.scheme}://{parts.netloc}/{name}?{parts.query}"
        await migrate(dsn)
        yield dsn
    finally:
        await _execute(server, f"drop database {name} with (force)")


async def _execute(server: str, sql: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
