"""What each key of the file changes after a SIGHUP, seen in what the daemon does next; and what waits for a restart."""

from __future__ import annotations

import asyncio
import copy
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import time
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml

from harness import settings, until
from marketd import config, wiring
from marketd.app import App
from marketd.config.flat import leaves
from marketd.sandbox import Sandbox
from marketd.signals import Stop
from marketd.telemetry import FetchReport, RequestReport

ROOT = Path(__file__).resolve().parents[2]
QUICK_RETRY = {"base": "1ms", "cap": "1ms"}
SLOW = {"interval": "1h", "poll": "1h"}


class Live:
    """A daemon in this process with a file of its own; also an observer, to hear of its reloads."""

    def __init__(self, db: asyncpg.Connection, sandbox: Sandbox, data: dict[str, Any], file: Path) -> None:
        self.db = db
        self.sandbox = sandbox
        self.data = data
        self.events: list[tuple[str, dict[str, object]]] = []
        self.stop = Stop()
        self.file = file

    def request_done(self, report: RequestReport) -> None: ...

    def fetches_done(self, reports: Sequence[FetchReport]) -> None: ...

    def event(self, name: str, **fields: object) -> None:
        self.events.append((name, fields))

    async def serve(self, ready: asyncio.Event) -> None:
        self.file.write_text(yaml.safe_dump(self.data))
        loaded = config.load(self.file, wiring.provider_types())
        await App(loaded, self.file, observers=(self,)).serve(self.stop, on_ready=ready.set)

    async def change(self, changes: dict[str, Any]) -> list[str]:
        """Put these values at these dotted keys, SIGHUP, and the changes that the daemon tells of."""
        data = copy.deepcopy(self.data)
        for key, value in changes.items():
            *path, last = key.split(".")
            at = data
            for name in path:
                at = at.setdefault(name, {})
            at[last] = value
        self.file.write_text(yaml.safe_dump(data))
        seen = len(self.events)
        os.kill(os.getpid(), signal.SIGHUP)

        async def end() -> dict[str, object] | None:
            assert not [fields for name, fields in self.events[seen:] if name == "config_rejected"]
            return next((fields for name, fields in self.events[seen:] if name == "config_reloaded"), None)

        told: list[str] = (await until(end, what="the reload"))["changes"]
        return told

    async def ask(self, sku: str = "DD1391-100", priority: int = 200, provider: str = "stockx") -> int:
        job: int = await self.db.fetchval(
            "select job_id from market_enqueue($1, $2, null, $3)", provider, sku, priority
        )
        return job

    async def why(self, job: int) -> str:
        return str(await self.db.fetchval("select waiting_for from market_why($1::bigint)", job))

    async def waits_for(self, job: int, reason: str) -> None:
        async def it() -> bool:
            return await self.why(job) == reason

        await until(it, what=f"waiting for {reason}")

    async def gets(self, sql: str, *args: object) -> None:
        """Wait until this query says true."""

        async def it() -> bool:
            return bool(await self.db.fetchval(sql, *args))

        await until(it, what=sql)

    async def done(self, job: int, status: str = "done") -> None:
        await self.gets("select status::text = $2 from market_jobs where id = $1", job, status)


Case = Callable[[Live], Awaitable[None]]
CASES: dict[str, tuple[dict[str, Any], Case]] = {}


def case(key: str, /, **start: Any) -> Callable[[Case], Case]:
    """Registers what `key` does; the daemon starts with `start` over the harness's settings."""

    def add(function: Case) -> Case:
        CASES[key] = (start, function)
        return function

    return add


@pytest.mark.parametrize("key", CASES)
async def test_the_key_applies_to_what_happens_next(live: Live, key: str) -> None:
    await CASES[key][1](live)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, limits={"*": None}) as server:
        yield server


@pytest.fixture
async def live(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Live]:
    start: dict[str, Any] = {}
    if (spec := getattr(request.node, "callspec", None)) is not None:
        start = CASES[spec.params["key"]][0]
    data = settings(database, sandbox, tmp_path / "state", **start)
    daemon, ready = Live(db, sandbox, data, tmp_path / "config.yaml"), asyncio.Event()
    serving = asyncio.create_task(daemon.serve(ready))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        yield daemon
    finally:
        sandbox.clear_faults()
        daemon.stop.set()
        await serving


