"""Settling in bulk: fetches that end together share one statement, and none suffers for another's fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from typing import Any, get_args

import asyncpg

from marketd.errors import DatabaseUnavailable, LeaseLost, StatementRefused
from marketd.models import Job, Listing, Quote, Unit
from marketd.outcome import Outcome
from marketd.store.batching import Batcher
from marketd.store.pool import Database
from marketd.store.rows import OutcomeRow, QuoteRow, column, json_text, listing_row, outcome_row, quote_row
from marketd.store.sqlfile import queries
from marketd.values import value

_AT_MOST = 512  #: jobs; longer statements hold their locks for longer
_AT_ONCE = 2  #: statements; a processor of the server's each, where there is that much to write
_JOB_COLUMNS, _QUOTE_COLUMNS = len(get_args(OutcomeRow)), len(get_args(QuoteRow))


@value
class Settled:
    """What a settle wrote. `skipped` jobs were locked by somebody else: `rescue` takes them up, without fault."""

    changed: int
    stored: int  #: prices that were newer than the known ones, changed or not
    skipped: tuple[int, ...]


@value
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
        self._batches = Batcher(
            self._each, at_most=_AT_MOST, at_once=_AT_ONCE, weight=lambda fetched: len(fetched.outcomes)
        )
        self._singly = Batcher(self._each, at_most=1)

    def __call__(self, fetched: Fetched, *, alone: bool = False) -> Awaitable[Settled]:
        """Raises LeaseLost, DatabaseUnavailable; or what stands against writing this fetch.

        `alone`, and one after the other: what may meet a lock, for which others shall not wait.
        """
        return (self._singly if alone else self._batches)(fetched)

    async def cut_off(self) -> None:
        """Let go of what is held by settles that nobody waits for any more."""
        await self._batches.cut_off()
        await self._singly.cut_off()

    async def _each(self, batch: Sequence[Fetched]) -> list[Settled | Exception]:
        try:
            return await self._together(batch)
        except Exception as error:
            if isinstance(error, DatabaseUnavailable) and not isinstance(error, StatementRefused):
                raise
            if len(batch) == 1:
                return [error]
        # One of them holds what Postgres refuses, or what has no form there; the others shall not suffer for it.
        return [answer for fetched in batch for answer in await self._each([fetched])]

    async def _together(self, batch: Sequence[Fetched]) -> list[Settled | Exception]:
        quotes = [_newest(fetched.quotes) for fetched in batch]
        if _any_twice(batch, quotes):
            # One statement writes a row once: what two fetches brought is written by two.
            return [answer for fetched in batch for answer in await self._each([fetched])]
        jobs: list[OutcomeRow] = []
        prices: list[QuoteRow] = []
        listings: list[Mapping[str, Any]] = []
        for u, (fetched, found) in enumerate(zip(batch, quotes, strict=True), 1):
            listing = fetched.listing
            product_id = listing.product.id if listing else None
            observed = _observed(fetched.quotes)
            for job, outcome in fetched.outcomes:
                jobs.append(outcome_row(u, job, outcome, observed))
            for quote in found:
                prices.append(quote_row(u, quote, product_id))
            if listing:
                listings.append(listing_row(u, listing))
        units = [fetched.unit for fetched in batch]
        [row] = await self._db.fetch(
            self._sql,
            [unit.key for unit in units],
            [unit.lease_id for unit in units],
            [unit.provider for unit in units],
            [unit.account for unit in units],
            [unit.sku for unit in units],
            *_columns(jobs, _JOB_COLUMNS),
            *_columns(prices, _QUOTE_COLUMNS),
            json_text(listings),
        )
        return _settled(batch, row)


def _columns(rows: Sequence[Sequence[Any]], count: int) -> list[str | Sequence[float | None] | None]:
    return [column(values) for values in zip(*rows, strict=True)] if rows else [None] * count


def _newest(quotes: Sequence[Quote]) -> Sequence[Quote]:
    """One quote for each price, whatever the provider repeats."""
    if len(quotes) < 2:
        return quotes
    ordered = sorted(quotes, key=lambda quote: quote.observed_at)
    return list({(quote.size, quote.currency): quote for quote in ordered}.values())


def _observed(quotes: Sequence[Quote]) -> Mapping[str | None, datetime]:
    """When each size was; the earliest, where it is told twice."""
    observed: dict[str | None, datetime] = {}
    for quote in quotes:
        seen = quote.observed_at
        observed[quote.size] = min(seen, observed.get(quote.size, seen))
    return observed


def _any_twice(batch: Sequence[Fetched], quotes: Sequence[Sequence[Quote]]) -> bool:
    """Whether two fetches brought the same price (as those of two sizes of an eBay item may)."""
    products = {(fetched.unit.provider, fetched.unit.account, fetched.unit.sku) for fetched in batch}
    if len(products) == len(batch):
        return False
    keys = [
        (fetched.unit.provider, fetched.unit.account, fetched.unit.sku, quote.size, quote.currency)
        for fetched, found in zip(batch, quotes, strict=True)
        for quote in found
    ]
    return len(set(keys)) < len(keys)


def _settled(batch: Sequence[Fetched], row: asyncpg.Record) -> list[Settled | Exception]:
    """What became of each, from the statement's row."""
    held, jobs = set(row["held"] or ()), set(row["jobs"] or ())
    stored, changed = (Counter(row[column] or ()) for column in ("stored", "changed"))
    answers: list[Settled | Exception] = []
    for u, fetched in enumerate(batch, 1):
        unit = fetched.unit
        if u not in held:
            answers.append(LeaseLost(f"the lease of {unit.key} was taken over; its result is dropped"))
            continue
        product = f"{unit.provider}|{unit.account}|{unit.sku}|{unit.currency}"
        skipped = tuple([int(job.id) for job, _ in fetched.outcomes if job.id not in jobs])
        answers.append(Settled(changed=changed[product], stored=stored[product], skipped=skipped))
    return answers
