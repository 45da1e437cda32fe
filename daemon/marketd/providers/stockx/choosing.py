"""Which of several products with one style code each asked size means (fact sheet 5.2). No I/O.

The answer for a size never depends on what else is asked, or was asked before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from marketd import errors, sizes
from marketd.models import Listing, Product
from marketd.values import value

Size: TypeAlias = str | None

ASIDE = re.compile(r"\b(sample|only|laces?|insoles?|keychain|charity|basketball|promo)\b", re.IGNORECASE)


@value
class Part:
    """A product, and what is its own: the asked sizes, and of its variants those that no other product has first."""

    listing: Listing
    asked: tuple[Size, ...]
    variants: frozenset[str]


@value
class Choice:
    """`settled` is the product whatever size is asked; None where it goes by the size, so that none may be kept."""

    parts: tuple[Part, ...]
    refused: Mapping[Size, errors.Unmatched]
    settled: Listing | None


def choose(sku: str, asked: Sequence[Size], listings: Sequence[Listing]) -> Choice:
    """Raises Unmatched (`ambiguous_product`) when it cannot be told for any of the asked sizes."""
    every = {variant.size for listing in listings for variant in listing.variants}
    owners = {size: _owner(size, listings) for size in every | {None}}
    # What has no sizes at all beside a shoe says nothing about which of them the shoe's code means.
    found = [owners[size] for size in every - {None} or {None}]
    one = found[0] if all(owner is found[0] for owner in found) else None
    for size in asked:
        if one is not None:
            owners[size] = (
                one  # also what only another's chart would tell: once it is kept nobody asks the other
            )
        elif size not in owners:
            owners[size] = _told_owner(size, listings, owners)
    parts = [
        Part(
            listing=listing,
            asked=tuple(size for size in asked if owners[size] is listing),
            variants=frozenset(
                variant.id
                for variant in listing.variants
                if listing is one or owners[variant.size] is listing
            ),
        )
        for listing in listings
    ]
    unclear = [size for size in asked if owners[size] is None]
    tied = ambiguous(sku, [listing.product for listing in listings])
    if len(unclear) == len(asked):
        raise tied
    return Choice(
        parts=tuple(part for part in parts if part.asked), refused=dict.fromkeys(unclear, tied), settled=one
    )


def _owner(size: Size, listings: Sequence[Listing]) -> Listing | None:
    """Of those that have the size (of all if none has), the one that is no sample or accessory; None for a tie."""
    having = [listing for listing in listings if _offers(listing, size)] or listings
    plain = [listing for listing in having if not ASIDE.search(listing.product.name or "")] or having
    return plain[0] if len(plain) == 1 else None


def _told_owner(
    size: Size, listings: Sequence[Listing], owners: Mapping[Size, Listing | None]
) -> Listing | None:
    """Who has a size that is no variant's own: of another system by its chart, if the US size is its own as well."""
    owner = _owner(size, listings)
    if owner is None:
        return None
    try:
        told = sizes.match(size, owner.variants, brand=owner.product.brand, gender=owner.product.gender)
    except errors.Unmatched:
        return owner  # who tells why not
    return owner if owners[told.size] is owner else None


def _offers(listing: Listing, size: Size) -> bool:
    """Whether the listing has the size; one that fits two of its variants is there, too."""
    product = listing.product
    try:
        sizes.match(size, listing.variants, brand=product.brand, gender=product.gender)
    except errors.Unmatched as error:
        return error.error_code == "ambiguous_size"
    return size is not None


def ambiguous(wanted: str, products: Sequence[Product]) -> errors.Unmatched:
    """The refusal that names the products to choose from."""
    named = "; ".join(f"id:{product.id} ({product.name!r})" for product in products[:4])
    return errors.Unmatched(
        f"{wanted} does not name one product for certain, ask for it by id: {named}", code="ambiguous_product"
    )