@case("providers.stockx.budget.per_hour")
async def _(live: Live) -> None:
    await _stops_at(live, "per_hour")


@case("providers.stockx.budget.per_day")
async def _(live: Live) -> None:
    await _stops_at(live, "per_day")


async def _stops_at(live: Live, window: str) -> None:
    await live.done(await live.ask())
    spent = await live.db.fetchval("select max(used) from market_budgets where provider = 'stockx'")
    calls = live.sandbox.count("stockx")
    await live.change({f"providers.stockx.budget.{window}": spent})
    job = await live.ask("CP9366")
    await live.waits_for(job, "budget")
    assert live.sandbox.count("stockx") == calls
    await live.change({f"providers.stockx.budget.{window}": spent + 50})
    await live.done(job)


@case("providers.stockx.pace")
async def _(live: Live) -> None:
    await live.change({"providers.stockx.pace": {"calls": 1, "per": "1h"}})
    await live.db.execute("select market_take('stockx', 'default', 200)")
    job = await live.ask()
    await live.waits_for(job, "pace")
    await live.change({})
    await live.done(job)


@case("providers.stockx.concurrency", stanza={"concurrency": 1})
async def _(live: Live) -> None:
    live.sandbox.fault("stockx", "stall", times=None, seconds=30)
    for sku in ("DD1391-100", "CP9366", "DZ5485-612", "FV5029-010"):
        await live.ask(sku)
    running = "select count(*) = $1 from market_jobs where status = 'running'"
    await live.gets(running, 1)
    await live.change({"providers.stockx.concurrency": 3})
    await live.gets(running, 3)


@case("providers.stockx.enabled")
async def _(live: Live) -> None:
    await live.change({"providers.stockx.enabled": False})
    job = await live.ask()
    assert await live.why(job) == "off"
    await live.change({})
    await live.done(job)


@case("providers.stockx.credentials")
async def _(live: Live) -> None:
    told = await live.change({"providers.stockx.credentials.api_key": "not-the-key-of-anyone"})
    assert told == ["providers.stockx.credentials.api_key: ********** -> **********"]
    job = await live.ask()
    await live.gets("select circuit_reason = 'unauthorized' from market_providers where provider = 'stockx'")
    await live.change({})
    await live.done(job)


@case("providers.stockx.timeout", jobs={"backoff": QUICK_RETRY, "lease": "60s"})
async def _(live: Live) -> None:
    await live.change({"providers.stockx.timeout": "400ms"})
    live.sandbox.fault("stockx", "stall", times=1, seconds=60)
    await live.done(await live.ask())


@case("providers.stockx.circuit")
async def _(live: Live) -> None:
    await live.change({"providers.stockx.circuit": {"failures": 1, "open": "1h"}})
    live.sandbox.fault("stockx", "status", times=None, status=500)
    await live.waits_for(await live.ask(), "circuit")


@case("providers.stockx.base_url")
async def _(live: Live) -> None:
    async with Sandbox(seed=8, limits={"*": None}) as other:
        there = {
            f"providers.stockx.{key}": other.settings["stockx"][key] for key in ("base_url", "token_url")
        }
        await live.change(there)
        await live.done(await live.ask())
        assert other.count("stockx") > 0
        assert live.sandbox.count("stockx") == 0


@case("providers")
async def _(live: Live) -> None:
    alias = {key: value for key, value in live.sandbox.settings["alias"].items() if value is not None}
    await live.change({"providers.alias": {**alias, "currency": "USD"}})
    await live.done(await live.ask(provider="alias"))
    await live.change({"providers": {"alias": {**alias, "currency": "USD"}}})
    assert await live.why(await live.ask("CP9366")) == "off"


@case("scheduler.interval", scheduler=SLOW)
async def _(live: Live) -> None:
    await live.gets("select count(*) = 1 from market_job_runs")
    await live.change({"scheduler.interval": "100ms"})
    await live.gets("select count(*) >= 3 from market_job_runs")


