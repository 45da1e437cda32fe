"""Through PgBouncer in transaction mode: every statement may reach another server connection than the one before."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from faults.kit import QUICK_JOBS, Connection, ask, ask_many, broken, ended, load, wrong_prices
from faults.proxy import Proxy
from harness import configured, running, until
from marketd.migrate import migrate
from marketd.sandbox import Sandbox
from queue_kit import Connect

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(
    PGBOUNCER is None, reason="PgBouncer is not installed (apt install pgbouncer)"
)

SETTINGS = """\
[databases]
* = host=127.0.0.1 port={upstream} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
max_client_conn = 100
ignore_startup_parameters = extra_float_digits
"""


@dataclass(frozen=True)
class Pooler:
    """`dsn` leads through PgBouncer, `direct` around it."""

    dsn: str
    direct: str


@pytest.fixture
async def pooler(proxy: Proxy, database: str, tmp_path: Path) -> AsyncIterator[Pooler]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    upstream = urlsplit(proxy.dsn)  # PgBouncer may not enter the directory of Postgres's socket
    settings = tmp_path / "pgbouncer.ini"
    settings.write_text(SETTINGS.format(upstream=upstream.port, user=upstream.username, port=port))
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    assert PGBOUNCER is not None
    run_as = ["-u", "nobody"] if os.geteuid() == 0 else []  # it refuses to run as root
    process = await asyncio.create_subprocess_exec(
        PGBOUNCER,
        "-q",
        *run_as,
        settings,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    dsn = f"postgresql://{upstream.username}@127.0.0.1:{port}{upstream.path}"

    async def answers() -> bool:
        try:
            connection = await asyncpg.connect(dsn, timeout=2, statement_cache_size=0)
        except OSError:
            return False
        await connection.close()
        return True

    try:
        await until(answers, what="PgBouncer")
        yield Pooler(dsn, database)
    finally:
        process.terminate()
        await process.wait()


async def test_two_daemons_work_through_the_pooler_and_listen_around_it(
    db: Connection, pooler: Pooler, tmp_path: Path
) -> None:
    async with Sandbox(seed=7, products=80, limits={"*": None}) as sandbox:
        configurations = [
            configured(
                pooler.dsn,
                sandbox,
                tmp_path / str(number),
                stanza={"pace": {"calls": 100, "per": "1s"}, "concurrency": 8},
                jobs=QUICK_JOBS,
                database={"dsn": pooler.dsn, "listen_dsn": pooler.direct},
            )
            for number in range(2)
        ]
        async with running(configurations[0]) as one, running(configurations[1]) as other:
            for app in (one, other):
                heard = lambda app=app: asyncio.sleep(0, b"listener_connected 1.0" in app.metrics.render()[0])  # noqa: E731
                await until(heard, what="the listeners")
            rows = await ended(db, await ask_many(db, load(sandbox, 60), 200), within_s=25)
            assert {row["status"] for row in rows.values()} == {"done"}
            assert {row["rescues"] for row in rows.values()} == {0}
            again = await ask(db, "stockx", load(sandbox, 1)[0]["sku"], None)
            assert (await ended(db, [again]))[again]["status"] == "done"
        assert await wrong_prices(db, sandbox) == []
    assert await broken(db) == {}


async def test_a_listener_whom_the_pooler_keeps_from_hearing_says_so_and_the_poll_does_the_work(
    db: Connection, pooler: Pooler, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LISTEN succeeds there, and so does each look at what is listened to; the alert went by that."""
    async with Sandbox(seed=7, products=20, limits={"*": None}) as sandbox:
        configuration = configured(
            pooler.dsn,
            sandbox,
            tmp_path,
            scheduler={"poll": "500ms"},
            database={"dsn": pooler.dsn, "listen_dsn": pooler.dsn},
        )
        async with running(configuration) as app:
            told = ""

            async def lost() -> bool:
                nonlocal told
                told += capsys.readouterr().out
                return "no notification arrives" in told

            await until(lost, within_s=25)
            for wish in load(sandbox, 3):
                job = await ask(db, "stockx", wish["sku"], None)
                assert (await ended(db, [job]))[job]["status"] == "done"
            told += capsys.readouterr().out
            assert told.count("no notification arrives") == 1, "one line, not one for each attempt"
            assert app.metrics.registry.get_sample_value("marketd_listener_connected") == 0
            assert '"event": "listener_connected"' not in told


async def test_a_schema_is_migrated_and_checked_through_the_pooler(pooler: Pooler) -> None:
    async def once() -> list[int]:
        return await migrate(pooler.dsn)

    assert await asyncio.gather(*(once() for _ in range(6))) == [[]] * 6


async def test_a_lock_leaves_no_statements_behind_in_the_server_that_wait_for_it(
    connect: Connect, db: Connection, pooler: Pooler, tmp_path: Path
) -> None:
    """The pooler has no statement_timeout of ours: what nobody waits for any more would wait as long as the lock."""
    async with Sandbox(seed=7, products=20, limits={"*": None}) as sandbox:
        configuration = configured(
            pooler.dsn,
            sandbox,
            tmp_path,
            jobs={**QUICK_JOBS, "lease": "3s"},
            database={"dsn": pooler.dsn, "listen_dsn": pooler.direct, "statement_timeout": "500ms"},
        )
        holder = await connect()
        async with running(configuration):
            await db.execute("select market_pause('stockx', 'until the lock is held')")
            [waiting] = await ask_many(db, load(sandbox, 1), 200)
            held = holder.transaction()
            await held.start()
            await holder.execute("select from market_targets for update")
            await db.execute("select market_resume('stockx')")
            kept = "select bool_or(lease_expires_at > claimed_at + interval '9 s') from market_fetches"
            await until(lambda: db.fetchval(kept), within_s=20, what="the third lease")
            blocked = await db.fetchval(
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
            )
            await held.rollback()
            rows = await ended(db, [waiting], within_s=10)
    assert blocked <= 1
    assert (rows[waiting]["status"], rows[waiting]["rescues"]) == ("done", 0)
    assert await broken(db) == {}
