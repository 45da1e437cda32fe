"""Alias' catalogue items and its market, where every size has many states, regions and places of storage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from marketd.sandbox.charts import number
from marketd.sandbox.product import Product
from marketd.sandbox.world import World

REGIONS = ("1", "2", "3")  #: United States, Europe, United Kingdom
NEW, USED, DEFECTS = "PRODUCT_CONDITION_NEW", "PRODUCT_CONDITION_USED", "PRODUCT_CONDITION_NEW_WITH_DEFECTS"
GOOD, NO_LID = "PACKAGING_CONDITION_GOOD_CONDITION", "PACKAGING_CONDITION_MISSING_LID"
DAMAGED, NO_BOX = "PACKAGING_CONDITION_BADLY_DAMAGED", "PACKAGING_CONDITION_NO_ORIGINAL_BOX"
PRODUCT_CONDITIONS = ("PRODUCT_CONDITION_INVALID", NEW, USED, DEFECTS)
PACKAGING_CONDITIONS = ("PACKAGING_CONDITION_INVALID", GOOD, NO_LID, DAMAGED, NO_BOX)

#: how much a thing in this state brings, compared with a new one in a good box
_WORTH = {(NEW, GOOD): 1.0, (NEW, NO_LID): 0.88, (NEW, DAMAGED): 0.82, (USED, GOOD): 0.6}
_WORTH |= {(USED, NO_BOX): 0.47, (DEFECTS, GOOD): 0.7}
STATES = tuple(_WORTH)


@dataclass(frozen=True, slots=True)
class View:
    """What a caller asked to see. None = all regions, or both stored at GOAT and with the seller."""

    region: str | None = None
    consigned: bool | None = None

    def corners(self) -> Iterator[tuple[str, bool]]:
        for region in (self.region,) if self.region else REGIONS:
            for stored in (True, False) if self.consigned is None else (self.consigned,):
                yield region, stored


@dataclass(frozen=True, slots=True)
class Cents:
    """One row's amounts; 0 = none."""

    ask: int
    bid: int
    last: int
    indicator: int

    def body(self) -> dict[str, str]:
        return {
            "lowest_listing_price_cents": str(self.ask),
            "highest_offer_price_cents": str(self.bid),
            "last_sold_listing_price_cents": str(self.last),
            "global_indicator_price_cents": str(self.indicator),
        }


NOTHING = Cents(0, 0, 0, 0)


def cents(
    world: World, product: Product, size: str, view: View, tick: int, state: tuple[str, str] = (NEW, GOOD)
) -> Cents:
    """The market of one size. A wider view lowers the ask and raises the bid, so that books may cross."""
    if size not in product.sizes or state not in _WORTH:
        return NOTHING
    corners = [_corner(world, product, size, corner, tick, state) for corner in view.corners()]
    asks = [corner.ask for corner in corners if corner.ask]
    newest = world.prices.unit("newest", product.key, size, world.prices.epoch(product, size, tick))
    return Cents(
        ask=min(asks, default=0),
        bid=max(corner.bid for corner in corners),
        last=corners[int(newest * len(corners))].last,
        indicator=min(asks, default=0) + 100 if asks else 0,
    )


def _corner(
    world: World, product: Product, size: str, corner: tuple[str, bool], tick: int, state: tuple[str, str]
) -> Cents:
    prices = world.prices
    epoch = prices.epoch(product, size, tick)
    draw = ("alias", product.key, size, *corner, *state)
    worth = Decimal(f"{_WORTH[state] * (0.95 + 0.25 * prices.unit('region', *draw)):.4f}")
    ask = _dollars(prices.level("alias", product, size, tick) * worth)
    bid = _dollars(ask * Decimal(f"{0.8 + 0.14 * prices.unit('bid', *draw, epoch):.4f}") / 100)
    earlier = prices.level("alias", product, size, max(tick - product.pace, 0)) * worth
    last = _dollars(earlier * Decimal(f"{0.93 + 0.1 * prices.unit('last', *draw, epoch):.4f}"))
    return Cents(
        ask=0 if prices.absent("alias ask", 0.08, product, size, tick) else ask,
        bid=0 if prices.absent("alias bid", 0.1, product, size, tick) or state != (NEW, GOOD) else bid,
        last=0 if prices.absent("alias last", 0.07, product, size, tick) else last,
        indicator=0,
    )


def _dollars(amount: Decimal) -> int:
    """Cents of the next whole dollar: sellers there list in whole dollars."""
    return int(amount.to_integral_value()) * 100


def item(world: World, product: Product) -> dict[str, Any]:
    """The catalogue item; women's and youth's sizes are bare numbers here."""
    sizes = sorted(plain(float(number(size))) for size in product.sizes if size)
    return {
        "catalog_id": world.id_of("alias", product),
        "name": product.alias_name,
        "sku": product.alias_sku,
        "brand": "Air Jordan" if product.brand == "Jordan" else product.brand,
        "gender": {"kids": "youth", "unisex": "men"}.get(product.gender or "", product.gender),
        "release_date": f"{product.released}T23:59:59.999Z",
        "product_category": "PRODUCT_CATEGORY_SHOES",
        "product_type": "sneakers",
        "size_unit": "SIZE_UNIT_US",
        "allowed_sizes": [
            {"display_name": str(size), "value": size, "us_size_equivalent": size} for size in sizes
        ],
        "minimum_listing_price_cents": "2500",
        "maximum_listing_price_cents": "200000",
        "main_picture_url": f"https://image.goat.com/750/sandbox/{world.number(product):06}.png",
        "retail_price_cents": str((product.retail or 100) * 100),
        "colorway": product.colorway or "",
        "nickname": product.title.split()[-1],
        "requires_listing_pictures": False,
        "requested_pictures": [{"type": "PICTURE_TYPE_OUTER", "quantity": "1"}],
        "resellable": True,
        "product_category_v2": "shoes",
    }


def plain(value: float) -> float:
    """10 rather than 10.0, as the service writes whole sizes."""
    return int(value) if value.is_integer() else value
