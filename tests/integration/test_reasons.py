"""Why there is no price: each reason of `market_price_status`, brought about by a provider, not by an update."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from harness import configured, running, until
from marketd.sandbox import Sandbox

Connection = asyncpg.Connection

PANDA = "DD1391-100"
PROVIDERS = ("stockx", "alias", "ebay")
PRICED = {"stockx": "market_data", "alias": "availabilities", "ebay": "search"}
SEARCH = {"stockx": "search", "alias": "catalog", "ebay": "search"}
JOBS = {"fresh_for": "1ms", "backoff": {"base": "10ms", "cap": "50ms"}, "max_attempts": 2}
STANZA: dict[str, Any] = {"circuit": {"failures": 50, "open": "1s"}}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, limits={"*": None}) as server:
        yield server


def daemon(database: str, sandbox: Sandbox, folder: Path, *providers: str) -> Any:
    return running(
        configured(database, sandbox, folder, providers=providers or PROVIDERS, stanza=STANZA, jobs=JOBS)
    )


async def ask(
    db: Connection, provider: str, sku: str, size: str | None, priority: int = 200
) -> asyncpg.Record:
    row = await db.fetchrow("select * from market_enqueue($1, $2, $3, $4)", provider, sku, size, priority)
    assert row is not None
    return row


async def status(db: Connection, provider: str, sku: str, size: str | None) -> asyncpg.Record:
    row = await db.fetchrow(
        "select *, clock_timestamp() as now from market_price_status"
        " where provider = $1 and sku = $2 and size is not distinct from $3",
        provider,
        sku,
        size,
    )
    assert row is not None
    return row


async def settled(db: Connection) -> None:
    none_open = (
        "select not exists (select from market_jobs where status in ('pending', 'running', 'deferred'))"
    )
    await until(lambda: db.fetchval(none_open), what="the answers")


async def becomes(db: Connection, provider: str, sku: str, size: str | None, state: str) -> asyncpg.Record:
    async def told() -> asyncpg.Record | None:
        row = await status(db, provider, sku, size)
        return row if row["state"] == state else None

    row: asyncpg.Record = await until(told, what=f"{state} of {provider}")
    return row


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_queued_until_a_daemon_takes_it(db: Connection, provider: str) -> None:
    await ask(db, provider, PANDA, "10")
    row = await status(db, provider, PANDA, "10")
    assert (row["state"], row["queued"], row["running"], row["lowest_ask"]) == ("queued", True, False, None)


async def test_running_while_the_provider_takes_its_time(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    for provider in PROVIDERS:
        sandbox.fault(provider, "stall", endpoint=SEARCH[provider], seconds=2)
    async with daemon(database, sandbox, tmp_path):
        for provider in PROVIDERS:
            await ask(db, provider, PANDA, "10")
        for provider in PROVIDERS:
            row = await becomes(db, provider, PANDA, "10", "running")
            assert (row["running"], row["queued"]) == (True, False)
        await settled(db)
        for provider in PROVIDERS:
            assert (await status(db, provider, PANDA, "10"))["state"] == "priced"


async def test_rate_limited_until_when(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    for provider in ("stockx", "alias"):
        sandbox.fault(provider, "status", status=429, retry_after=300)
    sandbox.set_limits("ebay", per_day=5000)
    sandbox.spend("ebay", 5000)
    async with daemon(database, sandbox, tmp_path):
        for provider in PROVIDERS:
            await ask(db, provider, PANDA, "10")
        for provider in PROVIDERS:
            row = await becomes(db, provider, PANDA, "10", "rate_limited")
            if provider != "ebay":
                wait = row["rate_limited_until"] - row["now"]
                assert timedelta(seconds=280) < wait < timedelta(seconds=330)
            else:
                assert row["rate_limited_until"] > row["now"] + timedelta(minutes=1)


@pytest.mark.parametrize(
    ("provider", "sku", "size", "state"),
    [
        ("stockx", "NOPE-404", "9", "unknown_sku"),
        ("alias", "NOPE-404", "9", "unknown_sku"),
        ("ebay", "id:not-a-number", "9", "unknown_sku"),
        ("stockx", PANDA, "22", "size_not_offered"),
        ("alias", PANDA, "22", "size_not_offered"),
        ("stockx", "DC7770-160", "UK 6", "ambiguous_size"),
        ("alias", "DC7770-160", "UK 6", "ambiguous_size"),
        ("stockx", "FV5029-003", "10", "ambiguous_product"),
        ("stockx", "DD1503-103", "7.5", "size_system"),
        ("alias", "DD1503-103", "7.5", "size_system"),
        ("ebay", "DD1503-103", "7.5", "size_system"),
        ("ebay", PANDA, None, "size_required"),
        ("ebay", PANDA, "EU 44", "size_system"),
    ],
)
async def test_what_is_not_told_for_certain_says_why_and_stays_cool_until_a_person_asks(
    db: Connection,
    database: str,
    sandbox: Sandbox,
    tmp_path: Path,
    provider: str,
    sku: str,
    size: str | None,
    state: str,
) -> None:
    async with daemon(database, sandbox, tmp_path, provider):
        await ask(db, provider, sku, size)
        await settled(db)
        row = await status(db, provider, sku, size)
        assert (row["state"], row["lowest_ask"]) == (state, None)
        assert row["last_error_message"]
        assert timedelta(days=5) < row["cooldown_until"] - row["now"] < timedelta(days=9)
        sent = sandbox.count(provider)
        again = await ask(db, provider, sku, size, 100)
        assert (again["result"], again["wait_reason"]) == ("queued", "cooldown")
        assert again["eta"] >= row["cooldown_until"] - timedelta(minutes=1)
        assert (await status(db, provider, sku, size))["state"] == state, "it still tells why"
        assert sandbox.count(provider) == sent
        await ask(db, provider, sku, size)
        await settled(db)
        if sent:
            assert sandbox.count(provider) > sent, "a person's request overrides the cool-down"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_no_asks_is_an_answer_and_its_price_is_null(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path, provider: str
) -> None:
    sku, size = next(
        (product.style, size)
        for product in sandbox.world
        if product.style and product.shelf and product.alias_id and product.chart and "/" not in product.style
        for size in product.sizes
        if sandbox.truth(provider, product.key, size).ask is None and not str(size).endswith("Y")
    )
    async with daemon(database, sandbox, tmp_path, provider):
        await ask(db, provider, sku, size)
        await settled(db)
    row = await status(db, provider, sku, size)
    assert (row["state"], row["lowest_ask"], row["last_error_code"]) == ("no_asks", None, None)
    assert row["observed_at"] is not None


@pytest.mark.parametrize("provider", ["stockx", "alias"])
async def test_mapping_broken_keeps_the_last_price(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path, provider: str
) -> None:
    async with daemon(database, sandbox, tmp_path, provider):
        await ask(db, provider, PANDA, "10")
        await settled(db)
        before = await status(db, provider, PANDA, "10")
        sandbox.fault(provider, "status", endpoint=PRICED[provider], status=404, times=None)
        await ask(db, provider, PANDA, "10")
        await settled(db)
    row = await status(db, provider, PANDA, "10")
    assert (before["state"], row["state"]) == ("priced", "mapping_broken")
    assert (row["lowest_ask"], row["observed_at"]) == (before["lowest_ask"], before["observed_at"])
    assert row["cooldown_until"] > row["now"] + timedelta(days=5)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_account_not_connected_when_credentials_are_refused(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path, provider: str
) -> None:
    sandbox.fault(provider, "status", endpoint=SEARCH[provider], status=401, times=None)
    async with daemon(database, sandbox, tmp_path, provider):
        await ask(db, provider, PANDA, "10")
        await becomes(db, provider, PANDA, "10", "account_not_connected")


async def test_account_not_connected_when_there_are_no_credentials(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with daemon(database, sandbox, tmp_path, "stockx"):  # a daemon that runs no lane of Alias
        await db.execute("update market_providers set enabled = false where provider = 'alias'")
        await ask(db, "alias", PANDA, "10")
        assert (await status(db, "alias", PANDA, "10"))["state"] == "account_not_connected"


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("status_code", [500, 503])
async def test_provider_down_when_it_answers_with_its_own_faults(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path, provider: str, status_code: int
) -> None:
    sandbox.fault(provider, "status", endpoint=SEARCH[provider], status=status_code, times=None)
    async with daemon(database, sandbox, tmp_path, provider):
        await ask(db, provider, PANDA, "10")
        await settled(db)
    row = await status(db, provider, PANDA, "10")
    assert (row["state"], row["last_error_code"]) == ("provider_down", "server_error")
