"""The numbers of a daemon at work: what the code can export is really fed."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from harness import configured, running, until
from marketd import clock
from marketd.app import App
from marketd.gauges import Gauges
from marketd.metrics import Metrics
from marketd.sandbox import Sandbox
from marketd.store import runs
from marketd.store.pool import Database
from marketd.store.runs import RunStore
from marketd.store.sqlfile import queries
from queue_kit import Connect, enqueue, opened

QUICK = {"poll": "200ms", "interval": "300ms"}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, limits={"*": None}) as server:
        yield server


def _value(app: App, name: str, **labels: str) -> float:
    found = app.metrics.registry.get_sample_value(f"marketd_{name}", labels)
    assert found is not None, name
    return found


async def _reaches(app: App, wanted: float, name: str, **labels: str) -> None:
    async def there() -> bool:
        return _value(app, name, **labels) == wanted

    await until(there, what=f"{name}{labels} = {wanted}")


async def test_a_request_is_seen_from_the_wish_to_the_price(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with running(configured(database, sandbox, tmp_path, scheduler=QUICK)) as app:
        await _reaches(app, 1, "listener_connected")
        await _reaches(app, 1, "lane_state", provider="stockx", state="ready")
        for priority in (200, 150, 100):
            await db.execute("select market_enqueue('stockx', 'DD1391-100', '10', $1)", priority)
        await _reaches(app, 1, "jobs_finished_total", provider="stockx", outcome="priced")
        await _reaches(app, 1, "requests_received_total", provider="stockx", band="manual", result="queued")
        await _reaches(app, 1, "targets", provider="stockx", state="fresh")
        assert _value(app, "wake_to_request_seconds_count", provider="stockx") == 1
        assert _value(app, "wake_to_request_seconds_sum", provider="stockx") < 5
        assert _value(app, "wait_seconds_count", provider="stockx", band="manual") == 1
        spent = _value(app, "calls_spent_total", provider="stockx", band="manual")
        assert spent >= sandbox.count("stockx") > 0
        await _reaches(app, sandbox.count("stockx"), "budget_used", provider="stockx", window="hour")
        quota = _value(app, "budget_quota", provider="stockx", window="hour")
        assert _value(app, "budget_remaining", provider="stockx", window="hour") == quota - sandbox.count(
            "stockx"
        )
        assert 0 < _value(app, "budget_reset_seconds", provider="stockx", window="hour") <= 3600
        assert 0 <= _value(app, "price_age_seconds", provider="stockx", percentile="100") < 60
        assert _value(app, "pool_connections") >= 1
        assert 0 <= _value(app, "listener_echo_age_seconds") < 30
        assert time.time() - _value(app, "db_gauges_last_success_timestamp_seconds") < 30
        assert _value(app, "config_last_reload_successful") == 1
        body = app.metrics.render()[0].decode()
    assert 'schema="' in body
    assert 'schema=""' not in body
    samples = [line for line in body.splitlines() if not line.startswith("#")]
    assert len(samples) <= 800


async def test_trouble_with_a_provider_shows_long_before_the_next_regular_look(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.fault("stockx", "status", times=None, endpoint="*", status=401)
    rare = {"poll": "200ms", "interval": "1h"}  # regular looks are 30 s apart then
    async with running(configured(database, sandbox, tmp_path, scheduler=rare)) as app:
        await _reaches(app, 1, "lane_state", provider="stockx", state="ready")
        await db.execute("select market_enqueue('stockx', 'DD1391-100', '10', 200)")
        await _reaches(app, 1, "lane_state", provider="stockx", state="cooldown")


async def test_calls_of_an_account_that_is_off_are_no_calls_left(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    """An account that was taken out of the file keeps its row; its quota must not hide that no call is left."""
    await db.execute(
        "insert into market_providers (provider, account, quota_hour) values ('stockx', 'shop2', 50)"
    )
    async with running(configured(database, sandbox, tmp_path, scheduler=QUICK)) as app:
        await _reaches(app, 1, "lane_state", provider="stockx", state="ready")
        await _reaches(app, 100_000, "budget_quota", provider="stockx", window="hour")


_SPEND = """
insert into market_budgets (provider, account, window_kind, window_start, window_end, used)
select p.provider, p.account, 'hour', w.starts, w.ends, $2
  from market_providers p, market_settings s, market__window(p, s, 'hour', clock_timestamp()) w
 where p.provider = 'stockx' and p.account = $1
