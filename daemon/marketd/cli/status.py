"""The overview that `marketd status` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from marketd.cli.tables import Block, Table, age, lane, moment
from marketd.store.pool import Database
from marketd.store.sqlfile import queries

_RUNS = 5
_NO_DAEMON = "none is alive, so nothing is fetched: start `marketd run`"

Row = Mapping[str, Any]


async def read(db: Database) -> dict[str, Any]:
    """All figures, as `--json` prints them."""
    named = queries("cli")
    found: dict[str, Any] = dict((await db.fetch(named["clock"]))[0])
    for name in ("daemons", "lanes", "queue", "budgets", "errors"):
        found[name] = [dict(row) for row in await db.fetch(named[name])]
    found["freshness"] = [dict(row) for row in await db.fetch(queries("plan")["advice"])]
    found["runs"] = [dict(row) for row in await db.fetch(queries("runs")["last_runs"], _RUNS)]
    return found


def blocks(found: Mapping[str, Any]) -> Sequence[Block]:
    """The same for people."""
    now: datetime = found["now"]
    return (
        f"marketd at {now:%Y-%m-%d %H:%M:%S} UTC, schema {found['schema_version']}",
        _daemons(found["daemons"], now),
        _lanes(found["lanes"], now),
        _queue(found["queue"]),
        _budgets(found["budgets"], now),
        _freshness(found["freshness"]),
        _runs(found["runs"], now),
        _errors(found["errors"], now),
    )


def _daemons(rows: Sequence[Row], now: datetime) -> Table:
    return Table(
        title="live daemons",
        columns=("host", "pid", "version", "up", "configuration"),
        right=frozenset({"pid"}),
        empty=_NO_DAEMON,
        rows=[
            (
                row["host"],
                str(row["pid"]),
                row["version"],
                age((now - row["started_at"]).total_seconds()),
                row["config_hash"][:12]
                + (" differs from another's" if row["config_differs"] else "")
                + (f"; a newer file is refused: {row['reload_refused']}" if row["reload_refused"] else ""),
            )
            for row in rows
        ],
    )


def _lanes(rows: Sequence[Row], now: datetime) -> Table:
    def waits(reason: str | None, until: datetime | None) -> str:
        if reason is None:
            return "now"
        return f"{reason} until {moment(until, now)}" if until else reason

    return Table(
        title="lanes",
        columns=("lane", "state", "urgent", "background", "why"),
        empty="no provider is configured",
        rows=[
            (
                lane(row["provider"], row["account"]),
                row["state"],
                waits(row["urgent_waits_for"], row["urgent_until"]),
                waits(row["background_waits_for"], row["background_until"]),
                row["reason"] or "",
            )
            for row in rows
        ],
    )


def _queue(rows: Sequence[Row]) -> Table:
    return Table(
        title="queue",
        columns=("lane", "band", "ready", "running", "deferred", "oldest ready"),
        right=frozenset({"ready", "running", "deferred", "oldest ready"}),
        empty="empty",
        rows=[
            (
                lane(row["provider"], row["account"]),
                row["band"],
                str(row["pending"]),
                str(row["running"]),
                str(row["deferred"]),
                age(row["oldest_ready_s"]),
            )
            for row in rows
        ],
    )


def _budgets(rows: Sequence[Row], now: datetime) -> Table:
    return Table(
        title="budgets (calls)",
        columns=("lane", "window", "used", "of", "left", "for urgent", "for background", "starts anew"),
        right=frozenset({"used", "of", "left", "for urgent", "for background"}),
        empty="no provider has a limit",
        rows=[
            (
                lane(row["provider"], row["account"]),
                row["window_kind"],
                *(str(row[key]) for key in ("used", "quota", "remaining", "urgent_left", "background_left")),
                moment(row["resets_at"], now),
            )
            for row in rows
        ],
    )


def _freshness(rows: Sequence[Row]) -> Table:
    return Table(
        title="freshness of what is watched",
        columns=("lane", "units", "age at view", "advice"),
        right=frozenset({"units", "age at view"}),
        empty="nothing is watched (see `marketd watch`)",
        rows=[
            (lane(row["provider"], row["account"]), str(row["units"]), age(row["view_age_s"]), row["advice"])
            for row in rows
        ],
    )


def _runs(rows: Sequence[Row], now: datetime) -> Table:
    def took(row: Row) -> str:
        done: datetime | None = row["completed_at"]
        return age((done - row["started_at"]).total_seconds()) if done else "not ended"

    return Table(
        title="last runs of the scheduler",
        columns=("run", "started", "trigger", "took", "finished", "done", "failed", "deferred", "error"),
        right=frozenset({"run", "finished", "done", "failed", "deferred"}),
        empty="none yet",
        rows=[
            (
                str(row["run_id"]),
                moment(row["started_at"], now),
                row["trigger"],
                took(row),
                str(row["jobs_selected"]),
                str(row["jobs_succeeded"]),
                str(row["jobs_failed"]),
                str(row["jobs_deferred"]),
                row["error"] or "",
            )
            for row in rows
        ],
    )


def _errors(rows: Sequence[Row], now: datetime) -> Table:
    return Table(
        title="top errors",
        columns=("provider", "error", "failed", "retrying", "last", "message"),
        right=frozenset({"failed", "retrying"}),
        empty="none",
        rows=[
            (
                row["provider"],
                row["error_code"],
                str(row["failed"]),
                str(row["retrying"]),
                f"{age((now - row['last_at']).total_seconds())} ago",
                row["last_message"] or "",
            )
            for row in rows
        ],
    )
