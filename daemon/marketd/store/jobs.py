"""Transitions of jobs in Postgres; each is one statement of sql/queries/jobs.sql."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any
from uuid import UUID

import asyncpg

from marketd.errors import LeaseLost
from marketd.models import Job, JobId, Listing, Quote, Unit
from marketd.outcome import Failed, Outcome, Priced, Released, Retried, Snoozed
from marketd.store.batching import Batcher
from marketd.store.pool import Database
from marketd.store.sqlfile import queries

_SETTLED_AT_ONCE = 256  #: fetches; longer statements hold their locks for longer and save nothing more
_EXTENDED_AT_ONCE = 1000  #: the most slots that a lane may have
_PROBE_S = 8.0  #: polling and sweeping also find out whether the server is still there, within 15 s of a poll every 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a settle wrote. `skipped` jobs were locked by somebody else; their leases will expire."""

    changed: int
    stored: int  #: prices that were newer than the known ones, changed or not
    again: int
    skipped: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneState:
    """What one poll says of a lane."""

    provider: str
    account: str
    ready: bool
    next_due_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescued:
    job_id: int
    provider: str
    poisoned: bool


@dataclass(frozen=True, slots=True)
class _Fetched:
    """One fetch to be settled."""

    unit: Unit
    outcomes: Sequence[tuple[Job, Outcome]]
    quotes: Sequence[Quote]
    listing: Listing | None