"""
_WAITING = """
insert into market_jobs (provider, account, sku, priority, run_at)
values ('stockx', $1, $2, $3, now() - interval '5 minutes')
"""


async def _read(database: str) -> Metrics:
    """The gauges of stockx, read once without a daemon that would change what they tell."""
    metrics = Metrics(process=False)
    metrics.init_labels(["stockx"])
    async with opened(database) as pool:
        await _gauges(metrics, pool).refresh()
    return metrics


def _gauges(metrics: Metrics, pool: Database) -> Gauges:
    async def nothing() -> None: ...

    return Gauges(metrics, RunStore(pool), pool, interval_s=lambda: 30.0, echo_at=lambda: None, also=nothing)


async def _figures(database: str) -> dict[str, float | None]:
    """What they say of stockx's hour."""
    of = (await _read(database)).registry.get_sample_value
    return {
        name: of(f"marketd_{name}", {"provider": "stockx", "window": "hour"})
        for name in ("budget_remaining", "budget_urgent_left")
    } | {"background_waits": of("marketd_background_waits", {"provider": "stockx"})}


@pytest.fixture
async def hundred(db: asyncpg.Connection) -> asyncpg.Connection:
    """100 calls an hour for stockx, of an hour so long that its end, before which nothing is kept, is far."""
    await db.execute("update market_settings set hour_s = 86400 * 365 * 50")
    await db.execute(
        "update market_providers set quota_hour = 100, quota_day = null, background_min = 0.05, pace_s = 0"
    )
    return db


async def test_calls_that_are_kept_for_background_are_not_left_for_urgent_work(
    hundred: asyncpg.Connection, database: str
) -> None:
    await hundred.execute(_SPEND, "default", 95)
    await hundred.execute(_WAITING, "default", "A-1", 150)
    told = await _figures(database)
    assert (told["budget_remaining"], told["budget_urgent_left"]) == (5, 5), "nobody else waits"
    await hundred.execute(_WAITING, "default", "A-2", 100)
    told = await _figures(database)
    assert (told["budget_remaining"], told["budget_urgent_left"]) == (5, 0)


async def test_background_that_may_not_have_the_rest_waits(
    hundred: asyncpg.Connection, database: str
) -> None:
    await hundred.execute("update market_providers set reserve = 1, background_min = 0")
    await hundred.execute(_WAITING, "default", "A-1", 100)
    assert (await _figures(database))["background_waits"] == 0
    await hundred.execute(_SPEND, "default", 80)
    told = await _figures(database)
    assert (told["budget_urgent_left"], told["background_waits"]) == (20, 1)


async def test_of_several_accounts_those_in_which_work_waits_tell_what_is_left_for_it(
    hundred: asyncpg.Connection, database: str
) -> None:
    await hundred.execute(
        "insert into market_providers (provider, account, quota_hour) values ('stockx', 'shop2', 50)"
    )
    await hundred.execute(_SPEND, "default", 100)
    told = await _figures(database)
    assert (told["budget_remaining"], told["budget_urgent_left"], told["background_waits"]) == (50, 50, 0)
    await hundred.execute(_WAITING, "shop2", "B-1", 150)
    told = await _figures(database)
    assert (told["budget_urgent_left"], told["background_waits"]) == (50, 0)
    await hundred.execute(_WAITING, "default", "A-1", 150)
    assert (await _figures(database))["budget_urgent_left"] == 0
    await hundred.execute("delete from market_jobs where account = 'shop2'")
    assert (await _figures(database))["background_waits"] == 1