@case("scheduler.poll", scheduler=SLOW)
async def _(live: Live) -> None:
    await live.change({"scheduler.poll": "200ms"})
    await live.done(await live.ask(priority=100))


@case("scheduler.wake_priority", scheduler=SLOW)
async def _(live: Live) -> None:
    await live.change({"scheduler.wake_priority": 50})
    await live.done(await live.ask(priority=100))


@case("jobs.fresh_for")
async def _(live: Live) -> None:
    await live.done(await live.ask())
    result = "select result from market_enqueue('stockx', 'DD1391-100', null, 200)"
    assert await live.db.fetchval(result) == "fresh"
    await live.change({"jobs.fresh_for": "1ms"})
    assert await live.db.fetchval(result) == "queued"


@case("jobs.max_attempts")
async def _(live: Live) -> None:
    await live.change({"jobs.max_attempts": 1})
    live.sandbox.fault("stockx", "status", times=None, status=500)
    job = await live.ask()
    await live.done(job, "failed")
    assert await live.db.fetchval("select attempt from market_jobs where id = $1", job) == 1


@case("jobs.backoff", jobs={"backoff": {"base": "24h", "cap": "24h"}})
async def _(live: Live) -> None:
    await live.change({"jobs.backoff": QUICK_RETRY})
    live.sandbox.fault("stockx", "status", times=1, status=500)
    await live.done(await live.ask())


@case("jobs.lease")
async def _(live: Live) -> None:
    await live.change({"jobs.lease": "10m"})
    live.sandbox.fault("stockx", "stall", times=None, seconds=30)
    job = await live.ask()
    await live.gets(
        "select lease_expires_at > clock_timestamp() + '8 min' from market_jobs where id = $1", job
    )


@case("jobs.shutdown_grace", jobs={"shutdown_grace": "0s"})
async def _(live: Live) -> None:
    await live.change({"jobs.shutdown_grace": "15s"})
    live.sandbox.fault("stockx", "drip", seconds=0.5)
    job = await live.ask()
    await live.done(job, "running")
    live.stop.set()
    await live.done(job)


@case("jobs.keep_finished")
async def _(live: Live) -> None:
    job = await live.ask()
    await live.done(job)
    await live.change({"jobs.keep_finished": "1s", "scheduler.interval": "200ms"})
    await live.gets("select not exists (select from market_jobs where id = $1)", job)


@case("catalog")
async def _(live: Live) -> None:
    await live.change({"catalog": {"default_size_system": "uk", "fallback_images": {"default": "/mine.svg"}}})
    job = await live.db.fetchval("select job_id from market_enqueue('stockx', 'DD1391-100', '9', 200)")
    assert await live.db.fetchval("select size from market_jobs where id = $1", job) == "UK 9"
    assert "/mine.svg" in await live.db.fetchval("select market_settings::text from market_settings")


@case(
    "planner.enabled",
    scheduler={"interval": "200ms"},
    jobs={"fresh_for": "100ms"},
    planner={"enabled": False},
)
async def _(live: Live) -> None:
    planned = (
        "select count(*) from market_jobs j where j.size = '10'"
        " and not exists (select from market_job_requests r where r.job_id = j.id)"
    )
    item = '[{"provider": "stockx", "sku": "DD1391-100", "size": "10"}]'
    await live.db.fetch("select * from market_watch($1::jsonb, 'ann')", item)
    runs = await live.db.fetchval("select count(*) from market_job_runs")
    await live.gets("select count(*) >= $1 from market_job_runs", runs + 3)
    assert await live.db.fetchval(planned) == 0
    await live.change({"planner.enabled": True})
    await live.gets(f"select ({planned}) > 0")


@case("planner")
async def _(live: Live) -> None:
    dials = {"kappa": 0.5, "lane": 0.25, "size_weight": 3.0, "evidence_cap": 7.0}
    spans = {"memory": "3d", "slowest": "90d"}
    await live.change({"planner": {**dials, **spans, "prior": {"a": 0.75, "b": "36h"}}})
    row = await live.db.fetchrow("select * from market_planner")
    assert {name: row[name] for name in dials} == dials
    assert (row["memory_h"], row["slowest_h"]) == (3 * 24, 90 * 24)
    assert (row["prior_a"], row["prior_b_h"]) == (0.75, 36)


