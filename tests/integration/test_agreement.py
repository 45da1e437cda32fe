"""What a daemon writes of itself and of its file: all of it or nothing, and again when a restore has lost it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from marketd import errors, providers, wiring
from marketd.agreement import Agreement
from marketd.config import Config, from_mapping
from marketd.metrics import Metrics
from marketd.store.daemons import DaemonStore
from marketd.store.plan import PlanStore
from provider_kit import Notes
from queue_kit import Connection, opened, value

KINDS = providers.discover()


@pytest.fixture
def daemon_id() -> UUID:
    return uuid4()


@pytest.fixture
async def agreement(database: str, daemon_id: UUID) -> AsyncIterator[Agreement]:
    async with opened(database) as pool:
        plans = PlanStore(pool, lambda: timedelta(minutes=1))
        yield Agreement(DaemonStore(pool, daemon_id), plans, KINDS, Metrics(), Notes())


@pytest.fixture
def config(database: str) -> Config:
    return from_mapping({"database": {"dsn": database}, "providers": {"stockx": {}}}, wiring.provider_types())


async def test_a_daemon_whose_row_a_restore_has_lost_signs_on_again(
    db: Connection, agreement: Agreement, daemon_id: UUID, config: Config
) -> None:
    await agreement.write(config, wiring.accounts_of(config, KINDS), renewed=())
    await db.execute("delete from market_daemons")
    await agreement.compare(config)
    row = "select quotas ? 'stockx/default' from market_daemons where daemon_id = $1 and alive_until > now()"
    assert await value(db, row, daemon_id)


async def test_a_zone_that_the_server_does_not_know_is_refused_and_nothing_is_written(
    db: Connection, agreement: Agreement, config: Config
) -> None:
    limits = [replace(a, day_zone="Mars/Olympus") for a in wiring.accounts_of(config, KINDS)]
    with pytest.raises(errors.ConfigError, match='time zone "Mars/Olympus" not recognized'):
        await agreement.write(config, limits, renewed=())
    assert await value(db, "select config_hash is null from market_settings")
