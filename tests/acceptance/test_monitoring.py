"""A real Prometheus scrapes a real run: every rule evaluates, the right alert fires, the dashboard has data."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from harness import GOLDEN, configured, running, until
from marketd.sandbox import Sandbox
from prometheus_server import ROOT, Prometheus, prometheus

pytestmark = [
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
    pytest.mark.timeout(150),
]
#: nothing of the kind happens in this run
QUIET = frozenset({"Versions", "Reloads"})


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, limits={"*": None}) as server:
        yield server


def _board_queries() -> list[tuple[str, str]]:
    board = json.loads((ROOT / "grafana" / "marketd.json").read_text())
    found = [
        (panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", ())
    ]
    found += [(note["name"], note["expr"]) for note in board["annotations"]["list"]]
    return [
        (title, expr.replace("$__rate_interval", "30s").replace("$provider", ".*")) for title, expr in found
    ]


async def _firing(server: Prometheus, alert: str) -> bool:
    return bool(await server.query(f'ALERTS{{alertname="{alert}", alertstate="firing", provider="alias"}}'))


async def _have_data(server: Prometheus, queries: list[tuple[str, str]]) -> bool:
    for title, expr in queries:
        if title not in QUIET and not await server.query(expr):
            return False
    return True


async def test_alerts_rules_and_dashboard_work_on_a_real_run(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.fault("alias", "status", times=None, endpoint="*", status=401)
    configuration = configured(
        database,
        sandbox,
        tmp_path / "state",
        providers=("stockx", "alias"),
        scheduler={"poll": "500ms", "interval": "1s"},
        jobs={"fresh_for": "1s"},
    )
    async with running(configuration) as app:
        assert app.admin_port is not None
        async with prometheus(tmp_path, app.admin_port) as server:
            queries = _board_queries()

            async def wanted() -> bool:
                # Work goes on meanwhile: a rate needs two scrapes with something between them.
                for sku, size in (*GOLDEN, ("NOPE-404", "9")):
                    for provider in ("stockx", "alias"):
                        for priority in (200, 150):
                            await db.execute(
                                "select market_enqueue($1, $2, $3, $4)", provider, sku, size, priority
                            )
                return await _firing(server, "MarketdProviderAuthFailing") and await _have_data(
                    server, queries
                )

            try:
                await until(wanted, within_s=60, what="the alert, and data for every panel")
            except AssertionError:
                empty = [one for one in queries if one[0] not in QUIET and not await server.query(one[1])]
                pytest.fail(
                    f"alert: {await _firing(server, 'MarketdProviderAuthFailing')}; without data: {empty}"
                )
            groups = (await server.get("rules"))["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            assert len(rules) >= 28
            assert {rule["health"] for rule in rules} == {"ok"}, [rule.get("lastError") for rule in rules]
            firing = {rule["name"] for rule in rules if rule.get("state") == "firing"}
            assert "MarketdDown" not in firing
            assert "MarketdGaugesStale" not in firing
            [target] = (await server.get("targets"))["activeTargets"]
            assert target["health"] == "up", target["lastError"]
            # With the reason gone, the alert goes as well.
            sandbox.clear_faults()
            await db.execute("select market_resume('alias')")

            async def over() -> bool:
                return not await _firing(server, "MarketdProviderAuthFailing")

            await until(over, what="the end of the alert")


def test_the_shipped_waiting_times_are_the_only_thing_that_the_run_changes() -> None:
    text = (ROOT / "prometheus" / "alerts.yml").read_text()
    assert len(re.findall(r"^\s+for: \w+$", text, re.MULTILINE)) >= 15
