"""Which eBay listings are what was asked for. Every result is checked again here.

A 200 does not prove that a filter worked (fact sheet 4.2), titles are written by sellers, and one wrong listing
is enough to be the lowest. Nothing about sellers is read or kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from statistics import median
from typing import Any

from marketd import errors
from marketd.provider import Usage, instant
from marketd.providers.ebay.options import Band
from marketd.providers.ebay.titles import (
    LONGEST,
    Wanted,
    confirms,
    fits,
    is_silent,
    names,
    tells_size,
    tells_whose,
)

NEW, GRADED, UNGRADED = "1000", "2750", "4000"
CARD_CATEGORIES = frozenset(("183050", "183454", "261328"))  #: single cards: non-sport, card games, sport
_ABSURD = Decimal(10_000_000)
_LEAST = Decimal("0.99")  #: eBay's least for a fixed price, in each currency of its marketplaces
_AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
_DAY_S = "86400"
_TOLD = ("title", "buyingOptions", "conditionId")  #: without these no listing can be judged
_ENOUGH = 5  #: listings from which on their own median tells what is plausible


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A listing that is what was asked for. `shipping` None = unknown, which is not free."""

    title: str
    price: Decimal
    shipping: Decimal | None
    image_url: str | None


def offers(body: Any, wanted: Wanted) -> list[Offer]:
    """The listings of a search answer that are right; one with an amount that is none does no harm to the others."""
    rows = _listings(body)
    wanted = warned(body, rows, wanted)
    found: list[Offer] = []
    unreadable: errors.BadPayload | None = None
    for row in rows:
        try:
            if _for_sale(row) and (offer := _offer(row, wanted)) is not None:
                found.append(offer)
        except errors.BadPayload as error:
            unreadable = error
    if unreadable is not None and not found:
        raise unreadable
    return found


def _listings(body: Any) -> list[dict[str, Any]]:
    if not isinstance(body, dict) or "total" not in body:
        raise errors.BadPayload("search: no total")
    rows = body.get("itemSummaries", [])  # missing when nothing was found
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise errors.BadPayload("search: itemSummaries is not a list of items")
    if not rows and body["total"] not in (0, "0"):
        raise errors.BadPayload("search: a total without listings")
    for key, those in (*((key, rows) for key in _TOLD), ("price", list(filter(_for_sale, rows)))):
        if those and not any(row.get(key) for row in those):
            raise errors.BadPayload(f"search: no listing tells its {key}")
    return rows


def warned(body: Mapping[str, Any], rows: list[dict[str, Any]], wanted: Wanted) -> Wanted:
    """The same; with nothing but listings to vouch for size and product where eBay warns, or ignored one silently."""
    warns = bool(body.get("warnings"))
    if wanted.epid and (warns or any(_is_of_another(row, wanted) for row in rows)):
        wanted = replace(wanted, epid_told=True)
    doubtful = warns or _ignores_size(rows, wanted)
    return replace(wanted, stated=bool(wanted.number)) if doubtful else wanted


def _is_of_another(row: Mapping[str, Any], wanted: Wanted) -> bool:
    """Whether a listing is of another product than the one whose id was asked for, by its own telling."""
    told = row.get("epid") or ("" if wanted.epid_told else wanted.epid)
    return bool(wanted.epid) and str(told) != wanted.epid


def _ignores_size(rows: list[dict[str, Any]], wanted: Wanted) -> bool:
    """Whether more titles state another size than the wanted one, or another system's: a working aspect lets few by."""
    told = [row for row in rows if _is_thing(row, wanted) and tells_size(_title(row), wanted)]
    return bool(wanted.number) and 2 * sum(confirms(_title(row), wanted) for row in told) < len(told)


def is_conclusive(body: Any, wanted: Wanted) -> bool:
    """Whether an answer without any right listing means that there is none.

    Not if more follow, or if titles have to tell the size and one that names the thing tells none.
    """
    rows = _listings(body)
    wanted = warned(body, rows, wanted)
    silent = wanted.stated and any(_is_thing(row, wanted) and is_silent(_title(row), wanted) for row in rows)
    return not body.get("next") and not silent


def misfit(body: Any, wanted: Wanted, found: list[Offer]) -> errors.Unmatched | None:
    """Why the size as asked cannot be that of the thing, judged by the shelves and titles of what was found."""
    things = [row for row in _listings(body) if _is_thing(row, wanted)]
    if not wanted.number:
        shoes = [row for row in things if not _shelved(row, wanted) or tells_size(_title(row), wanted)]
        if not wanted.grade and len(shoes) > len(found):
            return errors.Unmatched("eBay lists it in many sizes: name one", code="size_required")
        return None
    elsewhere = sum(not _shelved(row, wanted) for row in things)
    if not found and elsewhere > sum(wanted.shelf in _categories(row) for row in things):
        return errors.Unmatched(
            "eBay lists it among other people's shoes than the size is of", code="size_system"
        )
    return None


def sane(found: list[Offer], wanted: Wanted, band: Band) -> tuple[list[Offer], str]:
    """The offers within the band, and what it was measured by: `providers`, `listings`, or `none`.

    Other providers' asks are in `wanted` already. Where there are none in this currency, the listings' own median
    stands in, once there are enough of them; it is weaker, for it cannot tell when most of them are wrong.
    """
    if wanted.floor is not None or wanted.ceiling is not None:
        return found, "providers"
    if (band.lowest is None and band.highest is None) or len(found) < _ENOUGH:
        return found, "none"
    middle = median(offer.price for offer in found)
    low, high = middle * (band.lowest or 0), None if band.highest is None else middle * band.highest
    return [
        offer for offer in found if low <= offer.price and (high is None or offer.price <= high)
    ], "listings"


