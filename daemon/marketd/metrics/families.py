"""What is exported: every metric's name, help text, labels and buckets, in a registry of its own."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector
from prometheus_client import disable_created_metrics as disable_created_series
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase

from marketd.metrics.words import (
    AGE_PERCENTILES,
    BANDS,
    ERRORS,
    LANE_STATES,
    OUTCOMES,
    PRICE_RESULTS,
    REFUSALS,
    REQUEST_CLASSES,
    REQUEST_RESULTS,
    RUN_RESULTS,
    STATUSES,
    TARGET_STATES,
    WINDOWS,
)
from marketd.telemetry import WASTE

_WAIT_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400)
_CALL_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
_SETTLE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_LAG_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

M = TypeVar("M", bound=MetricWrapperBase)


class Distribution(Histogram):
    """A histogram that is told of many at once: each `observe` takes two locks and a walk through the buckets."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        self._sum.inc(sum(amounts))
        buckets = Counts([bisect_left(self._upper_bounds, amount) for amount in amounts])
        for bucket, count in buckets.items():
            self._buckets[bucket].inc(count)


class Families:
    """The metrics and their label sets. `process` adds memory, CPU, file descriptors and GC."""

    def __init__(self, *, process: bool = True) -> None:
        disable_created_series()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        if process:
            ProcessCollector(registry=self.registry)
            GCCollector(registry=self.registry)
        self._families: list[tuple[MetricWrapperBase, tuple[tuple[str, ...], ...]]] = []
        self._providers: frozenset[str] = frozenset()
        self._children: dict[tuple[MetricWrapperBase, tuple[str, ...]], Any] = {}
        self._define_work()
        self._define_calls()
        self._define_planning()
        self._define_inside()
        self._define_process()

    def _define_work(self) -> None:
        self._jobs = self._gauge("jobs", "Open jobs", status=STATUSES, band=BANDS)
        self._oldest_ready = self._gauge(
            "oldest_ready_seconds", "Age of the oldest job that could run now", band=BANDS
        )
        self._received = self._counter(
            "requests_received",
            "What apps asked for: opened a job, joined one, or raised it; read from the database",
            band=BANDS,
            result=REQUEST_RESULTS,
        )
        self._finished = self._counter("jobs_finished", "Runs of jobs by outcome", outcome=OUTCOMES)
        self._errors = self._counter(
            "job_errors", "Runs of jobs that brought no price, by error", code=ERRORS
        )
        self._wait = self._histogram("wait_seconds", "From due to claimed", _WAIT_S, band=BANDS)
        self._wake = self._histogram(
            "wake_to_request_seconds", "From the wake of an urgent job to its first request", _CALL_S
        )
        self._fetch = self._histogram("fetch_seconds", "One fetch, all its requests", _CALL_S)
        self._settle = self._histogram("settle_seconds", "Writing one fetch down", _SETTLE_S)
        self._targets = self._gauge(
            "targets",
            "Targets by state; from some 50,000 on estimated from a part of them",
            state=TARGET_STATES,
        )
        self._price_age = self._gauge(
            "price_age_seconds",
            "Age of stored prices at a percentile; of many estimated from a part",
            percentile=AGE_PERCENTILES,
        )
        self._lease_lost = self._counter("lease_lost", "Fetches whose lease went to another worker")
        self._rescued = self._counter("jobs_rescued", "Jobs taken back from a dead worker")
        self._stale = self._counter("stale_completions", "Completions that the fence refused")

    def _define_calls(self) -> None:
        classes = {"class": REQUEST_CLASSES}
        self._requests = self._counter("provider_requests", "Requests sent, by answer", **classes)
        self._request_s = self._histogram("provider_request_seconds", "One request, answer read", _CALL_S)
        self._quota = self._gauge("budget_quota", "Calls that the window allows", window=WINDOWS)
        self._used = self._gauge("budget_used", "Calls charged in the window", window=WINDOWS)
        self._remaining = self._gauge("budget_remaining", "Calls left in the window", window=WINDOWS)
        self._urgent_left = self._gauge(
            "budget_urgent_left", "Calls that urgent work may have of those left", window=WINDOWS
        )
        self._overshoot = self._gauge(
            "budget_overshoot", "Calls beyond the window's limit, by the provider's count too", window=WINDOWS
        )
        self._reset = self._gauge("budget_reset_seconds", "Until the next window", window=WINDOWS)
        self._background_waits = self._gauge(
            "background_waits", "1 while background work has to wait for budget, pace or lane"
        )
        self._burn = self._counter("calls_spent", "Calls charged, by the urgency they served", band=BANDS)
        self._wasted = self._counter("calls_wasted", "Calls that were of no use", reason=WASTE)
        self._given_back = self._counter("calls_given_back", "Calls charged but never sent, returned")
        self._refused = self._counter("calls_refused", "Requests not granted", reason=REFUSALS)
        self._lane = self._gauge("lane_state", "1 for the state the lane is in", state=LANE_STATES)
        self._locked_out = self._gauge(
            "credentials_refused", "1 while the lane waits because its credentials are refused"
        )

    def _define_planning(self) -> None:
        self._looked = self._counter(
            "prices_fetched", "Prices fetched: a changed one made the call useful", result=PRICE_RESULTS
        )
        self._view_fresh = self._gauge(
            "view_freshness_ratio", "Estimated share of views that see the present price"
        )
        self._view_age = self._gauge("view_age_seconds", "Age of watched prices, each weighed by its views")
        self._marginal = self._gauge(
            "marginal_call_views", "Views an hour that one more call an hour would put right"
        )
        self._watched = self._gauge("units_watched", "What the plan refreshes, in calls for one round")
        self._plan_s = self._gauge("plan_seconds", "How long the last pass of the planner took")

    def _define_inside(self) -> None:
        self._listener = self._plain(Gauge, "listener_connected", "1 while LISTEN works")
        self._echo = self._plain(
            Gauge,
            "listener_echo_age_seconds",
            "Since the session that listens last proved alive; probed every 10 s",
        )
        self._reconnects = self._plain(Counter, "listener_reconnects", "LISTEN connections made anew")
        self._ignored = self._plain(Counter, "notifications_ignored", "Notifications of no known form")
        self._runs = Counter(
            "marketd_scheduler_runs", "Scheduler passes", ("result",), registry=self.registry
        )
        for result in RUN_RESULTS:
            self._runs.labels(result)
        self._pool_size = self._plain(Gauge, "pool_connections", "Database connections open")
        self._pool_idle = self._plain(Gauge, "pool_idle_connections", "Database connections not in use")
        self._pool_acquired = self._plain(
            Counter, "pool_acquired", "Times that a database connection was taken"
        )
        self._pool_waited = self._plain(
            Counter, "pool_wait_seconds", "Time spent waiting for a free database connection"
        )
        self._refusals = self._plain(Counter, "statements_refused", "Statements that Postgres refused")
        self._pool_seen = (0, 0.0, 0)

    def _define_process(self) -> None:
        self._tasks = self._plain(
            Gauge, "tasks", "Tasks of the event loop; a number that only grows is a leak"
        )
        self._lag = Histogram(
            "marketd_event_loop_lag_seconds", "Loop lateness", registry=self.registry, buckets=_LAG_S
        )
        self._reload_ok = self._plain(Gauge, "config_last_reload_successful", "1 if the file in use is new")
        self._reload_at = self._plain(
            Gauge, "config_last_reload_success_timestamp_seconds", "When the configuration in use was read"
        )
        self._differ = self._plain(Gauge, "config_differs", "1 if another live daemon has other settings")
        self._gauges_at = self._plain(
            Gauge, "db_gauges_last_success_timestamp_seconds", "When all gauges from the database were read"
        )
        self._xmin = self._plain(
            Gauge, "oldest_xmin_age_transactions", "Transactions that the oldest snapshot holds up"
        )
        labels = ("version", "python", "schema")
        self._build = Gauge("marketd_build_info", "1, labelled", labels, registry=self.registry)

    def _plain(self, kind: type[M], name: str, text: str) -> M:
        return kind(f"marketd_{name}", text, registry=self.registry)

    def _counter(self, name: str, text: str, **labels: tuple[str, ...]) -> Counter:
        return self._family(Counter(f"marketd_{name}", text, ["provider", *labels], registry=None), labels)

    def _gauge(self, name: str, text: str, **labels: tuple[str, ...]) -> Gauge:
        return self._family(Gauge(f"marketd_{name}", text, ["provider", *labels], registry=None), labels)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], **labels: tuple[str, ...]
    ) -> Distribution:
        names = ["provider", *labels]
        family = Distribution(f"marketd_{name}", text, names, registry=None, buckets=buckets)
        return self._family(family, labels)

    def _family(self, metric: M, labels: Mapping[str, tuple[str, ...]]) -> M:
        self.registry.register(metric)
        self._families.append((metric, tuple(labels.values())))
        return metric

    def init_labels(self, providers: Iterable[str]) -> None:
        """Makes every label set of these providers exist; those of providers that are gone disappear."""
        wanted = frozenset(providers)
        for metric, sets in self._families:
            for words in product(wanted - self._providers, *sets):
                metric.labels(*words)
            for words in product(self._providers - wanted, *sets):
                metric.remove(*words)
        self._providers = wanted
        self._children.clear()  # a provider that comes back has new ones

    def _of(self, family: M, *words: str) -> M:
        """The family's child for these labels; `labels` itself takes a lock and makes texts of texts each time."""
        child = self._children.get((family, words))
        if child is None:
            child = self._children[family, words] = family.labels(*words)
        return child

    def _label_sets(self, metric: MetricWrapperBase) -> frozenset[tuple[str, ...]]:
        """Every label set of one of the per-provider metrics."""
        [sets] = [sets for family, sets in self._families if family is metric]
        return frozenset(product(self._providers, *sets))

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics in the form that the Accept header asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
