"""Draws the pictures of the dashboard's main panels from a real run: the daemon, the sandbox, Prometheus.

    pip install matplotlib           # for these pictures only, no dependency of marketd
    PYTHONPATH=daemon:tests python -m marketd.embedded sh -c 'MARKETD_TEST_DSN="$MARKETD_DSN" python docs/img/draw.py'

It takes five minutes, creates and drops a database of its own, and needs Debian's package `prometheus`. An hour of the
budgets is a minute here; after two of them StockX refuses the credentials for a while.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import matplotlib as mpl

from harness import configured, running
from marketd.migrate import migrate
from marketd.sandbox import Sandbox
from prometheus_server import ROOT, Prometheus, prometheus

mpl.use("Agg")
from matplotlib import pyplot as plt

RUN_S = 280.0
HERE = Path(__file__).parent
PICTURES = {
    "budgets": ("Calls left, and until when", "Burn by urgency", "Requests by answer", "Lanes"),
    "queue": ("Jobs by state", "Runs by outcome", "Wait and reaction, 95th percentile", "Age of prices"),
}


async def main() -> None:
    server = os.environ["MARKETD_TEST_DSN"]
    name = f"marketd_pictures_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(server)
    await admin.execute(f"create database {name}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            await run(urlsplit(server)._replace(path=f"/{name}").geturl(), Path(folder))
    finally:
        await admin.execute(f"drop database {name} with (force)")
        await admin.close()


async def run(dsn: str, folder: Path) -> None:
    await migrate(dsn)
    async with Sandbox(seed=3, products=90, limits={"*": None}) as sandbox:
        configuration = configured(
            dsn,
            sandbox,
            folder / "state",
            providers=("stockx", "alias"),
            stanza={"budget": {"per_hour": 60}, "pace": {"calls": 2, "per": "1s"}},
            testing={"hour": "60s", "day": "24m"},
            scheduler={"interval": "2s", "poll": "1s"},
            jobs={"fresh_for": "20s"},
        )
        async with running(configuration) as app:
            assert app.admin_port is not None
            async with prometheus(folder, app.admin_port) as metrics:
                began = time.time()
                await work(dsn, sandbox)
                for file, titles in PICTURES.items():
                    await draw(metrics, file, titles, began)


async def work(dsn: str, sandbox: Sandbox) -> None:
    """All products in the background, somebody who refreshes now and then, a spell of refused credentials."""
    connection = await asyncpg.connect(dsn)
    skus = [product.style for product in sandbox.world if product.style]
    items = [{"provider": provider, "sku": sku} for sku in skus for provider in ("stockx", "alias")]
    await connection.fetch("select market_watch($1)", json.dumps(items))
    began = time.monotonic()
    refused = False
    while (passed := time.monotonic() - began) < RUN_S:
        chosen = [items[secrets.randbelow(len(items))]]
        await connection.fetch("select market_refresh($1)", json.dumps(chosen))
        if not refused and passed > 130:
            refused = True
            sandbox.fault("stockx", "status", times=None, endpoint="*", status=401)
        if refused and sandbox.open_faults()["open"] and passed > 190:
            sandbox.clear_faults()
            await connection.fetch("select market_resume('stockx')")
        await asyncio.sleep(4)
    await connection.close()


async def draw(metrics: Prometheus, file: str, titles: tuple[str, ...], began: float) -> None:
    board = json.loads((ROOT / "grafana" / "marketd.json").read_text())
    panels = {panel["title"]: panel for panel in board["panels"]}
    figure, axes = plt.subplots(2, 2, figsize=(12, 6.4), constrained_layout=True)
    for axis, title in zip(axes.flat, titles, strict=True):
        panel = panels[title]
        lines = [line for target in panel["targets"] for line in await read(metrics, target, began)]
        stacked = "stacking" in panel["fieldConfig"]["defaults"]["custom"]
        plot(axis, panel, lines, stacked)
    figure.savefig(HERE / f"{file}.png", dpi=80)
    plt.close(figure)


async def read(
    metrics: Prometheus, target: dict[str, Any], began: float
) -> list[tuple[str, list[float], list[float]]]:
    expr = target["expr"].replace("$__rate_interval", "20s").replace("$provider", ".*")
    answer = await metrics.get("query_range", query=expr, start=str(began), end=str(time.time()), step="2")
    found = []
    for series in answer["result"]:
        name = target["legendFormat"]
        for label, word in series["metric"].items():
            name = name.replace("{{" + label + "}}", word)
        points = [(float(at) - began, float(value)) for at, value in series["values"]]
        found.append((name, [at for at, _ in points], [value for _, value in points]))
    return sorted(found)


def plot(
    axis: Any, panel: dict[str, Any], lines: list[tuple[str, list[float], list[float]]], stacked: bool
) -> None:
    timeline = panel["type"] == "state-timeline"
    lines = [line for line in lines if any(value > 0 for value in line[2])]
    if timeline:
        names = [name for name, _, _ in lines]
        for row, (_, at, _) in enumerate(lines):
            axis.broken_barh([(moment, 2.2) for moment in at], (row - 0.4, 0.8), color=f"C{row}")
        axis.set_yticks(range(len(names)), names)
    elif stacked:
        moments = sorted({moment for _, at, _ in lines for moment in at})
        heights = [
            [dict(zip(at, value, strict=True)).get(moment, 0.0) for moment in moments]
            for _, at, value in lines
        ]
        axis.stackplot(moments, heights, labels=[name for name, _, _ in lines], alpha=0.7)
    else:
        for name, at, value in lines:
            axis.plot(at, value, label=name, linewidth=1.3)
    axis.set_title(panel["title"], loc="left", fontsize=10)
    axis.set_xlabel("seconds of the run", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    if not timeline:
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=7, loc="upper left", framealpha=0.6)


if __name__ == "__main__":
    asyncio.run(main())
