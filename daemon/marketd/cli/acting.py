"""Commands that ask for something or change what the daemon does, each through the SQL function of its name."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import asyncpg

from marketd.cli.access import database, known
from marketd.cli.exits import Exit
from marketd.cli.tables import as_json, changed, counted, item, lane, moment
from marketd.store.sqlfile import queries


def enqueue(arguments: Namespace) -> int:
    """Ask for one price; says what became of the request."""
    when = arguments.not_before
    at, span = (None, when) if isinstance(when, timedelta) else (when, None)
    row = _ask(
        arguments, "enqueue", arguments.provider, arguments.sku, arguments.size, arguments.priority,
        arguments.user, at, span, arguments.currency,
    )[0]  # fmt: skip
    added = int(row["result"] == "queued")
    if arguments.json:
        answer = {key: row[key] for key in ("job_id", "result", "wait_reason", "eta")}
        print(as_json({**answer, "added": added}))
        return Exit.OK
    what = f"{arguments.provider} {item(arguments.sku, arguments.size)}"
    if row["result"] == "fresh":
        print(
            f"fresh: the stored price of {what} is younger than jobs.fresh_for; no job and no call is needed"
        )
        return Exit.OK
    print(f"{row['result']}: job {row['job_id']}, {what}; {_outlook(row)}; {counted(added, 'job')} added")
    return Exit.OK


def _outlook(row: asyncpg.Record) -> str:
    eta, now = row["eta"], row["now"]
    if eta is not None and eta <= now:
        return "may start now"
    return f"waits for {row['wait_reason']}" + (f", expected at {moment(eta, now)}" if eta else "")


def retry(arguments: Namespace) -> int:
    """Requeue failed jobs; says how many, and fails when one that was named is not among those that failed."""
    idle, row = asyncio.run(_retry(arguments))
    if arguments.json:
        print(as_json({"jobs": row["jobs"]}))
    else:
        print(f"{counted(row['jobs'], 'failed job')} put back into the queue")
    for job in idle:
        print(f"marketd: job {job['id']} {_nothing_to_retry(job)}", file=sys.stderr)
    return Exit.FAILED if idle else Exit.OK


async def _retry(arguments: Namespace) -> tuple[list[asyncpg.Record], asyncpg.Record]:
    """Those of the jobs named that have not failed, and how many were put back."""
    named = queries("cli")
    async with database(arguments) as db:
        await known(db, arguments.provider, arguments.error)
        idle = await db.fetch(named["not_failed"], arguments.ids) if arguments.ids else []
        wanted = (arguments.provider, arguments.error, arguments.ids or None)
        return idle, (await db.fetch(named["retry"], *wanted))[0]


def _nothing_to_retry(job: asyncpg.Record) -> str:
    if job["status"] is None:
        return "is unknown: finished jobs are pruned after some days"
    if job["superseded"]:
        return "is left: a later job of the same item has ended since"
    return f"has not failed: it is {job['status']}"


def pause(arguments: Namespace) -> int:
    """Stop a provider's requests until `resume`."""
    rows = _ask(arguments, "pause", arguments.provider, " ".join(arguments.reason) or None)
    return _told(arguments, rows)


def resume(arguments: Namespace) -> int:
    """Let a provider's requests go on."""
    return _told(arguments, _ask(arguments, "resume", arguments.provider))


def _told(arguments: Namespace, rows: Sequence[asyncpg.Record]) -> int:
    if arguments.json:
        print(as_json([dict(row) for row in rows]))
        return Exit.OK
    for row in rows:
        print(f"{lane(arguments.provider, row['account'])}: {row['state']}")
    print(changed(len(rows), "lane"))
    return Exit.OK


def _ask(arguments: Namespace, query: str, *values: Any) -> list[asyncpg.Record]:
    async def ask() -> list[asyncpg.Record]:
        async with database(arguments) as db:
            return await db.fetch(queries("cli")[query], *values)

    return asyncio.run(ask())
