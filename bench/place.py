"""Where things run: a private Postgres with settings as in production, databases cloned from templates, processes."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from marketd.embedded import EmbeddedPostgres

ROOT = Path(__file__).resolve().parents[1]

# What an administrator would set on a small server; durability and autovacuum are left on.
SETTINGS: Mapping[str, str] = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "max_connections": "60",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "none",
}
_TICK = os.sysconf("SC_CLK_TCK")


class Place:
    """One server. Templates are made once, each sample runs in a clone of its own."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server
        self._templates: dict[str, str] = {}
        self._standing: dict[str, str] = {}

    def dsn(self, database: str = "postgres") -> str:
        return self._server.dsn(database)

    async def execute(self, *statements: str, database: str = "postgres") -> None:
        connection = await asyncpg.connect(self.dsn(database))
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    async def template(self, contender: str, **options: Any) -> str:
        """A database that `contender` prepared with these options; made at the first wish."""
        key = json.dumps([contender, options])
        if key not in self._templates:
            name = f"t_{secrets.token_hex(4)}"
            await self.execute(f"create database {name}")
            await call(contender, "prepare", dsn=self.dsn(name), **options)
            self._templates[key] = name
        return self._templates[key]

    @asynccontextmanager
    async def clone(self, contender: str, **options: Any) -> AsyncIterator[str]:
        """DSN of a fresh copy, checkpointed, so that each sample starts with a quiet disk."""
        template, name = await self.template(contender, **options), f"c_{secrets.token_hex(4)}"
        await self.execute(f"create database {name} template {template} strategy file_copy", "checkpoint")
        try:
            yield self.dsn(name)
        finally:
            await self.execute(f"drop database {name} with (force)")

    async def standing(self, contender: str, **options: Any) -> str:
        """DSN of a database without jobs of its own that stays for all samples; made at the first wish."""
        key = json.dumps([contender, options])
        if key not in self._standing:
            name = f"s_{secrets.token_hex(4)}"
            await self.execute(f"create database {name}")
            await call(contender, "prepare", dsn=self.dsn(name), jobs=0, **options)
            self._standing[key] = name
        return self.dsn(self._standing[key])

    async def refilled(self, contender: str, *, jobs: int, **options: Any) -> str:
        """DSN of the one database in which `contender` has many others waiting: made once, with new jobs each time.

        To copy a million rows for each sample would take longer than the sample, and disturb the next one.
        """
        dsn = await self.standing(contender, **options)
        await call(contender, "refill", dsn=dsn, jobs=jobs, **options)
        await self.execute("checkpoint")
        return dsn


@contextmanager
def postgres() -> Iterator[Place]:
    """The server, gone with everything in it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="mkt-bench-", dir="/tmp"))
    folder.chmod(0o711)
    try:
        with EmbeddedPostgres(folder / "pg", SETTINGS) as server:
            yield Place(server)
    finally:
        shutil.rmtree(folder)


class Program:
    """A contender at work in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self, *, within_s: float = 120) -> dict[str, Any]:
        """Its next JSON line. RuntimeError when it ended or is silent for too long."""
        assert self.process.stdout is not None
        async with asyncio.timeout(within_s):
            while text := await self.process.stdout.readline():
                if text.startswith(b"{"):
                    told: dict[str, Any] = json.loads(text)
                    return told
        raise RuntimeError(f"a contender ended with {await self.process.wait()}")

    async def stop(self) -> dict[str, Any]:
        """Ask it to end; its result."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"stop\n")
        self.process.stdin.close()
        result: dict[str, Any] = {}
        while "peak_rss_mib" not in result:
            result = await self.line()
        await self.process.wait()
        return result


async def start(module: str, *args: str) -> Program:
    """Start `python -m module args`."""
    return Program(
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *args, cwd=ROOT,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
    )  # fmt: skip


async def begin(contender: str, verb: str, **options: Any) -> Program:
    return await start(f"bench.contenders.{contender}", verb, json.dumps(options))


async def call(contender: str, verb: str, **options: Any) -> dict[str, Any]:
    """Run a contender's verb to its end; what it told last."""
    program = await begin(contender, verb, **options)
    result: dict[str, Any] = {}
    while "peak_rss_mib" not in result:
        result = await program.line(within_s=300)
    await program.process.wait()
    return result


@asynccontextmanager
async def http_server(**options: Any) -> AsyncIterator[tuple[str, Program]]:
    """The unlimited local server: its address and the process, for what it tells."""
    server = await start("bench.server", json.dumps(options))
    port = (await server.line())["port"]
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        assert server.process.stdin is not None
        server.process.stdin.close()
        await server.process.wait()


def cpu_s(pids: list[int]) -> float:
    """CPU seconds that these processes have used so far; one that is gone counts as nothing."""
    total = 0.0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        total += (int(fields[11]) + int(fields[12])) / _TICK
    return total


def busy_s() -> float:
    """CPU seconds that everything on this machine has used so far."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    return sum(int(fields[i]) for i in (0, 1, 2, 5, 6)) / _TICK


def own_s() -> float:
    """CPU seconds of this process, of what it started, and of what those started; the ended ones too."""
    stats: dict[int, tuple[int, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        stats[int(path.parent.name)] = int(fields[1]), sum(int(field) for field in fields[11:15]) / _TICK
    ours, found = {os.getpid()}, 1
    while found:
        more = {pid for pid, (parent, _) in stats.items() if parent in ours} - ours
        ours |= more
        found = len(more)
    return sum(stats[pid][1] for pid in ours if pid in stats)