async def test_what_the_planner_found_is_told_of_accounts_that_are_on(
    db: asyncpg.Connection, database: str
) -> None:
    await db.execute("insert into market_providers (provider, account) values ('stockx', 'shop2')")
    await db.execute("delete from market_plans")
    # Of the views of shop2 hardly any sees a price, so they say little of the age that is seen.
    await db.executemany(
        "insert into market_plans (provider, account, planned_at, share, units, view_rate, fresh_rate,"
        " priced_rate, aged_rate) values ('stockx', $1, now(), 1, 3, $2, 1, 2, $3)",
        [("default", 2.0, 4.0), ("shop2", 90.0, 400.0)],
    )

    async def told() -> tuple[float | None, ...]:
        of = (await _read(database)).registry.get_sample_value
        return tuple(
            of(f"marketd_{name}", {"provider": "stockx"}) for name in ("units_watched", "view_age_seconds")
        )

    assert await told() == (6, 101 * 3600)
    await db.execute("update market_providers set enabled = false where account = 'shop2'")
    assert await told() == (3, 2 * 3600)
    await db.execute("update market_planner set enabled = false")
    assert await told() == (0, 0)
    await db.execute("update market_planner set enabled = true")
    await db.execute("update market_providers set enabled = false where provider = 'stockx'")
    assert await told() == (0, 0)


async def test_what_waits_at_an_account_that_is_off_or_was_refused_before_is_no_trouble(
    hundred: asyncpg.Connection, database: str
) -> None:
    """Neither heals by itself, so each would page for ever."""
    await hundred.execute("insert into market_providers (provider, account) values ('stockx', 'shop2')")
    await hundred.execute(_WAITING, "shop2", "B-1", 200)
    await hundred.execute("update market_jobs set run_at = now() - interval '10 minutes'")
    await hundred.execute(
        "update market_providers set circuit = 'open', circuit_reason = 'unauthorized' where account = 'shop2'"
    )

    async def told() -> tuple[float | None, ...]:
        of = (await _read(database)).registry.get_sample_value
        return tuple(
            of(f"marketd_{name}", {"provider": "stockx", **labels})
            for name, labels in (
                ("jobs", {"status": "pending", "band": "manual"}),
                ("oldest_ready_seconds", {"band": "manual"}),
                ("credentials_refused", {}),
            )
        )

    jobs, age_s, refused = await told()
    assert (jobs, refused) == (1, 1)
    assert age_s is not None
    assert age_s >= 300
    await hundred.execute("update market_providers set enabled = false where account = 'shop2'")
    assert await told() == (1, 0, 0)


