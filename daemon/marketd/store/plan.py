"""The planner's pass in Postgres: one statement per account, at the scheduler's interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from marketd.errors import DatabaseError
from marketd.store.pool import Database, Statement
from marketd.store.sqlfile import queries

_HOUR = timedelta(hours=1)
_FOLDS = 50  #: statements a pass, of 20,000 signals each; what is over waits for the next pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Dials:
    """The row of market_planner; what each does is told in config.yaml."""

    enabled: bool
    kappa: float
    lane: float
    memory: timedelta
    size_weight: float
    prior_a: float
    prior_b: timedelta
    evidence_cap: float
    slowest: timedelta

    def row(self) -> tuple[bool | float, ...]:
        return (
            self.enabled, self.kappa, self.lane, self.memory / _HOUR, self.size_weight, self.prior_a,
            self.prior_b / _HOUR, self.evidence_cap, self.slowest / _HOUR,
        )  # fmt: skip


class PlanStore:
    """Folds what apps told, and opens background jobs for the calls of the next interval."""

    def __init__(
        self, db: Database, interval: Callable[[], timedelta], turned: Callable[[], None] = lambda: None
    ) -> None:
        """`interval`: the present distance between two passes; `turned` is called after each statement of `plan`."""
        self._db = db
        self._interval = interval
        self._turned = turned
        self._sql = queries("plan")

    def dials_written(self, dials: Dials) -> Statement:
        """What writes the dials, for the transaction of a reload; a pass under way keeps those it began with."""
        return self._sql["put_dials"], dials.row()

    async def plan(self) -> None:
        """One pass over all accounts. Raises DatabaseError for those that failed; what was planned stays.

        Two daemons cannot plan the same account at once: each account's statement takes an advisory lock, or nothing.
        """
        failed = []
        try:
            await self._fold()
        except DatabaseError as error:
            failed.append(f"what apps told: {error}")
        for provider, account in await self._db.fetch(self._sql["accounts"]):
            try:
                await self._db.fetch(self._sql["plan"], provider, account, self._interval().total_seconds())
            except DatabaseError as error:
                failed.append(f"{provider}/{account}: {error}")
            self._turned()
        if failed:
            raise DatabaseError("; ".join(failed))

    async def _fold(self) -> None:
        for _ in range(_FOLDS):
            [row] = await self._db.fetch(self._sql["fold"])
            self._turned()
            if row["more"] is False:
                return
