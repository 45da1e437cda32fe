"""Writes docs/METRICS.md from what is really exported: `python -m marketd.metrics.document > docs/METRICS.md`."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric

from marketd.metrics import Metrics

_PROVIDER = "a provider"
_HEAD = """\
# Metrics

<!-- Written by `python -m marketd.metrics.document`; a test compares. -->

`GET /metrics` on `http.host`:`http.port` (127.0.0.1:9464 as shipped), in Prometheus' text format or, where the Accept
header asks for it, OpenMetrics. Every name starts with `marketd_`; process memory, CPU, file descriptors and garbage
collection come on top (`process_*`, `python_gc_*`). A label's words are from the closed sets below, and every label set
exists from the start, so that `increase()` sees the first event. With three providers there are {series} series.

How to read them:

- **Several daemons on one database** export the same *database gauges* (marked *db*): aggregate those with `max`, never
  with `sum`. Counters and histograms count what this process did: aggregate those with `sum`.
- The database gauges are read every 30 s (more often when `scheduler.interval` is shorter, and at least 5 s apart after
  trouble with a provider or a reload); a scrape never waits for Postgres.
  `marketd_db_gauges_last_success_timestamp_seconds` says how old they are.
- `provider` is each provider of the configuration, also one that is off. Accounts of a provider are added up;
  but where urgent work waits `marketd_budget_urgent_left` is the least of the accounts in which it does, and
  `marketd_background_waits` is 1 where background has to wait in all in which work waits (where none waits, of all
  accounts).
- `band` is the urgency: `manual` from priority 200, `hot` from `scheduler.wake_priority` (150), else `background`.
- `marketd_requests_received_total` counts the rows that requests leave: `queued`, `merged`, `raised`. Who is told
  `fresh`, or is refused for a bad argument, leaves none and is not counted.
- A limit that is not set has quota, used, remaining and urgent_left 0.

"""
_FROM_DATABASE = frozenset(
    {
        "marketd_jobs",
        "marketd_oldest_ready_seconds",
        "marketd_targets",
        "marketd_price_age_seconds",
        "marketd_view_freshness_ratio",
        "marketd_view_age_seconds",
        "marketd_marginal_call_views",
        "marketd_units_watched",
        "marketd_plan_seconds",
        "marketd_budget_quota",
        "marketd_budget_used",
        "marketd_budget_remaining",
        "marketd_budget_urgent_left",
        "marketd_budget_overshoot",
        "marketd_budget_reset_seconds",
        "marketd_background_waits",
        "marketd_lane_state",
        "marketd_credentials_refused",
        "marketd_oldest_xmin_age_transactions",
        "marketd_requests_received",
    }
)


def document() -> str:
    """The page. Ends with a newline."""
    metrics = Metrics(process=False)
    metrics.init_labels([_PROVIDER])
    whole = Metrics()
    whole.init_labels(["one", "two", "three"])
    lines = whole.render()[0].decode().splitlines()
    series = sum(not line.startswith("#") for line in lines)
    rows = [_row(family) for family in sorted(metrics.registry.collect(), key=lambda family: family.name)]
    table = ["| metric | type | labels | what it tells |", "| --- | --- | --- | --- |", *rows]
    return _HEAD.format(series=series) + "\n".join(table) + "\n\n" + "\n".join(_buckets(metrics)) + "\n"


def _row(family: Metric) -> str:
    name = family.name + ("_total" if family.type == "counter" else "")
    kind = family.type + (" *db*" if family.name in _FROM_DATABASE else "")
    return f"| `{name}` | {kind} | {'; '.join(_labels(family)) or '-'} | {family.documentation} |"


def _labels(family: Metric) -> Iterator[str]:
    values: dict[str, list[str]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label != "le" and value not in values.setdefault(label, []):
                values[label].append(value)
    for label, words in values.items():
        told = [f"`{word}`" for word in words if word and word != _PROVIDER]
        yield f"`{label}`" + (f" ({' '.join(told)})" if told and family.name != "marketd_build_info" else "")


def _buckets(metrics: Metrics) -> Iterator[str]:
    yield "Buckets, in seconds:\n"
    for family in sorted(metrics.registry.collect(), key=lambda family: family.name):
        if family.type == "histogram":
            edges = dict.fromkeys(sample.labels["le"] for sample in family.samples if "le" in sample.labels)
            yield f"- `{family.name}`: {' '.join(edges)}"


if __name__ == "__main__":
    print(document(), end="")
