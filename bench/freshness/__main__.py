"""`python -m bench.freshness`: every policy in every world, tables, a picture and the gates. See docs/FRESHNESS.md.

`MARKETD_BENCH_DSN` names a server where databases may be created; without it one is started for the run. What stands
in the results file already is not measured again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

from . import cost, report
from .measure import group_done
from .server import postgres, template
from .words import CONDITIONS, FIFO, KNOWN, ORDER, PLANNER, POLICIES, THROUGH, WHOLE

WORLDS = ("plain", "uncorrelated", "spiky")
FIVE = (1, 2, 3, 4, 5)
FEW = (FIFO, "views x age", PLANNER, KNOWN)
TROUBLES = tuple(name for name in CONDITIONS if name not in ("", THROUGH))
_WHOLE = [(("plain",), (5_000,), (1,), (THROUGH,), (PLANNER, WHOLE, KNOWN), 1, 0, 3.0)]
#: What docs/FRESHNESS.md shows: worlds, items, seeds, conditions, policies, days, those that do not count, minutes
#: between two passes.
FULL = [
    (("plain",), (5_000,), FIVE, ("",), POLICIES, 6, 3, 5.0),
    (("plain",), (20_000,), FIVE, ("",), POLICIES, 5, 3, 10.0),
    (("plain",), (5_000,), FIVE, TROUBLES, (PLANNER, KNOWN), 4, 2, 5.0),
    (("uncorrelated", "spiky"), (5_000,), FIVE, ("",), FEW, 4, 2, 5.0),
    (("uncorrelated", "spiky"), (20_000,), FIVE, ("",), FEW, 4, 2, 10.0),
    (WORLDS, (100_000,), FIVE, ("",), FEW, 3, 2, 20.0),
]
_TIMING = ("run_days", "warm_days", "tick_min")
_GROUP = ("world", "items", "seed", "condition", *_TIMING)
_KEYS = ("cost", *_GROUP, "policy")
COSTS = (3_000, 33_000, 100_000)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.freshness", description=__doc__)
    parser.add_argument("--full", action="store_true", help="all that the document shows; hours of one core")
    parser.add_argument(
        "--whole", action="store_true", help="one world through claim, charge and settle, too"
    )
    parser.add_argument("--items", type=int, nargs="*", default=[5_000])
    parser.add_argument("--seeds", type=int, nargs="*", default=[1])
    parser.add_argument("--worlds", nargs="*", default=["plain"], choices=WORLDS)
    parser.add_argument("--conditions", nargs="*", default=[""], choices=list(CONDITIONS))
    parser.add_argument("--policies", nargs="*", default=list(POLICIES), choices=ORDER)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--warm", type=int, default=5, help="days that do not count")
    parser.add_argument("--tick", type=float, default=3, help="minutes between two passes")
    parser.add_argument(
        "--cost", type=int, nargs="*", default=[], help="measure a planning pass over so many units"
    )
    parser.add_argument("--jobs", type=int, default=1, help="worlds that are run at the same time")
    parser.add_argument("--results", type=Path, default=Path("freshness.jsonl"), help="appended to")
    parser.add_argument("--report", type=Path, help="write the tables and the picture into this folder")
    args = parser.parse_args()
    args.results.touch()
    known = {_key(line) for line in _read(args.results)}
    wanted = [work for work in _wanted(args) if _key(work) not in known]
    if wanted:
        with postgres() as server:
            _all_done(wanted, server, args.jobs, args.results)
    if args.report:
        report.write(_read(args.results), args.report)
    return report.gates(_read(args.results))


def _all_done(wanted: list[dict[str, Any]], server: str, jobs: int, results: Path) -> None:
    """Costs alone on the machine; then the worlds seed by seed, so that a run which is broken off has a bit of each."""
    worlds: dict[tuple[Any, ...], list[str]] = {}
    with template(server) as empty:
        for work in wanted:
            if "cost" in work:
                _record(results, work | asyncio.run(cost.planning(server, empty, work["cost"])))
            else:
                worlds.setdefault(tuple(work[name] for name in _GROUP), []).append(work["policy"])
        groups = [
            dict(zip(_GROUP, world, strict=True)) | {"policies": names} for world, names in worlds.items()
        ]
        groups.sort(key=lambda group: group["seed"])
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            running = [pool.submit(group_done, group, server, empty) for group in groups]
            try:
                for done in as_completed(running):
                    for line in done.result():
                        _record(results, line)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _wanted(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One entry per line of the results file that this call is about."""
    for units in COSTS if args.full else args.cost:
        yield {"cost": units}
    if args.cost and not args.full:
        return
    names = ("worlds", "items", "seeds", "conditions", "policies", "days", "warm", "tick")
    own = tuple(getattr(args, name) for name in names)
    for worlds, items, seeds, conditions, policies, days, warm, tick in (
        FULL * args.full + _WHOLE * args.whole or [own]
    ):
        names = ("world", "items", "seed", "condition", "policy")
        for values in product(worlds, items, seeds, conditions, policies):
            work = dict(zip(names, values, strict=True))
            # What a day's quota and a restart do is shown of the planner; they are no matter of the best order.
            if work["policy"] == PLANNER or not CONDITIONS[work["condition"]].planner_only:
                yield work | {"run_days": days, "warm_days": warm, "tick_min": tick}


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line.get(name) for name in _KEYS)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _record(path: Path, line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