@case("jobs.keep_history")
async def _(live: Live) -> None:
    await live.done(await live.ask())
    assert await live.db.fetchval("select count(*) from market_price_history") > 0
    await live.change({"jobs.keep_history": "1s", "scheduler.interval": "200ms"})
    await live.gets("select not exists (select from market_price_history)")


@case("jobs.keep_requests")
async def _(live: Live) -> None:
    await live.done(await live.ask())
    await live.gets("select exists (select from market_requests)")
    await live.change({"jobs.keep_requests": "1s", "scheduler.interval": "200ms"})
    await live.gets("select not exists (select from market_requests)")


@case("jobs.not_listed_cooldown")
async def _(live: Live) -> None:
    await live.change({"jobs.not_listed_cooldown": "30d"})
    await live.done(await live.ask("NONE-000"), "failed")
    await live.gets("select retry_at > now() + '29 days' from market_targets where sku = 'NONE-000'")


@case("providers.stockx.budget")
async def _(live: Live) -> None:
    row = "select rolling, day_zone, day_start, reserve, background_min from market_providers where provider = 'stockx'"
    budget = {
        "per_hour": 500,
        "window": "rolling",
        "day_starts": "06:30 America/Los_Angeles",
        "reserve": "25%",
        "background_min": "10%",
    }
    await live.change({"providers.stockx.budget": budget})
    found = await live.db.fetchrow(row)
    assert found is not None
    assert tuple(found) == (True, "America/Los_Angeles", time(6, 30), 0.25, 0.1)
    await live.done(await live.ask())


@case("providers.stockx.currency")
async def _(live: Live) -> None:
    await live.change({"providers.stockx.currency": "USD"})
    job = await live.ask()
    await live.done(job)
    assert await live.db.fetchval("select currency from market_jobs where id = $1", job) == "USD"


@case("providers.stockx.accounts")
async def _(live: Live) -> None:
    own = live.data["providers"]["stockx"]["credentials"]
    await live.change({"providers.stockx.accounts": {"shop2": {"credentials": own, "users": ["ann"]}}})
    job = await live.db.fetchval(
        "select job_id from market_enqueue('stockx', 'DD1391-100', '10', 200, 'ann')"
    )
    await live.done(job)
    assert await live.db.fetchval("select account from market_jobs where id = $1", job) == "shop2"


@case("providers.alias.options")
async def _(live: Live) -> None:
    alias = {key: value for key, value in live.sandbox.settings["alias"].items() if value is not None}
    region = "select basis ->> 'region' from market_prices where provider = 'alias' and sku = $1 limit 1"
    await live.change({"providers.alias": {**alias, "currency": "USD"}})
    await live.done(await live.ask(provider="alias"))
    assert await live.db.fetchval(region, "DD1391-100") == "global"
    await live.change({"providers.alias": {**alias, "currency": "USD", "options": {"region_id": "3"}}})
    await live.done(await live.ask("CP9366", provider="alias"))
    assert await live.db.fetchval(region, "CP9366") == "3"


#: shown by a test of its own, or by the case of another key
ELSEWHERE = {
    "providers.stockx.token_url": "providers.stockx.base_url",
    "log.level": "test_a_level_applies_to_the_next_line_and_never_hides_the_reload",
    "log.format": "test_a_level_applies_to_the_next_line_and_never_hides_the_reload",
}


def test_every_key_of_the_file_is_shown_to_apply_or_to_need_a_restart() -> None:
    whole = config.load(ROOT / "config.yaml", wiring.provider_types())
    late = {"database", "http", "state_dir", "testing"}
    keys = [
        leaf.key for leaf in leaves(whole) if not leaf.key.startswith(("providers.alias", "providers.ebay"))
    ]
    assert len(keys) > 40
    unshown = [
        key
        for key in keys
        if key.partition(".")[0] not in late
        and key not in ELSEWHERE
        and not any(key == shown or key.startswith(f"{shown}.") for shown in CASES if shown != "providers")
    ]
    assert unshown == []


