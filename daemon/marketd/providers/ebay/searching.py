"""From an ask to eBay's query parameters, and to what every result must then be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from urllib.parse import quote

from marketd import errors, sizes, skus
from marketd.models import Listing
from marketd.provider import Ask
from marketd.providers.ebay.options import Options
from marketd.providers.ebay.reading import GRADED, NEW, UNGRADED
from marketd.providers.ebay.titles import Wanted

_LONGEST_QUERY = 100  #: characters; eBay cuts what is longer
PAGE = 200  #: results asked for: the most, since a call costs the same and the cheapest ones are often junk


def us_size(ask: Ask, size: str | None) -> str | None:
    """The size as eBay is asked for it: a US size, a grade, or none.

    UK, EU, CM and KR sizes go by the chart of another provider's listing. Raises Unmatched (`size_system`,
    `ambiguous_size`) for what cannot be told for certain.
    """
    parsed = sizes.Size.parse(size) if size else None
    if parsed is None or parsed.system == "grade":
        return size
    chart = ask.elsewhere
    if chart is None:
        if parsed.system == "us":
            return size
        raise errors.Unmatched(
            f"eBay is asked by US size or grade, and no other provider's chart of {ask.sku} is known to tell "
            f"which one {size} is",
            code="size_system",
        )
    try:
        told = sizes.match(size, chart.variants, brand=chart.product.brand, gender=chart.product.gender).size
    except errors.Unmatched as error:
        # That another provider does not trade a US size says nothing about eBay; a size of the wrong group does.
        if parsed.system == "us" and error.error_code != "size_system":
            return size
        code = "ambiguous_size" if error.error_code == "ambiguous_size" else "size_system"
        raise errors.Unmatched(f"by another provider's chart: {error}", code=code) from error
    if told and sizes.Size.parse(told).system not in ("us", "grade"):
        raise errors.Unmatched(
            f"eBay cannot be asked for {told}, as another provider has it", code="size_system"
        )
    return told


def wanted(ask: Ask, size: str | None, options: Options) -> Wanted:
    """What listings must be, for a size as `us_size` gives it. Raises Unmatched (`size_required`)."""
    kind, _, rest = ask.sku.partition(":")
    code = "" if kind in ("id", "name") else ask.sku
    parsed = sizes.Size.parse(size) if size else None
    if parsed is None and code:
        raise errors.Unmatched("each size costs a call: name one", code="size_required")
    shoe = parsed is not None and parsed.system == "us"
    conditions = {NEW} if shoe else {GRADED} if parsed else {NEW, UNGRADED}
    low, high = options.band.lowest, options.band.highest
    reference = ask.references.get(size)
    name = (ask.elsewhere.product.name or "") if ask.elsewhere else ""
    shelf = _shelves(options).get(parsed.group) if parsed and shoe else None
    return Wanted(
        currency=ask.currency,
        marketplace=options.marketplace,
        conditions=frozenset(conditions),
        shelf=shelf,
        foreign=frozenset(other for other in _shelves(options).values() if other and other != shelf),
        code=code,
        twins="/".join(skus.codes(ask.elsewhere.product.style_code)) if code and ask.elsewhere else "",
        words=tuple(skus.words(rest)) if kind == "name" else (),
        epid=rest if kind == "id" else "",
        known=frozenset(skus.words(f"{name} {rest if kind == 'name' else ''}")),
        number=parsed.text.rstrip("WYC") if parsed and shoe else "",
        group=parsed.group if parsed else "",
        grade=parsed.text if parsed and not shoe else "",
        chart=_chart(size, ask.elsewhere) if size and shoe and ask.elsewhere else frozenset(),
        floor=None if reference is None or low is None else reference * low,
        ceiling=None if reference is None or high is None else reference * high,
    )


def _chart(size: str, listing: Listing) -> frozenset[tuple[str, Fraction]]:
    """What a US size is in other systems by another provider's chart; not where a number there fits a second one."""
    product = listing.product
    cells = next((variant.chart for variant in listing.variants if variant.size == size), {})
    told: set[tuple[str, Fraction]] = set()
    for system, cell in cells.items():
        number = sizes.chart_number(cell)
        if number is None:
            continue
        try:
            text = sizes.canonical(f"{system} {_numeral(number)}")
            found = sizes.match(text, listing.variants, brand=product.brand, gender=product.gender)
        except (ValueError, errors.Unmatched):
            continue
        if found.size == size:
            told.add((system, number))
    return frozenset(told)


