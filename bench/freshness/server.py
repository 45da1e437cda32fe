"""A Postgres for the benchmark, and migrated databases in it."""

from __future__ import annotations

import asyncio
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

_VIRTUAL = Path(__file__).with_name("virtual.sql")


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


@contextmanager
def template(server: str) -> Iterator[str]:
    """Name of a migrated database to copy, for as long as this context lives."""
    name = _new_name()
    asyncio.run(_execute(server, f"create database {name}"))
    try:
        asyncio.run(migrate(_dsn(server, name)))
        yield name
    finally:
        asyncio.run(_execute(server, f"drop database {name} with (force)"))


@asynccontextmanager
async def database(server: str, template: str) -> AsyncIterator[str]:
    """DSN of a copy of `template`, dropped in the end."""
    name = _new_name()
    await _execute(server, f"create database {name} template {template}")
    try:
        yield _dsn(server, name)
    finally:
        await _execute(server, f"drop database {name} with (force)")


@asynccontextmanager
async def virtual_database(server: str) -> AsyncIterator[str]:
    """DSN of a migrated database whose clock is the setting `bench.now`; dropped in the end."""
    name = _new_name()
    dsn = _dsn(server, name)
    await _execute(server, f"create database {name}")
    try:
        await _execute(dsn, _VIRTUAL.read_text())
        await migrate(dsn)
        yield dsn
    finally:
        await _execute(server, f"drop database {name} with (force)")


def _new_name() -> str:
    return f"marketd_bench_{secrets.token_hex(5)}"


def _dsn(server: str, name: str) -> str:
    parts = urlsplit(server)
    return f"{parts.scheme}://{parts.netloc}/{name}?{parts.query}"


async def _execute(server: str, sql: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
