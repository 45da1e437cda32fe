"""The gate in front of every provider request: a grant says when it may leave and until when.

The gate itself is shared state in Postgres (`store.budgets`); this is only its shape.
"""

from __future__ import annotations

from datetime import datetime
from math import inf
from typing import Protocol

from marketd.values import value


@value
class Grant:
    """Permission for one HTTP request, already charged to the budget windows of its send time.

    It leaves at `leave_at` or `slack_s` later at most, and never after `until` (this machine's monotonic seconds).
    """

    granted_at: (
        datetime  #: database time at which the request may leave; prices it brings are `observed_at` this
    )
    leave_at: float  #: `granted_at` on this machine's clock
    until: float  #: past that the grant must be given back and taken anew
    receipt: str  #: opaque; names the charged windows for `give_back`
    slack_s: float = 0.0  #: so much later than its moment it may leave all the same
    cost_window: datetime | None = None  #: start of the shortest window that was charged


#: At 20,000 a second the 64 connections of each of a dozen processes are less than what the spacing leaves over.
_ANY_MOMENT_STEP_S = 5e-5


def slack_s(step_s: float, usual_s: float) -> float:
    """How much later than its moment a request may leave, where moments are `step_s` apart."""
    return usual_s if step_s > _ANY_MOMENT_STEP_S else inf


class Gate(Protocol):
    """Charges requests before they leave. `meter` is `calls`, or `mints` for token endpoints with a meter."""

    async def take(self, endpoint: str, *, meter: str = "calls") -> Grant:
        """Charge one request, perhaps after a short wait. Raises `NotGranted` when it may not leave soon."""
        ...

    async def move(self, grant: Grant, within_s: float) -> Grant | None:
        """Another moment for a granted request that missed its own.

        None when there is none within so many seconds. Raises `NotGranted` when it may not leave any more.
        """
        ...

    async def give_back(self, grant: Grant) -> None:
        """Return the charge of a request that provably never reached the wire."""
        ...

    def trouble(self) -> None:
        """An answer told of trouble: nothing that was granted ahead leaves, until Postgres was asked again."""
        ...
