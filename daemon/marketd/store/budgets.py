"""The gate in front of each request (`limiter.Gate`) and the provider's circuit, both in Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from marketd import clock
from marketd.errors import DatabaseError
from marketd.limiter import Grant
from marketd.store import grants
from marketd.store.batching import Batcher
from marketd.store.blocks import Block, Blocks
from marketd.store.pool import Database
from marketd.store.rows import CallRow, text
from marketd.store.server_clock import ServerClock
from marketd.store.sqlfile import queries
from marketd.telemetry import Observer
from marketd.values import value

Report = Literal["ok", "throttled", "unauthorized", "errors"]

_PROBE = ";probe="  #: in the receipt of a request that tries out whether a closed lane works again
_NEAR_S = 0.02  #: a way to the server and back that makes no request miss its moment
_FURTHEST_S = 0.5
_AT_ONCE = 64  #: they hold the account's row for a fraction of a millisecond each


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitState:
    """The circuit after a report. `changed`: this report moved it."""

    state: str
    until: datetime | None
    changed: bool


@value
class _Charge:
    """One request to be charged. `after`: the receipt of its fetch's call before."""

    priority: int
    meter: str
    after: str | None


class Charger:
    """Charges the requests of one provider account.

    Those that are asked for together share a statement; where every limit is far away, calls are charged ahead.
    """

    def __init__(
        self, db: Database, provider: str, account: str, observer: Observer, daemon_id: UUID | None = None
    ) -> None:
        """`daemon_id`: whose requests these are; should it die, its probe is given up."""
        self._db = db
        self._daemon_id = daemon_id
        self._sql = queries("limits")
        self._provider = provider
        self._account = account
        self._observer = observer
        self._takes = Batcher(self._take_batch, at_most=_AT_ONCE, unclaimed=self._unclaimed)
        self._moves = Batcher(self._move_batch, at_most=_AT_ONCE)
        self._blocks = Blocks()
        self._server_clock = ServerClock()
        self._asking_ahead = False
        self._voided = 0
        self._returning: set[asyncio.Task[None]] = set()

    @property
    def ahead(self) -> bool:
        """Whether calls are charged that nobody has yet, or are about to be."""
        return self._asking_ahead or bool(self._blocks.all())

    def gate(self, priority: int) -> PgGate:
        """The gate of one fetch."""
        return PgGate(self, priority)

    async def take(self, charge: _Charge) -> Grant:
        """Charge one request to all its windows. Raises NotGranted, DatabaseUnavailable.

        Waits as long as Postgres says that the wait is worth it, with nothing charged meanwhile.
        """
        if charge.meter == "calls" and (ahead := self._blocks.next(charge.priority, clock.monotonic())):
            return ahead
        while True:
            answer = self._takes(charge)
            try:
                return await answer
            except grants.NotYet as not_yet:
                wait_s = not_yet.wait_s
            except asyncio.CancelledError:
                if not answer.cancelled() and answer.exception() is None:  # it came in the same moment
                    self._unclaimed(answer.result())
                raise
            await asyncio.sleep(wait_s)

    async def move(self, grant: Grant, within_s: float) -> Grant | None:
        """Another moment for a grant that missed its own; nothing is charged for it. None: not within so long.

        Raises NotGranted when the lane was closed meanwhile, and DatabaseUnavailable.
        """
        until = clock.monotonic() + within_s
        while True:
            try:
                return await self._moves(grant)
            except grants.NotYet as not_yet:
                wait_s = not_yet.wait_s
            if clock.monotonic() + wait_s >= until:
                return None
            await asyncio.sleep(wait_s)

    async def give_back(self, grant: Grant) -> None:
        """Return the charge of a request that provably never left. Raises DatabaseUnavailable."""
        await self._db.fetch(self._sql["give_back"], grant.receipt)

    def void_blocks(self) -> None:
        """Nothing that was charged ahead leaves any more: trouble was told, or the limits are others now."""
        self._voided += 1
        for block in self._blocks.all():
            self._give_up(block)

    async def close(self) -> None:
        """Give back what was charged and not used."""
        self.void_blocks()
        if self._returning:
            await asyncio.wait(self._returning)

    async def _take_batch(self, charges: Sequence[_Charge]) -> list[Grant | Exception]:
        ahead = self._blocks.wanted(clock.monotonic())
        if ahead and all(charge.meter == "calls" for charge in charges):
            await self._charge_ahead([charge.priority for charge in charges], ahead)
        now = clock.monotonic()
        answers: list[Grant | Exception | None] = [
            self._blocks.next(charge.priority, now) if charge.meter == "calls" else None for charge in charges
        ]
        alone = iter(
            await self._take_each([c for c, answer in zip(charges, answers, strict=True) if answer is None])
        )
        return [next(alone) if answer is None else answer for answer in answers]

    async def _take_each(self, charges: Sequence[_Charge]) -> list[Grant | Exception]:
        if not charges:
            return []
        # Only the first may get a moment, so it is the most urgent one that asks first.
        turns = sorted(range(len(charges)), key=lambda n: -charges[n].priority)
        asked = clock.monotonic()
        rows = await self._db.fetch(
            self._sql["take"],
            self._provider,
            self._account,
            [charges[n].priority for n in turns],
            [charges[n].meter for n in turns],
            [charges[n].after for n in turns],
            self._daemon_id,
            self._lead_s,
        )
        answers = grants.charged(rows, self._server_clock, asked, clock.monotonic())
        return [answer for _, answer in sorted(zip(turns, answers, strict=True), key=lambda turn: turn[0])]

    async def _move_batch(self, missed: Sequence[Grant]) -> list[Grant | Exception]:
        asked = clock.monotonic()
        rows = await self._db.fetch(
            self._sql["move"],
            self._provider,
            self._account,
            [grant.receipt for grant in missed],
            [grant.granted_at for grant in missed],
            self._lead_s,
        )
        return grants.moved(missed, rows, self._server_clock, asked, clock.monotonic())

    @property
    def _lead_s(self) -> float:
        """So far ahead a moment is asked for, that the answer is here before it: none where the server is near."""
        return min(_FURTHEST_S, max(0.0, self._server_clock.way_s - _NEAR_S))

    async def _charge_ahead(self, waiting: Sequence[int], ahead: int) -> None:
        """Take a block for those priorities that wait, and `ahead` calls more."""
        voided, asked = self._voided, clock.monotonic()
        lowest, highest = min(waiting), max(waiting)
        self._asking_ahead = True
        try:
            row = await self._db.fetchrow(
                self._sql["take_block"], self._provider, self._account, lowest, highest, len(waiting) + ahead
            )
        finally:
            self._asking_ahead = False
        now = clock.monotonic()
        if row is None or not row["calls"]:
            self._blocks.refused(now)
            return
        block = grants.block(row, asked, now)
        self._blocks.hold(block)
        if voided != self._voided:  # it was charged before
            self._give_up(block)
            return
        asyncio.get_running_loop().call_at(
            asyncio.get_running_loop().time() + max(0.0, block.void_at - now), self._give_up, block
        )

    def _give_up(self, block: Block) -> None:
        if unused := self._blocks.give_up(block):
            self._return("give_back_block", block.receipt, unused)

    def _unclaimed(self, grant: Grant) -> None:
        """Its fetch was cut off (a stop, a lost lease) while it was charged."""
        self._return("give_back", grant.receipt)

    def _return(self, statement: str, *what: object) -> None:
        task = asyncio.get_running_loop().create_task(self._returned(statement, *what))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _returned(self, statement: str, *what: object) -> None:
        try:
            await self._db.fetch(self._sql[statement], *what)
        except DatabaseError as error:
            # They stay charged, which breaks no limit.
            self._observer.event("give_back_failed", provider=self._provider, error=str(error))


