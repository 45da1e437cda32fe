"""From measured runs to lines, tables, a picture and a verdict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .simulate import Result
from .words import CONDITIONS, FIFO, KNOWN, ORDER, PLANNER, POLICIES, THROUGH, WHOLE

Line = Mapping[str, Any]
COLOURS = {PLANNER: "#1b6ca8", PLANNER + ", a call per size": "#8fb8d6", KNOWN: "#7aa974"}
HELD_BACK = 0.02  #: most urgent requests that wait a minute while nothing is spent
CORE_PERCENT = 0.5
GATES = {5000: 0.95, 20000: 0.93}  #: least share of the known-rate optimum
OVER_FIFO = 1.5
THROUGH_SHARE = 0.97  #: of what the planner reaches alone
PLAN_MS = 250
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """The figures of one line of the results file; all providers' views count alike."""
    ages = np.concatenate([a for r in results for a in r.ages])
    waits = np.array([w for r in results for w in r.waits])
    views = sum(r.views for r in results)
    return {
        "fresh": sum(r.right for r in results) / views,
        "age_h": float(ages.mean()),
        "age_p95_h": float(np.quantile(ages, 0.95)),
        "err": sum(r.missed for r in results) / views,
        "useful": sum(r.changed for r in results) / max(1, sum(r.looked for r in results)),
        "stored_p99_h": float(np.quantile(np.concatenate([r.stored_ages for r in results]), 0.99)),
        "late": float((waits > 1 / 60).mean()),
        "held_back": sum(r.held_back for r in results) / len(waits),
        "wait_p95_min": float(np.quantile(waits, 0.95) * 60),
        "wait_max_min": float(waits.max() * 60),
        "calls": sum(len(r.calls) for r in results),
        "fullest_hour": max(r.fullest_hour for r in results),
        "calls_in_60_min": max(r.most_in_any_60_minutes for r in results),
        "day_shares": [
            max(r.by_day.values()) / r.day_quota for r in results if r.by_day and r.day_quota is not None
        ],
    }


