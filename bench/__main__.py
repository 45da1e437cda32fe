"""`python -m bench [scenario ...]`: runs the scenarios in interleaved rounds and prints one table."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import time
from collections.abc import Awaitable, Callable
from functools import partial

from bench import place, report, scenarios
from bench.scenarios import Bench

ALL = ("a", "b", "c", "d", "e", "f", "i")
QUEUES = ("floor", "pgqueuer_", "ours", "procrastinate_")


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenario", nargs="*", default=ALL, help=f"some of {' '.join(ALL)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=9.8, help="no round begins that would end later")
    parser.add_argument("--others", type=int, default=scenarios.OTHERS, help="jobs that wait in c")
    parser.add_argument("--idle-seconds", type=float, default=60)
    parser.add_argument(
        "--quick", action="store_true", help="one round, few others, a short idle: does it run?"
    )
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.others, options.idle_seconds = 1, 20_000, 5
    began = time.monotonic()
    with place.postgres() as at:
        bench = Bench(at, options.others)
        rounds = asyncio.run(run(bench, options))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {rounds} rounds, "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip
    print(report.table(bench))


async def run(bench: Bench, options: argparse.Namespace) -> int:
    """As many rounds as were asked for and fit; within one the contenders follow one another. Returns how many."""
    wanted = set(options.scenario)
    ends = time.monotonic() + 60 * options.minutes - ("f" in wanted) * (options.idle_seconds + 15)
    await scenarios.prepare(bench.at, wanted, QUEUES, options.others)
    took_s, done = 0.0, 0
    for number in range(options.rounds):
        began = time.monotonic()
        if began + took_s > ends:
            break
        print(f"round {number + 1} of {options.rounds}", flush=True)
        await _round(bench, wanted, options.others)
        took_s, done = time.monotonic() - began, number + 1
    if "f" in wanted:
        names = [name for name in QUEUES if name != "floor"]
        for name, sample in (await scenarios.idle(bench.at, names, options.idle_seconds)).items():
            for figure, value in sample.items():
                bench.samples.setdefault(("f", name, figure), []).append(value)
    return done


async def _round(bench: Bench, wanted: set[str], others: int) -> None:
    """One sample of every wanted scenario and contender, in a fixed order, so that rounds interleave."""
    for scenario, contender, take in _samples(bench.at, others):
        if scenario[0] in wanted:
            await bench.take(scenario, contender, take)


def _samples(
    at: place.Place, others: int
) -> list[tuple[str, str, Callable[[], Awaitable[scenarios.Sample]]]]:
    queues: dict[str, Callable[..., Awaitable[scenarios.Sample]]] = {
        "a": scenarios.enqueue,
        "b": scenarios.drain,
        "c": partial(scenarios.drain, others=others),
        "e": scenarios.wake,
    }
    found = [
        (key, name, partial(run_one, at, name))
        for key, run_one in queues.items()
        for name in QUEUES
        if (key, name) != ("c", "procrastinate_")  # a minute to fill, to tell what b tells already
    ]
    found.append(("a_rows", "floor", partial(scenarios.enqueue, at, "same_rows", into="ours")))
    found.append(("b10", "ours", partial(scenarios.drain, at, "ours", sizes=10)))
    for key, sizes in (("b_rows", 1), ("b10_rows", 10)):
        found.append((key, "floor", partial(scenarios.drain, at, "same_rows", of="ours", sizes=sizes)))
    found.append(("d", "pgqueuer_", partial(scenarios.fetch, at, "pgqueuer_")))
    for name in ("floor", "ours"):
        found.append(("d", name, partial(scenarios.fetch, at, name)))
        found.append(("d20", name, partial(scenarios.fetch, at, name, delay_s=0.02)))
    found.append(("d10", "ours", partial(scenarios.fetch, at, "ours", sizes=10)))
    found += [("i", str(n), partial(scenarios.many_daemons, at, n)) for n in (1, 2, 4)]
    return found


if __name__ == "__main__":
    main()
