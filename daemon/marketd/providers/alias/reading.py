"""Alias' JSON as the nouns of `marketd.models`. Raises BadPayload for a shape that cannot be trusted.

Money is a string of US cents, "0" is none. Sizes are bare numbers; the item's gender says whose.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from marketd import errors, sizes
from marketd.models import Listing, Product, Quote, Variant

CURRENCY = "USD"
NEW = ("PRODUCT_CONDITION_NEW", 1)  #: the service takes and may give either spelling
GOOD_BOX = ("PACKAGING_CONDITION_GOOD_CONDITION", 1)
#: Whether a row in this state counts. One that is not here may or may not.
_STATES: Mapping[str | int, bool] = {
    **dict.fromkeys(NEW, True),
    **dict.fromkeys(("PRODUCT_CONDITION_USED", 2, "PRODUCT_CONDITION_NEW_WITH_DEFECTS", 3), False),
}
_BOXES: Mapping[str | int, bool] = {
    **dict.fromkeys(GOOD_BOX, True),
    **dict.fromkeys(("PACKAGING_CONDITION_MISSING_LID", 2, "PACKAGING_CONDITION_BADLY_DAMAGED", 3), False),
    **dict.fromkeys(("PACKAGING_CONDITION_NO_ORIGINAL_BOX", 4), False),
}
US_UNIT = "SIZE_UNIT_US"
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_ABSURD_CENTS = 1_000_000_000
#: What a size number means by the item's gender, as a suffix of the canonical size; `youth` is told by `_young`.
_SUFFIXES = {"men": "", "unisex": "", "women": "W", "youth": "", "infant": "C", "toddler": "C"}
_SCHOOL, _TODDLER, _PRESCHOOL = (
    re.compile(rf"\b({words})\b", re.IGNORECASE)
    for words in (
        r"gs|grade[ -]?school|big kids?",
        r"td|toddlers?|infants?|cribs?|baby",
        r"ps|pre-?school|little kids?",
    )
)
_LARGEST_YOUTH, _LARGEST_CHILD = Decimal("7.5"), Decimal("13.5")
_CERTAIN = Decimal(4)  #: a lesser number of a preschool shoe may be 1C as well as 1Y


def items(body: Any) -> list[dict[str, Any]]:
    """The hits of a search, in Alias' order, each with `name` (text) and `sku` (text or None)."""
    match body:
        case {"catalog_items": list(hits)} if all(isinstance(item, dict) for item in hits):
            return [{**item, "name": _text(item, "name") or "", "sku": _text(item, "sku")} for item in hits]
        case {"has_more": False}:
            return []
    raise errors.BadPayload("search: no list of catalog_items")


def next_page(body: Mapping[str, Any], limit: int) -> str | None:
    """The token for the hits behind a full page; `has_more` alone means nothing."""
    if body.get("has_more") is not True or len(body["catalog_items"]) < limit:
        return None
    return _text(body, "next_pagination_token")