def _numeral(number: Fraction) -> str:
    whole, rest = divmod(number, 1)
    return f"{whole}.5" if rest == Fraction(1, 2) else f"{whole} {rest}" if rest else str(whole)


def by_title(wish: Wanted) -> Wanted:
    """The same, with nothing but the title to vouch for the size."""
    return replace(wish, stated=bool(wish.number))


def aspect(wish: Wanted, options: Options) -> dict[str, str]:
    """Category and size aspect, which only work together; empty where no category is known."""
    category, name = wish.shelf, options.us_aspect
    if category is None or name is None:
        return {}  # a US number under "UK Shoe Size" would be another size: titles are read instead
    narrowed = f"categoryId:{category},{name}:{{{wish.number}}}"
    return {"category_ids": category, "aspect_filter": narrowed}


def _shelves(options: Options) -> dict[str, str | None]:
    """The category of the shoes of each group of sizes."""
    return {"": options.category_men, "W": options.category_women, "Y": options.category_youth}


def live(sku: str, wish: Wanted, narrowed: Mapping[str, str], options: Options) -> dict[str, str]:
    """Parameters of a Browse search, cheapest first. Raises NotListed for an `id:` that eBay cannot have."""
    filters = [f"conditionIds:{{{'|'.join(sorted(wish.conditions))}}}", "buyingOptions:{FIXED_PRICE}"]
    if options.delivery_zip:
        filters.append(f"deliveryCountry:{options.delivery_country}")
        filters.append(f"deliveryPostalCode:{options.delivery_zip}")
    if wish.floor or wish.ceiling:
        low = f"{wish.floor:.2f}" if wish.floor else ""
        high = f"{wish.ceiling:.2f}" if wish.ceiling else ""
        filters.append(f"price:[{low}..{high}],priceCurrency:{wish.currency}")
    return {
        **(_product(sku) or {"q": _query(wish)}),
        **narrowed,
        "filter": ",".join(filters),
        "sort": "price",
        "limit": str(PAGE),
    }


def _query(wish: Wanted) -> str:
    """What eBay is to look for, in the length that it takes: code and grade, and as many words of a name as fit.

    A word fewer finds more, and each title is read again; a word that was cut in two would find nothing.
    """
    codes = skus.parts(wish.code) if wish.code else ()
    code = f"({', '.join(codes)})" if len(codes) > 1 else wish.code
    for count in range(len(wish.words), -1, -1):
        query = " ".join(filter(None, (code, *wish.words[:count], wish.grade)))
        if 0 < len(query) <= _LONGEST_QUERY:
            return query
    raise errors.Unmatched("its words are too long for a search at eBay: ask for it by id")


def sold(sku: str, wish: Wanted, narrowed: Mapping[str, str]) -> dict[str, str]:
    """Parameters of a Marketplace Insights search, where a space means OR and a comma AND (fact sheet 4.4)."""
    return {
        **(_product(sku) or {"q": " ".join(skus.parts(wish.code)) or _query(wish).replace(" ", ",")}),
        **narrowed,
        "filter": f"conditionIds:{{{'|'.join(sorted(wish.conditions))}}}",
        "limit": str(PAGE),
    }


def _product(sku: str) -> dict[str, str]:
    """eBay's own product id, where the sku is one; else empty. Raises NotListed when it cannot be one."""
    kind, _, rest = sku.partition(":")
    if kind != "id":
        return {}
    if not re.fullmatch(r"[0-9]{1,20}", rest):
        raise errors.NotListed(f"{rest[:40]!r} is not an eBay product id (digits)")
    return {"epid": rest}


def headers(options: Options) -> dict[str, str]:
    """The marketplace that is meant, and where it is delivered to, which shipping depends on."""
    place = f"country={options.delivery_country}"
    if options.delivery_zip:
        place += f",zip={options.delivery_zip}"
    return {
        "X-EBAY-C-MARKETPLACE-ID": options.marketplace,
        "X-EBAY-C-ENDUSERCTX": f"contextualLocation={quote(place, safe='')}",
    }