def _grouped(lines: Sequence[Line]) -> dict[tuple[str, int, str], dict[str, dict[int, Line]]]:
    found: dict[tuple[str, int, str], dict[str, dict[int, Line]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        if "policy" in line:
            found[line["world"], line["items"], line["condition"]][line["policy"]][line["seed"]] = line
    return found


def _paired(runs: Mapping[str, Mapping[int, Line]], policy: str, other: str) -> np.ndarray:
    seeds = sorted(runs[policy].keys() & runs[other].keys())
    return np.array([runs[policy][s]["fresh"] / runs[other][s]["fresh"] for s in seeds])


def tables(lines: Sequence[Line]) -> str:
    """Markdown: one table per world and size, one of what went wrong on purpose, one of costs."""
    groups = _grouped(lines)
    parts = [
        part
        for key, runs in sorted(groups.items())
        if key[2] in ("", THROUGH)
        for part in _world_table(key, runs)
    ]
    troubled = {key: runs for key, runs in sorted(groups.items()) if key[2] not in ("", THROUGH)}
    if troubled:
        parts += ["\n**When things go wrong**, the planner\n", "| condition | seeds | right at view | % of known rates "
                  "| fullest hour | fullest day | held back |", "|---|---|---|---|---|---|---|"]  # fmt: skip
        parts += [_trouble_row(key, runs) for key, runs in troubled.items() if PLANNER in runs]
    costs = {line["cost"]: line for line in lines if "cost" in line}
    if costs:
        parts += [
            "\n**Cost**\n",
            "| units | one pass, wall ms (best of 20) | processor ms (mean) | of a core, a pass a minute "
            "| folding a minute's views, ms "
            "| lesson of one fetch, ms |",
            "|---|---|---|---|---|---|",
        ]
        parts += [
            f"| {n:,} | {c['wall_ms']:.0f} | {c['cpu_ms']:.0f} | {_core_share(c):.2f} % | {c['fold_cpu_ms']:.1f} "
            f"({c['views']} views) | {c['learn_cpu_ms']:.2f} |"
            for n, c in sorted(costs.items())
        ]
    return "\n".join(parts) + "\n"


def _core_share(cost: Line) -> float:
    """Percent of one core: a pass and a fold every minute."""
    return float(100 * (cost["cpu_ms"] + cost["fold_cpu_ms"]) / 60_000)


def _world_table(key: tuple[str, int, str], runs: Mapping[str, Mapping[int, Line]]) -> list[str]:
    world, items, condition = key
    seeds = max(len(by_seed) for by_seed in runs.values())
    line = (
        next(iter(runs[PLANNER].values()))
        if PLANNER in runs
        else next(iter(next(iter(runs.values())).values()))
    )
    bounds = [line["bound"] for line in runs.get(KNOWN, {}).values()]
    note = f" The fluid bound for the same rates is {np.mean(bounds):.3f}." if bounds else ""
    warm = f" of which the first {line['warm_days']} do not count" if line["warm_days"] else " from nothing"
    where = f"{items:,} items, {world} world{', ' * bool(condition)}{CONDITIONS[condition].words}"
    parts = [
        f"\n**{where}** ({_counted(seeds, 'seed')}, {_counted(line['run_days'], 'day')}{warm}, a pass every"
        f" {line['tick_min']:.0f} minutes).{note}\n",
        "| policy | right at view | % of known rates | mean age h | p95 age h | error | useful | p99 stored h "
        "| late | held back |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    names = ("fresh", "age_h", "age_p95_h", "err", "useful", "stored_p99_h", "late", "held_back")
    for name, by_seed in sorted(runs.items(), key=lambda run: ORDER.index(run[0])):
        mean = {k: np.mean([line[k] for line in by_seed.values()]) for k in names}
        fewer = f" (seeds {', '.join(map(str, sorted(by_seed)))})" if len(by_seed) < seeds else ""
        parts.append(
            f"| {name}{fewer} | {mean['fresh']:.3f} | {_share_of_known(runs, name)} | {mean['age_h']:.1f} "
            f"| {mean['age_p95_h']:.0f} | {mean['err']:.2f} | {mean['useful']:.2f} | {mean['stored_p99_h']:.0f} "
            f"| {100 * mean['late']:.1f} % | {100 * mean['held_back']:.1f} % |"
        )
    return parts


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _trouble_row(key: tuple[str, int, str], runs: Mapping[str, Mapping[int, Line]]) -> str:
    world, items, condition = key
    lines = runs[PLANNER].values()
    fullest = max(line["fullest_hour"] for line in lines)
    days = [share for line in lines for share in line["day_shares"]]
    return (
        f"| {CONDITIONS[condition].words} ({items:,} items, {world}) | {len(lines)} "
        f"| {np.mean([line['fresh'] for line in lines]):.3f} | {_share_of_known(runs, PLANNER)} "
        f"| {100 * fullest:.0f} % | {f'{100 * max(days):.1f} %' if days else ''} "
        f"| {100 * np.mean([line['held_back'] for line in lines]):.1f} % |"
    )


def _share_of_known(runs: Mapping[str, Mapping[int, Line]], name: str) -> str:
    if KNOWN not in runs:
        return ""
    share = 100 * _paired(runs, name, KNOWN)
    spread = f" ±{share.std(ddof=1):.1f}" if len(share) > 1 and name != KNOWN else ""
    return f"{share.mean():.1f}{spread}" if len(share) else ""


def gates(lines: Sequence[Line]) -> int:
    """0 when every gate that was measured holds. Budgets and the ten-minute rule are asserted in every run."""
    failed = 0
    for (world, items, condition), runs in sorted(_grouped(lines).items()):
        if PLANNER not in runs:
            continue
        where = f"{items} items, {world}{', ' * bool(condition)}{condition}"
        held_back = float(np.mean([line["held_back"] for line in runs[PLANNER].values()]))
        failed += _gate(f"{where}: urgent work held back", -held_back, -HELD_BACK)
        if WHOLE in runs:
            late = float(np.mean([line["held_back"] for line in runs[WHOLE].values()]))
            failed += _gate(f"{where}: urgent work held back, through claim and settle", -late, -HELD_BACK)
            share = _paired(runs, WHOLE, PLANNER).mean()
            failed += _gate(f"{where}: through claim and settle, of the planner alone", share, THROUGH_SHARE)
        if world != "plain" or condition:
            continue
        if items in GATES and KNOWN in runs:
            failed += _gate(
                f"{where}: share of known rates", _paired(runs, PLANNER, KNOWN).mean(), GATES[items]
            )
        if items == 20000 and FIFO in runs:
            failed += _gate(f"{where}: against FIFO", _paired(runs, PLANNER, FIFO).mean(), OVER_FIFO)
    for line in lines:
        if line.get("cost") == 100_000:
            failed += _gate("100,000 units: planning, ms", -line["wall_ms"], -PLAN_MS)
        elif line.get("cost") == 33_000:
            failed += _gate("33,000 units: % of a core", -_core_share(line), -CORE_PERCENT)
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

    groups = {items: runs for (world, items, condition), runs in sorted(_grouped(lines).items())
              if world == "plain" and not condition}  # fmt: skip
    order = {name: n for n, name in enumerate(POLICIES)}
    names = sorted({name for runs in groups.values() for name in runs}, key=order.__getitem__)
    figure, axes = pyplot.subplots(
        1, len(groups), figsize=(3.1 * len(groups) + 3, 0.42 * len(names) + 1.5), squeeze=False, sharey=True
    )
    for axis, (items, runs) in zip(axes[0], groups.items(), strict=True):
        means = [100 * np.mean([x["fresh"] for x in runs[n].values()]) if n in runs else 0 for n in names]
        spread = [
            100 * np.std([x["fresh"] for x in runs[n].values()], ddof=1) if len(runs.get(n, ())) > 1 else 0
            for n in names
        ]
        bars = axis.barh(names, means, xerr=spread, color=[COLOURS.get(n, "#c8ccd0") for n in names],
                         error_kw={"ecolor": "#555555", "elinewidth": 0.8, "capsize": 2}, height=0.72)  # fmt: skip
        axis.bar_label(bars, [f"{m:.0f}" if m else "not run" for m in means], padding=3, fontsize=8)
        axis.set_title(f"{items:,} items", fontsize=10)
        axis.set_xlim(0, 100)
        axis.set_xlabel("views that see the present price, %", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(axis="x", color="#e6e6e6", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
    axes[0][0].invert_yaxis()
    figure.suptitle(
        "450 calls an hour, three providers; bars: mean over seeds, lines: their spread", fontsize=9
    )
    figure.tight_layout()
    figure.savefig(path, dpi=140)
    pyplot.close(figure)