def distinct(hits: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each item once; BadPayload for a hit that does not tell its id, for it may be another item or not."""
    if not all(ID.fullmatch(_text(item, "catalog_id") or "") for item in hits):
        raise errors.BadPayload("search: a hit without a catalog_id that can be used")
    once: dict[str, dict[str, Any]] = {}
    for item in hits:
        once.setdefault(item["catalog_id"].lower(), item)
    return list(once.values())


def _text(item: Mapping[Any, Any], key: str) -> str | None:
    value = item.get(key)
    return value if isinstance(value, str) and value else None


def listing_of_id(item: Any, catalog_id: str) -> Listing:
    """The item that was asked for by its id; BadPayload for another one."""
    found = listing(item)
    if found.product.id.lower() != catalog_id.lower():
        raise errors.BadPayload(f"asked for item {catalog_id[:60]}, got {found.product.id[:60]}")
    return found


def listing(item: Any) -> Listing:
    """One catalogue item with its sizes. Raises Unmatched (`size_system`) for a gender whose sizes are unknown."""
    match item:
        case {"catalog_id": str(catalog_id), **rest} if ID.fullmatch(catalog_id):
            category = _text(rest, "product_type") or _text(rest, "product_category_v2")
            gender = (_text(rest, "gender") or "").lower() or None
            details = {
                "colorway": _text(rest, "colorway"),
                "release_date": (_text(rest, "release_date") or "")[:10] or None,
                "retail_price": _retail(rest.get("retail_price_cents")),
            }
            product = Product(
                id=catalog_id,
                style_code=_text(rest, "sku"),
                name=_text(rest, "name"),
                brand=_text(rest, "brand"),
                category=category.lower() if category else None,
                gender="youth" if gender == "kids" else gender,
                image_url=_text(rest, "main_picture_url"),
                details={name: value for name, value in details.items() if value},
            )
            return Listing(product=product, variants=_variants(rest, product))
    raise errors.BadPayload("an item without a catalog_id that can be used")


def _variants(item: Mapping[Any, Any], product: Product) -> tuple[Variant, ...]:
    """The item's sizes; `id` is Alias' own number, `size` the canonical US one. None of either for one size."""
    rows = item.get("allowed_sizes")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise errors.BadPayload("an item without a list of allowed_sizes")
    numbers = [(number(row.get("value")), number(row.get("us_size_equivalent"))) for row in rows]
    if all(value == 0 for value, _ in numbers):
        return (Variant(id="0", size=None),)
    suffix = _SUFFIXES.get(product.gender or "")
    if suffix is None:
        raise errors.Unmatched(f"sizes of gender {product.gender!r} are not understood", code="size_system")
    found: dict[str, str] = {}
    american = item.get("size_unit", US_UNIT) == US_UNIT
    for value, us in numbers:
        try:  # in any other unit the number alone says nothing of the US size
            size = sizes.canonical(f"{_plain(us or (value if american else None))}{suffix}")
        except ValueError:
            continue  # junk such as 0 and 40 stands among the real ones
        if value and size:
            found[_plain(value)] = size
    if product.gender == "youth":
        found = _young(product.name or "", rows, found)
    counts = Counter(found.values())
    return tuple(Variant(id=value, size=size) for value, size in found.items() if counts[size] == 1)


def _young(name: str, rows: Sequence[Mapping[Any, Any]], numbers: Mapping[str, str]) -> dict[str, str]:
    """Youth sizes (Y) and those of toddlers and preschool (C), which Alias calls youth alike.

    Told by the size's own letter, else by the item's name, else by a run that ends where youth sizes end. Sizes that
    remain unclear are left out; Unmatched (`size_system`) when none is clear.
    """
    letters = {
        _plain(number(row.get("value"))): told[1].upper()
        for row in rows
        if (told := re.fullmatch(r"[0-9.]+ ?([YC])", _text(row, "display_name") or "", re.IGNORECASE))
    }
    small = {size for size in numbers.values() if _LARGEST_YOUTH < Decimal(size) <= _LARGEST_CHILD}
    school, toddler, preschool = (kind.search(name) for kind in (_SCHOOL, _TODDLER, _PRESCHOOL))

    def suffix(value: str, number: str) -> str:
        if value in letters:
            return letters[value]
        if school:
            return "" if toddler or preschool else "Y"
        if preschool and Decimal(number) < _CERTAIN:
            return ""
        if toddler or preschool:
            return "C"
        return "" if small else "Y"

    found = {value: f"{size}{group}" for value, size in numbers.items() if (group := suffix(value, size))}
    if numbers and not found:
        raise errors.Unmatched(
            f"it cannot be told whether {name[:60]!r} comes in youth or in child sizes", code="size_system"
        )
    return {value: size for value, size in found.items() if _worn(size)}


def number(value: Any) -> Decimal | None:
    """A size number, given as a number or as its text."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,2})?", value, re.ASCII):
        return Decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    return Decimal(value)


def _plain(value: Decimal | None) -> str:
    """Without trailing zeros and exponent: 10, 10.5."""
    return "0" if not value else format(value.normalize(), "f")


@dataclass(frozen=True, slots=True)
class Market:
    """What one availabilities answer says of an item."""

    quotes: dict[str | None, Quote] = field(default_factory=dict)  #: by canonical size
    refused: dict[str | None, errors.ProviderError] = field(
        default_factory=dict
    )  #: sizes with absurd amounts
    strange: frozenset[str] = (
        frozenset()
    )  #: traded size numbers that the item did not list when it was cached


