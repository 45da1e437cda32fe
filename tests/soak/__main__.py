"""`python -m soak storm | endurance [--seed N]`: runs it, prints its figures, exits 1 when one is wrong."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from soak.endurance import Endurance
from soak.figures import Figures
from soak.place import OwnServer, with_server
from soak.storm import Plan, Storm


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


async def _storm(arguments: argparse.Namespace, server: OwnServer, folder: Path) -> Figures:
    share = arguments.share
    plan = Plan(
        seed=arguments.seed,
        jobs=round(2000 * share),
        kills=round(200 * share),
        restarts=round(20 * share),
        postmaster_kills=round(5 * share),
        network_faults=round(50 * share),
    )
    return await Storm(plan, server, folder, _say).go()


async def _endurance(arguments: argparse.Namespace, server: OwnServer, folder: Path) -> Figures:
    return await Endurance(arguments.seed, arguments.minutes, server, folder, _say).go()


RUNS = {"storm": _storm, "endurance": _endurance}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m soak")
    parser.add_argument("run", choices=sorted(RUNS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of the whole storm, to try it out")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long the endurance run lasts")
    arguments = parser.parse_args()
    found = with_server(lambda server, folder: RUNS[arguments.run](arguments, server, folder))
    print(f"\n{arguments.run}, seed {arguments.seed}\n{found}", flush=True)
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
