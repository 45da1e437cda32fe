"""Reads figures from the database at a fixed pace and sets the gauges; a scrape never waits for Postgres."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from marketd import clock, systemd
from marketd.errors import DatabaseError, DatabaseUnavailable, StatementRefused
from marketd.metrics import DatabaseGauge, Metrics
from marketd.store.pool import Database
from marketd.store.runs import RunStore
from marketd.telemetry import FetchReport, Observer, RequestReport

_EVERY_S = 30.0
_SOON_S = 5.0  #: least distance of two refreshes when something is wrong, or mended
_LAG_EVERY_S = 1.0
_TO_COME_S = 600.0  #: a request is waited for so long whose number is drawn, and perhaps rolled back
#: answers after which a lane may be in another state
_TELLING = frozenset(
    {"unauthorized", "forbidden", "throttled", "server_error", "timeout", "connection", "bad_payload"}
)
_PERCENTILES = ("50", "95", "100")
_STATES = (
    "off",
    "ready",
    "paused",
    "cooldown",
    "circuit",
)  #: of several accounts the one further right is told
_PLANNED: tuple[DatabaseGauge, ...] = (
    "view_freshness",
    "view_age",
    "marginal_call",
    "units_watched",
    "plan_time",
)
Rows = Sequence[Mapping[str, Any]]


class Gauges:
    """The refresh task. What cannot be read keeps its value, and the timestamp of all shows it.

    Also an observer: after trouble with a provider, or a reload, the next refresh comes soon.
    """

    def __init__(
        self,
        metrics: Metrics,
        runs: RunStore,
        db: Database,
        *,
        interval_s: Callable[[], float],
        echo_at: Callable[[], float | None],
        also: Callable[[], Awaitable[None]],
    ) -> None:
        """`interval_s` of the scheduler, when it is shorter than 30 s; `echo_at` as `Listener.last_echo`.

        `also`: done with each refresh.
        """
        self._also = also
        self._metrics = metrics
        self._runs = runs
        self._db = db
        self._interval_s = interval_s
        self._echo_at = echo_at
        self._last_wish: int | None = None
        self._to_come: dict[
            int, float
        ] = {}  #: requests up to that one which were not there yet, and since when
        self.observer: Observer | None = None  #: set after construction, since it observes too
        self._due = 0.0  #: monotonic
        self._read_at = 0.0
        self.trouble = ""  #: comes first in the line that `systemctl status` shows

    def request_done(self, report: RequestReport) -> None:
        if report.status_class in _TELLING:
            self.hurry()

    def fetches_done(self, reports: Sequence[FetchReport]) -> None: ...

    def event(self, name: str, **fields: object) -> None:
        if name in ("config_reloaded", "config_rejected"):
            self.hurry()

    def hurry(self) -> None:
        """Refresh soon: something has changed that people look at."""
        # Not at once: what follows from it has to be written first. And not again and again.
        self._due = min(self._due, max(clock.monotonic() + _LAG_EVERY_S, self._read_at + _SOON_S))

    async def run(self) -> None:
        """Refresh and measure the loop's lateness, until cancelled."""
        while True:
            began = clock.monotonic()
            if began >= self._due:
                self._read_at = began
                self._due = began + clock.jittered(min(_EVERY_S, self._interval_s()), spread=0.1)
                await self._refresh_if_possible()
                began = clock.monotonic()
            await asyncio.sleep(_LAG_EVERY_S)
            self._metrics.loop_lag(max(0.0, clock.monotonic() - began - _LAG_EVERY_S))
            self._metrics.pool(*self._db.size, self._db.acquired, self._db.waited_s, refused=self._db.refused)
            self._metrics.tasks(len(asyncio.all_tasks()))
            if (echo_at := self._echo_at()) is not None:
                self._metrics.listener_echo(clock.monotonic() - echo_at)

    async def _refresh_if_possible(self) -> None:
        try:
            await self.refresh()
            await self._also()
        except StatementRefused as error:
            self._tell("all", error)
        except DatabaseUnavailable:
            return  # the gauges' own timestamp tells their age, and the pollers log the outage

    async def refresh(self) -> None:
        """Read once and set all that could be read. Raises DatabaseError."""
        figures, failed = await self._runs.gauges()
        for name, error in failed.items():
            self._tell(name, error)
        figures["budgets"] = _spendable(figures["budgets"])
        if "jobs" in figures:
            figures["jobs"] = _with_ages_of_lanes(figures["jobs"], figures["lanes"])
        for name, values in _by_gauge(figures).items():
            self._metrics.replace(name, values)
        states = _lane_states(figures["lanes"])
        for provider, state in states.items():
            self._metrics.lane_state(provider, state)
        self._metrics.locked_out({row["provider"] for row in figures["lanes"] if row["locked_out"]})
        await self._count_wishes(int(figures["last_wish"][0]["number"]))
        self._metrics.oldest_xmin(figures["xmin"][0]["age"])
        if not failed:
            self._metrics.database_read(time.time())
        systemd.status(f"{self.trouble}{_summary(figures, states)}")

    def _tell(self, figures: str, error: DatabaseError) -> None:
        if self.observer is not None:
            self.observer.event("gauges_failed", figures=figures, error=str(error))

    async def _count_wishes(self, last: int) -> None:
        """Also those that were committed after one with a greater number had been counted."""
        now, before = clock.monotonic(), self._last_wish
        awaited = [number for number, since in self._to_come.items() if now < since + _TO_COME_S]
        if before is not None and (last > before or awaited):
            # First what is missing: what is committed between the two statements is counted the next time.
            to_come = await self._runs.wishes_to_come(before, last, awaited)
            for row in await self._runs.wishes(before, last, awaited, to_come):
                self._metrics.received(row["provider"], row["band"], row["result"], row["wishes"])
            self._to_come = {number: self._to_come.get(number, now) for number in to_come}
        self._last_wish = last


