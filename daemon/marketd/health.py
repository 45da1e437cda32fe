"""Is the daemon getting anywhere? The answer feeds /readyz and systemd's watchdog."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta

from marketd import clock, systemd
from marketd.lane import Lane
from marketd.scheduler import Poller, Scheduler
from marketd.store.listener import Listener

_STUCK_S = 120.0  #: a loop that did not come round for so long is stuck, whatever it waits for
_STATEMENTS = 4  #: that a loop may wait for before it comes round: for two, and for a connection to each
_DATABASE_S = 10.0


class Health:
    """Looks at the loops' own marks of progress; asks nobody."""

    def __init__(
        self,
        lanes: Mapping[tuple[str, str], Lane],
        poller: Poller,
        scheduler: Scheduler,
        listener: Listener,
        statement_timeout: timedelta,
    ) -> None:
        """`statement_timeout`: no loop waits longer for one statement."""
        self._lanes = lanes
        self._poller = poller
        self._scheduler = scheduler
        self._listener = listener
        self._stuck_s = max(_STUCK_S, _STATEMENTS * statement_timeout.total_seconds() + _DATABASE_S)
        self.draining = False

    def reasons(self) -> list[str]:
        """Why no new work would be done now; empty: ready."""
        found = self.stuck()
        if self.draining:
            found.append("draining: a stop was asked for")
        refused = {
            f"lane {provider}/{account}": lane.refused for (provider, account), lane in self._lanes.items()
        }
        for name, why in {**refused, "the poller": self._poller.refused}.items():
            if why is not None:
                found.append(f"Postgres refuses what {name} asks: {why}")
        polled = self._poller.last_poll
        patience_s = _DATABASE_S + 2 * self._poller.timing.poll.total_seconds()
        if polled is None:
            found.append("the database has not answered yet")
        elif clock.monotonic() - polled > patience_s:
            found.append(f"the database has not answered for {clock.monotonic() - polled:.0f} s")
        return found

    def stuck(self) -> list[str]:
        """Loops that do not come round any more; a database that is away does not count, they wait for it."""
        now = clock.monotonic()
        poll_s = self._poller.timing.poll.total_seconds()
        marks = {
            f"lane {provider}/{account}": (lane.last_turn, self._stuck_s)
            for (provider, account), lane in self._lanes.items()
            if not lane.busy
        }
        marks["poller"] = (self._poller.last_turn, self._stuck_s + 2 * poll_s)
        marks["scheduler"] = (self._scheduler.last_turn, self._stuck_s)
        if self._listener.connected and self._listener.last_echo is not None:
            marks["listener"] = (self._listener.last_echo, _STUCK_S)
        return [
            f"{name} has not come round for {now - at:.0f} s"
            for name, (at, allowed) in marks.items()
            if now - at > allowed and not self.draining
        ]

    async def feed_watchdog(self) -> None:
        """Tell systemd that we live, as long as we do; until cancelled."""
        interval_s = systemd.watchdog_interval_s()
        while interval_s is not None:
            if not self.stuck():
                systemd.alive()
            await asyncio.sleep(interval_s)
