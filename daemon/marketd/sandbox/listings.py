"""eBay's shelves: for each product and size some honest offers, and around them every offer that misleads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal

from marketd.sandbox import charts
from marketd.sandbox.prices import rate
from marketd.sandbox.product import Product, Shelf, compact
from marketd.sandbox.world import World

#: marketplace -> currency, country and the other marketplace whose offers stray in
MARKETS = {
    "EBAY_US": ("USD", "US", "EBAY_GB"),
    "EBAY_GB": ("GBP", "GB", "EBAY_US"),
    "EBAY_DE": ("EUR", "DE", "EBAY_GB"),
    "EBAY_AU": ("AUD", "AU", "EBAY_US"),
    "EBAY_CA": ("CAD", "CA", "EBAY_US"),
}
NEW, WITHOUT_BOX, DEFECTS, GRADED, USED, UNGRADED = "1000", "1500", "1750", "2750", "3000", "4000"
CONDITIONS = {
    NEW: "New with box",
    WITHOUT_BOX: "New without box",
    DEFECTS: "New with imperfections",
    GRADED: "Graded",
    USED: "Pre-owned",
    UNGRADED: "Ungraded",
}
#: sizes that no product here comes in: a title with one contradicts the size aspect, and fits no other size
_NOT_MADE = {"W": "18W", "Y": "1Y"}
ASPECTS = frozenset(
    {"Brand", "Style Code", "US Shoe Size", "UK Shoe Size", "EU Shoe Size", "Professional Grader", "Grade"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One offer. `honest` = it is what its product and size stand for, and its price can be trusted."""

    number: int  #: the legacy item id
    product: Product
    size: str | None
    title: str
    honest: bool
    market: str
    currency: str
    country: str
    price: Decimal | None  #: None for a pure auction
    bid: Decimal | None = None
    shipping: Decimal | None = None  #: known cost, 0 = free; None = unknown
    shipping_type: str | None = "FIXED"  #: None = the field is left out altogether
    options: tuple[str, ...] = ("FIXED_PRICE",)
    condition: str = NEW
    group: bool = False
    aspects: tuple[tuple[str, str], ...] = ()
    hidden: str = ""  #: words by which the search finds it besides its title

    @property
    def item_id(self) -> str:
        return f"v1|{self.number}|0"

    @property
    def shelf(self) -> Shelf:
        assert self.product.shelf is not None
        return self.product.shelf

    @property
    def haystack(self) -> str:
        return compact(f"{self.title} {self.hidden}")

    def total(self) -> Decimal:
        """What the service sorts by: price and shipping, unknown shipping taken for nothing."""
        return (self.price if self.price is not None else self.bid or Decimal(0)) + (self.shipping or 0)


def by_item(world: World, number: int, market: str, tick: int) -> Listing | None:
    """The live listing with this legacy item id."""
    digits = str(number)
    if len(digits) != 12 or not digits.startswith("11"):
        return None
    product, place = world.at(int(digits[2:8])), int(digits[8:10])
    if product is None or place >= len(product.sizes):
        return None
    found = (row for row in of_size(world, product, product.sizes[place], market, tick))
    return next((row for row in found if row.number == number), None)


def of_size(world: World, product: Product, size: str | None, market: str, tick: int) -> tuple[Listing, ...]:
    """All live listings of one product and size in one marketplace, honest or not."""
    if product.shelf is None:
        return ()
    rows = [*_honest(world, product, size, market, tick)]
    if world.prices.absent("ebay", 0.06, product, size, tick):
        rows = []
    rows += _misleading(world, product, size, market, tick)
    return tuple(rows)


def _honest(world: World, product: Product, size: str | None, market: str, tick: int) -> Iterator[Listing]:
    bench = _Bench(world, product, size, market, tick)
    code, worn = product.search_code, bench.worn
    spaced = code.replace("-", " ")
    yield bench.offer(0, 1.0, f"{bench.name} {code} {worn}")
    yield bench.offer(1, 0.955, f"{bench.name} {worn} {spaced} New In Box", shipping=0.085)
    yield bench.offer(2, 1.06, f"BRAND NEW {bench.name} {code} {bench.short}")
    both = ("FIXED_PRICE", "BEST_OFFER")
    yield bench.offer(3, 1.15, f"{bench.name} ({code}) {worn} DS", shipping=0.1, options=both)
    # Unknown shipping: cheapest by price alone, of no use for a price with shipping.
    yield bench.offer(
        4, 0.94, f"{code} {bench.name} {bench.short}", shipping=None, shipping_type="CALCULATED"
    )
    yield bench.offer(5, 0.97, f"{bench.name} {code} {worn} Fast Ship", shipping=None, shipping_type=None)


def _misleading(
    world: World, product: Product, size: str | None, market: str, tick: int
) -> Iterator[Listing]:
    bench = _Bench(world, product, size, market, tick, honest=False)
    code, name, worn = product.search_code, bench.name, bench.worn
    stray = MARKETS[market][2]
    auction = bench.offer(20, 0.41, f"{name} {code} {worn} No Reserve", options=("AUCTION",))
    yield replace(auction, price=None, bid=auction.price)
    abroad = bench.offer(21, 0.72, f"{name} {code} {worn}")
    yield replace(abroad, market=stray, currency=MARKETS[stray][0], country=MARKETS[stray][1])
    yield bench.offer(22, 0.52, f"{name} {code} {worn} Worn Twice", condition=bench.worse)
    yield bench.offer(23, 0.07, f"EMPTY BOX ONLY {name} {code} {worn}")
    if product.shelf is not None and product.shelf.sized:
        yield from _shoe_traps(bench, product, code)
    if product.shelf is not None and product.shelf.card and size:
        grader, grade = size.split()
        lower = next(low for low in ("4", "3", "2") if f"{grader} {low}" not in product.sizes)
        yield bench.offer(24, 0.35, f"{name} {grader} {lower}", hidden=f"{size} {grade}")
        yield bench.offer(25, 0.12, f"{name} raw, {size} candidate?", condition=UNGRADED)
        yield bench.offer(26, 0.04, f"Slab display case for {name} {size}", condition=NEW)


