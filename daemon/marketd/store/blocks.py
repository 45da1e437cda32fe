"""Calls that were charged ahead: how many to ask for, and who may have which. No I/O here.

A block exists only where every limit is far away (sql/migrations/0008_blocks.sql). It lives for a twentieth of a
second; what nobody asked for by then is given back.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from marketd.limiter import Grant, slack_s

_LOOK_BACK_S = 0.1  #: demand is what was asked for in so long
_AHEAD_S = 0.04  #: a block is for so long; it is void a little later
#: Handed out late and leaving late, a call may be a tenth of a second behind its turn together.
_SLACK_S = 0.025
_FEWEST = 8  #: below that many the charges one by one cost little
_REFUSED_S = 1.0  #: a limit that is near stays so for a while


@dataclass(slots=True, kw_only=True)
class Block:
    """Charged calls of one urgency. Times of this machine are monotonic."""

    calls: int
    urgent: bool
    wake_priority: int
    granted_at: datetime  #: database time of the first
    step_s: float
    due: float  #: local time at which the first may leave
    void_at: float  #: local time at which nobody gets one any more
    valid_until: float  #: and at which none leaves any more
    receipt: str
    cost_window: datetime
    used: int = 0

    @property
    def left(self) -> int:
        return self.calls - self.used

    def serves(self, priority: int) -> bool:
        return (priority >= self.wake_priority) == self.urgent

    def next(self, now: float) -> Grant:
        """The next of its calls. It is granted at its turn, or now if that is past."""
        after_s = max(self.used * self.step_s, now - self.due)
        self.used += 1
        return Grant(
            granted_at=self.granted_at + timedelta(seconds=after_s),
            leave_at=self.due + after_s,
            until=self.valid_until,
            slack_s=slack_s(self.step_s, usual_s=_SLACK_S),
            receipt=self.receipt,
            cost_window=self.cost_window,
        )


class Blocks:
    """The blocks of one account, and what its fetches have asked for lately."""

    def __init__(self) -> None:
        self._held: list[Block] = []
        self._since = 0.0
        self._asked = 0
        self._asked_before = 0
        self._refused_at = float("-inf")

    def next(self, priority: int, now: float) -> Grant | None:
        """A call for this priority, None when it has to be charged."""
        self._count(now)
        for block in self._held:
            if block.left and now < block.void_at and block.serves(priority):
                return block.next(now)
        return None

    def wanted(self, now: float) -> int:
        """How many calls to charge ahead, 0: none, demand is low or a limit was near a moment ago."""
        if now - self._refused_at < _REFUSED_S:
            return 0
        lately = max(self._asked, self._asked_before) if now - self._since < 2 * _LOOK_BACK_S else 0
        ahead = round(lately * _AHEAD_S / _LOOK_BACK_S)
        return ahead if ahead >= _FEWEST else 0

    def refused(self, now: float) -> None:
        """No block was to be had."""
        self._refused_at = now

    def hold(self, block: Block) -> None:
        self._held.append(block)

    def give_up(self, block: Block) -> int:
        """How many of its calls nobody had; nobody gets them any more."""
        if block not in self._held:
            return 0
        self._held.remove(block)
        return block.left

    def all(self) -> list[Block]:
        return list(self._held)

    def _count(self, now: float) -> None:
        if now - self._since >= _LOOK_BACK_S:
            recent = now - self._since < 2 * _LOOK_BACK_S
            self._since, self._asked, self._asked_before = now, 0, self._asked if recent else 0
        self._asked += 1