async def test_a_storm_of_signals_coalesces_and_the_last_file_holds(live: Live) -> None:
    for number in range(1, 101):
        data = copy.deepcopy(live.data)
        data["providers"]["stockx"]["budget"] = {"per_hour": 1000 + number}
        live.file.write_text(yaml.safe_dump(data))
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)
    await live.gets("select quota_hour = 1100 from market_providers where provider = 'stockx'")

    async def told() -> bool:
        changes = [str(fields["changes"]) for name, fields in live.events if name == "config_reloaded"]
        return bool(changes) and "-> 1100" in changes[-1]

    await until(told, what="the last reload")
    reloads = [fields for name, fields in live.events if name == "config_reloaded"]
    assert len(reloads) < 30
    assert not [name for name, _ in live.events if name == "config_rejected"]
    await live.done(await live.ask())


async def test_a_level_applies_to_the_next_line_and_never_hides_the_reload(
    live: Live, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines() -> str:
        return capsys.readouterr().out

    await live.change({"log.level": "debug", "log.format": "json"})
    await live.done(await live.ask())
    await until(lambda: _all_done(live), what="the fetch")
    assert '"request_done"' in lines()
    for level in ("warning", "error"):
        await live.change({"log.level": level, "log.format": "json"})
        assert "config_reloaded" in lines()
        await live.done(await live.ask("CP9366" if level == "error" else "DZ5485-612"))
        assert lines() == ""


async def _all_done(live: Live) -> bool:
    return bool(await live.db.fetchval("select bool_and(status = 'done') from market_jobs"))


async def test_what_needs_a_restart_is_refused_by_name_and_the_rest_applied(
    live: Live, tmp_path: Path
) -> None:
    elsewhere = "postgresql://someone:very-secret@127.0.0.1:1/elsewhere"
    keys = {
        "database.dsn": elsewhere,
        "database.listen_dsn": elsewhere,
        "database.pool_size": 3,
        "database.statement_timeout": "7s",
        "http.host": "127.0.0.2",
        "http.port": 9999,
        "state_dir": str(tmp_path / "other"),
        "testing.hour": "30m",
    }
    told = await live.change({**keys, "providers.stockx.budget.per_hour": 77})
    refused = [str(fields["change"]) for name, fields in live.events if name == "config_needs_restart"]
    assert sorted(line.partition(":")[0] for line in refused) == sorted(keys)
    assert "very-secret" not in str(live.events)
    assert told == ["providers.stockx.budget.per_hour: 100000 -> 77"]
    assert await live.db.fetchval("select quota_hour from market_providers where provider = 'stockx'") == 77
    await live.done(await live.ask())


async def test_a_refusal_of_credentials_that_a_reload_replaced_does_not_keep_the_lane_closed(
    live: Live,
) -> None:
    await live.change({"providers.stockx.credentials.api_key": "not-the-key-of-anyone"})
    live.sandbox.fault("stockx", "stall", endpoint="search", seconds=1.5)
    job = await live.ask()

    async def asked() -> bool:
        return live.sandbox.count("stockx", endpoint="search") > 0

    await until(asked, what="the request with the old key")
    await live.change({})
    await live.done(job)
    refused = [request.status for request in live.sandbox.requests if request.endpoint == "search"]
    assert 401 in refused


async def test_a_day_that_a_reload_moves_brings_no_second_quota(live: Live) -> None:
    await live.change({"providers.stockx.budget.per_day": 3})
    await live.done(await live.ask())
    waiting = await live.ask("553558-134")
    await live.waits_for(waiting, "budget")
    sent = live.sandbox.count("stockx")
    for zone in ("America/Los_Angeles", "Asia/Tokyo", "UTC"):
        budget = {"per_day": 3, "day_starts": f"00:00 {zone}"}
        await live.change({f"providers.stockx.budget.{key}": new for key, new in budget.items()})
        await live.waits_for(waiting, "budget")
    assert live.sandbox.count("stockx") == sent
