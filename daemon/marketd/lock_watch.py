"""Tells operators whose open transaction keeps the daemon's statements waiting."""

from __future__ import annotations

import asyncio

from marketd.errors import DatabaseError
from marketd.store.pool import Database
from marketd.store.sqlfile import queries
from marketd.telemetry import Observer

_LONG_S = 2.0  #: a statement that takes longer may be waiting for a lock
_QUIET_S = 60.0  #: after having told


class LockWatch:
    """Looks only while a statement takes long, so that an idle daemon asks nothing."""

    def __init__(self, db: Database, observer: Observer) -> None:
        self._db = db
        self._observer = observer
        self._sql = queries("runs")["lock_holders"]

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            told = self._db.longest_s() >= _LONG_S and await self._look()
            await asyncio.sleep(_QUIET_S if told else _LONG_S / 2)

    async def _look(self) -> bool:
        try:
            rows = await self._db.fetch(self._sql)
        except DatabaseError:
            return False  # whoever waits tells of that
        for row in rows:
            self._observer.event("lock_held", **dict(row))
        return bool(rows)
