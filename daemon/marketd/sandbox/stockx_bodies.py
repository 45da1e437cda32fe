"""StockX's JSON bodies: products, variants and market data."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from marketd.sandbox import charts
from marketd.sandbox.barcodes import gtins
from marketd.sandbox.prices import rate
from marketd.sandbox.product import Product
from marketd.sandbox.world import World

_NAME = "stockx"


@dataclass(frozen=True, slots=True)
class Book:
    """One size's market in whole units of a currency; None = nobody asks or bids."""

    ask: int | None
    bid: int | None
    flex: int | None


def book(world: World, product: Product, size: str | None, currency: str, tick: int) -> Book:
    """The bid stays below the ask; flex may undercut the standard ask, as it does now and then."""
    prices, local = world.prices, rate(currency)
    level = prices.level(_NAME, product, size, tick) * local
    epoch = prices.epoch(product, size, tick)
    depth = Decimal(f"{0.78 + 0.15 * prices.unit('bid', product.key, size, epoch):.4f}")
    extra = Decimal(f"{0.97 + 0.13 * prices.unit('flex', product.key, size, epoch):.4f}")
    ask = int(level.to_integral_value(ROUND_CEILING))
    bid = int((level * depth).to_integral_value(ROUND_FLOOR))
    flex = int((level * extra).to_integral_value(ROUND_CEILING))
    return Book(
        ask=None if prices.absent("ask", 0.09, product, size, tick) else ask,
        bid=None if prices.absent("bid", 0.06, product, size, tick) else bid,
        flex=None if prices.absent("flex", 0.33, product, size, tick) else flex,
    )


def market(world: World, product: Product, size: str | None, currency: str, tick: int) -> dict[str, Any]:
    """All eleven keys are always there; amounts are digits in a string, or null."""
    now = book(world, product, size, currency, tick)
    more = now.ask - 1 if now.ask else None
    faster = (now.ask + now.bid) // 2 if now.ask and now.bid else None

    def block(lowest: int | None) -> dict[str, str | None]:
        return {
            "lowestAsk": _text(lowest),
            "highestBidAmount": _text(now.bid),
            "sellFaster": _text(faster),
            "earnMore": _text(more),
            "beatUS": _text(faster - 1 if faster else None),
        }

    return {
        "productId": world.id_of(_NAME, product),
        "variantId": world.variant_id(product, size),
        "currencyCode": currency,
        "highestBidAmount": _text(now.bid),
        "lowestAskAmount": _text(now.ask),
        "flexLowestAskAmount": _text(now.flex),
        "earnMoreAmount": _text(more),
        "sellFasterAmount": _text(faster),
        "standardMarketData": block(now.ask),
        "flexMarketData": block(now.flex),
        "directMarketData": block(now.flex),
    }


def summary(world: World, product: Product) -> dict[str, Any]:
    """A product as the search tells it: no size chart, no flags, no image."""
    return {
        "productId": world.id_of(_NAME, product),
        "brand": product.brand,
        "productType": product.product_type,
        "styleId": product.style,
        "urlKey": product.url_key,
        "title": product.title,
        "productAttributes": {
            "color": None,
            "colorway": product.colorway,
            "gender": product.gender,
            "releaseDate": product.released,
            "retailPrice": product.retail,
            "season": None,
        },
    }


def full(world: World, product: Product) -> dict[str, Any]:
    sized = [size for size in product.sizes if size] if product.chart else []
    systems = [{"name": name, "type": kind} for name, kind in (charts.conversions(sized) if sized else ())]
    first = systems[0] if systems else {"name": None, "type": None}
    chart = {"availableConversions": systems, "defaultConversion": first}
    return summary(world, product) | {"sizeChart": chart} | _eligible(product)


def variant(world: World, product: Product, size: str | None) -> dict[str, Any]:
    """One size as in the list, where `variantValue` may be null."""
    rows = charts.rows(product.chart, size) if product.chart and size else ()
    kind = charts.default_type(size) if size and rows else None
    return {
        "productId": world.id_of(_NAME, product),
        "variantId": world.variant_id(product, size),
        "variantName": f"{product.url_key.title()}:{product.sizes.index(size)}",
        "variantValue": size if size is not None else product.single,
        "sizeChart": {
            "defaultConversion": {"size": size if rows else None, "type": kind},
            "availableConversions": [{"size": text, "type": system} for text, system in rows],
        },
        "gtins": gtins(world, product, size),
    } | _eligible(product)


def variant_alone(world: World, product: Product, size: str | None) -> dict[str, Any]:
    """One size asked for by itself: its value is a string always."""
    body = variant(world, product, size)
    return body | {"variantValue": body["variantValue"] or ""}


def _text(amount: int | None) -> str | None:
    return None if amount is None else str(amount)


def _eligible(product: Product) -> dict[str, bool]:
    return dict.fromkeys(("isFlexEligible", "isDirectEligible"), product.gender is not None)
