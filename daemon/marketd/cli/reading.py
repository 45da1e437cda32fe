"""Commands that only read: what is going on, why, and which jobs."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentTypeError, Namespace
from datetime import datetime
from typing import Any

from marketd.cli import status as overview
from marketd.cli.access import database, known
from marketd.cli.exits import CommandError, Exit
from marketd.cli.live import screen
from marketd.cli.parser import STATES, subjects
from marketd.cli.tables import Table, age, as_json, item, lane, moment, text
from marketd.errors import DatabaseUnavailable, StatementRefused
from marketd.store.pool import Database
from marketd.store.sqlfile import queries


def status(arguments: Namespace) -> int:
    """Print the overview once, or with --live until Ctrl-C."""
    return asyncio.run(_live(arguments) if arguments.live else _once(arguments))


async def _once(arguments: Namespace) -> int:
    async with database(arguments) as db:
        found = await overview.read(db)
    print(as_json(found) if arguments.json else text(overview.blocks(found)))
    return Exit.OK


async def _live(arguments: Namespace) -> int:
    pause_s = arguments.every.total_seconds()
    async with database(arguments) as db:
        with screen(sys.stdout) as shown:
            while True:
                try:
                    shown.show(overview.blocks(await overview.read(db)))
                except StatementRefused:
                    raise
                except DatabaseUnavailable as error:
                    shown.show([f"no answer from Postgres, trying again: {error}"])
                await asyncio.sleep(pause_s)


def why(arguments: Namespace) -> int:
    """Say what a job or an item waits for. An unknown job is a failure."""
    try:
        job, wanted = subjects(arguments.subject)
    except (ArgumentTypeError, ValueError) as error:
        raise CommandError(f"why: {error}", Exit.USAGE) from None
    return asyncio.run(_why(arguments, job, wanted))


async def _why(arguments: Namespace, job: int | None, wanted: tuple[str, ...]) -> int:
    async with database(arguments) as db:
        row = await _why_row(db, job, wanted, arguments.currency)
    if arguments.json:
        print(as_json({key: value for key, value in row.items() if key != "now"}))
    else:
        print("\n".join(_why_lines(row, job, wanted)))
    return Exit.FAILED if row["state"] == "unknown" else Exit.OK


async def _why_row(
    db: Database, job: int | None, wanted: tuple[str, ...], currency: str | None
) -> dict[str, Any]:
    if job is not None:
        return dict((await db.fetch(queries("cli")["why_job"], job))[0])
    provider, sku, size = (*wanted, None)[:3]
    row = (await db.fetch(queries("cli")["why_item"], provider, sku, size, currency))[0]
    return {"provider": provider, "sku": sku, "size": size} | dict(row)


def _why_lines(row: dict[str, Any], job: int | None, wanted: tuple[str, ...]) -> list[str]:
    now: datetime = row["now"]
    name = f"job {job}" if job is not None else ""
    if row.get("sku"):
        what = f"{row['provider']} {item(row['sku'], row['size'])}"
        name = f"{name} ({what})" if name else what
    lines = [f"{name}: {row['state']}"]
    if row["waiting_for"] != "nothing":
        until = f", until {moment(row['until'], now)}" if row["until"] else ""
        lines.append(f"  waits for: {row['waiting_for']}{until}")
    if row["detail"]:
        lines.append(f"  {row['detail']}")
    if row["eta"] and row["eta"] != row["until"]:
        lines.append(f"  expected: {moment(row['eta'], now)}")
    return lines


def jobs(arguments: Namespace) -> int:
    """List jobs."""
    return asyncio.run(_jobs(arguments))


async def _jobs(arguments: Namespace) -> int:
    states = list(STATES[arguments.state]) if arguments.state else None
    async with database(arguments) as db:
        await known(db, arguments.provider, arguments.error)
        rows = await db.fetch(
            queries("cli")["jobs"],
            states,
            arguments.provider,
            arguments.error,
            arguments.older,
            arguments.band,
            arguments.limit,
            arguments.oldest,
        )
    if arguments.json:
        print(as_json([dict(row) for row in rows]))
        return Exit.OK
    print(text([_jobs_table([dict(row) for row in rows])]))
    if len(rows) == arguments.limit:
        which = "oldest" if arguments.oldest else "newest"
        print(f"\nonly the {which} {arguments.limit} are shown; --limit N shows more")
    return Exit.OK


def _error(row: dict[str, Any]) -> str:
    return ": ".join(part for part in (row["error_code"], row["error_message"]) if part)


def _jobs_table(rows: list[dict[str, Any]]) -> Table:
    return Table(
        title="jobs",
        columns=("id", "lane", "sku", "size", "priority", "state", "try", "asked", "outcome or last error"),
        right=frozenset({"id", "priority", "try", "asked"}),
        empty="none that fits",
        rows=[
            (
                str(row["id"]),
                lane(row["provider"], row["account"]),
                row["sku"],
                row["size"] or "-",
                str(row["priority"]),
                row["status"],
                f"{row['attempt']}/{row['max_attempts']}",
                f"{age(row['age_s'])} ago",
                row["outcome"] if row["status"] == "done" else _error(row),
            )
            for row in rows
        ],
    )