class PgGate:
    """Charges one fetch's requests at its priority."""

    def __init__(self, charger: Charger, priority: int) -> None:
        self._charger = charger
        self._priority = priority
        self.latest: str | None = (
            None  #: receipt of this fetch's latest call, or of the token that was the probe
        )

    async def take(self, endpoint: str, *, meter: str = "calls") -> Grant:
        """Charge one request to all its windows. Raises NotGranted, DatabaseUnavailable."""
        grant = await self._charger.take(_Charge(priority=self._priority, meter=meter, after=self.latest))
        if meter == "calls" or _PROBE in grant.receipt:
            self.latest = grant.receipt
        return grant

    @property
    def is_probe(self) -> bool:
        """Whether this fetch tries out if a closed lane works again."""
        return self.latest is not None and _PROBE in self.latest

    async def move(self, grant: Grant, within_s: float) -> Grant | None:
        """Another moment for a grant that missed its own; see `Charger.move`."""
        return await self._charger.move(grant, within_s)

    async def give_back(self, grant: Grant) -> None:
        """Return the charge of a request that provably never left. Raises DatabaseUnavailable."""
        await self._charger.give_back(grant)

    def trouble(self) -> None:
        """Nothing that was granted ahead leaves any more."""
        self._charger.void_blocks()


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
        receipt: str | None = None,
    ) -> CircuitState:
        """Trouble counts, and opens the circuit; success of the probe closes it. Raises DatabaseUnavailable.

        `receipt`: of the fetch's latest call, which tells the probe from what left before the trouble.
        """
        row = await self._db.fetchrow(
            self._sql["report"], provider, account, kind, retry_after_s, day_spent, text(detail), receipt
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

    async def record(self, rows: Sequence[CallRow]) -> None:
        """Write call records."""
        await self._db.fetch(self._sql["record_requests"], *zip(*rows, strict=True))
