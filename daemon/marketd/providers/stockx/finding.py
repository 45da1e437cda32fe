"""Which StockX product a sku means: never merely the first hit (fact sheet 5.2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import quote
from uuid import UUID

from marketd import errors, skus
from marketd.models import Listing, Product, Variant
from marketd.provider import Ask, Http, Reply
from marketd.providers.stockx import reading
from marketd.providers.stockx.choosing import ASIDE, Choice, ambiguous, choose

PAGE_SIZE = 20
MAX_PAGES = 2  #: of a search; the exact code is nearly always the first hit, and each page costs a call
MAX_RIVALS = 5  #: products of one style code whose sizes are looked at; each costs a call, once
_MANY = re.compile(r"case|cases|lot|bundle|display|set|sets|packs?|[0-9]+x|x[0-9]+|[0-9]+ct")


async def find_again(ask: Ask, http: Http) -> Choice:
    """`find` for a product whose known id is gone; NotListed (`mapping_broken`) if it is nowhere."""
    try:
        return await find(ask, http)
    except errors.NotListed as error:
        raise errors.NotListed(
            f"the known product is gone and not found again: {error}", code="mapping_broken"
        ) from error


async def find(ask: Ask, http: Http) -> Choice:
    """The one product that the sku means; NotListed or Unmatched otherwise. Never merely the first hit."""
    kind, _, rest = ask.sku.partition(":")
    if kind == "id":
        wanted = uuid(rest)
        reply = await http.get(f"/catalog/products/{wanted}", endpoint="product")
        candidates = [reading.product_of_id(reply.body, wanted)]
    elif kind == "name":
        candidates = await _search(rest, partial(_by_name, rest), http)
    else:
        candidates = await _by_style(ask.sku, http)
    if not candidates:
        raise errors.NotListed(f"StockX lists no {ask.sku}")
    return await _choose(candidates, ask, http)


async def _by_style(sku: str, http: Http) -> list[Product]:
    for part in skus.parts(sku):
        found = await _search(part, partial(_of_style, sku), http)
        if found:
            return found
    return []


def _of_style(sku: str, hits: Sequence[Product], _: bool) -> list[Product]:
    return [product for product in hits if skus.matches(sku, product.style_code)]


def _by_name(name: str, hits: Sequence[Product], whole: bool) -> list[Product]:
    """Products of exactly this title, else the only hit whose title has all the words, if these are all the hits."""
    wanted = skus.words(name)
    if not wanted:
        return []
    exact = [product for product in hits if skus.words(product.name or "") == wanted]
    if exact:
        return exact
    holding = [product for product in hits if set(wanted) <= set(skus.words(product.name or ""))]
    if len(holding) > 1 or (holding and not whole) or any(_is_more(product, wanted) for product in holding):
        raise ambiguous(name, holding)
    return holding


def _is_more(product: Product, wanted: Sequence[str]) -> bool:
    """Whether a title's further words tell of several of the thing, or of a part or another kind of it."""
    rest = set(skus.words(product.name or "")) - set(wanted)
    return any(_MANY.fullmatch(word) or ASIDE.fullmatch(word) for word in rest)


async def _choose(candidates: list[Product], ask: Ask, http: Http) -> Choice:
    if len(candidates) > MAX_RIVALS:
        raise ambiguous(ask.sku, candidates)
    if len(candidates) == 1:
        listings = [Listing(product=candidates[0], variants=await variants(candidates[0], http))]
    else:
        rivals = [await _rival(product, http) for product in candidates]
        listings = [listing for listing in rivals if listing is not None]
    if not listings:
        raise errors.BadPayload(f"none of the {len(candidates)} products of {ask.sku} has any sizes")
    return choose(ask.sku, ask.sizes, listings)


async def _rival(product: Product, http: Http) -> Listing | None:
    """A candidate with its sizes; None for one that has none: an accessory, a withdrawn product.

    An answer that cannot be read is no such word: it would leave the field to the wrong product.
    """
    try:
        reply = await _variants(product.id, http)
    except errors.NotListed:
        return None
    return (
        Listing(product=product, variants=reading.variants(reply.body, product)) if reply.body != [] else None
    )


async def _search(
    query: str, choose_from: Callable[[Sequence[Product], bool], list[Product]], http: Http
) -> list[Product]:
    """What is chosen from the first page that has any; `choose_from` is told whether there are no more."""
    for page in range(1, MAX_PAGES + 1):
        hits, last = await _page(query, page, http)
        found = choose_from(hits, last)
        if found or last:
            return found
    return []


async def _page(query: str, number: int, http: Http) -> tuple[list[Product], bool]:
    # Both paging parameters are always sent: the document and the live service disagree about the default.
    params = {"query": query[:100], "pageNumber": str(number), "pageSize": str(PAGE_SIZE)}
    try:
        reply = await http.get("/catalog/search", params, endpoint="search")
    except errors.NotListed as error:  # no hit is a 200
        raise errors.no_such_path("StockX's search") from error
    return reading.products(reply.body), reading.is_whole(reply.body, PAGE_SIZE)


async def variants(product: Product, http: Http) -> tuple[Variant, ...]:
    """The product's sizes; one request. Raises NotListed for an unknown product."""
    return reading.variants((await _variants(product.id, http)).body, product)


async def _variants(product_id: str, http: Http) -> Reply:
    return await http.get(f"/catalog/products/{segment(product_id)}/variants", endpoint="variants")


def segment(product_id: str) -> str:
    """A product id of StockX's own as part of a path."""
    return quote(product_id, safe="")


def uuid(text: str) -> str:
    """A product id in canonical form; StockX answers slugs and style codes with misleading errors."""
    try:
        return str(UUID(text))
    except ValueError:
        raise errors.NotListed(f"{text[:60]!r} is not a StockX product id (a UUID)") from None
