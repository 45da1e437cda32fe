"""StockX's JSON as the nouns of `marketd.models`. Raises BadPayload for a shape that cannot be trusted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias

from marketd import errors, sizes
from marketd.models import Product, Quote, Variant

Row: TypeAlias = Mapping[str, Any] | errors.BadPayload  #: of one variant, or why that is none

_COARSE = ("JPY", "KRW")  #: currencies whose unit is about a thousandth of the others'
_ABSURD = Decimal(10_000_000)
_AMOUNT = re.compile(r"[0-9]{1,18}(\.[0-9]{1,6})?", re.ASCII)
_BARE = re.compile(r"\s*(US\s*)?([0-9.,½]+)\s*", re.IGNORECASE)  #: as `sizes.canonical` reads a number
#: A grade or a size in a form that is not known here: no word for a thing of one size.
_MARKED = re.compile(
    r"\s*(psa|bgs|cgc|sgc|bvg|hga|tag|ace|us|uk|eur?|m|w|men'?s?|women'?s?)(?![a-z]).*[0-9]", re.IGNORECASE
)
_GENDERS = {"men": "men", "women": "women", "unisex": "unisex"}
_GENDERS |= dict.fromkeys(("kids", "child", "youth", "preschool", "toddler", "infant"), "youth")


def is_own_error(body: Any) -> bool:
    """Whether an error's body is in StockX's form: a text as `errorMessage` (live) or `message` (the document)."""
    return isinstance(body, dict) and any(
        isinstance(body.get(key), str) for key in ("errorMessage", "message")
    )


def products(body: Any) -> list[Product]:
    """The hits of a search, each once, in StockX's order."""
    match body:
        case {"products": list(hits)}:
            once: dict[str, Product] = {}
            for hit in map(product, hits):
                once.setdefault(hit.id.lower(), hit)
            return list(once.values())
    raise errors.BadPayload("search: no list of products")


def is_whole(body: Mapping[str, Any], page_size: int) -> bool:
    """Whether an answer of a search holds the last of its hits; where it does not say so, a full page does not."""
    if not body["products"]:
        return True
    more = body.get("hasNextPage")
    return not more if isinstance(more, bool) else len(body["products"]) < page_size


def variants(body: Any, whose: Product) -> tuple[Variant, ...]:
    """The sizes of the product that can be told apart; a size that occurs twice names none."""
    if not isinstance(body, list) or not body:
        raise errors.BadPayload("variants: not a list, or an empty one")
    for row in body:
        _check_product(row, whose.id)
    read = [_variant(row, whose.gender, alone=len(body) == 1) for row in body]
    found = [variant for variant in read if variant and (variant.size or len(body) == 1)]
    texts = [variant.size for variant in found]
    return tuple(variant for variant in found if texts.count(variant.size) == 1)


def market(body: Any, product_id: str, currency: str) -> dict[str, Row]:
    """Market data by variant id, of the product that was asked for.

    A row in another currency than was asked for, and two that differ, refuse their variant; BadPayload if all do.
    """
    if not isinstance(body, list):
        raise errors.BadPayload("market data: not a list")
    rows: dict[str, Row] = {}
    for row in body:
        _check_product(row, product_id)
        match row:
            case {"variantId": str(variant)}:
                told = _in_currency(row, currency)
                if rows.setdefault(variant, told) != told:
                    told = errors.BadPayload(f"market data: two rows of variant {variant[:40]!r} that differ")
                    rows[variant] = told
            case _:
                raise errors.BadPayload("market data: a row without variantId")
    refused = [row for row in rows.values() if isinstance(row, errors.BadPayload)]
    if refused and len(refused) == len(rows):
        raise refused[0]
    return rows


def _in_currency(row: Mapping[str, Any], currency: str) -> Row:
    given = row.get("currencyCode")
    if given == currency:
        return row
    return errors.BadPayload(f"market data: asked for {currency}, got {str(given)[:10]!r}")


def _check_product(row: Any, product_id: str) -> None:
    """BadPayload for what says that it is of another product than the one that was asked for by its id."""
    given = row.get("productId") if isinstance(row, dict) else None
    if given in (None, product_id) or (isinstance(given, str) and given.lower() == product_id.lower()):
        return
    raise errors.BadPayload(f"asked for product {product_id}, got {str(given)[:40]!r}")


def product_of_id(body: Any, product_id: str) -> Product:
    """The product that was asked for by its id."""
    _check_product(body, product_id)
    return product(body)


