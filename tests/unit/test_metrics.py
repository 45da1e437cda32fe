"""The exported numbers: names, label sets, and what each report does to them."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from marketd import __version__
from marketd.http_client import STATUS_CLASSES
from marketd.metrics import Metrics, band, outcome_word
from marketd.metrics.document import document
from marketd.metrics.families import Distribution
from marketd.metrics.words import ERRORS, LANE_STATES, OUTCOMES, REQUEST_CLASSES
from marketd.models import Job, JobId, Unit
from marketd.outcome import Failed, Outcome, Priced, Released, Retried, Snoozed
from marketd.telemetry import End, FetchReport, Observer, RequestReport

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
PROVIDERS = ("stockx", "alias", "ebay")
FAILED = Failed(error_code="unknown_sku", message="", cooldown=timedelta(days=1))


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(process=False)
    made.init_labels(PROVIDERS)
    return made


def _value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def _request(**more: Any) -> RequestReport:
    values: dict[str, Any] = {
        "provider": "stockx",
        "account": "default",
        "endpoint": "market_data",
        "priority": 200,
        "status_class": "ok",
        "http_status": 200,
        "granted_at": NOW,
        "took_s": 0.3,
    }
    return RequestReport(**values | more)


def _fetch(*outcomes: Outcome, end: End = "settled") -> FetchReport:
    job = Job(id=JobId(1), size="10", priority=150, attempt=1, max_attempts=5, due_at=NOW)
    unit = Unit(
        key="k",
        lease_id=UUID(int=1),
        claimed_at=NOW,
        provider="stockx",
        account="default",
        sku="A",
        currency="GBP",
        jobs=(job,),
    )
    return FetchReport(
        unit=unit,
        outcomes=outcomes,
        requests=2,
        calls=(_request(), _request()),
        quotes=0,
        changed=0,
        wait_s=3,
        fetch_s=1,
        settle_s=0.01,
        end=end,
    )


def test_every_promised_metric_is_exported_from_the_start(metrics: Metrics) -> None:
    names = {family.name for family in metrics.registry.collect()}
    promised = """
        jobs oldest_ready_seconds jobs_finished provider_requests provider_request_seconds
        budget_quota budget_used budget_remaining budget_reset_seconds budget_overshoot lane_state
        budget_urgent_left background_waits
        price_age_seconds listener_connected scheduler_runs lease_lost
        config_last_reload_successful build_info wake_to_request_seconds jobs_rescued
        stale_completions targets pool_connections pool_idle_connections tasks
        oldest_xmin_age_transactions event_loop_lag_seconds
        db_gauges_last_success_timestamp_seconds listener_echo_age_seconds
        listener_reconnects calls_spent calls_wasted calls_given_back calls_refused
        fetch_seconds settle_seconds wait_seconds config_differs notifications_ignored
        requests_received job_errors credentials_refused
        prices_fetched view_freshness_ratio view_age_seconds marginal_call_views units_watched plan_seconds
    """
    assert {f"marketd_{name}" for name in promised.split()} <= names


def test_many_observations_at_once_are_the_same_as_one_by_one() -> None:
    registry, buckets, amounts = CollectorRegistry(), (0.1, 1.0, 2.0), (0.0, 0.1, 0.1001, 1.0, 2.0, 2.0, 1e9)
    ours = Distribution("ours", "", ("provider",), registry=registry, buckets=buckets)
    theirs = Histogram("theirs", "", ("provider",), registry=registry, buckets=buckets)
    ours.labels("stockx").observe_all(amounts[:3])
    ours.labels("stockx").observe_all(amounts[3:])
    ours.labels("stockx").observe_all([])
    for amount in amounts:
        theirs.labels("stockx").observe(amount)
    one, other = (
        [sample[1:3] for sample in family.samples if not sample.name.endswith("_created")]
        for family in registry.collect()
    )
    assert one == other


def test_every_label_set_exists_before_its_first_event(metrics: Metrics) -> None:
    for provider in PROVIDERS:
        for word in REQUEST_CLASSES:
            labels = {"provider": provider, "class": word}
            assert _value(metrics, "marketd_provider_requests_total", **labels) == 0
        for word in OUTCOMES:
            assert _value(metrics, "marketd_jobs_finished_total", provider=provider, outcome=word) == 0
        assert _value(metrics, "marketd_lease_lost_total", provider=provider) == 0


def test_three_providers_cost_at_most_800_series() -> None:
    metrics = Metrics()
    metrics.init_labels(PROVIDERS)
    body, content_type = metrics.render()
    samples = [line for line in body.decode().splitlines() if not line.startswith("#")]
    assert len(samples) <= 800
    assert content_type.startswith("text/plain")
    assert not [line for line in samples if "_created" in line]


def test_names_and_help_follow_the_house_rules_of_prometheus(metrics: Metrics) -> None:
    body = metrics.render()[0].decode()
    for family in text_string_to_metric_families(body):
        assert re.fullmatch(r"marketd_[a-z_]+", family.name)
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; names were checked, its own lint was not")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=body, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_openmetrics_is_given_to_those_who_ask_for_it(metrics: Metrics) -> None:
    body, content_type = metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_two_instances_share_nothing() -> None:
    one, other = Metrics(process=False), Metrics(process=False)
    one.init_labels(["stockx"])
    one.lane_state("stockx", "ready")
    assert _value(other, "marketd_lane_state", provider="stockx", state="ready") is None


def test_a_request_is_counted_by_answer_band_and_time(metrics: Metrics) -> None:
    observer: Observer = metrics
    observer.request_done(_request())
    observer.request_done(_request(status_class="a word of tomorrow", priority=100))
    assert _value(metrics, "marketd_provider_requests_total", **{"provider": "stockx", "class": "ok"}) == 1
    assert _value(metrics, "marketd_provider_requests_total", **{"provider": "stockx", "class": "other"}) == 1
    assert _value(metrics, "marketd_calls_spent_total", provider="stockx", band="manual") == 1
    assert _value(metrics, "marketd_calls_spent_total", provider="stockx", band="background") == 1
    assert _value(metrics, "marketd_provider_request_seconds_sum", provider="stockx") == 0.6


def test_a_call_given_back_was_neither_sent_nor_spent(metrics: Metrics) -> None:
    metrics.request_done(_request(given_back=True, status_class="connection"))
    assert _value(metrics, "marketd_calls_given_back_total", provider="stockx") == 1
    assert _value(metrics, "marketd_calls_spent_total", provider="stockx", band="manual") == 0
    labels = {"provider": "stockx", "class": "connection"}
    assert _value(metrics, "marketd_provider_requests_total", **labels) == 0


@pytest.mark.parametrize("meter", ["mints", "reports"])
def test_a_request_that_costs_no_call_is_no_call_spent_or_given_back(metrics: Metrics, meter: str) -> None:
    metrics.request_done(_request(meter=meter, given_back=True))
    assert _value(metrics, "marketd_calls_given_back_total", provider="stockx") == 0
    metrics.request_done(_request(meter=meter))
    assert _value(metrics, "marketd_provider_requests_total", **{"provider": "stockx", "class": "ok"}) == 1
    assert _value(metrics, "marketd_calls_spent_total", provider="stockx", band="manual") == 0


def test_only_open_jobs_are_counted(metrics: Metrics) -> None:
    told = set(re.findall(r'marketd_jobs{.*status="(\w+)"', metrics.render()[0].decode()))
    assert told == {"pending", "running", "deferred"}


def test_a_fetch_counts_its_outcomes_and_its_time(metrics: Metrics) -> None:
    metrics.fetches_done([_fetch(Priced(size="10"), Priced(size="9", reason="no_asks"), FAILED)])
    for word, count in (("priced", 1), ("no_asks", 1), ("failed", 1), ("retried", 0)):
        assert _value(metrics, "marketd_jobs_finished_total", provider="stockx", outcome=word) == count
    assert _value(metrics, "marketd_wait_seconds_sum", provider="stockx", band="hot") == 3
    assert _value(metrics, "marketd_settle_seconds_count", provider="stockx") == 1
    assert _value(metrics, "marketd_calls_wasted_total", provider="stockx", reason="failed") == 0


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [(FAILED, "not_found"), (Retried(delay=timedelta(1), error_code="timeout", message=""), "unfinished")],
)
def test_calls_that_brought_no_price_count_as_wasted(metrics: Metrics, outcome: Outcome, reason: str) -> None:
    metrics.fetches_done([_fetch(outcome)])
    assert _value(metrics, "marketd_calls_wasted_total", provider="stockx", reason=reason) == 2


def test_a_fetch_that_lost_its_lease_finished_nothing(metrics: Metrics) -> None:
    metrics.fetches_done([_fetch(Priced(size="10"), end="lease_lost")])
    assert _value(metrics, "marketd_lease_lost_total", provider="stockx") == 1
    assert _value(metrics, "marketd_jobs_finished_total", provider="stockx", outcome="priced") == 0
    assert _value(metrics, "marketd_calls_wasted_total", provider="stockx", reason="stale") == 2


def test_a_fetch_that_postgres_did_not_take_lost_no_lease(metrics: Metrics) -> None:
    metrics.fetches_done([_fetch(Priced(size="10"), end="given_up")])
    assert _value(metrics, "marketd_lease_lost_total", provider="stockx") == 0
    assert _value(metrics, "marketd_jobs_finished_total", provider="stockx", outcome="priced") == 0
    assert _value(metrics, "marketd_calls_wasted_total", provider="stockx", reason="unfinished") == 2


def test_a_lane_is_in_exactly_one_state(metrics: Metrics) -> None:
    metrics.lane_state("ebay", "cooldown")
    metrics.lane_state("ebay", "off")
    states = {
        word: _value(metrics, "marketd_lane_state", provider="ebay", state=word) for word in LANE_STATES
    }
    assert states == {"ready": 0, "paused": 0, "cooldown": 0, "circuit": 0, "off": 1}


def test_events_reach_their_counters_and_unknown_ones_are_left_alone(metrics: Metrics) -> None:
    metrics.event("refused", provider="stockx", reason="budget", until=NOW)
    metrics.event("rescued", provider="stockx", count=3)
    metrics.event("stale_completion", provider="stockx")
    metrics.event("run_done", result="failed", error="x")
    metrics.event("notification_ignored", payload="?")
    metrics.event("something_else", a=1)
    metrics.event("refused")
    assert _value(metrics, "marketd_calls_refused_total", provider="stockx", reason="budget") == 1
    assert _value(metrics, "marketd_jobs_rescued_total", provider="stockx") == 3
    assert _value(metrics, "marketd_stale_completions_total", provider="stockx") == 1
    assert _value(metrics, "marketd_scheduler_runs_total", result="failed") == 1
    assert _value(metrics, "marketd_notifications_ignored_total") == 1


def test_only_the_second_listener_connection_is_a_reconnect(metrics: Metrics) -> None:
    metrics.event("listener_connected")
    assert _value(metrics, "marketd_listener_reconnects_total") == 0
    metrics.event("listener_lost", error="reset")
    assert _value(metrics, "marketd_listener_connected") == 0
    metrics.event("listener_connected")
    metrics.listener_echo(0.5)
    assert _value(metrics, "marketd_listener_reconnects_total") == 1
    assert _value(metrics, "marketd_listener_connected") == 1
    assert _value(metrics, "marketd_listener_echo_age_seconds") == 0.5


def test_database_gauges_are_replaced_as_a_whole(metrics: Metrics) -> None:
    metrics.replace("jobs", {("stockx", "pending", "manual"): 4, ("alias", "deferred", "hot"): 1})
    metrics.replace("jobs", {("stockx", "pending", "hot"): 2})
    labels = {"provider": "stockx", "status": "pending"}
    assert _value(metrics, "marketd_jobs", **labels, band="manual") == 0
    assert _value(metrics, "marketd_jobs", **labels, band="hot") == 2
    assert _value(metrics, "marketd_jobs", provider="alias", status="deferred", band="hot") == 0


def test_a_provider_that_is_not_ours_adds_no_series_and_a_wrong_word_is_an_error(metrics: Metrics) -> None:
    metrics.replace("budget_used", {("goat", "hour"): 4})
    metrics.lane_state("goat", "ready")
    metrics.event("rescued", provider="goat", count=1)
    assert "goat" not in metrics.render()[0].decode()
    assert _value(metrics, "marketd_budget_used", provider="goat", window="hour") is None
    with pytest.raises(KeyError, match="no such label set"):
        metrics.replace("budget_used", {("stockx", "week"): 4})


def test_a_reload_adds_new_providers_and_removes_old_ones(metrics: Metrics) -> None:
    metrics.request_done(_request())
    metrics.init_labels(["stockx", "goat"])
    labels = {"class": "ok"}
    assert _value(metrics, "marketd_provider_requests_total", provider="stockx", **labels) == 1
    assert _value(metrics, "marketd_provider_requests_total", provider="goat", **labels) == 0
    assert _value(metrics, "marketd_provider_requests_total", provider="alias", **labels) is None


def test_what_a_provider_does_while_it_is_gone_leaves_no_series_and_counts_again_once_it_is_back(
    metrics: Metrics,
) -> None:
    for providers in (["alias"], ["alias", "stockx"]):
        metrics.request_done(_request())
        metrics.fetches_done([_fetch(Priced(size="10"))])
        metrics.init_labels(providers)
        assert "stockx" in providers or 'provider="stockx"' not in metrics.render()[0].decode()
    metrics.request_done(_request())
    metrics.fetches_done([_fetch(Priced(size="10"))])
    assert _value(metrics, "marketd_provider_requests_total", provider="stockx", **{"class": "ok"}) == 1
    assert _value(metrics, "marketd_jobs_finished_total", provider="stockx", outcome="priced") == 1


def test_a_refused_reload_keeps_the_time_of_the_last_good_one(metrics: Metrics) -> None:
    began = time.time()
    metrics.reloaded(True)
    good = _value(metrics, "marketd_config_last_reload_success_timestamp_seconds")
    assert good is not None
    assert began <= good <= time.time()
    metrics.reloaded(False)
    metrics.config_differs(True)
    assert _value(metrics, "marketd_config_last_reload_successful") == 0
    assert _value(metrics, "marketd_config_last_reload_success_timestamp_seconds") == good
    assert _value(metrics, "marketd_config_differs") == 1


def test_process_facts_are_exported(metrics: Metrics) -> None:
    metrics.pool(8, 5, acquired=10, waited_s=0.5, refused=1)
    metrics.pool(8, 5, acquired=12, waited_s=2.0, refused=3)
    metrics.loop_lag(0.002)
    metrics.database_read(1234.0)
    metrics.oldest_xmin(77)
    metrics.build(schema="0005")
    assert _value(metrics, "marketd_pool_connections") == 8
    assert _value(metrics, "marketd_pool_idle_connections") == 5
    assert _value(metrics, "marketd_pool_acquired_total") == 12
    assert _value(metrics, "marketd_pool_wait_seconds_total") == 2
    assert _value(metrics, "marketd_statements_refused_total") == 3
    assert _value(metrics, "marketd_event_loop_lag_seconds_count") == 1
    assert _value(metrics, "marketd_db_gauges_last_success_timestamp_seconds") == 1234
    assert _value(metrics, "marketd_oldest_xmin_age_transactions") == 77
    [sample] = next(f for f in metrics.registry.collect() if f.name == "marketd_build_info").samples
    assert (sample.labels["version"], sample.labels["schema"], sample.value) == (__version__, "0005", 1)


@pytest.mark.parametrize(
    ("priority", "wake_priority", "name"),
    [
        (1000, 150, "manual"), (200, 150, "manual"), (199, 150, "hot"), (150, 150, "hot"), (149, 150, "background"),
        (0, 150, "background"), (130, 120, "hot"), (119, 120, "background"), (220, 250, "manual"),
        (199, 250, "background"),
    ],
)  # fmt: skip
def test_bands_begin_at_200_and_at_the_wake_priority(priority: int, wake_priority: int, name: str) -> None:
    assert band(priority, wake_priority) == name


def test_what_is_counted_as_hot_begins_at_the_wake_priority(metrics: Metrics) -> None:
    metrics.wake_priority = 120
    metrics.request_done(_request(priority=130))
    assert _value(metrics, "marketd_calls_spent_total", provider="stockx", band="hot") == 1


def test_request_classes_are_those_of_the_http_client() -> None:
    assert REQUEST_CLASSES == STATUS_CLASSES


def test_every_outcome_has_a_word_of_the_closed_set() -> None:
    outcomes: list[Outcome] = [
        Priced(size=None),
        Priced(size=None, reason="all_sizes"),
        Priced(size=None, reason="a reason of tomorrow"),
        Retried(delay=timedelta(1), error_code="timeout", message=""),
        Released(reason="stopping"),
        Snoozed(until=NOW, reason="budget"),
        FAILED,
    ]
    words = [outcome_word(outcome) for outcome in outcomes]
    assert words == ["priced", "all_sizes", "priced", "retried", "released", "snoozed", "failed"]


def test_the_page_about_the_metrics_is_what_the_code_exports() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "METRICS.md"
    assert page.read_text() == document(), "python -m marketd.metrics.document > docs/METRICS.md"


def test_trouble_and_refused_items_are_told_apart_by_their_code(metrics: Metrics) -> None:
    odd = Failed(error_code="a code of tomorrow", message="", cooldown=timedelta())
    metrics.fetches_done([_fetch(Retried(delay=timedelta(1), error_code="timeout", message=""), FAILED, odd)])
    for code in ("timeout", "unknown_sku", "other"):
        assert _value(metrics, "marketd_job_errors_total", provider="stockx", code=code) == 1
    metrics.fetches_done([_fetch(Priced(size="10"), Released(reason="budget"))])
    assert (
        sum(_value(metrics, "marketd_job_errors_total", provider="stockx", code=code) or 0 for code in ERRORS)
        == 3
    )


def test_a_wake_is_timed_until_the_request_it_caused(metrics: Metrics) -> None:
    count = "marketd_wake_to_request_seconds_count"
    metrics.heard("stockx")
    metrics.request_done(_request(priority=100, took_s=0))
    metrics.request_done(_request(provider="alias", took_s=0))
    assert _value(metrics, count, provider="stockx") == 0
    metrics.request_done(_request(took_s=0))
    metrics.request_done(_request(took_s=0))
    assert _value(metrics, count, provider="stockx") == 1
    assert (_value(metrics, "marketd_wake_to_request_seconds_sum", provider="stockx") or 1) < 1


def test_a_request_that_left_before_the_wake_does_not_answer_it(metrics: Metrics) -> None:
    metrics.heard("stockx")
    metrics.request_done(_request(took_s=5))
    assert _value(metrics, "marketd_wake_to_request_seconds_count", provider="stockx") == 0


def test_refused_credentials_are_told_per_provider_and_heal(metrics: Metrics) -> None:
    metrics.locked_out({"stockx", "goat"})
    assert _value(metrics, "marketd_credentials_refused", provider="stockx") == 1
    assert _value(metrics, "marketd_credentials_refused", provider="alias") == 0
    metrics.locked_out(set())
    assert _value(metrics, "marketd_credentials_refused", provider="stockx") == 0


def test_wishes_are_counted_by_band_and_result(metrics: Metrics) -> None:
    metrics.received("stockx", "manual", "raised", 3)
    metrics.received("goat", "manual", "queued", 3)
    labels = {"provider": "stockx", "band": "manual", "result": "raised"}
    assert _value(metrics, "marketd_requests_received_total", **labels) == 3
    assert "goat" not in metrics.render()[0].decode()