class JobStore:
    """The queue as one daemon sees it."""

    def __init__(self, db: Database, daemon_id: UUID) -> None:
        self._db = db
        self._daemon_id = daemon_id
        self._sql = queries("jobs")
        self._extensions = Batcher(self._extend_batch, at_most=_EXTENDED_AT_ONCE)
        self._settles = Batcher(self._settle_batch, at_most=_SETTLED_AT_ONCE)

    async def claim(self, provider: str, account: str, *, units: int, lease: timedelta) -> list[Unit]:
        """Take up to `units` units, the most urgent first, each under a fresh lease."""
        rows = await self._db.fetch(self._sql["claim"], provider, account, units, self._daemon_id, lease)
        found = [(_unit_head(row), _job(row)) for row in rows]
        found.sort(key=lambda pair: pair[0]["key"])
        units_found = [
            Unit(**head, jobs=tuple(job for _, job in group))
            for head, group in ((first, list(g)) for first, g in groupby(found, key=lambda pair: pair[0]))
        ]
        return sorted(units_found, key=lambda unit: -unit.priority)

    async def extend(self, unit: Unit, *, lease: timedelta) -> None:
        """Keep the lease for another `lease`; together with what others extend meanwhile. Raises LeaseLost."""
        await self._extensions((unit, lease))

    async def _extend_batch(self, batch: Sequence[tuple[Unit, timedelta]]) -> list[Exception | None]:
        units = [unit for unit, _ in batch]
        rows = await self._db.fetch(
            self._sql["extend"],
            [unit.key for unit in units],
            [unit.lease_id for unit in units],
            [lease for _, lease in batch],
        )
        kept = {row["lease_id"] for row in rows}
        return [
            None if unit.lease_id in kept else LeaseLost(f"the lease of {unit.key} was taken over")
            for unit in units
        ]

    async def settle(
        self,
        unit: Unit,
        outcomes: Sequence[tuple[Job, Outcome]],
        quotes: Sequence[Quote] = (),
        listing: Listing | None = None,
    ) -> Settled:
        """Write everything a fetch brought, or (LeaseLost) nothing; together with what others settle meanwhile."""
        return await self._settles(_Fetched(unit, outcomes, quotes, listing))

    async def _settle_batch(self, batch: Sequence[_Fetched]) -> list[Settled | Exception]:
        try:
            return await self._settle_together(batch)
        except asyncpg.PostgresError as error:
            if len(batch) == 1:
                return [error]
        # One of them holds what Postgres refuses; the others shall not suffer for it.
        return [answer for fetched in batch for answer in await self._settle_batch([fetched])]

    async def _settle_together(self, batch: Sequence[_Fetched]) -> list[Settled | Exception]:
        jobs: list[Mapping[str, Any]] = []
        quotes: list[Mapping[str, Any]] = []
        listings: list[Mapping[str, Any]] = []
        for u, fetched in enumerate(batch, 1):
            listing = fetched.listing
            product_id = listing.product.id if listing else None
            jobs += [_outcome_row(u, job, outcome, fetched.quotes) for job, outcome in fetched.outcomes]
            quotes += [_quote_row(u, quote, product_id) for quote in fetched.quotes]
            listings += [_listing_row(u, listing)] if listing else []
        units = [fetched.unit for fetched in batch]
        rows = await self._db.fetch(
            self._sql["settle"],
            [unit.key for unit in units],
            [unit.lease_id for unit in units],
            [unit.provider for unit in units],
            [unit.account for unit in units],
            [unit.sku for unit in units],
            _json(jobs),
            _json(quotes),
            _json(listings),
        )
        return _settled(batch, rows)

    async def poll(self, alive_for: timedelta) -> list[LaneState]:
        """Say that this daemon lives, promote what became due, and tell the lanes' states."""
        rows = await self._poll(alive_for)
        if rows and rows[0]["unfolded"]:
            await self._db.fetch(self._sql["fold"])
            rows = await self._poll(alive_for)  # what was folded in may have made a job due, or urgent
        return [
            LaneState(
                provider=row["provider"],
                account=row["account"],
                ready=row["ready"],
                next_due_s=row["next_due_s"],
            )
            for row in rows
        ]

    async def _poll(self, alive_for: timedelta) -> list[asyncpg.Record]:
        return await self._db.fetch(self._sql["poll"], self._daemon_id, alive_for, patience_s=_PROBE_S)

    async def next_chance_s(self, provider: str, account: str) -> float | None:
        """Seconds until something that waits could be claimed; None when nothing waits."""
        found: float | None = await self._db.fetchval(self._sql["next_chance"], provider, account)
        return found

    async def rescue(self) -> list[Rescued]:
        """Return jobs of dead workers to the queue, or fail what killed too many."""
        rows = await self._db.fetch(self._sql["rescue"], patience_s=_PROBE_S)
        return [
            Rescued(job_id=r["id"], provider=r["provider"], poisoned=r["status"] == "failed") for r in rows
        ]

    async def reopen(self) -> int:
        """Reopen jobs for requests that were committed too late to be served. Returns how many."""
        return len(await self._db.fetch(self._sql["reopen"]))

    async def release_all(self) -> int:
        """Give back whatever this daemon still holds, attempts refunded."""
        return len(await self._db.fetch(self._sql["release_daemon"], self._daemon_id))

    async def finished_between(self, since: datetime, until: datetime) -> tuple[int, int, int]:
        """(finished, done, failed) jobs of that time."""
        row = await self._db.fetchrow(self._sql["finished_since"], since, until)
        return (0, 0, 0) if row is None else (row["selected"], row["succeeded"], row["failed"])


def _unit_head(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "key": row["unit_key"],
        "lease_id": row["lease_id"],
        "claimed_at": row["claimed_at"],
        "provider": row["provider"],
        "account": row["account"],
        "sku": row["sku"],
        "currency": row["currency"],
        "troubled": row["troubled"],
    }


def _job(row: asyncpg.Record) -> Job:
    return Job(
        id=JobId(row["id"]),
        size=row["size"],
        priority=row["priority"],
        attempt=row["attempt"],
        max_attempts=row["max_attempts"],
        rescues=row["rescues"],
        due_at=row["due_at"],
    )


