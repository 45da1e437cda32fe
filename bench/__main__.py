"""`python -m bench [scenario ...]`: runs the scenarios in interleaved rounds and prints one table."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import time

from bench import place, report, scenarios
from bench.scenarios import Bench

ALL = ("a", "b", "c", "d", "e", "f", "i")
QUEUES = ("floor", "pgqueuer_", "ours", "procrastinate_")


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenario", nargs="*", default=ALL, help=f"some of {' '.join(ALL)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--others", type=int, default=scenarios.OTHERS, help="jobs that wait in c")
    parser.add_argument("--idle-seconds", type=float, default=60)
    parser.add_argument("--quick", action="store_true", help="one round, few others, a short idle: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.others, options.idle_seconds = 1, 20_000, 5
    began = time.monotonic()
    with place.postgres() as at:
        bench = Bench(at)
        asyncio.run(run(bench, options))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {options.rounds} rounds, "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip
    print(report.table(bench))


async def run(bench: Bench, options: argparse.Namespace) -> None:
    """All rounds of each scenario; within a round the contenders follow one another."""
    wanted = set(options.scenario)
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", flush=True)
        await _round(bench, wanted, options.others)
    if "f" in wanted:
        names = [name for name in QUEUES if name != "floor"]
        for name, sample in (await scenarios.idle(bench.at, names, options.idle_seconds)).items():
            for figure, value in sample.items():
                bench.samples.setdefault(("f", name, figure), []).append(value)


async def _round(bench: Bench, wanted: set[str], others: int) -> None:
    at = bench.at
    if "a" in wanted:
        for name in QUEUES:
            await bench.take("a", name, lambda name=name: scenarios.enqueue(at, name))  # type: ignore[misc]
    if "b" in wanted:
        for name in QUEUES:
            await bench.take("b", name, lambda name=name: scenarios.drain(at, name))  # type: ignore[misc]
        await bench.take("b10", "ours", lambda: scenarios.drain(at, "ours", sizes=10))
    if "c" in wanted:
        for name in QUEUES:
            await bench.take("c", name, lambda name=name: scenarios.drain(at, name, others=others))  # type: ignore[misc]
    if "d" in wanted:
        for name in ("floor", "ours"):
            await bench.take("d", name, lambda name=name: scenarios.fetch(at, name))  # type: ignore[misc]
            await bench.take("d20", name, lambda name=name: scenarios.fetch(at, name, delay_s=0.02))  # type: ignore[misc]
        await bench.take("d10", "ours", lambda: scenarios.fetch(at, "ours", sizes=10))
    if "e" in wanted:
        for name in QUEUES:
            await bench.take("e", name, lambda name=name: scenarios.wake(at, name))  # type: ignore[misc]
    if "i" in wanted:
        for daemons in (1, 2, 4):
            await bench.take("i", str(daemons), lambda n=daemons: scenarios.many_daemons(at, n))  # type: ignore[misc]


if __name__ == "__main__":
    main()
