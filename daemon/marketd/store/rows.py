"""Values to rows and back: the rows of a claim, and an outcome, a quote and a listing as rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import Any
from uuid import UUID

import asyncpg

from marketd.models import Job, JobId, Listing, Quote, Unit
from marketd.outcome import Failed, Outcome, Priced, Released, Retried, Snoozed


def units_of(rows: Sequence[asyncpg.Record]) -> list[Unit]:
    """The units of a claim, the most urgent first."""
    found = [(_unit_head(row), _job(row)) for row in rows]
    found.sort(key=lambda pair: pair[0]["key"])
    units = [
        Unit(**head, jobs=tuple(job for _, job in group))
        for head, group in ((first, list(g)) for first, g in groupby(found, key=lambda pair: pair[0]))
    ]
    return sorted(units, key=lambda unit: -unit.priority)


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


def outcome_row(u: int, job: Job, outcome: Outcome, quotes: Sequence[Quote]) -> Mapping[str, Any]:
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


def quote_row(u: int, quote: Quote, product_id: str | None) -> Mapping[str, Any]:
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


def listing_row(u: int, listing: Listing) -> Mapping[str, Any]:
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


def json_text(value: object) -> str:
    """JSON that Postgres takes, whatever texts a provider sent."""
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
