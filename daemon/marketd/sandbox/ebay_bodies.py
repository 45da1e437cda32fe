"""eBay's JSON bodies: item summaries, items and sold items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from marketd.sandbox import charts
from marketd.sandbox.listings import CONDITIONS, Listing

_SELLER = {"username": "sandbox_seller", "feedbackPercentage": "99.8", "feedbackScore": 1200}
_LISTED = datetime(2026, 1, 1, 12, tzinfo=UTC)

#: status -> error id, domain, category, message, long message
_ERRORS: Mapping[int, tuple[int, str, str, str, str | None]] = {
    400: (12001, "API_BROWSE", "REQUEST", "The call needs a 'q' query parameter.", None),
    401: (1001, "OAuth", "REQUEST", "Invalid access token", "Check the Authorization request header."),
    403: (1100, "ACCESS", "REQUEST", "Access denied", "Insufficient permissions for the request."),
    404: (11001, "API_BROWSE", "REQUEST", "The specified item Id was not found.", None),
    409: (12013, "API_BROWSE", "BUSINESS", "Top level category browsing is not allowed.", None),
    429: (2001, "ACCESS", "REQUEST", "Too many requests.", "The limit of the resource has been reached."),
    500: (12000, "API_BROWSE", "APPLICATION", "There was a problem inside eBay.", None),
}


def money(amount: Decimal, currency: str) -> dict[str, str]:
    return {"value": f"{amount:.2f}", "currency": currency}


def summary(row: Listing, base: str) -> dict[str, Any]:
    """A listing as the search tells it: no size, no style code; an auction has no price."""
    listed = _instant(_LISTED + timedelta(minutes=row.number % 40_000))
    body = {
        "itemId": row.item_id,
        "title": row.title,
        "leafCategoryIds": [row.shelf.leaf],
        "categories": [
            {"categoryId": id_, "categoryName": name}
            for id_, name in ((row.shelf.leaf, row.shelf.name), *row.shelf.parents)
        ],
        "image": {"imageUrl": f"https://i.ebayimg.com/images/g/{row.number}/s-l225.jpg"},
        "itemHref": f"{base}/item/{quote(row.item_id, safe='')}",
        "seller": _SELLER,
        "condition": CONDITIONS[row.condition],
        "conditionId": row.condition,
        "thumbnailImages": [{"imageUrl": f"https://i.ebayimg.com/images/g/{row.number}/s-l1600.jpg"}],
        "buyingOptions": list(row.options),
        "itemWebUrl": f"https://www.ebay.com/itm/{row.number}",
        "itemLocation": {"postalCode": "972**", "country": row.country},
        "adultOnly": False,
        "legacyItemId": str(row.number),
        "availableCoupons": False,
        "itemOriginDate": listed,
        "itemCreationDate": listed,
        "topRatedBuyingExperience": False,
        "priorityListing": False,
        "listingMarketplaceId": row.market,
    }
    return body | _sale(row) | _shipping(row) | _group(row, base)


def item(row: Listing) -> dict[str, Any]:
    """A listing by itself, where size and style code are told."""
    body = {
        "itemId": row.item_id,
        "title": row.title,
        "categoryId": row.shelf.leaf,
        "categoryPath": "|".join([name for _, name in row.shelf.parents] + [row.shelf.name]),
        "condition": CONDITIONS[row.condition],
        "conditionId": row.condition,
        "itemLocation": {"country": row.country},
        "image": {"imageUrl": f"https://i.ebayimg.com/images/g/{row.number}/s-l1600.jpg"},
        "brand": row.product.brand,
        "localizedAspects": [{"type": "STRING", "name": name, "value": value} for name, value in row.aspects],
        "seller": _SELLER,
        "estimatedAvailabilities": [
            {
                "deliveryOptions": ["SHIP_TO_HOME"],
                "estimatedAvailabilityStatus": "IN_STOCK",
                "estimatedAvailableQuantity": 1,
                "estimatedSoldQuantity": 0,
            }
        ],
        "buyingOptions": list(row.options),
        "itemWebUrl": f"https://www.ebay.com/itm/{row.number}",
        "legacyItemId": str(row.number),
        "itemCreationDate": _instant(_LISTED),
        "adultOnly": False,
        "listingMarketplaceId": row.market,
    }
    if row.product.search_code:
        body["mpn"] = row.product.search_code
    if row.size and row.product.chart:
        body["size"] = charts.text(charts.number(row.size))
    return body | _sale(row) | _shipping(row)


def refinement(rows: Sequence[Listing]) -> dict[str, Any]:
    """What the hits have in common: the dominant category, and how often each aspect value occurs."""
    leaves = Counter(row.shelf.leaf for row in rows)
    values: dict[str, Counter[str]] = {}
    for row in rows:
        for name, value in row.aspects:
            values.setdefault(name, Counter())[value] += 1
    return {
        "dominantCategoryId": leaves.most_common(1)[0][0] if leaves else "",
        "aspectDistributions": [
            {
                "localizedAspectName": name,
                "aspectValueDistributions": [
                    {"localizedAspectValue": value, "matchCount": count} for value, count in counts.items()
                ],
            }
            for name, counts in values.items()
        ],
    }


def sold(row: Listing, base: str) -> dict[str, Any]:
    """A listing as if it had sold for 2 % less, at some hour of the last 90 days."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    at = hour - timedelta(hours=_sold_ago_h(row))
    return {
        "itemId": row.item_id,
        "title": row.title,
        "lastSoldDate": _instant(at),
        "lastSoldPrice": money(_sold_for(row), row.currency),
        "totalSoldQuantity": 1,
        "condition": CONDITIONS[row.condition],
        "conditionId": row.condition,
        "buyingOptions": list(row.options),
        "categories": [{"categoryId": row.shelf.leaf}],
        "image": {"imageUrl": f"https://i.ebayimg.com/images/g/{row.number}/s-l225.jpg"},
        "itemWebUrl": f"https://www.ebay.com/itm/{row.number}",
        "itemHref": f"{base}/item/{quote(row.item_id, safe='')}",
        "itemLocation": {"country": row.country},
        "seller": _SELLER,
        "adultOnly": False,
    }


