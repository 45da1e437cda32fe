"""Alias' recent sales of one size, as part of its quote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from marketd import errors, provider
from marketd.models import Quote
from marketd.providers.alias import reading


def sold(
    price: Quote, body: Any, at: datetime, *, catalog_id: str, size: str, consigned: bool | None
) -> Quote:
    """The quote with its last sale and the number of sales in 72 hours.

    BadPayload where a sale says that it is of another item, size (Alias' number) or storage than was asked for.
    """
    sales = body.get("recent_sales") if isinstance(body, dict) else None
    if not isinstance(sales, list):
        raise errors.BadPayload("recent_sales: no list of sales")
    asked: dict[str, Any] = {"catalog_id": catalog_id.lower(), "size": reading.number(size)}
    if consigned is not None:
        asked["consigned"] = consigned
    read = [_sale(sale, asked, at) for sale in sales]
    if not read:
        return replace(price, sales_72h=0)
    last_at, last = max(read, key=lambda sale: sale[0])
    recent = sum((at - when).total_seconds() <= 72 * 3600 for when, _ in read)
    return replace(price, last_sale=last or price.last_sale, last_sale_at=last_at, sales_72h=recent)


def _sale(sale: Any, asked: Mapping[str, Any], now: datetime) -> tuple[datetime, Decimal | None]:
    match sale:
        case {"purchased_at": when, "price_cents": cents}:
            if any(_told(sale, key) not in (None, wanted) for key, wanted in asked.items()):
                raise errors.BadPayload("recent_sales: a sale of another item, size or storage")
            return provider.sold_at(when, "recent_sales: a sale", now), reading.cents(cents)
    raise errors.BadPayload("recent_sales: a sale without time or price")


def _told(sale: Mapping[Any, Any], key: str) -> Any:
    """What a sale says of itself, in the form in which it is compared; None where it says nothing."""
    given = sale.get(key)
    if given is None or key == "consigned":
        return given
    if key == "size":
        return reading.number(given) if reading.number(given) is not None else given
    return given.lower() if isinstance(given, str) else given
