"""One policy through one seed's world, under given conditions; all three providers together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from . import policies, report
from .real import RealPlanner
from .server import database
from .simulate import Result, Run
from .words import CONDITIONS, FIFO, KNOWN, UNCOALESCED
from .world import Shape, World, make

QUOTAS = {"stockx": 100, "alias": 200, "ebay": 150}
PER_SIZE = {"ebay"}  #: each size costs a call
RULES: dict[str, Callable[[World], policies.Policy]] = {
    FIFO: policies.Fifo,
    "oldest first": policies.Oldest,
    "views x age": policies.ViewsTimesAge,
    KNOWN: policies.Known,
}


async def measure(
    policy: str, shape: Shape, condition: str, warm_days: int, tick_h: float, server: str
) -> dict[str, Any]:
    """The figures of one line of the results file."""
    coalesced = not policy.endswith(UNCOALESCED)
    rule = RULES.get(policy.removesuffix(UNCOALESCED))
    results: list[Result] = []
    bounds: list[tuple[float, int]] = []
    began = time.process_time()
    for provider, quota in QUOTAS.items():
        together = coalesced and provider not in PER_SIZE
        world = make(shape, provider, quota, coalesced=together)
        conditions = CONDITIONS[condition].conditions(shape.days, quota)
        timing = {"warm_h": warm_days * 24.0, "tick_h": tick_h}
        if rule is None:
            async with database(server) as dsn:
                planner = RealPlanner(world, conditions, dsn)
                await planner.open(coalesced=together)
                try:
                    results.append(await Run(world, planner, conditions, **timing).go())
                finally:
                    await planner.close()
        else:
            results.append(await Run(world, rule(world), conditions, **timing).go())
        if policy == KNOWN:
            bounds.append((policies.bound(world, world.quota), len(world.view_of)))
    figures = report.summary(results)
    if bounds:
        figures["bound"] = float(np.average([b for b, _ in bounds], weights=[n for _, n in bounds]))
    return figures | {
        "run_days": shape.days,
        "warm_days": warm_days,
        "bench_cpu_s": round(time.process_time() - began, 1),
    }
