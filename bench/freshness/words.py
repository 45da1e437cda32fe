"""Names of policies and conditions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from .simulate import Conditions

UNCOALESCED = ", a call per size"
FIFO, PLANNER, KNOWN = "FIFO > 60 min", "the planner", "known rates"
RULED = (FIFO, "oldest first", "views x age", PLANNER)
POLICIES = (*(name + UNCOALESCED for name in RULED), *RULED, KNOWN)
WHOLE = "the planner, through claim, charge and settle"
ORDER = (*POLICIES[:-1], WHOLE, KNOWN)  #: in tables
THROUGH = "whole"  #: the condition in which it is measured
_DAY_SHARE = 16  #: hours' worth of calls in a day's quota, where there is one: so that the day is what limits


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What happens on the last day but one."""

    words: str
    outage: tuple[int, int] | None = None  #: hours of that day
    halved_from: int | None = None
    restart_at: float | None = None
    zone: str | None = None  #: of the provider's day, which then has a quota
    day: datetime | None = None  #: the calendar day in question, at 00:00 UTC
    planner_only: bool = False

    def conditions(self, days: int, quota: int) -> Conditions:
        start = (days - 2) * 24.0
        never = (np.inf, np.inf)
        usual = Conditions()
        return Conditions(
            epoch=usual.epoch if self.day is None else self.day - timedelta(hours=start),
            outage=never if self.outage is None else (start + self.outage[0], start + self.outage[1]),
            halved_from=np.inf if self.halved_from is None else start + self.halved_from,
            restart=never
            if self.restart_at is None
            else (start + self.restart_at, start + self.restart_at + 0.1),
            day_quota=quota * _DAY_SHARE if self.zone else None,
            day_zone=self.zone or "UTC",
        )


CONDITIONS = {
    "": Trouble(words=""),
    THROUGH: Trouble(words="every call by way of the whole queue"),
    "outage": Trouble(words="no provider answers from 10:00 to 16:00 of the last day but one", outage=(10, 16)),
    "halved": Trouble(words="from noon of the last day but one every limit is half of what it was", halved_from=12),
    "restart": Trouble(
        words="on the last day but one the daemon is killed at 12:30, and another begins six minutes later",
        restart_at=12.5,
        planner_only=True,
    ),
    "dst-los-angeles": Trouble(
        words="a day's quota, and a day of 25 hours in Los Angeles",
        zone="America/Los_Angeles", day=datetime(2026, 11, 1, tzinfo=UTC), planner_only=True,
    ),
    "dst-adelaide": Trouble(
        words="a day's quota, and a day of 23 hours in Adelaide (UTC+9:30, then +10:30)",
        zone="Australia/Adelaide", day=datetime(2026, 10, 4, tzinfo=UTC), planner_only=True,
    ),
}  # fmt: skip
