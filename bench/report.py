"""The table: medians, and the ratios that are promised."""

from __future__ import annotations

from collections.abc import Iterable

from bench.scenarios import Bench

_NAMES = {"floor": "floor", "pgqueuer_": "pgqueuer", "procrastinate_": "procrastinate", "ours": "marketd"}
_HEAD = "| scenario | figure | floor | pgqueuer | procrastinate | marketd | of floor | of pgqueuer | others, cores |"
_RULE = "|---|---|---:|---:|---:|---:|---:|---:|---:|"

#: rows that differ from another scenario's in one contender only: where the rest is found
_BASES = {"a_rows": ("a",), "b10": ("b",), "b_rows": ("b",), "b10_rows": ("b10", "b")}
#: scenario, figure, what it is
_LINES = (
    ("a", "single_per_s", "enqueue one by one, jobs/s"),
    ("a", "bulk_per_s", "enqueue 10,000 at once with a unique key, jobs/s"),
    ("a_rows", "single_per_s", "one by one, the floor a bare INSERT of the same rows into marketd's tables"),
    ("a_rows", "bulk_per_s", "10,000 at once, the floor a bare INSERT of the same rows"),
    ("b", "per_s", "drain, one job a product, jobs/s"),
    ("b10", "per_s", "drain, ten sizes a product, jobs/s"),
    ("b_rows", "per_s", "one job a product, the floor bare statements that write the same rows"),
    ("b10_rows", "per_s", "ten sizes a product, the floor bare statements that write the same rows"),
    ("c", "per_s", "drain with {others:,} others waiting, jobs/s"),
    ("d", "calls_per_s", "over HTTP, answered at once, calls/s"),
    ("d20", "calls_per_s", "over HTTP, answered after 20 ms, calls/s"),
    ("e", "start_p50_ms", "commit to job start, ms, p50"),
    ("e", "start_p95_ms", "p95"),
    ("e", "start_p99_ms", "p99"),
    ("e", "arrival_p50_ms", "commit to the request's arrival, ms, p50"),
    ("e", "arrival_p99_ms", "p99"),
    ("f", "statements", "idle, statements/min"),
    ("f", "cpu_s", "idle, CPU s/min, worker and its sessions"),
    ("b", "rss_mib", "peak RSS in b, MiB"),
    ("d", "rss_mib", "peak RSS in d, MiB"),
    ("d10", "calls_per_price", "calls per price, ten sizes a product"),
)


def table(bench: Bench) -> str:
    """Markdown; a cell is the median over the rounds, an empty one was not measured."""
    lines = [_HEAD, _RULE]
    for scenario, figure, words in _LINES:
        places = (scenario, *_BASES.get(scenario, ()))
        found = {name: _first(bench.median(place, name, figure) for place in places) for name in _NAMES}
        if found["ours"] is None:
            continue
        cells = [_cell(found[name]) for name in ("floor", "pgqueuer_", "procrastinate_", "ours")]
        ratios = [_ratio(found["ours"], found["floor"]), _ratio(found["ours"], found["pgqueuer_"])]
        ratios.append(_cell(bench.disturbance(scenario)))
        lines.append(f"| {scenario} | {words.format(others=bench.others)} | {' | '.join(cells + ratios)} |")
    b, c = bench.median("b", "ours", "per_s"), bench.median("c", "ours", "per_s")
    if b and c:
        lines.append(
            f"| c/b | marketd with others waiting, of its own without | | | | {_cell(c / b)} | | | |"
        )
    return "\n".join([*lines, *_daemons(bench)])


def _first(values: Iterable[float | None]) -> float | None:
    return next((value for value in values if value is not None), None)


def _daemons(bench: Bench) -> list[str]:
    one, others = bench.median("i", "1", "per_s"), _cell(bench.disturbance("i"))
    found = [(n, bench.median("i", n, "per_s")) for n in ("1", "2", "4")]
    return [
        f"| i | {n} daemons, jobs/s (of one: {rate / one:.2f}) | | | | {_cell(rate)} | | | {others} |"
        for n, rate in found
        if rate is not None and one
    ]


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(ours: float | None, other: float | None) -> str:
    return f"{ours / other:.2f}" if ours is not None and other else ""