def _settled(batch: Sequence[_Fetched], rows: Sequence[asyncpg.Record]) -> list[Settled | Exception]:
    """What became of each, from the statement's rows."""
    held: set[int] = set()
    changed: dict[str, int] = {}
    stored: dict[str, int] = {}
    fates: dict[int, str] = {}
    for row in rows:
        match row["what"]:
            case "held":
                held.add(row["u"])
            case "job":
                fates[row["n"]] = row["word"]
            case "changed":
                changed[row["word"]] = row["n"]
            case "stored":
                stored[row["word"]] = row["n"]
    answers: list[Settled | Exception] = []
    for u, fetched in enumerate(batch, 1):
        unit = fetched.unit
        if u not in held:
            answers.append(LeaseLost(f"the lease of {unit.key} was taken over; its result is dropped"))
            continue
        words = [fates.get(job.id) for job, _ in fetched.outcomes]
        skipped = tuple(int(job.id) for job, _ in fetched.outcomes if job.id not in fates)
        product = "|".join((unit.provider, unit.account, unit.sku, unit.currency))
        answers.append(
            Settled(
                changed=changed.get(product, 0),
                stored=stored.get(product, 0),
                again=words.count("again"),
                skipped=skipped,
            )
        )
    return answers


def _outcome_row(u: int, job: Job, outcome: Outcome, quotes: Sequence[Quote]) -> Mapping[str, Any]:
    return {"u": u, "id": job.id, **_outcome_fields(outcome, quotes)}


def _outcome_fields(outcome: Outcome, quotes: Sequence[Quote]) -> Mapping[str, Any]:
    match outcome:
        case Priced(size=size, reason=reason):
            # All quotes of one fetch come of requests granted moments apart; the oldest is the honest one.
            observed = [q.observed_at for q in quotes if q.size == size or reason == "all_sizes"]
            return {
                "kind": "priced",
                "outcome": reason,
                "price_size": size,
                "observed_at": min(observed, default=None),
            }
        case Retried(delay=delay, error_code=code, message=message):
            return {
                "kind": "retried",
                "delay_s": delay.total_seconds(),
                "error_code": code,
                "message": message,
            }
        case Snoozed(until=until):
            return {"kind": "snoozed", "until": until}
        case Released():
            return {"kind": "released"}
        case Failed(error_code=code, message=message, cooldown=cooldown):
            return {
                "kind": "failed",
                "error_code": code,
                "message": message,
                "cooldown_s": cooldown.total_seconds(),
            }


def _quote_row(u: int, quote: Quote, product_id: str | None) -> Mapping[str, Any]:
    return {
        "u": u,
        "size": quote.size,
        "currency": quote.currency,
        "lowest_ask": quote.lowest_ask,
        "highest_bid": quote.highest_bid,
        "last_sale": quote.last_sale,
        "last_sale_at": quote.last_sale_at,
        "sales_72h": quote.sales_72h,
        "basis": dict(quote.basis),
        "observed_at": quote.observed_at,
        "product_id": product_id,
        "parser": quote.parser,
    }


def _listing_row(u: int, listing: Listing) -> Mapping[str, Any]:
    product = listing.product
    return {
        "u": u,
        "id": product.id,
        "style_code": product.style_code,
        "name": product.name,
        "brand": product.brand,
        "category": product.category,
        "gender": product.gender,
        "image_url": product.image_url,
        "url": product.url,
        "details": dict(product.details),
        "variants": [
            {"id": v.id, "size": v.size, "chart": dict(v.chart), "gtins": list(v.gtins)}
            for v in listing.variants
        ],
    }


def _json(value: object) -> str:
    text = json.dumps(value, default=_plain)
    if "\\u0000" in text or "\\ud" in text:
        # Legal in a provider's JSON, refused by Postgres: its text must not be able to stop a settle.
        text = json.dumps(_storable(json.loads(text)))
    return text


def _plain(item: object) -> str:
    if isinstance(item, datetime):
        return item.isoformat()
    if isinstance(item, Decimal | UUID):
        return str(item)
    raise TypeError(f"no JSON form for {type(item).__name__}")


def _storable(value: Any) -> Any:
    match value:
        case str():
            return value.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
        case list():
            return [_storable(item) for item in value]
        case dict():
            return {_storable(key): _storable(item) for key, item in value.items()}
        case _:
            return value
