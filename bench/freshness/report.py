"""From measured runs to lines, tables, a picture and a verdict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .simulate import Result
from .world import Shape

Line = Mapping[str, Any]
GATES = {5000: 0.95, 20000: 0.93}  #: least share of the known-rate optimum
OVER_FIFO = 1.5
PLAN_MS = 250
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def summary(name: str, shape: Shape, results: Sequence[Result], limit: str, cpu_s: float) -> dict[str, Any]:
    """One line of the results file; all providers' views count alike."""
    ages = np.concatenate([a for r in results for a in r.ages])
    waits = np.array([w for r in results for w in r.waits])
    views = sum(r.views for r in results)
    return {
        "policy": name,
        "items": shape.items,
        "seed": shape.seed,
        "limit": limit,
        "fresh": sum(r.right for r in results) / views,
        "age_h": float(ages.mean()),
        "age_p95_h": float(np.quantile(ages, 0.95)),
        "err": sum(r.missed for r in results) / views,
        "useful": sum(r.changed for r in results) / max(1, sum(r.looked for r in results)),
        "stored_p99_h": float(np.quantile(np.concatenate([r.stored_ages for r in results]), 0.99)),
        "late": float((waits > 1 / 60).mean()),
        "wait_p95_min": float(np.quantile(waits, 0.95) * 60),
        "calls_in_60_min": max(r.most_in_any_60_minutes for r in results),
        "cpu_s": round(cpu_s, 1),
    }


def _grouped(lines: Sequence[Line]) -> dict[tuple[str, int, str], dict[str, dict[int, Line]]]:
    found: dict[tuple[str, int, str], dict[str, dict[int, Line]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        if "policy" in line:
            found[line["world"], line["items"], line["limit"]][line["policy"]][line["seed"]] = line
    return found


def _paired(runs: Mapping[str, Mapping[int, Line]], policy: str, other: str) -> np.ndarray:
    seeds = sorted(runs[policy].keys() & runs[other].keys())
    return np.array([runs[policy][s]["fresh"] / runs[other][s]["fresh"] for s in seeds])


def tables(lines: Sequence[Line]) -> str:
    """Markdown, one table per world and size."""
    parts = []
    for (world, items, limit), runs in sorted(_grouped(lines).items()):
        seeds = max(len(by_seed) for by_seed in runs.values())
        title = f"{items:,} items, {world} world" + (f", {limit}" if limit else "")
        bounds = [line["bound"] for line in runs.get("known rates", {}).values() if "bound" in line]
        note = f" The fluid bound for the same rates is {np.mean(bounds):.3f}." if bounds else ""
        parts.append(f"\n**{title}** ({seeds} seed{'s' * (seeds > 1)}).{note}\n")
        parts.append(
            "| policy | right at view | % of known rates | mean age h | p95 age h | error | useful "
            "| p99 stored h | late |"
        )
        parts.append("|---|---|---|---|---|---|---|---|---|")
        for name, by_seed in runs.items():
            mean = {k: np.mean([line[k] for line in by_seed.values()]) for k in
                    ("fresh", "age_h", "age_p95_h", "err", "useful", "stored_p99_h", "late")}  # fmt: skip
            share = 100 * _paired(runs, name, "known rates") if "known rates" in runs else np.array([])
            spread = f" ±{share.std(ddof=1):.1f}" if len(share) > 1 and name != "known rates" else ""
            parts.append(
                f"| {name} | {mean['fresh']:.3f} | {f'{share.mean():.1f}{spread}' if len(share) else ''} "
                f"| {mean['age_h']:.1f} | {mean['age_p95_h']:.0f} | {mean['err']:.2f} | {mean['useful']:.2f} "
                f"| {mean['stored_p99_h']:.0f} | {100 * mean['late']:.1f} % |"
            )
    costs = {line["cost"]["units"]: line["cost"] for line in lines if "cost" in line}
    if costs:
        parts += ["\n**One planning pass**\n", "| units | wall ms | processor ms |", "|---|---|---|"]
        parts += [f"| {n:,} | {c['wall_ms']:.0f} | {c['cpu_ms']:.0f} |" for n, c in sorted(costs.items())]
    return "\n".join(parts) + "\n"


def gates(lines: Sequence[Line]) -> int:
    """0 when every gate that was measured holds. Budgets and the ten-minute rule are asserted in every run."""
    failed = 0
    for (world, items, limit), runs in _grouped(lines).items():
        if world != "plain" or limit or "the planner" not in runs:
            continue
        if items in GATES and "known rates" in runs:
            failed += _gate(
                f"{items} items: share of known rates",
                _paired(runs, "the planner", "known rates").mean(),
                GATES[items],
            )
        if items == 20000 and "FIFO > 60 min" in runs:
            failed += _gate(
                f"{items} items: against FIFO",
                _paired(runs, "the planner", "FIFO > 60 min").mean(),
                OVER_FIFO,
            )
    for line in lines:
        if "cost" in line and line["cost"]["units"] == 100_000:
            failed += _gate("100,000 units: planning, ms", -line["cost"]["cpu_ms"], -PLAN_MS)
    return min(failed, 1)


def _gate(what: str, value: float, least: float) -> int:
    print(f"{'ok    ' if value >= least else 'FAILED'} {what}: {abs(value):.3f} (wanted {abs(least):g})")
    return int(value < least)


def write(lines: Sequence[Line], folder: Path) -> None:
    """The tables between the marks of FRESHNESS.md, and the picture beside it."""
    page = folder / "FRESHNESS.md"
    text = page.read_text()
    head, rest = text.split(BEGIN)
    page.write_text(f"{head}{BEGIN}\n{tables(lines)}{END}{rest.split(END)[1]}")
    picture(lines, folder / "freshness.png")


def picture(lines: Sequence[Line], path: Path) -> None:
    """Bars: how many of 100 views see the present price, by policy and size of the watchlist."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = {
        items: runs
        for (world, items, limit), runs in sorted(_grouped(lines).items())
        if world == "plain" and not limit
    }
    names = list(dict.fromkeys(name for runs in groups.values() for name in runs))
    figure, axes = pyplot.subplots(
        1, len(groups), figsize=(4.5 * len(groups) + 2.5, 3.6), squeeze=False, sharey=True
    )
    for axis, (items, runs) in zip(axes[0], groups.items(), strict=True):
        values = [
            100 * np.mean([line["fresh"] for line in runs[name].values()]) if name in runs else 0
            for name in names
        ]
        colours = [
            "#1b6ca8" if name == "the planner" else "#7aa974" if name == "known rates" else "#c9c9c9"
            for name in names
        ]
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, fmt="%.0f", padding=3)
        axis.set_title(f"{items:,} items")
        axis.set_xlim(0, 100)
        axis.set_xlabel("of 100 views see the present price")
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