def _for_sale(row: Mapping[str, Any]) -> bool:
    options = row.get("buyingOptions")
    return isinstance(options, list) and "FIXED_PRICE" in options


def is_wanted(row: Mapping[str, Any], wanted: Wanted) -> bool:
    """Whether a listing, live or sold, is the wanted thing in the wanted size and condition."""
    return (
        _is_thing(row, wanted)
        and _within(row, wanted.category)
        and (_shelved(row, wanted) or tells_whose(_title(row), wanted))
        and fits(_title(row), wanted)
    )


def _is_thing(row: Mapping[str, Any], wanted: Wanted) -> bool:
    """Whether a listing is the wanted thing in the wanted condition, whatever its size."""
    leaves = row.get("leafCategoryIds")
    card = isinstance(leaves, list) and not CARD_CATEGORIES.isdisjoint(map(str, leaves))
    condition = str(row.get("conditionId"))
    return (
        condition in wanted.conditions
        and (condition != UNGRADED or card)
        and (condition != NEW or not card)
        and not row.get("itemGroupType")
        and not row.get("itemGroupHref")
        and row.get("listingMarketplaceId", wanted.marketplace) == wanted.marketplace
        and not _is_of_another(row, wanted)
        and names(_title(row), wanted)
    )


def _title(row: Mapping[str, Any]) -> str:
    return str(row.get("title") or "")[
        : LONGEST + 1
    ]  # what is longer names nothing, and would fill the memory


def _categories(row: Mapping[str, Any]) -> set[str]:
    """The categories that a listing tells, its own and those above."""
    told = {str(leaf) for leaf in _rows(row, "leafCategoryIds")}
    return told | {str(one.get("categoryId")) for one in _rows(row, "categories") if isinstance(one, dict)}


def _within(row: Mapping[str, Any], category: str | None) -> bool:
    """Whether a listing stands in a category or below it; what tells no category is believed to."""
    told = _categories(row)
    return category is None or not told or category in told


def _shelved(row: Mapping[str, Any], wanted: Wanted) -> bool:
    """Whether a listing stands where the wanted thing may stand, and not among other people's shoes."""
    told = _categories(row)
    return wanted.shelf in told or wanted.foreign.isdisjoint(told)


def _offer(row: Mapping[str, Any], wanted: Wanted) -> Offer | None:
    price = plausible(row.get("price"), wanted) if is_wanted(row, wanted) else None
    if price is None:
        return None
    image = row.get("image")
    picture = image.get("imageUrl") if isinstance(image, dict) else None
    return Offer(
        title=_title(row),
        price=price,
        shipping=_shipping(row.get("shippingOptions"), wanted.currency),
        image_url=picture if isinstance(picture, str) else None,
    )


def plausible(given: Any, wanted: Wanted) -> Decimal | None:
    """An amount in the wanted currency and within the wanted bounds, else None; free is no price.

    BadPayload for less than any listing may cost at eBay: a price that was garbled on the way.
    """
    price = _money(given, wanted.currency)
    if price and price < _LEAST:
        raise errors.BadPayload(f"a price of {price}, which eBay does not take")
    if not price or (wanted.floor is not None and price < wanted.floor):
        return None
    return price if wanted.ceiling is None or price <= wanted.ceiling else None


def _shipping(given: Any, currency: str) -> Decimal | None:
    """The cheapest known cost; CALCULATED without a cost is unknown."""
    rows = given if isinstance(given, list) else []
    costs = [_money(row.get("shippingCost"), currency) for row in rows if isinstance(row, dict)]
    return min((cost for cost in costs if cost is not None), default=None)


def _money(given: Any, currency: str) -> Decimal | None:
    """None for another currency or nothing. BadPayload for what cannot be an amount of money."""
    match given:
        case {"value": str() | int() | Decimal() as value, "currency": str(unit)} if unit == currency:
            text = str(value)
            if not _AMOUNT.fullmatch(text) or Decimal(text) > _ABSURD:
                raise errors.BadPayload(f"{text[:40]!r} is not a price")
            return Decimal(text)
    return None


def usage(body: Any) -> Usage | None:
    """What a getRateLimits answer says of the Browse API's day; None when it says nothing."""
    for api in _rows(body, "rateLimits"):
        for resource in _rows(api, "resources"):
            match resource:
                case {"name": "buy.browse", "rates": list(rates)} if rate := _daily(rates):
                    return rate
    return None


def _daily(rates: list[Any]) -> Usage | None:
    """The rate of a day, among shorter ones; one that does not tell its window is taken only when it is alone."""
    for rate in rates:
        match rate:
            case {"remaining": left, "reset": str(reset), **rest} if (number := _whole(left)) is not None:
                if str(rest.get("timeWindow")) == _DAY_S or ("timeWindow" not in rest and len(rates) == 1):
                    return Usage(remaining=max(0, number), reset=instant(reset, "rate_limit: a window"))
    return None


def _whole(given: Any) -> int | None:
    """A whole number, given as a number or as its text."""
    if isinstance(given, str) and re.fullmatch(r"-?[0-9]{1,12}", given, re.ASCII):
        return int(given)
    return given if type(given) is int else None


def _rows(body: Any, key: str) -> list[Any]:
    """A list where there should be one, else none at all."""
    rows = body.get(key) if isinstance(body, dict) else None
    return rows if isinstance(rows, list) else []
