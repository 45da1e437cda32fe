"""Every number that marketd exports; this package is the only user of prometheus_client.

Labels come from closed sets only (the providers of the config, and `words`), and every label set exists from
the start, so that the first event of a kind is seen as an increase. Floors that may not import this package
reach it as a `telemetry.Observer`: `Metrics.event` understands the events of `Metrics.__init__`, and leaves
others alone.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal

import prometheus_client

from marketd import __version__
from marketd.metrics.families import Families
from marketd.metrics.words import LANE_STATES, REQUEST_CLASSES, band, error_word, outcome_word
from marketd.telemetry import FetchReport, RequestReport, waste_of

__all__ = ["DatabaseGauge", "Metrics", "band", "error_word", "outcome_word"]

_WAKE_AT_MOST_S = (
    60.0  #: a wake that found no call for so long waited for its budget, which is another metric
)

DatabaseGauge = Literal[
    "jobs",
    "oldest_ready",
    "targets",
    "price_age",
    "budget_quota",
    "budget_used",
    "budget_remaining",
    "budget_urgent_left",
    "budget_overshoot",
    "budget_reset",
    "background_waits",
    "view_freshness",
    "view_age",
    "marginal_call",
    "units_watched",
    "plan_time",
]


class Metrics(Families):
    """Takes reports and facts, and keeps the numbers. Nothing here blocks."""

    def __init__(self, *, process: bool = True) -> None:
        super().__init__(process=process)
        self._database = {
            "jobs": self._jobs,  # provider, status, band
            "oldest_ready": self._oldest_ready,  # provider, band
            "targets": self._targets,  # provider, state
            "price_age": self._price_age,  # provider, percentile
            "budget_quota": self._quota,  # provider, window
            "budget_used": self._used,
            "budget_remaining": self._remaining,
            "budget_urgent_left": self._urgent_left,
            "budget_overshoot": self._overshoot,
            "budget_reset": self._reset,
            "background_waits": self._background_waits,  # provider
            "view_freshness": self._view_fresh,
            "view_age": self._view_age,
            "marginal_call": self._marginal,
            "units_watched": self._watched,
            "plan_time": self._plan_s,
        }
        self._events: Mapping[str, tuple[Callable[..., None], tuple[str, ...]]] = {
            "refused": (self.refused, ("provider", "reason")),
            "rescued": (self.rescued, ("provider", "count")),
            "stale_completion": (self.stale_completion, ("provider",)),
            "listener_connected": (self.listener_connected, ()),
            "listener_lost": (self.listener_lost, ()),
            "notification_ignored": (self.notification_ignored, ()),
            "run_done": (self.run_done, ("result",)),
        }
        self.wake_priority = 150  #: `scheduler.wake_priority`, from which a request is urgent
        self._listened = False
        self._heard: dict[
            str, float
        ] = {}  # provider -> monotonic time of a wake that no request followed yet
        self.build(schema="")

    # --- telemetry.Observer ----------------------------------------------------------------------------

    def request_done(self, report: RequestReport) -> None:
        provider, urgency = report.provider, band(report.priority, self.wake_priority)
        if provider not in self._providers:  # a reload took it away meanwhile, and its series with it
            return
        calls = report.meter == "calls"  # tokens and usage reports have meters of their own
        if report.given_back:
            self._given_back.labels(provider).inc(calls)
            return
        word = report.status_class if report.status_class in REQUEST_CLASSES else "other"
        self._of(self._requests, provider, word).inc()
        if calls:
            self._of(self._burn, provider, urgency).inc()
        self._of(self._request_s, provider).observe(report.took_s)
        if urgency != "background" and provider in self._heard:
            waited_s = time.monotonic() - report.took_s - self._heard.pop(provider)
            if 0 <= waited_s <= _WAKE_AT_MOST_S:
                self.woken(provider, waited_s)

    def fetches_done(self, reports: Sequence[FetchReport]) -> None:
        for provider in {report.unit.provider for report in reports} & self._providers:
            self._fetches_done(provider, [report for report in reports if report.unit.provider == provider])

    def _fetches_done(self, provider: str, reports: Sequence[FetchReport]) -> None:
        waits: dict[str, list[float]] = {}
        for report in reports:
            waits.setdefault(band(report.unit.priority, self.wake_priority), []).append(report.wait_s)
        for urgency, times in waits.items():
            self._wait.labels(provider, urgency).observe_all(times)
        self._fetch.labels(provider).observe_all([report.fetch_s for report in reports])
        wasted = [waste_of(call, report) for report in reports for call in report.calls]
        self._count(self._wasted, provider, wasted)
        settled = [report for report in reports if report.end == "settled"]
        self._lease_lost.labels(provider).inc(sum([report.end == "lease_lost" for report in reports]))
        self._settle.labels(provider).observe_all([report.settle_s for report in settled])
        changed = sum([report.changed for report in settled])
        self._looked.labels(provider, "changed").inc(changed)
        self._looked.labels(provider, "same").inc(sum([report.quotes for report in settled]) - changed)
        outcomes = [outcome for report in settled for outcome in report.outcomes]
        self._count(self._finished, provider, map(outcome_word, outcomes))
        self._count(self._errors, provider, map(error_word, outcomes))

    @staticmethod
    def _count(family: prometheus_client.Counter, provider: str, words: Iterable[str | None]) -> None:
        for word, count in Counter(words).items():
            if word is not None:
                family.labels(provider, word).inc(count)

    def event(self, name: str, **fields: object) -> None:
        method, wanted = self._events.get(name, (None, ()))
        if method is not None and fields.keys() >= set(wanted):
            method(*(fields[field] for field in wanted))

    # --- lanes and budgets -----------------------------------------------------------------------------

    def lane_state(self, provider: str, state: str) -> None:
        """`state` is one of `words.LANE_STATES`; the others become 0. Providers not served here are left out."""
        for word in LANE_STATES if provider in self._providers else ():
            self._lane.labels(provider, word).set(word == state)

    def locked_out(self, providers: Collection[str]) -> None:
        """The providers of which a lane waits because its credentials are refused; all others do not."""
        for provider in self._providers:
            self._locked_out.labels(provider).set(provider in providers)

    def refused(self, provider: str, reason: str) -> None:
        """A request was not granted; `reason` as in `errors.NotGranted`."""
        self._refused.labels(provider, reason).inc()

    def heard(self, provider: str) -> None:
        """A notification of urgent work came; the next urgent request tells how long that took."""
        self._heard.setdefault(provider, time.monotonic())

    def woken(self, provider: str, seconds: float) -> None:
        """An urgent job's first request left so long after its wake."""
        self._wake.labels(provider).observe(seconds)

    def rescued(self, provider: str, count: int = 1) -> None:
        """Jobs taken back from a dead worker, also one of a provider that is not served here."""
        if provider in self._providers:
            self._rescued.labels(provider).inc(count)

    def stale_completion(self, provider: str) -> None:
        self._stale.labels(provider).inc()

    # --- listener and scheduler ------------------------------------------------------------------------

    def listener_connected(self) -> None:
        """LISTEN works; from the second time on this is a reconnect."""
        self._listener.set(1)
        if self._listened:
            self._reconnects.inc()
        self._listened = True

    def listener_lost(self) -> None:
        self._listener.set(0)

    def listener_echo(self, age_s: float) -> None:
        """Seconds since the session that listens last proved alive."""
        self._echo.set(age_s)

    def notification_ignored(self) -> None:
        self._ignored.inc()

    def run_done(self, result: str) -> None:
        """One scheduler pass; `result` is one of `words.RUN_RESULTS`."""
        self._runs.labels(result).inc()

    def received(self, provider: str, band: str, result: str, count: int) -> None:
        """So many wishes were found since the last look, also of a provider that is not served here."""
        if provider in self._providers:
            self._received.labels(provider, band, result).inc(count)

    # --- facts read from the database ------------------------------------------------------------------

    def replace(self, gauge: DatabaseGauge, values: Mapping[tuple[str, ...], float]) -> None:
        """Sets a gauge to exactly these values: label words (provider first) to number; all others to 0.

        Providers that this process does not serve are left out, words outside the closed sets raise KeyError.
        """
        family = self._database[gauge]
        known = self._label_sets(family)
        for words in values:
            if words[0] in self._providers and words not in known:
                raise KeyError(f"{gauge}: no such label set {words}")
        for words in known:
            family.labels(*words).set(values.get(words, 0))

    def oldest_xmin(self, age: int) -> None:
        """Transactions that the oldest snapshot holds up."""
        self._xmin.set(age)

    def database_read(self, now: float) -> None:
        """All gauges were just replaced, at Unix time `now`."""
        self._gauges_at.set(now)

    # --- the process -----------------------------------------------------------------------------------

    def pool(self, size: int, idle: int, acquired: int, waited_s: float, *, refused: int) -> None:
        """Connections open and idle now; since the start: how often one was taken, how long that took, and how many
        statements Postgres refused.
        """
        before, waited_before_s, refused_before = self._pool_seen
        self._pool_acquired.inc(acquired - before)
        self._pool_waited.inc(waited_s - waited_before_s)
        self._refusals.inc(refused - refused_before)
        self._pool_seen = (acquired, waited_s, refused)
        self._pool_size.set(size)
        self._pool_idle.set(idle)

    def tasks(self, count: int) -> None:
        self._tasks.set(count)

    def loop_lag(self, seconds: float) -> None:
        """How late the event loop ran a timer."""
        self._lag.observe(seconds)

    def reloaded(self, ok: bool) -> None:
        """A start or reload happened now; a refused file leaves the time of the last good one."""
        self._reload_ok.set(ok)
        if ok:
            self._reload_at.set_to_current_time()

    def config_differs(self, differs: bool) -> None:
        """Whether another live daemon on this database has other settings."""
        self._differ.set(differs)

    def build(self, *, schema: str) -> None:
        """The version of the program and of the database's schema."""
        self._build.clear()
        self._build.labels(__version__, platform.python_version(), schema).set(1)
