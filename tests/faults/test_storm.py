"""A short storm: two daemons under load, killed while Postgres and network fail; `make soak` is the long form."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from faults.conftest import OwnServer
from soak.storm import Plan, Storm

SEED = int(os.environ.get("MARKETD_SEED", "4"))


class _Here:
    """The own server as a storm wants it; here the loop's thread is the main thread."""

    def __init__(self, own: OwnServer) -> None:
        self.dsn = own.dsn
        self._own = own

    async def restart(self) -> None:
        self._own.restart()

    async def kill(self) -> None:
        self._own.kill()


@pytest.mark.timeout(180)
async def test_a_storm_loses_nothing_repeats_nothing_and_breaks_no_limit(
    own: OwnServer, tmp_path: Path
) -> None:
    plan = Plan(
        seed=SEED,
        jobs=60,
        kills=6,
        restarts=1,
        postmaster_kills=1,
        network_faults=4,
        window_s=10,
        quota=60,
        # Restarting Postgres holds up this process, and what the sandbox in it sees then comes at once.
        per_second=10,
        counts_seconds=False,
        gap_s=(0.1, 0.8),
        back_within_s=15,
        noticed_within_s=25,
    )
    found = await Storm(plan, _Here(own), tmp_path, print).go()
    assert found.wrong == [], f"seed {SEED}\n{found}"
