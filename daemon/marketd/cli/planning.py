"""The watchlist, and what the planner makes of it."""

from __future__ import annotations

import asyncio
import json
from argparse import Namespace
from typing import Any

import asyncpg

from marketd.cli.access import database
from marketd.cli.exits import CommandError, Exit
from marketd.cli.tables import Table, age, as_json, changed, item, lane, text
from marketd.store.sqlfile import queries


def plan(arguments: Namespace) -> int:
    """Print the next units of the plan with their value and why."""
    rows = _ask(arguments, "next_units", arguments.provider, arguments.limit)
    if arguments.json:
        print(as_json([dict(row) for row in rows]))
        return Exit.OK
    table = Table(
        title="next refreshes in the background",
        columns=("", "lane", "item", "value", "age", "holds", "views/day", "changes/day", "job", "why"),
        right=frozenset({"", "value", "age", "holds", "views/day", "changes/day", "job"}),
        empty="nothing is watched, or all of it is fresh (see `marketd watch`)",
        rows=[_cells(row) for row in rows],
    )
    print(text([table]))
    return Exit.OK


def _cells(row: asyncpg.Record) -> tuple[str, ...]:
    priced = row["age_s"] is not None
    return (
        str(row["place"]),
        lane(row["provider"], row["account"]),
        item(row["sku"], row["size"]),
        f"{row['value']:.3g}",
        age(row["age_s"]) if priced else "-",
        f"{100 * row['still_right']:.0f} %" if priced else "-",
        _rate(row["views_per_day"]),
        _rate(row["changes_per_day"]),
        str(row["job_id"] or "-"),
        row["why"],
    )


def _rate(per_day: float) -> str:
    """Once a month is told apart from never."""
    return f"{per_day:.1f}" if per_day >= 1 else f"{per_day:.2g}"


def watch(arguments: Namespace) -> int:
    """Keep an item's price fresh from now on."""
    return _one(arguments, "watch")


def unwatch(arguments: Namespace) -> int:
    """Stop doing so."""
    return _one(arguments, "unwatch")


def _one(arguments: Namespace, query: str) -> int:
    wanted = {key: getattr(arguments, key) for key in ("provider", "sku", "size", "currency")}
    [row] = _ask(arguments, query, json.dumps([wanted]), arguments.user)
    if row["result"] == "refused":
        raise CommandError(f"{query}: {row['error_message']}", Exit.USAGE)
    rows = int(row["result"] in ("watched", "unwatched"))
    if arguments.json:
        answer = {key: row[key] for key in ("job_id", "result", "wait_reason", "eta")}
        print(as_json({**answer, "changed": rows}))
        return Exit.OK
    what = f"{arguments.provider} {item(arguments.sku, arguments.size)}"
    words = {
        "watched": f"{what} is watched from now on",
        "kept": f"{what} was watched already",
        "unwatched": f"{what} is not watched any more",
        "not_watched": f"{what} was not watched",
    }
    job = f"; job {row['job_id']} fetches its first price" if row["job_id"] and query == "watch" else ""
    print(f"{words[row['result']]}{job}; {changed(rows, 'row')}")
    return Exit.OK


def _ask(arguments: Namespace, query: str, *values: Any) -> list[asyncpg.Record]:
    async def ask() -> list[asyncpg.Record]:
        async with database(arguments) as db:
            return await db.fetch(queries("plan")[query], *values)

    return asyncio.run(ask())