def _shoe_traps(bench: _Bench, product: Product, code: str) -> Iterator[Listing]:
    name, worn = bench.name, bench.worn
    yield bench.offer(24, 0.62, f"{name} {code} All Sizes", group=True)
    yield bench.offer(25, 0.09, f"Replacement Laces for {name} {code} {worn}")
    yield bench.offer(26, 0.06, f"Keychain mini {name} {code} {worn}")
    yield bench.offer(27, 0.78, f"{name} {code} {bench.wrong_worn}")
    yield bench.offer(28, 0.8, f"{name} {code} {worn} without box", condition=WITHOUT_BOX)
    yield bench.offer(29, 0.7, f"{name} {code} {worn} B-grade", condition=DEFECTS)
    yield bench.offer(30, 0.85, f"{name} {worn}", hidden=code)
    yield bench.offer(40, 0.64, f"{name} {code} Sizes 4-16 Free Ship")
    yield bench.offer(41, 0.65, f"{name} {code} {worn} like XQ9731-{code[-3:]}")
    yield bench.offer(42, 0.67, f"{name} {code} 17.5 US")
    for place, near in enumerate(product.near):
        yield bench.offer(31 + place, 0.66, f"{product.brand} sneaker {near} {worn}", hidden=f"{name} {code}")


class _Bench:
    """Writes listings of one product and size."""

    def __init__(
        self,
        world: World,
        product: Product,
        size: str | None,
        market: str,
        tick: int,
        *,
        honest: bool = True,
    ) -> None:
        self._world, self._product, self._size = world, product, size
        self._market, self._tick, self._honest = market, tick, honest
        self._currency, self._country, _ = MARKETS[market]
        prices = world.prices
        self._level = prices.level("ebay", product, size, tick) * rate(self._currency)
        self._epoch = prices.epoch(product, size, tick)
        card = product.shelf is not None and product.shelf.card
        self._condition = GRADED if card and size else NEW
        self.name = product.title.split(" (")[0]
        self.worse = UNGRADED if card else USED
        self.worn, self.short = _worn(product, size), _short(product, size)
        self.wrong_worn = _worn(product, _NOT_MADE.get((size or "")[-1:], "17.5")) if product.chart else ""

    def offer(
        self,
        ordinal: int,
        factor: float,
        title: str,
        *,
        shipping: float | None = 0.0,
        shipping_type: str | None = "FIXED",
        options: tuple[str, ...] = ("FIXED_PRICE",),
        condition: str | None = None,
        group: bool = False,
        hidden: str = "",
    ) -> Listing:
        """A listing at `factor` of the level; `shipping` is a share of the level, too."""
        draw = self._world.prices.unit("listing", self._product.key, self._size, ordinal, self._epoch)
        place = self._product.sizes.index(self._size)
        number = f"11{self._world.number(self._product):06}{place:02}{ordinal:02}"
        return Listing(
            number=int(number),
            product=self._product,
            size=self._size,
            title=" ".join(title.replace("()", "").split()),
            honest=self._honest,
            market=self._market,
            currency=self._currency,
            country=self._country,
            price=_cents(self._level, factor + 0.012 * (draw - 0.5)),
            shipping=None if shipping is None else _cents(self._level, shipping),
            shipping_type=shipping_type,
            options=options,
            condition=condition or self._condition,
            group=group,
            aspects=_aspects(self._product, self._size),
            hidden=hidden,
        )


def _cents(level: Decimal, factor: float) -> Decimal:
    return (level * Decimal(f"{factor:.6f}")).quantize(Decimal("0.01"), ROUND_HALF_UP)


def _worn(product: Product, size: str | None) -> str:
    """The size as sellers write it out."""
    if size is None or not product.chart:
        return size or ""
    if size.endswith("Y"):
        return f"Size {size}"
    return f"{'Women' if size.endswith('W') else 'Men'}'s Size {charts.text(charts.number(size))}"


def _short(product: Product, size: str | None) -> str:
    if size is None or not product.chart:
        return size or ""
    return f"US {size}" if size.endswith("Y") else f"Sz {charts.text(charts.number(size))}"


def _aspects(product: Product, size: str | None) -> tuple[tuple[str, str], ...]:
    found = [("Brand", product.brand)]
    if product.search_code:
        found.append(("Style Code", product.search_code))
    if size and product.chart:
        rows = {kind: text.split(" (")[0].split(" ", 1)[1] for text, kind in charts.rows(product.chart, size)}
        found += [
            ("US Shoe Size", charts.text(charts.number(size))),
            ("UK Shoe Size", rows["uk"]),
            ("EU Shoe Size", rows["eu"]),
        ]
    elif size:
        grader, grade = size.split()
        found += [("Professional Grader", grader), ("Grade", grade)]
    return tuple(found)