def latest_sale(rows: Sequence[Listing]) -> Decimal | None:
    """What the last of these to be sold went for."""
    priced = [row for row in rows if row.price is not None]
    return _sold_for(min(priced, key=_sold_ago_h)) if priced else None


def _sold_ago_h(row: Listing) -> int:
    return row.number % 2000


def _sold_for(row: Listing) -> Decimal:
    return ((row.price or Decimal(1)) * Decimal("0.98")).quantize(Decimal("0.01"))


def rate_limits(*, used: int, allowed: int, resets_at: datetime) -> dict[str, Any]:
    """The Analytics API's report on Browse."""

    def resource(name: str, count: int) -> dict[str, Any]:
        rate = {
            "count": count,
            "limit": allowed,
            "remaining": max(0, allowed - count),
            "reset": _instant(resets_at),
            "timeWindow": 86_400,
        }
        return {"name": name, "rates": [rate]}

    resources = [resource("buy.browse", used), resource("buy.browse.item.bulk", 0)]
    entry = {"apiContext": "buy", "apiName": "Browse", "apiVersion": "v1", "resources": resources}
    return {"rateLimits": [entry]}


def error(status: int, text: str | None = None) -> dict[str, Any]:
    """The usual error of a status; `text` replaces its message."""
    number, domain, category, message, more = _ERRORS.get(status, _ERRORS[500])
    body = {"errorId": number, "domain": domain, "category": category, "message": text or message}
    return {"errors": [body | ({"longMessage": more} if more else {})]}


def bad_request(error_id: int, message: str) -> dict[str, Any]:
    error = {"errorId": error_id, "domain": "API_BROWSE", "category": "REQUEST", "message": message}
    return {"errors": [error]}


def _sale(row: Listing) -> dict[str, Any]:
    if row.price is not None:
        return {"price": money(row.price, row.currency)}
    ends = _instant(datetime.now(UTC) + timedelta(days=3))
    bid = row.bid or Decimal(1)
    return {"currentBidPrice": money(bid, row.currency), "bidCount": 4, "itemEndDate": ends}


def _shipping(row: Listing) -> dict[str, Any]:
    if row.shipping_type is None:
        return {}
    option: dict[str, Any] = {"shippingCostType": row.shipping_type}
    if row.shipping is not None:
        option["shippingCost"] = money(row.shipping, row.currency)
    return {"shippingOptions": [option]}


def _group(row: Listing, base: str) -> dict[str, str]:
    if not row.group:
        return {}
    return {
        "itemGroupHref": f"{base}/item/get_items_by_item_group?item_group_id={row.number}",
        "itemGroupType": "SELLER_DEFINED_VARIATIONS",
    }


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