def product(body: Any) -> Product:
    """One product, whichever it is."""
    match body:
        case {"productId": str(product_id), **rest} if product_id and product_id.isprintable():
            traits = rest.get("productAttributes")
            known = traits if isinstance(traits, dict) else {}
            retail = known.get("retailPrice")
            whose = (_text(known.get("gender")) or "").lower()
            details = {
                "colorway": _text(known.get("colorway")),
                "release_date": _text(known.get("releaseDate")),
                "retail_price": str(retail) if isinstance(retail, int | Decimal) else None,
            }
            key, kind = _text(rest.get("urlKey")), _text(rest.get("productType"))
            return Product(
                id=product_id,
                style_code=_text(rest.get("styleId")),
                name=_text(rest.get("title")),
                brand=_text(rest.get("brand")),
                category=kind.lower().replace(" ", "_") if kind else None,
                gender=_GENDERS.get(whose, whose) or None,
                url=f"https://stockx.com/{key}" if key else None,
                details={name: value for name, value in details.items() if value},
            )
    raise errors.BadPayload("a product without a productId that can be used")


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _variant(body: Any, gender: str | None, *, alone: bool) -> Variant | None:
    """One size; None if its `variantValue` is in no form that can be told from others."""
    value = body.get("variantValue") if isinstance(body, dict) else None
    if value in (None, "") and isinstance(body, dict):
        value = _text(_default(body.get("sizeChart")).get("size"))  # the two agree where both are told
    match body:
        case {"variantId": str(variant_id), **rest} if value is None or isinstance(
            value, str | int | Decimal
        ):
            chart = rest.get("sizeChart")
            try:
                size = sizes.canonical(None if value is None else _told(str(value), chart, gender))
            except ValueError:
                if not alone or _BARE.fullmatch(str(value)) or _MARKED.match(str(value)):
                    return None
                size = None  # a single-size item says so in a word of its own
            gtins = rest.get("gtins")
            rows = gtins if isinstance(gtins, list) else []
            given = [row.get("identifier") for row in rows if isinstance(row, dict)]
            return Variant(
                id=variant_id,
                size=size,
                chart=_chart(chart),
                gtins=tuple(code for code in given if isinstance(code, str)),
            )
    raise errors.BadPayload("a variant without variantId, or with a variantValue that is no text")


def _told(value: str, chart: Any, gender: str | None) -> str:
    """A bare number in the system that the variant's own chart names as its default; any other text as it is.

    A number of a system that is not known here gets a text that is no size, for it is not one of the US; and so does
    one that may be a men's size or not: of a product for others, where the chart does not say `us m`.
    A mere `US` before a number does not tell whose it is either.
    """
    bare = _BARE.fullmatch(value)
    if not bare:
        return value
    value = bare[2]
    system = (_text(_default(chart).get("type")) or "us").lower()
    if bare[1] and not system.startswith("us"):
        system = "us"
    if system == "us" and gender not in ("men", "unisex", None):
        return f"not of men: {value}"
    if system in ("us", "us m"):
        return value
    return f"{value}W" if system == "us w" else f"{system} {value}"


def _default(chart: Any) -> Mapping[str, Any]:
    """The conversion that a chart calls its default."""
    default = chart.get("defaultConversion") if isinstance(chart, dict) else None
    return default if isinstance(default, dict) else {}


def _chart(body: Any) -> dict[str, str]:
    rows = body.get("availableConversions") if isinstance(body, dict) else None
    chart: dict[str, str] = {}
    for row in rows if isinstance(rows, list) else ():
        match row:
            case {"type": str(system), "size": str(size)} if system in sizes.SYSTEMS:
                chart[system] = size
    return chart


def quote(row: Row, variant: Variant, currency: str, at: datetime) -> Quote:
    """The market of one size; null and zero are none."""
    if isinstance(row, errors.BadPayload):
        raise row
    if "lowestAskAmount" not in row or "highestBidAmount" not in row:
        raise errors.BadPayload("market data: lowestAskAmount or highestBidAmount is missing")
    flex = _amount(row.get("flexLowestAskAmount"), currency)
    return Quote(
        size=variant.size,
        currency=currency,
        lowest_ask=_amount(row["lowestAskAmount"], currency),
        highest_bid=_amount(row["highestBidAmount"], currency),
        basis={"ask": "standard", "flex_ask": None if flex is None else str(flex), "currency": currency},
        observed_at=at,
    )


def _amount(value: Any, currency: str) -> Decimal | None:
    """Whole units; null and zero are none. BadPayload for what cannot be a price."""
    if value is None:
        return None
    text = (
        value if isinstance(value, str) else format(value, "f") if isinstance(value, Decimal) else str(value)
    )
    limit = _ABSURD * (1000 if currency in _COARSE else 1)
    if not _AMOUNT.fullmatch(text) or Decimal(text) > limit:
        raise errors.BadPayload(f"market data: {text[:40]!r} is not a price")
    return Decimal(text) or None
