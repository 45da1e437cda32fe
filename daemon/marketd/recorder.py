"""Writes the call record in bulk, off the hot path."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from marketd.errors import DatabaseUnavailable, StatementRefused
from marketd.store.budgets import Circuits
from marketd.store.rows import CallRow, call_row
from marketd.telemetry import FetchReport, Observer, RequestReport, waste_of

_FLUSH_EVERY_S = 2.0
_REFUSED_FOR_S = 30.0  #: before another try where Postgres will not have any
_KEEP_AT_MOST = 10_000  #: while Postgres is away; older records go first


class Recorder:
    """An observer that remembers requests until they are written."""

    def __init__(self, circuits: Circuits) -> None:
        self._circuits = circuits
        self._rows: list[CallRow] = []
        self._some = asyncio.Event()
        self._every_s = _FLUSH_EVERY_S
        self.observer: Observer | None = None  #: set after construction, since it observes too

    def request_done(self, report: RequestReport) -> None:
        if not report.of_fetch:
            self._remember(report, None, None)

    def fetches_done(self, reports: Sequence[FetchReport]) -> None:
        """Only now can be told what their calls were good for."""
        for report in reports:
            for call in report.calls:
                reason = waste_of(call, report)
                self._remember(call, None if call.given_back else reason is None, reason)

    def _remember(self, call: RequestReport, useful: bool | None, reason: str | None) -> None:
        self._rows.append(call_row(call, useful, reason))
        self._some.set()

    def event(self, name: str, **fields: object) -> None:
        """Nothing: events are for logs."""

    async def run(self) -> None:
        """Write what came in, every two seconds in which something did; until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(self._every_s)
            await self.flush()

    async def flush(self) -> None:
        """Write all that is remembered. When Postgres is away, or a stop cuts this off, it stays remembered."""
        self._some.clear()
        if not (rows := self._rows.copy()):
            return
        self._every_s = _FLUSH_EVERY_S
        try:
            await self._write(rows)
        except DatabaseUnavailable as error:
            if isinstance(error, StatementRefused):
                self._every_s = _REFUSED_FOR_S
                self._tell(error)
            del self._rows[:-_KEEP_AT_MOST]
            self._some.set()
        else:
            del self._rows[: len(rows)]

    async def _write(self, rows: Sequence[CallRow]) -> None:
        """All but those that Postgres refuses for what is in them."""
        try:
            await self._circuits.record(rows)
        except StatementRefused as error:
            if isinstance(error, DatabaseUnavailable):
                raise
            if len(rows) == 1:
                self._tell(error)
                return
            middle = len(rows) // 2
            await self._write(rows[:middle])
            await self._write(rows[middle:])

    def _tell(self, error: StatementRefused) -> None:
        if self.observer is not None:
            self.observer.event("database_refuses", error=str(error), part="call record")
