"""Faults planted into the queue's SQL: the random histories of test_state_machine.py must find each of them.

A machine that never fails proves nothing. `MARKETD_FUZZ` runs all plants, else those few that are found soonest.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from faults.test_state_machine import SEED, Place, Queue, close_place, open_place
from marketd.errors import StatementRefused
from marketd.store import jobs, settles
from marketd.store.sqlfile import queries

ALL = "MARKETD_FUZZ" in os.environ
HISTORIES = 100  #: at most; a plant is found in far fewer


@dataclass(frozen=True)
class Plant:
    """Texts replaced in named statements of jobs.sql, or in the bodies of functions."""

    name: str
    statements: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    functions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    soon: bool = False  #: found within a few histories


PLANTS = (
    Plant(
        "a worker that lost its lease still writes",
        {
            "settle": {
                "and (f.lease_id in (select unnest($2::uuid[]))) is true": "",
                "((x.unit_key, x.lease_id) in (select g.unit_key, g.lease_id from gone g))": (
                    "(x.unit_key in (select g.unit_key from gone g))"
                ),
            }
        },
        soon=True,
    ),
    Plant(
        "a unit that is being fetched is claimed once more",
        {
            "claim": {
                "and not exists (select from market_fetches f where f.unit_key = j.unit_key and"
                " f.lease_expires_at > clock_timestamp())": "",
                "where f.lease_expires_at <= clock_timestamp()\n  returning": "returning",
            }
        },
    ),
    Plant(
        "a wish during a run is served by a price too old for it",
        {"settle": {"a.last_at > g.observed_at + s.fresh_for": "false"}},
    ),
    Plant(
        "a wish that is committed after the end of its job is forgotten",
        {"reopen": {"select market_reopen()": "select null::bigint where false"}},
    ),
    Plant(
        "a lease never runs out",
        {"rescue": {"j.lease_expires_at < (select clock_timestamp())": "j.lease_expires_at < '2000-01-01'"}},
        soon=True,
    ),
    Plant(
        "what is deferred never comes back",
        {"poll": {"run_at <= (select clock_timestamp())": "run_at <= '2000-01-01'"}},
    ),
    Plant(
        "an urgent wish during a run is forgotten when the run ends without a price",
        functions={"market__merge": {"known or held, not (known or held)": "true, not (known or held)"}},
    ),
    Plant(
        "wishes that met a locked row are never folded in",
        functions={
            "market_fold_requests": {"perform market__fold_into(j, r.priority, r.not_before);": "null;"}
        },
    ),
)


def _replaced(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert " ".join(old.split()) in " ".join(text.split()), f"the plant does not fit any more: {old}"
        text = text.replace(old, new)
    return text


async def _plant(db: asyncpg.Connection, plant: Plant) -> None:
    for name, changes in plant.functions.items():
        source = await db.fetchval("select pg_get_functiondef($1::text::regproc)", name)
        planted = _replaced(source, changes)
        assert planted != source
        await db.execute(planted)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("plant", [p for p in PLANTS if ALL or p.soon], ids=lambda plant: plant.name)
def test_a_planted_fault_is_found(database: str, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    statements = dict(queries("jobs"))
    for name, changes in plant.statements.items():
        planted = _replaced(statements[name], changes)
        assert planted != statements[name]
        statements[name] = planted
    for module in (jobs, settles):
        monkeypatch.setattr(module, "queries", lambda _name: statements)
    plan: Any = settings(
        max_examples=HISTORIES,
        stateful_step_count=30,
        deadline=None,
        database=None,
        phases=(Phase.generate,),  # what was found need not be made small
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as loop:
        Queue.place = Place(loop, *loop.run(open_place(database)))
        Queue.figures = Counter()
        try:
            loop.run(_plant(Queue.place.db, plant))
            # Flaky: found, and not again in the same history, since real clocks go on.
            with pytest.raises((AssertionError, asyncpg.PostgresError, StatementRefused, Flaky)) as found:
                run_state_machine_as_test(seed(SEED)(Queue), settings=plan)
        finally:
            loop.run(close_place(Queue.place))
    print(f"\nfound: {plant.name}: {str(found.value)[:200]}")