def _lane_states(lanes: Rows) -> dict[str, str]:
    """One state for each provider: the worst of those accounts that are not off."""
    found: dict[str, str] = {}
    for row in lanes:
        found[row["provider"]] = max(found.get(row["provider"], "off"), row["state"], key=_STATES.index)
    return found


def _spendable(budgets: Rows) -> list[Mapping[str, Any]]:
    """Without accounts that are off, whose calls nobody can spend; where all of a provider's are, they stay."""
    on = {row["provider"] for row in budgets if row["lane_state"] != "off"}
    return [row for row in budgets if row["lane_state"] != "off" or row["provider"] not in on]


def _with_ages_of_lanes(jobs: Rows, lanes: Rows) -> list[Mapping[str, Any]]:
    """Where an account is off no job could run, however long it waits."""
    off = {(row["provider"], row["account"]) for row in lanes if row["state"] == "off"}
    return [{**row, "oldest_ready_s": 0} if (row["provider"], row["account"]) in off else row for row in jobs]


def _summary(figures: Mapping[str, Rows], states: Mapping[str, str]) -> str:
    """What the daemon is at, in one line."""
    jobs = dict.fromkeys(("pending", "running", "deferred"), 0)
    for row in figures.get("jobs", ()):
        jobs[row["status"]] += row["jobs"]
    counts = ", ".join(f"{number} {status}" for status, number in jobs.items())
    if "jobs" not in figures:
        counts = "jobs cannot be counted"
    lanes = ", ".join(f"{provider} {state}" for provider, state in states.items() if state != "off")
    left = ", ".join(
        f"{row['provider']} {row['remaining']} of {row['quota']}"
        for row in figures["budgets"]
        if row["window_kind"] == "hour" and states.get(row["provider"]) != "off"
    )
    return f"{counts}; lanes: {lanes or 'none'}" + (f"; calls left this hour: {left}" if left else "")


def _of_who_waits(budgets: Rows, jobs: Rows) -> dict[DatabaseGauge, dict[tuple[str, ...], float]]:
    """What alerts compare with waiting work: the least of the accounts in which such work is due.

    Where none is, all the calls that are left, and whether there is no account in which background may go.
    """
    due = [row for row in jobs if row["status"] == "pending" and row["oldest_ready_s"] > 0]
    urgent = {(row["provider"], row["account"]) for row in due if row["band"] != "background"}
    lefts: dict[bool, dict[tuple[str, ...], list[float]]] = {True: {}, False: {}}
    for row in budgets:
        waiting = (row["provider"], row["account"]) in urgent
        lefts[waiting].setdefault((row["provider"], row["window_kind"]), []).append(row["urgent_left"])
    left = {window: sum(calls) for window, calls in lefts[False].items()}
    left |= {window: min(calls) for window, calls in lefts[True].items()}
    waits: dict[tuple[str, ...], float] = {}
    for row in _in_accounts_of(due, budgets):
        provider = (row["provider"],)
        waits[provider] = min(waits.get(provider, 1), row["background_waits"])
    return {"budget_urgent_left": left, "background_waits": waits}


def _in_accounts_of(jobs: Rows, budgets: Rows) -> Rows:
    """The budgets of the accounts that have such jobs; of a provider without any, all."""
    accounts = {(row["provider"], row["account"]) for row in jobs}
    theirs = [row for row in budgets if (row["provider"], row["account"]) in accounts]
    providers = {row["provider"] for row in theirs}
    return theirs + [row for row in budgets if row["provider"] not in providers]


def _by_gauge(figures: Mapping[str, Rows]) -> dict[DatabaseGauge, dict[tuple[str, ...], float]]:
    """Summed over accounts: the metrics know providers only."""
    found: dict[DatabaseGauge, dict[tuple[str, ...], float]] = {}
    for gauge, column in (("jobs", "jobs"), ("oldest_ready", "oldest_ready_s")) if "jobs" in figures else ():
        sums: dict[tuple[str, ...], float] = defaultdict(float)
        for row in figures["jobs"]:
            words = (row["provider"], row["status"], row["band"])
            if gauge == "jobs":
                sums[words] += row[column]
            elif row["status"] == "pending":
                sums[words[0], words[2]] = max(sums[words[0], words[2]], row[column])
        found["jobs" if gauge == "jobs" else "oldest_ready"] = dict(sums)
    columns: tuple[tuple[DatabaseGauge, str], ...] = (
        ("budget_quota", "quota"),
        ("budget_used", "used"),
        ("budget_remaining", "remaining"),
        ("budget_overshoot", "over"),
    )
    for name, column in columns:
        sums = defaultdict(float)
        for row in figures["budgets"]:
            sums[row["provider"], row["window_kind"]] += float(row[column])
        found[name] = dict(sums)
    found |= _of_who_waits(figures["budgets"], figures.get("jobs", ()))
    # Accounts of one provider share its calendar, so any of them tells the reset.
    found["budget_reset"] = {
        (row["provider"], row["window_kind"]): float(row["resets_in_s"]) for row in figures["budgets"]
    }
    if "targets" in figures:
        found["targets"] = {(row["provider"], row["state"]): row["targets"] for row in figures["targets"]}
    if "prices" in figures:
        found["price_age"] = {
            (row["provider"], percentile): age
            for row in figures["prices"]
            for percentile, age in zip(_PERCENTILES, row["ages_s"], strict=True)
        }
    for gauge in _PLANNED:
        found[gauge] = {(row["provider"],): row[gauge] for row in figures["freshness"]}
    return found
