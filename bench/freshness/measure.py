"""All policies through one seed's world, under given conditions; the three providers together."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import policies, report
from .real import RealPlanner
from .server import database, virtual_database
from .simulate import Conditions, Result, Run
from .whole import whole_run
from .words import CONDITIONS, FIFO, KNOWN, UNCOALESCED, WHOLE
from .world import Shape, World, make

QUOTAS = {"stockx": 100, "alias": 200, "ebay": 150}
PER_SIZE = {"ebay"}  #: each size costs a call
RULES: dict[str, Callable[[World], policies.Policy]] = {
    FIFO: policies.Fifo,
    "oldest first": policies.Oldest,
    "views x age": policies.ViewsTimesAge,
    KNOWN: policies.Known,
}


def group_done(group: dict[str, Any], server: str, template: str) -> list[dict[str, Any]]:
    """Lines of the results file: one world under one condition, by policy. Runs in a process of its own."""
    kind, names = group["world"], group.pop("policies")
    shape = Shape(group["items"], group["run_days"], group["seed"], kind != "uncorrelated", kind == "spiky")
    lines = asyncio.run(
        measure(
            names, shape, group["condition"], group["warm_days"], group["tick_min"] / 60, server, template
        )
    )
    return [group | {"policy": name} | line for name, line in lines.items()]


async def measure(
    names: Sequence[str],
    shape: Shape,
    condition: str,
    warm_days: int,
    tick_h: float,
    server: str,
    template: str,
) -> dict[str, dict[str, Any]]:
    """By policy, the figures of one line of the results file each.

    Every world is made once for all policies. A provider where each size costs a call anyway is run once for a policy,
    coalesced or not.
    """
    results: dict[str, list[Result]] = defaultdict(list)
    spent: dict[str, float] = defaultdict(float)
    bounds: list[tuple[float, int]] = []
    for provider, quota in QUOTAS.items():
        conditions = CONDITIONS[condition].conditions(shape.days, quota)
        worlds: dict[bool, World] = {}
        done: dict[tuple[str, bool], Result] = {}
        for name in names:
            rule, together = name.removesuffix(UNCOALESCED), not name.endswith(UNCOALESCED)
            together = together and provider not in PER_SIZE
            if together not in worlds:
                worlds[together] = make(shape, provider, quota, coalesced=together)
            if (rule, together) not in done:
                began = time.process_time()
                run = _through if rule == WHOLE else _ruled if rule in RULES else _real
                done[rule, together] = await run(
                    rule, worlds[together], conditions, together, warm_days * 24.0, tick_h, server, template
                )
                spent[name] += time.process_time() - began
            results[name].append(done[rule, together])
        if KNOWN in names:
            whole = worlds[provider not in PER_SIZE]
            bounds.append((policies.bound(whole, whole.quota), len(whole.view_of)))
    lines = {name: report.summary(results[name]) | {"bench_cpu_s": round(spent[name], 1)} for name in names}
    if bounds:
        lines[KNOWN]["bound"] = float(np.average([b for b, _ in bounds], weights=[n for _, n in bounds]))
    return lines


async def _ruled(
    rule: str,
    world: World,
    conditions: Conditions,
    together: bool,
    warm_h: float,
    tick_h: float,
    server: str,
    template: str,
) -> Result:
    return await Run(world, RULES[rule](world), conditions, warm_h=warm_h, tick_h=tick_h).go()


async def _real(
    rule: str,
    world: World,
    conditions: Conditions,
    together: bool,
    warm_h: float,
    tick_h: float,
    server: str,
    template: str,
) -> Result:
    async with database(server, template) as dsn:
        planner = RealPlanner(world, conditions, dsn)
        await planner.open(coalesced=together)
        try:
            return await Run(world, planner, conditions, warm_h=warm_h, tick_h=tick_h).go()
        finally:
            await planner.close()


async def _through(
    rule: str,
    world: World,
    conditions: Conditions,
    together: bool,
    warm_h: float,
    tick_h: float,
    server: str,
    template: str,
) -> Result:
    async with virtual_database(server) as dsn:
        return await whole_run(world, conditions, dsn, warm_h=warm_h, tick_h=tick_h)
