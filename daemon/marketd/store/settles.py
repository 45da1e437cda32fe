"""Settling in bulk: fetches that end together share one statement, and none suffers for another's fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from marketd.errors import LeaseLost
from marketd.models import Job, Listing, Quote, Unit
from marketd.outcome import Outcome
from marketd.store.batching import Batcher
from marketd.store.pool import Database
from marketd.store.rows import json_text, listing_row, outcome_row, quote_row
from marketd.store.sqlfile import queries

_AT_ONCE = 256  #: fetches; longer statements hold their locks for longer and save nothing more


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a settle wrote. `skipped` jobs were locked by somebody else; their leases will expire."""

    changed: int
    stored: int  #: prices that were newer than the known ones, changed or not
    again: int
    skipped: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fetched:
    """One fetch to be settled."""

    unit: Unit
    outcomes: Sequence[tuple[Job, Outcome]]
    quotes: Sequence[Quote]
    listing: Listing | None


class Settles:
    """Writes what fetches brought, those together that end together."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._sql = queries("jobs")["settle"]
        self._batches = Batcher(self._each, at_most=_AT_ONCE)

    async def __call__(self, fetched: Fetched) -> Settled:
        """Raises LeaseLost, DatabaseUnavailable; or what Postgres has against this fetch."""
        return await self._batches(fetched)

    async def _each(self, batch: Sequence[Fetched]) -> list[Settled | Exception]:
        try:
            return await self._together(batch)
        except asyncpg.PostgresError as error:
            if len(batch) == 1:
                return [error]
        # One of them holds what Postgres refuses; the others shall not suffer for it.
        return [answer for fetched in batch for answer in await self._each([fetched])]

    async def _together(self, batch: Sequence[Fetched]) -> list[Settled | Exception]:
        jobs: list[Mapping[str, Any]] = []
        quotes: list[Mapping[str, Any]] = []
        listings: list[Mapping[str, Any]] = []
        for u, fetched in enumerate(batch, 1):
            listing = fetched.listing
            product_id = listing.product.id if listing else None
            jobs += [outcome_row(u, job, outcome, fetched.quotes) for job, outcome in fetched.outcomes]
            quotes += [quote_row(u, quote, product_id) for quote in fetched.quotes]
            listings += [listing_row(u, listing)] if listing else []
        units = [fetched.unit for fetched in batch]
        rows = await self._db.fetch(
            self._sql,
            [unit.key for unit in units],
            [unit.lease_id for unit in units],
            [unit.provider for unit in units],
            [unit.account for unit in units],
            [unit.sku for unit in units],
            json_text(jobs),
            json_text(quotes),
            json_text(listings),
        )
        return _settled(batch, rows)


def _settled(batch: Sequence[Fetched], rows: Sequence[asyncpg.Record]) -> list[Settled | Exception]:
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
