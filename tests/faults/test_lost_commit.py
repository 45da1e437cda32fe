"""The connection breaks between a COMMIT and its answer: what a daemon runs by and what Postgres knows stay one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from faults.kit import Connection
from faults.proxy import Proxy
from harness import Daemon, settings, until
from marketd import errors, providers, wiring
from marketd.agreement import Agreement
from marketd.config import Config, from_mapping
from marketd.metrics import Metrics
from marketd.recorder import Recorder
from marketd.sandbox import Sandbox
from marketd.store.budgets import Circuits
from marketd.store.daemons import DaemonStore
from marketd.store.plan import PlanStore
from marketd.telemetry import RequestReport
from provider_kit import Notes
from queue_kit import opened

KINDS = providers.discover()
QUOTAS = (
    "select p.quota_hour, (d.quotas -> 'stockx/default' ->> 'hour')::int, d.config_hash = s.config_hash"
    " from market_providers p, market_daemons d, market_settings s where p.provider = 'stockx'"
)


def _config(dsn: str, per_hour: int) -> Config:
    stanza = {"budget": {"per_hour": per_hour}}
    return from_mapping({"database": {"dsn": dsn}, "providers": {"stockx": stanza}}, wiring.provider_types())


async def test_a_configuration_whose_commit_was_not_heard_of_gives_way_to_the_one_that_runs(
    db: Connection, database: str, proxy: Proxy
) -> None:
    running, wanted = _config(database, 100), _config(database, 50)
    async with opened(proxy.dsn) as pool:
        plans = PlanStore(pool, lambda: timedelta(minutes=1))
        agreement = Agreement(DaemonStore(pool, uuid4()), plans, KINDS, Metrics(), Notes())

        async def write(config: Config) -> None:
            await agreement.write(config, wiring.accounts_of(config, KINDS), renewed=())

        await write(running)
        commit = proxy.trap("COMMIT", "after")
        writing = asyncio.create_task(write(wanted))
        await asyncio.wait_for(commit.sprung.wait(), 10)
        proxy.reset()
        with pytest.raises(errors.DatabaseUnavailable):
            await writing
        assert tuple(await db.fetchrow(QUOTAS) or ()) == (50, 50, True)
        await agreement.compare(running)
        assert tuple(await db.fetchrow(QUOTAS) or ()) == (100, 100, True)


async def test_a_daemon_whose_reload_was_cut_off_at_its_commit_has_its_limits_back_within_seconds(
    db: Connection, proxy: Proxy, tmp_path: Path
) -> None:
    async with Sandbox(seed=7, products=1) as sandbox:

        def file(per_hour: int) -> dict[str, object]:
            budget = {"budget": {"per_hour": per_hour}}
            own = {"dsn": proxy.dsn, "listen_dsn": proxy.dsn}  # so that each statement's text is sent
            slow = {"poll": "10s", "interval": "10m"}
            return settings(
                proxy.dsn, sandbox, tmp_path / "state", stanza=budget, scheduler=slow, database=own
            )

        daemon = Daemon(tmp_path, file(100))
        await daemon.start()
        daemon.write(file(50))
        written = proxy.trap("update market_settings set fresh_for", "before")
        daemon.process.send_signal(1)
        await asyncio.wait_for(written.sprung.wait(), 10)
        commit = proxy.trap("COMMIT", "after")
        written.release()
        await asyncio.wait_for(commit.sprung.wait(), 10)
        proxy.reset()
        assert tuple(await db.fetchrow(QUOTAS) or ()) == (50, 50, True)

        async def back() -> bool:
            return tuple(await db.fetchrow(QUOTAS) or ()) == (100, 100, True)

        await until(back, what="the limits of the configuration that runs")
        assert "the limits cannot be written" in daemon.text()
        assert await daemon.stop() == 0


async def test_the_call_record_has_each_call_once_though_its_commit_was_not_heard_of(
    db: Connection, proxy: Proxy
) -> None:
    call = RequestReport(
        provider="stockx", account="default", endpoint="search", priority=200, status_class="ok", http_status=200,
        granted_at=datetime.now(UTC), took_s=0.1, of_fetch=False,
    )  # fmt: skip
    async with opened(proxy.dsn, pooled=True) as pool:  # so that each statement's text is sent
        recorder = Recorder(Circuits(pool))
        for took_s in (0.1, 0.2):
            recorder.request_done(replace(call, took_s=took_s))
        written = proxy.trap("insert into market_requests", "after")
        flush = asyncio.create_task(recorder.flush())
        await asyncio.wait_for(written.sprung.wait(), 10)
        proxy.reset()
        await flush
        recorder.request_done(replace(call, granted_at=call.granted_at + timedelta(milliseconds=1)))
        await recorder.flush()
    assert await db.fetchval("select count(*) from market_requests") == 3
    assert await db.fetchval("select sum(requests) from market_provider_metrics") == 3
