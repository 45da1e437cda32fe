"""The gate in front of each request (`limiter.Gate`) and the provider's circuit, both in Postgres."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from marketd.errors import NotGranted
from marketd.limiter import Grant
from marketd.store.pool import Database
from marketd.store.sqlfile import queries

Report = Literal["ok", "throttled", "unauthorized", "errors"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitState:
    """The circuit after a report. `changed`: this report moved it."""

    state: str
    until: datetime | None
    changed: bool


class PgGate:
    """Charges one fetch's requests at its priority."""

    def __init__(self, db: Database, provider: str, account: str, priority: int) -> None:
        self._db = db
        self._sql = queries("limits")
        self._provider = provider
        self._account = account
        self._priority = priority
        self._begun = False  #: whether this fetch has sent a request

    async def take(self, endpoint: str, *, meter: str = "calls") -> Grant:
        """Charge one request to all its windows. Raises NotGranted, DatabaseUnavailable."""
        row = await self._db.fetchrow(
            self._sql["take"], self._provider, self._account, self._priority, meter, self._begun
        )
        if row is None or not row["granted"]:
            raise NotGranted(row["reason"] if row else "off", row["until"] if row else None)
        self._begun = self._begun or meter == "calls"
        return Grant(
            granted_at=row["granted_at"],
            delay_s=row["delay_s"],
            valid_s=row["valid_s"],
            receipt=row["receipt"],
        )

    async def give_back(self, grant: Grant) -> None:
        """Return the charge of a request that provably never left. Raises DatabaseUnavailable."""
        await self._db.fetch(self._sql["give_back"], grant.receipt)


class Circuits:
    """Tells Postgres how requests went; it decides for all daemons what that means."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._sql = queries("limits")

    async def report(
        self,
        provider: str,
        account: str,
        kind: Report,
        *,
        retry_after_s: float | None = None,
        day_spent: bool = False,
        detail: str | None = None,
    ) -> CircuitState:
        """Success closes the circuit; trouble counts, and opens it. Raises DatabaseUnavailable."""
        row = await self._db.fetchrow(
            self._sql["report"], provider, account, kind, retry_after_s, day_spent, detail
        )
        if row is None:
            return CircuitState(state="closed", until=None, changed=False)
        return CircuitState(state=row["state"], until=row["until"], changed=row["changed"])

    async def reconcile(self, provider: str, account: str, remaining: int, reset: datetime) -> int | None:
        """Take the provider's word where it leaves less than ours. Returns calls it counted beyond ours."""
        drift: int | None = await self._db.fetchval(
            self._sql["reconcile"], provider, account, remaining, reset
        )
        return drift

    async def record(self, rows: str) -> None:
        """Write call records (a JSON array, see record_requests)."""
        await self._db.fetch(self._sql["record_requests"], rows)
