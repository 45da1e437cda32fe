"""Values to rows and back: the rows of a claim; an outcome, a quote, a listing and a call as rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from marketd.models import NOTHING_KNOWN, Job, Known, Listing, Product, Quote, Unit, Variant
from marketd.outcome import Failed, Outcome, Priced, Released, Retried, Snoozed
from marketd.telemetry import RequestReport

_Told: TypeAlias = dict[tuple[str, str, str | None], str]  #: by (what, sku, currency): JSON


def units_of(provider: str, account: str, rows: Sequence[asyncpg.Record]) -> list[Unit]:
    """The units of a claim, whose rows come with the most urgent job first; so do the units."""
    jobs: dict[str, list[Job]] = {}
    heads: list[tuple[str, str, str, UUID, datetime, bool]] = []
    told: _Told = {}
    for known, text, sku, currency, key, lease_id, claimed_at, troubled, *job in map(tuple, rows):
        if known is not None:
            told[known, sku, currency] = text
            continue
        mates = jobs.setdefault(key, [])
        if not mates:
            heads.append((key, sku, currency, lease_id, claimed_at, troubled))
        number, size, priority, attempt, max_attempts, due_at = job
        mates.append(
            Job(
                id=number,
                size=size,
                priority=priority,
                attempt=attempt,
                max_attempts=max_attempts,
                due_at=due_at,
            )
        )
    return [
        Unit(
            key=key,
            lease_id=lease_id,
            claimed_at=claimed_at,
            troubled=troubled,
            provider=provider,
            account=account,
            sku=sku,
            currency=currency,
            jobs=tuple(jobs[key]),
            known=_known(told, sku, currency) if told else NOTHING_KNOWN,
        )
        for key, sku, currency, lease_id, claimed_at, troubled in heads
    ]


def _known(told: _Told, sku: str, currency: str) -> Known:
    return Known(
        listing=_listing(told.get(("listing", sku, None))),
        elsewhere=_listing(told.get(("elsewhere", sku, None))),
        references=_asks(told.get(("asks", sku, currency))),
    )


def _asks(told: str | None) -> dict[str | None, Decimal]:
    if told is None:
        return {}
    asks: dict[str, Any] = json.loads(told, parse_float=Decimal, parse_int=Decimal)
    return {size or None: ask for size, ask in asks.items()}


def _listing(told: str | None) -> Listing | None:
    if told is None:
        return None
    row: dict[str, Any] = json.loads(told)
    words = ("style_code", "name", "brand", "category", "gender", "image_url", "url", "details")
    return Listing(
        product=Product(id=row["product_id"], **{word: row[word] for word in words}),
        variants=tuple(
            Variant(id=v["id"], size=v["size"], chart=v["chart"], gtins=tuple(v["gtins"]))
            for v in row["variants"]
        ),
    )


_BETWEEN, _NULL = "\x1f", "\x1e"  #: in a column; no text has them

#: The columns that `settle` takes of each job, and of each quote.
OutcomeRow: TypeAlias = tuple[
    int,
    int,
    str,
    str | None,
    str | None,
    float | None,
    str | None,
    str | None,
    float | None,
    float | None,
    float | None,
]
QuoteRow: TypeAlias = tuple[
    int,
    str | None,
    str,
    str | None,
    str | None,
    str | None,
    float | None,
    int | None,
    str | None,
    float,
    str | None,
    int,
    bool | None,
]

#: A line of the call record, in the order of `record_requests`.
CallRow: TypeAlias = tuple[
    str, str, str, int, datetime, str, int | None, float, bool, str, datetime | None, bool | None, str | None
]


def call_row(call: RequestReport, useful: bool | None, wasted: str | None) -> CallRow:
    """`useful`: whether the call brought something, None if it is not known; else `wasted` says why not."""
    return (
        call.provider, call.account, call.endpoint, call.priority, call.granted_at, call.status_class, call.http_status,
        round(call.took_s, 4), call.given_back, call.meter, call.cost_window, useful, wasted,
    )  # fmt: skip


def outcome_row(u: int, job: Job, outcome: Outcome, observed: Mapping[str | None, datetime]) -> OutcomeRow:
    """What became of a job of fetch `u`; `observed`: when each size was."""
    match outcome:
        case Priced(size=size, reason=reason):
            # All quotes of one fetch come of requests granted moments apart; the oldest is the honest one.
            seen = min(observed.values(), default=None) if reason == "all_sizes" else observed.get(size)
            return (u, job.id, "priced", reason, text(size), _seconds(seen), None, None, None, None, None)
        case Retried(delay=delay, error_code=code, message=message):
            delay_s = delay.total_seconds()
            return (u, job.id, "retried", None, None, None, text(code), text(message), delay_s, None, None)
        case Snoozed(until=until):
            return (u, job.id, "snoozed", None, None, None, None, None, None, _seconds(until), None)
        case Released():
            return (u, job.id, "released", None, None, None, None, None, None, None, None)
        case Failed(error_code=code, message=message, cooldown=cooldown):
            cooldown_s = cooldown.total_seconds()
            return (u, job.id, "failed", None, None, None, text(code), text(message), None, None, cooldown_s)


def quote_row(u: int, quote: Quote, product_id: str | None) -> QuoteRow:
    """A quote of fetch `u`. Amounts as text: asyncpg makes it of a Decimal anyway, and then more of it."""
    ask, bid, sale = quote.lowest_ask, quote.highest_bid, quote.last_sale
    return (
        u,
        text(quote.size),
        quote.currency,
        None if ask is None else str(ask),
        None if bid is None else str(bid),
        None if sale is None else str(sale),
        _seconds(quote.last_sale_at),
        quote.sales_72h,
        json_text(dict(quote.basis)) if quote.basis else None,
        quote.observed_at.timestamp(),
        text(product_id),
        quote.parser,
        quote.sale_unknown or None,
    )


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def column(values: Sequence[Any]) -> str | Sequence[float | None] | None:
    """A column of rows as `settle` reads it: one text, of times an array; None when nothing but None is in it."""
    missing = values.count(None)
    if missing == len(values):
        return None
    if isinstance(next(value for value in values if value is not None), float):
        return values
    joined = _BETWEEN.join(
        [_NULL if value is None else str(value) for value in values] if missing else map(str, values)
    )
    if joined.count(_BETWEEN) >= len(values):
        raise ValueError("a value holds the character that stands between values")
    return joined


def text(value: str | None) -> str | None:
    """A provider's text as Postgres and `column` take it: without control characters and lone surrogates."""
    if value is None or value.isprintable():
        return value
    return "".join(c if c.isprintable() else " " for c in value)


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
    found = json.dumps(value, default=_plain)
    if "\\u0000" in found or "\\ud" in found:
        # Legal in a provider's JSON, refused by Postgres: its text must not be able to stop a settle.
        found = json.dumps(_storable(json.loads(found)))
    return found


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
