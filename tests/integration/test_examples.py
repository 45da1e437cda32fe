"""What the documents tell apps to do: every SQL and Python block runs, and the example listener hears prices."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import secrets
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from harness import configured, running, until
from marketd.migrate import apply_roles
from marketd.sandbox import Sandbox

DOCS = Path(__file__).resolve().parents[2] / "docs"


def _blocks(language: str) -> list[str]:
    text = (DOCS / "INTEGRATION.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, limits={"*": None}) as server:
        yield server


async def _run(database: str, *arguments: str) -> tuple[int | None, str, str]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env={**os.environ, "MARKETD_DSN": database},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(child.communicate(), 30)
    return child.returncode, out.decode(), errors.decode()


@pytest.fixture
async def shop(db: asyncpg.Connection, database: str) -> AsyncIterator[str]:
    """DSN of an app's login, which asks and reads and may do nothing else."""
    await apply_roles(database)
    name = f"shop_{secrets.token_hex(4)}"
    await db.execute(f"create role {name} login; grant market_producer, market_reader to {name}")
    parts = urlsplit(database)
    yield parts._replace(netloc=f"{name}@{parts.netloc.rpartition('@')[2]}").geturl()
    await db.execute(f"drop role {name}")  # it may still be connected; it owns nothing


@pytest.fixture
async def app(shop: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(shop)
    yield connection
    await connection.close()


async def test_every_sql_block_of_the_guide_runs(db: asyncpg.Connection, app: asyncpg.Connection) -> None:
    blocks = _blocks("sql")
    assert len(blocks) >= 12
    for block in blocks:
        try:
            await app.execute(block)
        except asyncpg.PostgresError as error:
            pytest.fail(f"{error}\n{block}")
    # What they asked for is there: one item was refused, all others are open.
    assert await db.fetchval("select count(*) from market_jobs where status = 'pending'") == 5
    # One was asked for in a user's name.
    assert await db.fetchval("select count(*) from market_job_requests where user_id = 'user-42'") == 1


async def test_the_answers_are_those_that_the_guide_promises(app: asyncpg.Connection) -> None:
    _, many, refresh, *_ = _blocks("sql")
    rows = await app.fetch(many)
    assert [row["result"] for row in rows] == ["queued", "queued", "refused"]
    assert "sku" in rows[2]["error_message"]
    [statement] = re.findall(r"^select.*?;", refresh, re.MULTILINE | re.DOTALL)
    [row] = await app.fetch(statement)
    assert row["result"] == "queued"


async def test_an_item_tells_its_canonical_spelling_as_the_guide_promises(app: asyncpg.Connection) -> None:
    [block] = [block for block in _blocks("sql") if "returning" in block]
    statement, told = re.fullmatch(r"(.*?);  -- (.*)\n", block, re.DOTALL).groups()  # type: ignore[union-attr]
    [row] = await app.fetch(statement)
    assert ", ".join(row.values()) == told
    assert await app.fetch(statement) == []  # it is open now
    job_id = await app.fetchval("select job_id from market_enqueue('stockx', 'cp9366 ', 'US 9.0')")
    assert await app.fetchrow("select sku, size, currency from market_jobs where id = $1", job_id) == row


async def test_the_python_block_of_the_guide_runs(
    db: asyncpg.Connection, database: str, shop: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    [block] = _blocks("python")
    code, out, errors = await _run(shop, "-W", "error", "-c", block)
    assert (code, errors) == (0, "")
    assert out.splitlines() == [
        "queued 1",
        "pending no_daemon no daemon is running: start marketd",
        "queued None GBP",
    ]
    async with running(configured(database, sandbox, tmp_path)):
        # The first row that comes must not be another currency's.
        await db.execute("select market_enqueue('stockx', 'DD1391-100', '10', 200, currency => 'EUR')")
        code, out, errors = await _run(shop, "-W", "error", "-c", block)
    truth = sandbox.truth("stockx", "DD1391-100", "10", "GBP")
    assert (code, errors) == (0, "")
    assert re.search(rf"^priced {truth.ask}\S* GBP$", out, re.MULTILINE), out
    # The query by the job says the same.
    [by_job] = [block for block in _blocks("sql") if "from market_jobs j" in block]
    row = await db.fetchrow(by_job)
    assert row is not None
    assert (row["outcome"], row["lowest_ask"], row["currency"]) == ("priced", truth.ask, "GBP")


async def test_all_sizes_of_an_item_are_where_the_guide_looks_for_them(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with running(configured(database, sandbox, tmp_path)):
        await db.execute("select market_enqueue('stockx', 'DD1391-100', null, 200)")
        await until(lambda: db.fetchval("select exists (select from market_prices)"), what="prices")
    row = await db.fetchrow(
        "select s.state, s.lowest_ask, s.age_s, j.outcome"
        " from market_price_status s join market_jobs j using (provider, sku)"
    )
    assert row is not None
    assert tuple(row) == ("priced", None, None, "all_sizes")
    assert await db.fetchval("select count(*) from market_prices where sku = 'DD1391-100'") > 5


async def test_the_example_listener_prints_changed_prices(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    listening = asyncio.create_task(
        _run(database, "-W", "error", str(DOCS / "examples" / "price_listener.py"), "5")
    )

    async def heard() -> bool:
        return bool(
            await db.fetchval(
                "select exists (select from pg_stat_activity where datname = current_database()"
                " and (query ilike 'listen%' or query = 'select clock_timestamp()'))"
            )
        )

    await until(heard, what="the listener's LISTEN")
    async with running(configured(database, sandbox, tmp_path)):
        await db.execute("select market_enqueue('stockx', 'DD1391-100', '10', 200)")
        code, out, _ = await listening
    assert code == 0
    truth = sandbox.truth("stockx", "DD1391-100", "10", "GBP")
    assert re.search(
        rf"^stockx DD1391-100 10: ask {truth.ask}\S* bid {truth.bid}\S* GBP$", out, re.MULTILINE
    ), out


class Listener:
    """The example as a module, on a road to the database that a test can cut."""

    def __init__(self, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = importlib.util.spec_from_file_location("listener", DOCS / "examples" / "price_listener.py")
        assert spec is not None
        assert spec.loader is not None
        self.module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.passable = asyncio.Event()
        self.passable.set()
        self.lost_at_login = 0
        self.pid = 0
        self._database, self._connect = database, asyncpg.connect
        monkeypatch.setattr(self.module, "RETRY_S", 0.05)
        monkeypatch.setattr(self.module, "LOOK_S", 0.2, raising=False)
        monkeypatch.setattr(self.module.asyncpg, "connect", self.connect)

    async def connect(self, dsn: str, **options: Any) -> Any:
        await self.passable.wait()
        connection = await self._connect(dsn, **options)
        self.pid = connection.get_server_pid()
        if self.lost_at_login:
            self.lost_at_login -= 1
            await self.cut()
            await asyncio.sleep(0.1)  # until the news is here
        return connection

    async def cut(self) -> None:
        other = await self._connect(self._database)
        await other.execute("select pg_terminate_backend($1)", self.pid)
        await other.close()


async def _tell(db: asyncpg.Connection, sku: str) -> None:
    """A notification as settle sends it, of a price that was asked for just now."""
    price = {
        "size": "9",
        "lowest_ask": 12.5,
        "highest_bid": None,
        "observed_at": datetime.now(UTC).isoformat(),
    }
    told = {"provider": "ebay", "sku": sku, "currency": "USD", "prices": [price]}
    await db.execute("select pg_notify('market_prices', $1)", json.dumps(told))


async def test_the_example_listener_catches_up_with_what_was_asked_for_long_before_it_was_written(
    db: asyncpg.Connection, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = Listener(database, monkeypatch)
    said = ""

    async def shown(text: str) -> bool:
        nonlocal said
        said += "".join(capsys.readouterr())
        return text in said

    listening = asyncio.create_task(listener.module.listen(database, 2))
    await until(lambda: shown("listening"), what="the LISTEN")
    await _tell(db, "HEARD-1")
    await until(lambda: shown("ebay HEARD-1 9: ask 12.5 bid None USD"), what="the notification")
    listener.passable.clear()
    await listener.cut()
    # Its fetch began a minute before, that is before the one that was heard; its notification finds nobody.
    await db.execute(
        "insert into market_prices (provider, sku, size, currency, lowest_ask, observed_at, changed_at)"
        " values ('alias', 'MISSED-1', '9', 'USD', 42, now() - interval '60 s', now() - interval '60 s')"
    )
    listener.passable.set()
    await until(lambda: shown("alias MISSED-1 9: ask 42 bid None USD"), what="catching up")
    await _tell(db, "HEARD-2")
    await asyncio.wait_for(listening, 10)
    assert await shown("ebay HEARD-2 9")


async def test_the_example_listener_survives_a_connection_lost_right_after_login(
    db: asyncpg.Connection, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = Listener(database, monkeypatch)
    listener.lost_at_login = 2
    listening = asyncio.create_task(listener.module.listen(database, 1))

    async def heard() -> bool:
        await _tell(db, "HEARD-1")
        return listening.done()

    await until(heard, what="a notification")
    await listening
    assert capsys.readouterr().err.count("no connection") == 2
