"""A whole daemon and providers that misbehave in every known way: told apart, survived, kept from the others."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from faults.kit import (
    QUICK_JOBS,
    Connection,
    ask,
    broken,
    ended,
    figures,
    resident_bytes,
    wrong_prices,
)
from harness import configured, running, until
from marketd.sandbox import KINDS, Sandbox

PANDA = "DD1391-100"
PRICED = {"stockx": "market_data", "alias": "availabilities", "ebay": "search"}
STANZA: dict[str, Any] = {"timeout": "2s", "circuit": {"failures": 50, "open": "1s"}}
#: kind and options -> (class of the request, code of the attempt that it costs)
COSTS_AN_ATTEMPT: list[tuple[str, dict[str, Any], str, str]] = [
    ("status", {"status": 500}, "server_error", "server_error"),
    ("status", {"status": 503, "retry_after": 7}, "server_error", "server_error"),
    ("status", {"status": 504, "html": True}, "server_error", "server_error"),
    ("status", {"status": 408}, "other", "timeout"),
    ("message", {}, "server_error", "server_error"),
    ("stall", {"seconds": 5}, "timeout", "timeout"),
    ("drip", {"seconds": 5}, "timeout", "timeout"),
    ("reset", {"when": "before"}, "connection", "connection"),
    ("reset", {"when": "body"}, "connection", "connection"),
    ("truncated", {}, "bad_payload", "bad_json"),
    ("empty", {}, "bad_payload", "bad_json"),
    ("html", {}, "bad_payload", "content_type"),
    ("wrong_shape", {}, "ok", "bad_payload"),
    ("wrong_shape", {"body": []}, "ok", "bad_payload"),
    ("wrong_shape", {"body": None}, "ok", "bad_payload"),
    ("wrong_shape", {"body": [{"variantId": "v", "currencyCode": "GB\0P"}]}, "ok", "bad_payload"),
    ("content_type", {}, "bad_payload", "content_type"),
    ("huge", {"size": 200 * 2**20}, "bad_payload", "too_large"),
    ("gzip_bomb", {"size": 16 * 2**20}, "bad_payload", "too_large"),
    ("redirect", {}, "other", "server_error"),
    ("redirect", {"status": 307}, "other", "server_error"),
    ("invalid_utf8", {}, "bad_payload", "bad_json"),
    ("nan", {}, "bad_payload", "bad_json"),
    ("overflow", {}, "bad_payload", "bad_json"),
    ("negative", {}, "ok", "bad_payload"),
    ("absurd", {}, "ok", "bad_payload"),
]
ELSEWHERE = {
    "status",
    "invalid_grant",
    "no_warnings",
}  #: kinds with tests of their own, here and in integration


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, limits={"*": None}) as server:
        yield server


def daemon(database: str, sandbox: Sandbox, folder: Path, **more: Any) -> Any:
    return running(
        configured(
            database, sandbox, folder, providers=tuple(PRICED), stanza={**STANZA, **more}, jobs=QUICK_JOBS
        )
    )


def test_every_kind_of_fault_that_the_sandbox_knows_is_played_somewhere() -> None:
    assert {kind for kind, *_ in COSTS_AN_ATTEMPT} | ELSEWHERE == set(KINDS)


async def test_every_fault_costs_one_attempt_is_told_by_its_class_and_the_next_try_brings_the_price(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with daemon(database, sandbox, tmp_path) as app:
        await ended(db, [await ask(db, provider, PANDA, "10") for provider in PRICED])
        await db.execute("update market_providers set next_request_at = '-infinity'")
        gc.collect()
        before_all, peak = resident_bytes(), 0
        for kind, options, request_class, code in COSTS_AN_ATTEMPT:
            before, sent = figures(app), {provider: sandbox.count(provider) for provider in PRICED}
            for provider, endpoint in PRICED.items():
                sandbox.fault(provider, kind, endpoint=endpoint, **options)
            rows = await ended(db, [await ask(db, provider, PANDA, "10") for provider in PRICED])
            peak = max(peak, resident_bytes())
            for row in rows.values():
                told = (kind, options, row["provider"], row["error_code"], row["error_message"])
                assert (row["status"], row["attempt"]) == ("done", 2), told
                assert sandbox.count(row["provider"]) - sent[row["provider"]] == 2, told
            new = figures(app) - before
            for provider in PRICED:
                told = (kind, options, new)
                assert new["provider_requests_total", provider, request_class] == 1 + (
                    request_class == "ok"
                ), told
                assert new["job_errors_total", provider, code] == 1, told
        # Three answers of 200 MB at once, of which 8 are held of each; the stand-in's buffers are in this process, too.
        assert peak - before_all < 96 * 2**20, f"{(peak - before_all) >> 20} MB grew"
    assert await wrong_prices(db, sandbox) == []
    assert await broken(db) == {}


async def test_a_provider_that_stalls_holds_up_no_other(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with daemon(database, sandbox, tmp_path, timeout="5s") as app:
        await ended(db, [await ask(db, provider, PANDA, "10") for provider in PRICED])
        sandbox.fault("stockx", "stall", seconds=30)
        stuck = await ask(db, "stockx", PANDA, "10")
        await until(lambda: asyncio.sleep(0, sandbox.open_faults()["open"] == []), what="the stall")
        for _ in range(3):
            await ended(db, [await ask(db, provider, PANDA, "10") for provider in ("alias", "ebay")])
        assert await db.fetchval("select status from market_jobs where id = $1", stuck) == "running"
        assert (await ended(db, [stuck]))[stuck]["status"] == "done"
        assert figures(app)["provider_requests_total", "stockx", "timeout"] == 1


async def test_throttling_and_refused_credentials_close_one_lane_and_cost_no_attempt(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with daemon(database, sandbox, tmp_path):
        await ended(db, [await ask(db, provider, PANDA, "10") for provider in PRICED])
        sandbox.fault("stockx", "status", endpoint="market_data", status=429, retry_after=1)
        sandbox.fault("alias", "status", endpoint="availabilities", status=401, times=2)
        sandbox.fault("ebay", "status", endpoint="search", status=403)
        ids = {provider: await ask(db, provider, PANDA, "10") for provider in PRICED}

        async def closed() -> bool:
            return bool(
                await db.fetchval("select count(*) >= 2 from market_providers where circuit = 'open'")
            )

        await until(closed, what="the lanes of refused credentials")
        rows = await ended(db, [ids["stockx"]])
        assert rows[ids["stockx"]]["attempt"] == 1, "a 429 is the provider's state, not the job's"
        for provider in ("alias", "ebay"):
            why = await db.fetchrow("select * from market_why($1::bigint)", ids[provider])
            assert why is not None
            assert (why["state"], why["waiting_for"]) == ("pending", "cooldown"), dict(why)
            assert "credentials were refused" in why["detail"]
            sandbox.clear_faults()
            await db.execute("select market_resume($1)", provider)
        rows = await ended(db, ids.values())
        assert {row["status"] for row in rows.values()} == {"done"}
        assert {row["attempt"] for row in rows.values()} == {1}
    assert await broken(db) == {}


async def test_a_403_that_means_one_product_does_not_keep_the_lane_from_all_others(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    circuit = "select circuit from market_providers where provider = 'alias'"
    status = "select status from market_jobs where id = $1"

    async def becomes(wanted: str, sql: str, *args: object) -> None:
        async def it() -> bool:
            return bool(await db.fetchval(sql, *args) == wanted)

        await until(it, what=wanted)

    async def probe_is_due() -> None:
        await db.execute(
            "update market_providers set circuit_until = clock_timestamp() where provider = 'alias'"
        )

    # One slot: of two that are claimed for the probe either may be it.
    async with daemon(database, sandbox, tmp_path, concurrency=1):
        await ended(db, [await ask(db, "alias", PANDA, "10")])
        sandbox.fault("alias", "status", endpoint="catalog", times=None, status=403)  # PANDA is known
        refused = await ask(db, "alias", "CP9366", "10.5")
        await becomes("open", circuit)
        await becomes("pending", status, refused)
        other = await ask(db, "alias", PANDA, "10")
        await probe_is_due()
        await becomes("deferred", status, refused)
        assert (await db.fetchval(circuit), await db.fetchval(status, other)) == ("open", "pending")
        await probe_is_due()
        await becomes("done", status, other)
        assert await db.fetchval(circuit) == "closed"
        await db.execute("update market_jobs set run_at = clock_timestamp() where id = $1", refused)
        row = (await ended(db, [refused]))[refused]
        assert (row["status"], row["error_code"], row["attempt"]) == ("failed", "forbidden", 1)
        assert await db.fetchval(circuit) == "closed"


async def test_a_refused_refresh_token_stops_only_its_own_provider_until_an_operator_says_so(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.fault("stockx", "invalid_grant", times=None)
    async with daemon(database, sandbox, tmp_path):
        ids = {provider: await ask(db, provider, PANDA, "10") for provider in PRICED}
        await ended(db, [ids["alias"], ids["ebay"]])

        async def told() -> bool:
            detail = await db.fetchval(
                "select circuit_detail from market_providers where provider = 'stockx'"
            )
            return "marketd auth stockx" in (detail or "")

        await until(told, what="word of the login that is needed")
        mints = sandbox.count("stockx", endpoint="token")
        assert mints <= 2, "a refused grant must not be hammered"
        sandbox.clear_faults()
        await db.execute("select market_resume('stockx')")
        assert (await ended(db, [ids["stockx"]]))[ids["stockx"]]["status"] == "done"


async def test_an_open_circuit_lets_one_probe_through_and_burns_no_attempt_of_those_who_wait(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    stanza = {"circuit": {"failures": 3, "open": "1s"}}
    async with daemon(database, sandbox, tmp_path, **stanza):
        sandbox.fault("alias", "status", times=4, status=503)
        ids = [await ask(db, "alias", f"NONE-{number}", "9") for number in range(12)]

        async def opened() -> bool:
            circuit = "select circuit <> 'closed' from market_providers where provider = 'alias'"
            return bool(await db.fetchval(circuit))

        await until(opened, what="the circuit")
        rows = await ended(db, ids, within_s=20)
    assert {row["error_code"] for row in rows.values()} == {"unknown_sku"}
    # Three failures opened it, the fourth was the probe: the rest waited without paying.
    assert sum(row["attempt"] - 1 for row in rows.values()) == 4


async def test_a_probe_that_lost_its_lease_before_an_answer_says_nothing_of_the_provider(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    circuit = "select circuit, circuit_opens from market_providers where provider = 'stockx'"
    sandbox.fault("stockx", "stall", times=None, seconds=20)
    async with running(
        configured(database, sandbox, tmp_path, stanza={"timeout": "30s"}, jobs={"lease": "3s"})
    ):
        await db.execute("""
            update market_providers set circuit = 'open', circuit_reason = 'errors', circuit_opens = 1,
              circuit_until = clock_timestamp() where provider = 'stockx'""")
        await ask(db, "stockx", PANDA, "10")
        await until(lambda: asyncio.sleep(0, sandbox.count("stockx")), what="the probe")
        # As after a failover that lost the last second: the unit is somebody else's.
        await db.execute(
            "update market_fetches set lease_id = gen_random_uuid(), locked_by = gen_random_uuid()"
        )
        rescued = "select status = 'pending' from market_jobs"
        await until(lambda: db.fetchval(rescued), what="the end of the lease")
        assert tuple(await db.fetchrow(circuit)) == ("half_open", 1)


async def test_a_slow_provider_with_many_slots_takes_no_other_s_connections(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    stanza = {"concurrency": 80, "timeout": "60s", "pace": {"calls": 1000, "per": "1s"}}
    sandbox.fault("alias", "stall", times=None, seconds=60)
    async with running(configured(database, sandbox, tmp_path, providers=("stockx", "alias"), stanza=stanza)):
        for number in range(80):
            await ask(db, "alias", f"NONE-{number}", "9")
        await until(lambda: asyncio.sleep(0, sandbox.count("alias") == 80), what="80 requests at once")
        job = await ask(db, "stockx", PANDA, "10")
        assert (await ended(db, [job]))[job]["status"] == "done"


@pytest.mark.parametrize("provider", list(PRICED))
async def test_a_wrong_base_url_is_the_providers_trouble_and_no_answer_about_any_sku(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path, provider: str
) -> None:
    settings = configured(database, sandbox, tmp_path, providers=(provider,), stanza=STANZA)
    stanza = settings.providers[provider]
    wrong = stanza.model_copy(update={"base_url": f"{stanza.base_url}/typo"})
    async with running(settings.model_copy(update={"providers": {provider: wrong}})):
        job = await ask(db, provider, PANDA, "10")

        async def tried() -> Any:
            return await db.fetchrow(
                "select * from market_jobs where id = $1 and attempt > 0 and status <> 'running'", job
            )

        row = await until(tried, what="an attempt")
    assert (row["status"] != "failed", row["error_code"]) == (True, "server_error")
    assert "base_url" in row["error_message"]
    assert await db.fetchval("select count(retry_at) from market_targets") == 0


async def test_a_redirect_is_never_followed_so_credentials_never_reach_another_host(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    visitors: list[str] = []

    async def trap(request: web.Request) -> web.Response:
        visitors.append(f"{request.method} {request.path} {dict(request.headers)}")
        return web.json_response({})

    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", trap)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    location = f"http://127.0.0.1:{runner.addresses[0][1]}/steal"
    try:
        async with daemon(database, sandbox, tmp_path):
            for status in (301, 302, 303, 307, 308):
                ids = []
                for provider, endpoint in PRICED.items():
                    order = {"status": status, "location": location}
                    sandbox.fault(provider, "redirect", endpoint=endpoint, **order)
                    if provider != "alias":
                        sandbox.expire_tokens(provider)
                        sandbox.fault(provider, "redirect", endpoint="token", **order)
                    ids.append(await ask(db, provider, PANDA, "10"))
                assert {row["status"] for row in (await ended(db, ids)).values()} == {"done"}
                assert sandbox.open_faults()["open"] == [], "each redirect was met"
    finally:
        await runner.cleanup()
    assert visitors == []
