"""What happens in a good night fires no alert: every series that a daemon exports, as it goes then, by the minute."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

from marketd.metrics import Metrics

RULES = Path(__file__).resolve().parents[2] / "prometheus"
MINUTES = 480
RESTART, RELOAD = 180, 240  #: at these minutes; the scrape of the first finds nobody
QUOTA = {"stockx": 100, "alias": 200, "ebay": 150}
Course: TypeAlias = Callable[[int], float]

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def _counted(course: Course) -> Course:
    """A counter that begins anew with the restart."""
    return lambda minute: course(minute) - (course(RESTART) if minute > RESTART else 0)


def _used(minute: int) -> float:
    """A budget that is used up as planned: spread over the hour, the rest in its last twentieth."""
    into = minute % 60
    return min(100.0, round(1.55 * into) if into < 57 else 100)


def _calls(minute: int) -> float:
    return minute // 60 * 100 + _used(minute)


NIGHT: Mapping[str, Course] = {
    "marketd_build_info": lambda _: 1,
    "marketd_config_last_reload_successful": lambda _: 1,
    "marketd_config_last_reload_success_timestamp_seconds": lambda m: (
        60 * (RELOAD if m >= RELOAD else RESTART if m > RESTART else 0)
    ),
    # A reload on a busy machine, and Postgres away for a moment.
    "marketd_config_differs": lambda m: float(RELOAD <= m < RELOAD + 5),
    "marketd_db_gauges_last_success_timestamp_seconds": lambda m: 60 * min(m, 300) if m < 302 else 60 * m,
    "marketd_listener_connected": lambda m: float(m not in (300, 301, RESTART + 1)),
    "marketd_oldest_xmin_age_transactions": lambda m: 500 + m % 50,
    'marketd_scheduler_runs_total{result="ok"}': _counted(float),
    'marketd_scheduler_runs_total{result="failed"}': _counted(lambda m: float(m > 301)),
    'marketd_lane_state{provider="stockx",state="ready"}': lambda _: 1,
    'marketd_lane_state{provider="alias",state="ready"}': lambda _: 1,
    'marketd_lane_state{provider="ebay",state="off"}': lambda _: 1,
    # stockx: background uses each hour up, and some jobs wait for hours; now and then somebody wants a price at once.
    'marketd_budget_used{provider="stockx",window="hour"}': _used,
    'marketd_budget_remaining{provider="stockx",window="hour"}': lambda m: 100 - _used(m),
    'marketd_budget_urgent_left{provider="stockx",window="hour"}': lambda m: 100 - _used(m),
    'marketd_background_waits{provider="stockx"}': lambda m: float(m % 3 > 0),
    'marketd_oldest_ready_seconds{provider="stockx",band="background"}': lambda m: 60.0 * (m % 400),
    'marketd_oldest_ready_seconds{provider="stockx",band="manual"}': lambda m: 2.0 * (m % 20 == 0),
    'marketd_jobs{provider="stockx",status="pending",band="background"}': lambda _: 300,
    'marketd_calls_spent_total{provider="stockx",band="background"}': _counted(lambda m: _calls(m) - m // 20),
    'marketd_calls_spent_total{provider="stockx",band="manual"}': _counted(lambda m: m // 20),
    'marketd_fetch_seconds_count{provider="stockx"}': _counted(_calls),
    'marketd_provider_requests_total{provider="stockx",class="ok"}': _counted(_calls),
    'marketd_jobs_finished_total{provider="stockx",outcome="priced"}': _counted(lambda m: 3 * _calls(m)),
    # One fetch of many sizes meets a timeout, and its retry another.
    'marketd_jobs_finished_total{provider="stockx",outcome="retried"}': _counted(
        lambda m: 30 * ((m > 400) + (m > 403))
    ),
    'marketd_job_errors_total{provider="stockx",code="timeout"}': _counted(
        lambda m: 30 * ((m > 400) + (m > 403))
    ),
    'marketd_view_age_seconds{provider="stockx"}': lambda _: 20_000,
    # An import at 5:00, done within minutes.
    'marketd_calls_spent_total{provider="alias",band="hot"}': _counted(
        lambda m: min(100, 25 * max(0, m - 300))
    ),
    'marketd_budget_used{provider="alias",window="hour"}': lambda m: (
        min(100, 25 * (m - 300)) * (300 < m < 360)
    ),
    'marketd_jobs_rescued_total{provider="alias"}': _counted(lambda m: float(m > 302)),
    # ebay has no credentials, and apps ask for it all the same.
    'marketd_jobs{provider="ebay",status="pending",band="hot"}': lambda _: 7,
}


def _series() -> dict[str, Course]:
    """Every series that a daemon exports has its course, 0 where nothing is said."""
    metrics = Metrics(process=False)
    metrics.init_labels(QUOTA)
    exported = re.findall(r"^(marketd_\w+(?:\{[^}]*\})?) \S+$", metrics.render()[0].decode(), re.MULTILINE)
    courses: dict[str, Course] = {}
    for name in exported:
        words = dict(re.findall(r'(\w+)="([^"]*)"', name))
        courses[name] = lambda _: 0
        if words.get("window") == "hour":
            quota = QUOTA[words["provider"]]
            if "budget_quota" in name or "budget_remaining" in name or "urgent_left" in name:
                courses[name] = lambda _, quota=quota: quota
            elif "budget_reset" in name:
                courses[name] = lambda minute: 3600 - 60 * (minute % 60)
    for name, course in NIGHT.items():
        found = [series for series in courses if _same(series, name)]
        assert len(found) == 1, name
        courses[found[0]] = course
    return courses


def _same(one: str, other: str) -> bool:
    """The labels' order, and those that `other` does not name, do not matter."""
    labels = [set(re.findall(r'\w+="[^"]*"', series)) for series in (one, other)]
    return one.partition("{")[0] == other.partition("{")[0] and labels[0] >= labels[1]


def _input(name: str, values: Sequence[str]) -> dict[str, str]:
    text = name.rstrip("}") + ("," if "{" in name else "{") + 'job="marketd",instance="a:1"}'
    short = f"{values[0]}x{MINUTES}" if len(set(values)) == 1 else " ".join(values)
    return {"series": text, "values": short}


def test_a_night_with_a_restart_a_reload_a_spent_budget_and_a_provider_that_is_off_is_quiet(
    tmp_path: Path,
) -> None:
    series = [
        _input(name, ["_" if minute == RESTART else f"{course(minute):g}" for minute in range(MINUTES)])
        for name, course in _series().items()
    ]
    series.append(_input("up", [str(int(minute != RESTART)) for minute in range(MINUTES)]))
    expr = 'count by (alertname) (ALERTS{alertstate="firing"})'
    told: dict[str, Any] = {
        "rule_files": [str(RULES / "alerts.yml"), str(RULES / "recording.yml")],
        "evaluation_interval": "1m",
        "group_eval_order": ["marketd-recording", "marketd-alerts"],
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "promql_expr_test": [
                    {"expr": expr, "eval_time": f"{minute}m", "exp_samples": []}
                    for minute in range(1, MINUTES, 3)
                ],
            }
        ],
    }
    case = tmp_path / "night.yml"
    case.write_text(yaml.safe_dump(told))
    done = subprocess.run(
        ["promtool", "test", "rules", str(case)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
