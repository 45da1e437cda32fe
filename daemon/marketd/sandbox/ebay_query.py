"""How eBay reads a search: keywords, filters, aspects, sorting; what it ignores, and what it then says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from marketd.sandbox.listings import (
    ASPECTS,
    CONDITIONS,
    DEFECTS,
    GRADED,
    NEW,
    UNGRADED,
    USED,
    WITHOUT_BOX,
    Listing,
)
from marketd.sandbox.product import compact

Test = Callable[[Listing], bool]

_OPTIONS = ("FIXED_PRICE", "AUCTION", "BEST_OFFER", "CLASSIFIED_AD")
#: condition names are loose: NEW takes in whatever calls itself new
_CONDITIONS = {
    "NEW": {NEW, WITHOUT_BOX, DEFECTS, GRADED},
    "USED": {USED, UNGRADED},
    "UNSPECIFIED": set(CONDITIONS),
}
_SORTS = ("price", "-price", "newlyListed", "endingSoonest", "distance")
#: accepted and without effect here
_INERT = {
    "deliveryCountry",
    "deliveryPostalCode",
    "deliveryOptions",
    "guaranteedDeliveryInDays",
    "itemStartDate",
    "itemEndDate",
    "sellers",
    "excludeSellers",
    "searchInDescription",
    "itemLocationRegion",
    "pickupRadius",
    "pickupCountry",
    "pickupPostalCode",
    "pickupRadiusUnit",
}


class BadQuery(Exception):
    """The whole call is refused with status 400."""

    def __init__(self, error_id: int, message: str) -> None:
        super().__init__(message)
        self.error_id = error_id


@dataclass(slots=True)
class Search:
    """A search as understood: what a listing must meet, in which order, and the warnings for the rest."""

    words: list[list[str]] = field(
        default_factory=list
    )  #: all groups must occur, any word of a group will do
    tests: list[Test] = field(default_factory=list)
    sort: str = ""
    limit: int = 50
    offset: int = 0
    warnings: list[dict[str, Any]] = field(default_factory=list)

    def meets(self, listing: Listing) -> bool:
        text = listing.haystack
        found = all(any(word in text for word in group) for group in self.words)
        return found and all(test(listing) for test in self.tests)

    def ordered(self, listings: Iterable[Listing], draw: Callable[[Listing], float]) -> list[Listing]:
        """Best Match has no rule that an outsider could use; `draw` stands in for it."""
        match self.sort:
            case "price":
                return sorted(listings, key=lambda row: (row.total(), row.number))
            case "-price":
                return sorted(listings, key=lambda row: (-row.total(), row.number))
            case "newlyListed":
                return sorted(listings, key=lambda row: -(row.number % 97))
            case _:
                return sorted(listings, key=draw)

    def warn(self, error_id: int, message: str, **parameters: str) -> None:
        self.warnings.append(
            {
                "errorId": error_id,
                "domain": "API_BROWSE",
                "category": "REQUEST",
                "message": message,
                "parameters": [{"name": name, "value": value} for name, value in parameters.items()],
            }
        )


def parse(query: Mapping[str, str]) -> Search:
    """Understand a search. Raises `BadQuery` where eBay refuses the call as a whole."""
    search = Search(limit=_limit(query), words=keywords(query.get("q", "")[:100]))
    if not any(query.get(key, "").strip() for key in ("q", "category_ids", "epid", "gtin", "charity_ids")):
        raise BadQuery(12001, "The call needs a 'q', 'category_ids', 'epid' or 'gtin' query parameter.")
    search.offset = _offset(query, search.limit)
    _category(search, query)
    _filters(search, query)
    _sort(search, query)
    return search


def keywords(text: str) -> list[list[str]]:
    """Groups of words in compare form: a space means AND, `(a, b)` means either."""
    groups = []
    for bracket, word in re.findall(r"\(([^)]*)\)|(\S+)", text):
        choices = [compact(choice) for choice in (bracket.split(",") if bracket else [word])]
        if kept := [choice for choice in choices if choice]:
            groups.append(kept)
    return groups


def either(text: str) -> str:
    """Keywords of Marketplace Insights, where a comma means AND and a space OR, as Browse writes them."""
    groups = [", ".join(group.split()) for group in text.split(",")]
    return " ".join(f"({group})" for group in groups if group)


def split(text: str) -> list[tuple[str, str]]:
    """`name:value` pairs of a filter; commas inside brackets do not part them."""
    parts = re.findall(r"([A-Za-z ]+):(\{[^}]*\}|\[[^\]]*\]|[^,]*)(?:,|$)", text)
    return [(name.strip(), value.strip()) for name, value in parts]


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", "50")
    try:
        limit = int(text)
    except ValueError:
        raise BadQuery(12007, "The 'limit' value must be an integer.") from None
    if not 1 <= limit <= 200:
        raise BadQuery(12006, "The 'limit' value must be from 1 to 200.")
    return limit


def _offset(query: Mapping[str, str], limit: int) -> int:
    try:
        offset = int(query.get("offset", "0"))
    except ValueError:
        raise BadQuery(12005, "The 'offset' value must be an integer.") from None
    if offset < 0:
        raise BadQuery(12004, "The 'offset' value cannot be negative.")
    if offset >= 10_000:
        raise BadQuery(12029, "The 'offset' value must be less than 10,000.")
    if offset % limit:
        raise BadQuery(12515, "The 'offset' value must be zero or a multiple of the 'limit' value.")
    return offset


def _category(search: Search, query: Mapping[str, str]) -> None:
    wanted = query.get("category_ids", "").strip()
    if wanted and not wanted.isdigit():
        search.warn(12009, "The 'category_ids' query parameter is invalid.", category_ids=wanted)
        wanted = ""
    if wanted:
        search.tests.append(lambda row: wanted in {row.shelf.leaf, *(id_ for id_, _ in row.shelf.parents)})
    asked = query.get("aspect_filter")
    if not asked:
        return
    pairs = split(asked)
    category = dict(pairs).get("categoryId")
    if category is None:
        search.warn(12017, "The 'aspect_filter' query parameter must have a categoryId.")
    if category != wanted or not wanted:
        return  # ignored, without a word
    for name, value in pairs:
        if name != "categoryId":
            _aspect(search, name, value)


def _aspect(search: Search, name: str, value: str) -> None:
    if not (value.startswith("{") and value.endswith("}")):
        search.warn(12018, "The aspect_filter value is invalid.", aspectFilter=f"{name}:{value}")
        return
    wanted = {choice.strip().lower() for choice in value[1:-1].split("|")}

    if name in ASPECTS:  # an aspect that no category has is ignored, without a word
        search.tests.append(lambda row: dict(row.aspects).get(name, "").lower() in wanted)


def _filters(search: Search, query: Mapping[str, str]) -> None:
    pairs = dict(split(query.get("filter", "")))
    if "qualifiedPrograms" in pairs and not {"deliveryCountry", "deliveryPostalCode"} <= set(pairs):
        raise BadQuery(12033, "The 'qualifiedPrograms' filter needs both delivery filters.")
    options = _choices(pairs.get("buyingOptions", ""))
    if options and options <= set(_OPTIONS):
        search.tests.append(lambda row: bool(options & set(row.options)))
    else:
        search.tests.append(lambda row: "FIXED_PRICE" in row.options)
        if "buyingOptions" in pairs:
            _bad_filter(search, "buyingOptions")
    for name, value in pairs.items():
        reader = _READERS.get(name)
        if reader is not None:
            reader(search, value, pairs)
        elif name not in _INERT and name not in ("buyingOptions", "priceCurrency"):
            _bad_filter(search, name)


def _bad_filter(search: Search, name: str) -> None:
    search.warn(12002, f"The {name} value is invalid.", filterName=name)


def _choices(value: str) -> set[str]:
    return {choice for choice in value.strip("{}").split("|") if choice}


def _condition_ids(search: Search, value: str, pairs: Mapping[str, str]) -> None:
    wanted = _choices(value)
    if not wanted or not all(choice.isdigit() for choice in wanted):
        return _bad_filter(search, "conditionIds")
    return search.tests.append(lambda row: row.condition in wanted)


def _condition_names(search: Search, value: str, pairs: Mapping[str, str]) -> None:
    names = _choices(value)
    if not names or not names <= set(_CONDITIONS):
        return _bad_filter(search, "conditions")
    wanted = set().union(*(_CONDITIONS[name] for name in names))
    return search.tests.append(lambda row: row.condition in wanted)


def _price(search: Search, value: str, pairs: Mapping[str, str]) -> None:
    low, _, high = value.strip("[]").partition("..")
    try:
        least, most = Decimal(low or "0"), Decimal(high or "Infinity")
    except InvalidOperation:
        return _bad_filter(search, "price")
    if "priceCurrency" not in pairs:
        return search.warn(12012, "A valid 'price' and a valid 'priceCurrency' filter are both needed.")
    return search.tests.append(lambda row: row.price is not None and least <= row.price <= most)


def _location(search: Search, value: str, pairs: Mapping[str, str]) -> None:
    if not value.startswith("{"):  # a list of countries is taken and does nothing
        search.tests.append(lambda row: row.country == value)


def _delivery_cost(search: Search, value: str, pairs: Mapping[str, str]) -> None:
    search.tests.append(lambda row: row.shipping is not None and row.shipping <= Decimal(value or "0"))


def _programs(search: Search, value: str, pairs: Mapping[str, str]) -> None:
    if "AUTHENTICITY_GUARANTEE" in _choices(value):
        search.tests.append(lambda row: row.shelf.sized and row.condition == NEW)


def _bid_count(search: Search, value: str, pairs: Mapping[str, str]) -> None:
    search.tests.append(lambda row: row.bid is not None)


_READERS: dict[str, Callable[[Search, str, Mapping[str, str]], None]] = {
    "conditionIds": _condition_ids,
    "conditions": _condition_names,
    "price": _price,
    "itemLocationCountry": _location,
    "maxDeliveryCost": _delivery_cost,
    "qualifiedPrograms": _programs,
    "bidCount": _bid_count,
}


def _sort(search: Search, query: Mapping[str, str]) -> None:
    asked = query.get("sort", "")
    if asked and asked not in _SORTS:
        search.warn(12008, "The 'sort' value is invalid.", sort=asked)
    else:
        search.sort = asked