async def test_an_operators_pause_shows_long_before_the_next_regular_look(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    rare = {"poll": "200ms", "interval": "1h"}
    async with running(configured(database, sandbox, tmp_path, scheduler=rare)) as app:
        await _reaches(app, 1, "listener_connected")
        await _reaches(app, 1, "lane_state", provider="stockx", state="ready")
        await db.fetch(queries("cli")["pause"], "stockx", "a test")
        await _reaches(app, 1, "lane_state", provider="stockx", state="paused")
        await db.fetch(queries("cli")["resume"], "stockx")
        await _reaches(app, 1, "lane_state", provider="stockx", state="ready")


async def test_a_figure_that_cannot_be_read_blinds_no_other(
    db: asyncpg.Connection,
    database: str,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = {**queries("runs"), "price_ages": "select 1 / 0"}
    monkeypatch.setattr(runs, "queries", lambda name: broken if name == "runs" else queries(name))
    async with running(configured(database, sandbox, tmp_path, scheduler=QUICK)) as app:
        await _reaches(app, 1, "lane_state", provider="stockx", state="ready")
        await db.execute("select market_enqueue('stockx', 'DD1391-100', '10', 200)")
        await _reaches(app, 1, "targets", provider="stockx", state="fresh")
        assert _value(app, "db_gauges_last_success_timestamp_seconds") == 0, "not all of them are of now"
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "gauges_failed" in line]
    assert (told[0]["level"], told[0]["figures"]) == ("warning", "prices")
    assert "division by zero" in told[0]["error"]


async def test_what_apps_ask_for_is_counted_by_what_became_of_it(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    item = '[{"provider": "stockx", "sku": "CP9366"}]'
    async with running(configured(database, sandbox, tmp_path, scheduler=QUICK)) as app:
        # The wishes counted are those after the first look.
        await _reaches(app, 1, "lane_state", provider="stockx", state="ready")
        await db.execute("select market_pause('stockx', 'so that the jobs stay open')")
        for sku, priority in (
            ("DD1391-100", 100),
            ("DD1391-100", 100),
            ("DD1391-100", 200),
            ("DD1391-100", 150),
        ):
            told = await db.fetchval(
                "select result from market_enqueue('stockx', $1, '10', $2)", sku, priority
            )
            assert told in ("queued", "merged", "raised")
        await db.execute(
            "insert into market_jobs (provider, sku, priority) values ('stockx', 'DZ5485-612', 150)"
        )
        many = [
            {"provider": "stockx", "sku": sku, "size": "9"}
            for sku in ("FV5029-010", "DC7770-160", "FV5029-010")
        ]
        await db.execute("select * from market_enqueue_many($1::jsonb, 150)", json.dumps(many))
        # To watch is to ask once.
        await db.execute("select * from market_watch($1::jsonb, 'ann')", item)
        await db.execute("select market_enqueue('stockx', 'CP9366', priority => 100)")
        await db.execute("select market_enqueue('stockx', 'CP9366', priority => 200)")
        for band, result, number in (
            ("background", "queued", 2),
            ("background", "merged", 2),
            ("manual", "raised", 2),
            ("hot", "merged", 2),
            ("hot", "queued", 3),
            ("manual", "queued", 0),
            ("manual", "merged", 0),
        ):
            labels = {"provider": "stockx", "band": band, "result": result}
            await _reaches(app, number, "requests_received_total", **labels)


async def test_a_request_that_is_committed_after_a_later_one_was_counted_is_counted_too(
    db: asyncpg.Connection, connect: Connect, database: str
) -> None:
    metrics, slow, gone = Metrics(process=False), await connect(), await connect()
    metrics.init_labels(["stockx"])

    def counted() -> float | None:
        labels = {"provider": "stockx", "band": "hot", "result": "queued"}
        return metrics.registry.get_sample_value("marketd_requests_received_total", labels)

    async with opened(database) as pool:
        gauges = _gauges(metrics, pool)
        await gauges.refresh()
        rolled_back, committed = gone.transaction(), slow.transaction()
        await rolled_back.start()
        await enqueue(gone, "A-1", priority=150)
        await committed.start()
        await enqueue(slow, "B-1", priority=150)
        await enqueue(db, "C-1", priority=150)
        await gauges.refresh()
        assert counted() == 1
        await rolled_back.rollback()
        await gauges.refresh()
        assert counted() == 1
        await committed.commit()
        for _ in range(2):
            await gauges.refresh()
            assert counted() == 2
        await enqueue(db, "D-1", priority=150)
        await gauges.refresh()
        assert counted() == 3


async def test_a_request_that_never_comes_is_not_looked_for_for_ever(
    db: asyncpg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database) as pool:
        gauges = _gauges(Metrics(process=False), pool)
        await gauges.refresh()
        rolled_back = db.transaction()
        await rolled_back.start()
        await enqueue(db, "A-1", priority=150)
        await rolled_back.rollback()
        await enqueue(db, "B-1", priority=150)
        await gauges.refresh()
        asked: list[str] = []
        fetchval = pool.fetchval

        async def listening(sql: str, *args: object) -> object:
            asked.append(sql)
            return await fetchval(sql, *args)

        monkeypatch.setattr(pool, "fetchval", listening)
        look = queries("runs")["wishes_to_come"]
        await gauges.refresh()
        assert asked.count(look) == 1
        later = time.monotonic() + 601
        monkeypatch.setattr(clock, "monotonic", lambda: later)
        for _ in range(2):
            await gauges.refresh()
        assert asked.count(look) == 1


async def test_refused_credentials_and_their_renewal_show_in_the_lane(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.fault("stockx", "status", times=None, endpoint="*", status=401)
    async with running(configured(database, sandbox, tmp_path, scheduler=QUICK)) as app:
        await db.execute("select market_enqueue('stockx', 'DD1391-100', '10', 200)")
        await _reaches(app, 1, "credentials_refused", provider="stockx")
        await _reaches(app, 1, "lane_state", provider="stockx", state="cooldown")
        sandbox.clear_faults()
        await db.execute("select market_resume('stockx')")
        await _reaches(app, 0, "credentials_refused", provider="stockx")
        await _reaches(app, 1, "jobs_finished_total", provider="stockx", outcome="priced")