#: what a size without a row has
_NOTHING: Mapping[Any, Any] = {"lowest_listing_price_cents": None, "highest_offer_price_cents": None}
_UNTOLD: Mapping[Any, Any] = {}


def market(
    body: Any, item: Listing, basis: Mapping[str, Any], at: datetime, *, consigned: bool | None = None
) -> Market:
    """Every size of the item, from the rows of new pairs in a good box; a size without a row has no market.

    A row that may be one of those refuses its size, unless another is one for certain. All are refused where none has
    a row of any state: Alias has rows of zeros for what nobody trades. `consigned` as it was asked for: rows that say
    otherwise do not count.
    """
    rows, seen = _rows(body, consigned)
    found = Market(strange=frozenset(size for size in rows if _worn(size)) - {v.id for v in item.variants})
    nothing = _NOTHING if any(variant.id in seen for variant in item.variants) else _UNTOLD
    for variant in item.variants:
        row = rows.get(variant.id, nothing)
        try:
            if not row.keys() >= {"lowest_listing_price_cents", "highest_offer_price_cents"}:
                raise errors.BadPayload(f"availabilities: no ask or no offer is told of size {variant.id}")
            found.quotes[variant.size] = Quote(
                size=variant.size,
                currency=CURRENCY,
                lowest_ask=cents(row.get("lowest_listing_price_cents")),
                highest_bid=cents(row.get("highest_offer_price_cents")),
                last_sale=cents(row.get("last_sold_listing_price_cents")),
                basis=basis,
                observed_at=at,
            )
        except errors.BadPayload as error:
            found.refused[variant.size] = error
    return found


def _rows(body: Any, consigned: bool | None) -> tuple[dict[str, Mapping[Any, Any]], set[str]]:
    """What is told of each size number (of some, that it cannot be told), and all that have a row of any state."""
    listed = body.get("variants") if isinstance(body, dict) else None
    if not isinstance(listed, list):
        raise errors.BadPayload("availabilities: no list of variants")
    rows: dict[str, Mapping[Any, Any]] = {}
    seen: set[str] = set()
    doubtful: set[str] = set()
    for row in listed:
        match row:
            case {"size": size}:
                counts, parsed = _counts(row, consigned), number(size)
                if parsed is None:
                    if counts is False:
                        continue
                    raise errors.BadPayload(f"availabilities: {str(size)[:40]!r} is not a size")
                key = _plain(parsed)
                (doubtful if counts is None else seen).add(key)
                if counts:
                    amounts = row.get("availability")
                    told = amounts if isinstance(amounts, dict) else _UNTOLD
                    # two that differ tell nothing
                    rows[key] = told if rows.get(key, told) == told else _UNTOLD
            case _:
                raise errors.BadPayload("availabilities: a row without size")
    return {**dict.fromkeys(doubtful, _UNTOLD), **rows}, seen


def _counts(row: Mapping[Any, Any], consigned: bool | None) -> bool | None:
    """Whether a row is of new pairs in a good box, stored as was asked; None if that cannot be told."""
    new, good = _known(_STATES, row.get("product_condition")), _known(_BOXES, row.get("packaging_condition"))
    stored = row.get("consigned", consigned)
    as_asked = True if consigned is None else stored is consigned if isinstance(stored, bool) else None
    if new is False or good is False or as_asked is False:
        return False
    return None if None in (new, good, as_asked) else True


def _known(states: Mapping[str | int, bool], given: Any) -> bool | None:
    return states.get(given) if type(given) in (str, int) else None  # `true` is no 1


def _worn(size: str) -> bool:
    """Whether a number can be a shoe size at all; 0 and 40 stand among the real ones."""
    try:
        return sizes.canonical(size) is not None
    except ValueError:
        return False


def cents(value: Any) -> Decimal | None:
    """Dollars from a string (or number) of US cents; none for zero or nothing. BadPayload if it is no price."""
    if value is None:
        return None
    text = value if isinstance(value, str) else str(value) if type(value) is int else ""
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) > _ABSURD_CENTS:
        raise errors.BadPayload(f"{str(value)[:40]!r} is not a price in cents")
    return Decimal(text) / 100 or None


def _retail(value: Any) -> str | None:
    """The shop's price, which is only shown: one that cannot be read does not refuse the item."""
    try:
        price = cents(value)
    except errors.BadPayload:
        return None
    return None if price is None else str(price)
