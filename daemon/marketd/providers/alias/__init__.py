"""Alias, GOAT's seller platform, v1: catalogue search, then one call for the market of all sizes.

Prices are US dollars whatever the region (fact sheet section 3). A crossed book (bid above ask) is normal in
the global view.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from pydantic import Field, SecretStr

from marketd import errors, oauth, provider, sizes, skus
from marketd.models import Listing, Quote
from marketd.provider import Answers, Ask, Found, Http, Reply
from marketd.providers.alias import reading, sales

SEARCH_LIMIT = 20
MAX_PAGES = 2  #: of a search; the exact code is nearly always the first hit, and each page costs a call


class Credentials(provider.Credentials):
    """A personal access token from Alias' token manager."""

    token: SecretStr = SecretStr("")


class Options(provider.Options):
    """Which market is meant; both are stored in every price's `basis`."""

    region_id: str | None = Field(
        default=None, pattern=r"^[0-9]{1,4}$"
    )  # None = global, 1 US, 2 Europe, 3 UK
    consigned: bool | None = None  # None = both, true = stored at GOAT, false = with the seller
    recent_sales: bool = (
        False  # one more request per asked size: the time of its last sale, and sales in 72 h
    )


class Alias:
    """Cold: 2 requests (one more for each further part of a code or page of hits). Warm: 1 for all sizes."""

    name: ClassVar[str] = "alias"
    all_sizes: ClassVar[bool] = True
    images: ClassVar[bool] = True
    first_calls: ClassVar[int] = 2  #: search, availabilities
    currencies: ClassVar[frozenset[str]] = frozenset((reading.CURRENCY,))
    defaults: ClassVar[Mapping[str, Any]] = {
        "base_url": "https://api.alias.org/api/v1",
        "currency": reading.CURRENCY,
        "budget": {"per_hour": 200},
        "concurrency": 2,
        "timeout": "60s",
    }
    credentials_type: ClassVar[type[provider.Credentials]] = Credentials
    options_type: ClassVar[type[provider.Options]] = Options

    def __init__(self, options: Options) -> None:
        self.options = options
        self._known_strange: set[tuple[str, str]] = set()  # (item, size): traded, but not in the item's list

    def authorize(
        self, credentials: Credentials, *, token_url: str | None, token_file: Path
    ) -> oauth.StaticToken:
        """The token as it is; it does not expire by itself."""
        return oauth.StaticToken({"Authorization": f"Bearer {credentials.token.get_secret_value()}"})

    @staticmethod
    def classify(status: int, headers: Mapping[str, str], body: Any) -> errors.ProviderError | None:
        """Where the gRPC code says more than the status; texts are never decided on, they may change."""
        code = body.get("code") if isinstance(body, dict) else None
        if status == 404 and code != 5:  # NOT_FOUND; without it, it is not Alias that answered
            return errors.no_such_path("Alias' API")
        if code in (1, 4, 10, 14) and status < 500:  # CANCELLED, DEADLINE_EXCEEDED, ABORTED, UNAVAILABLE
            return errors.Transient(f"HTTP {status}, code {code}", http_status=status)
        if code == 8 and status != 429:  # RESOURCE_EXHAUSTED
            return errors.Throttled(f"HTTP {status}, code {code}", http_status=status)
        return None

    async def fetch(self, ask: Ask, http: Http) -> Found:
        """All sizes of the item. A cached catalog id that is gone is searched for once more."""
        if ask.currency != reading.CURRENCY:
            raise errors.Rejected(f"Alias has prices in USD only, not in {ask.currency}", code="currency")
        listing = ask.listing or await _find(ask.sku, http)
        try:
            reply = await self._availabilities(listing, http)
        except errors.NotListed:
            if ask.listing is None:
                raise
            listing = await _find_again(ask.sku, http)
            reply = await self._availabilities(listing, http)
        market = self._market(reply, listing)
        trouble: errors.ProviderError | errors.NotGranted | None = None
        if listing is ask.listing and not _named(market, listing) <= self._known_strange:
            try:
                listing = await _item(listing.product.id, http)
                market = self._market(reply, listing)
            except (errors.Transient, errors.BadPayload, errors.NotGranted) as error:
                trouble = error  # it says nothing of the prices that are here; the next fetch tries again
        answers: Answers = {size: _answer(size, listing, market, ask.elsewhere) for size in ask.sizes}
        if trouble is None:
            self._known_strange |= _named(market, listing)
        else:
            answers = provider.certain(answers, trouble)
        if self.options.recent_sales:
            await self._add_sales(answers, market, listing, http)
        new = None if listing is ask.listing else listing
        return Found(listing=new, quotes=tuple(market.quotes.values()), answers=answers)

    async def _availabilities(self, listing: Listing, http: Http) -> Reply:
        path = f"/pricing_insights/availabilities/{quote(listing.product.id, safe='')}"
        try:
            return await http.get(path, self._place(), endpoint="availabilities")
        except errors.NotListed as gone:
            raise errors.NotListed(str(gone), code="mapping_broken", http_status=404) from gone

    def _market(self, reply: Reply, listing: Listing) -> reading.Market:
        return reading.market(
            reply.body, listing, self._basis(), reply.granted_at, consigned=self.options.consigned
        )

    async def _add_sales(
        self,
        answers: Answers,
        market: reading.Market,
        listing: Listing,
        http: Http,
    ) -> None:
        """Sales are an extra: prices that are here stand without them. Raises Throttled, which is news for the lane."""
        for size in sorted({answer for answer in answers.values() if isinstance(answer, str)}):
            try:
                market.quotes[size] = await self._with_sales(market.quotes[size], listing, http)
            except errors.Throttled:
                raise
            except (errors.ProviderError, errors.NotGranted) as error:
                basis = {**market.quotes[size].basis, "recent_sales": "no_answer"}
                market.quotes[size] = replace(market.quotes[size], basis=basis)
                if not isinstance(error, errors.BadPayload):
                    return  # the next request would fare no better, and costs a call

    async def _with_sales(self, price: Quote, listing: Listing, http: Http) -> Quote:
        """The quote with its sales of the last 72 hours; `size` and both conditions must be sent."""
        variant = sizes.match(price.size, listing.variants)
        params = {
            "catalog_id": listing.product.id,
            "size": variant.id,
            "product_condition": reading.NEW[0],
            "packaging_condition": reading.GOOD_BOX[0],
            "limit": "100",
            **self._place(),
        }
        reply = await http.get("/pricing_insights/recent_sales", params, endpoint="recent_sales")
        return sales.sold(
            price,
            reply.body,
            reply.granted_at,
            catalog_id=listing.product.id,
            size=variant.id,
            consigned=self.options.consigned,
        )

    def _place(self) -> dict[str, str]:
        """Parameters of the market that is meant; an unset one is left out, since empty ones were refused."""
        place = {}
        if self.options.region_id is not None:
            place["region_id"] = self.options.region_id
        if self.options.consigned is not None:
            place["consigned"] = str(self.options.consigned).lower()
        return place

    def _basis(self) -> dict[str, Any]:
        return {
            "region": self.options.region_id or "global",
            "consigned": "any" if self.options.consigned is None else self.options.consigned,
            "condition": "new",
            "box": "good",
        }


def _named(market: reading.Market, listing: Listing) -> set[tuple[str, str]]:
    return {(listing.product.id, size) for size in market.strange}


def _answer(
    wanted: str | None, listing: Listing, market: reading.Market, elsewhere: Listing | None
) -> str | errors.ProviderError | None:
    """The size that settles the wish; None (all sizes) where none was named.

    Alias has no chart: that of another provider comes before the maker's table.
    """
    if wanted is None and any(variant.size for variant in listing.variants):
        return None if market.quotes else next(iter(market.refused.values()))
    product = listing.product
    try:
        wanted = _by_chart(wanted, elsewhere) if wanted and elsewhere else wanted
        size = sizes.match(wanted, listing.variants, brand=product.brand, gender=product.gender).size
    except errors.Unmatched as error:
        return error
    return market.refused.get(size, size)


def _by_chart(size: str, listing: Listing) -> str | None:
    """The US size of one of another system, where the listing's own chart tells it; else the size as it is.

    Raises Unmatched (`ambiguous_size`) where that chart has it twice.
    """
    system, product = sizes.Size.parse(size).system, listing.product
    if not any(system in variant.chart for variant in listing.variants):
        return size
    try:
        return sizes.match(size, listing.variants, brand=product.brand, gender=product.gender).size
    except errors.Unmatched as error:
        if error.error_code == "ambiguous_size":
            raise
        return size


async def _find_again(sku: str, http: Http) -> Listing:
    try:
        return await _find(sku, http)
    except errors.NotListed as error:
        raise errors.NotListed(
            f"the known item is gone and not found again: {error}", code="mapping_broken"
        ) from error


async def _find(sku: str, http: Http) -> Listing:
    """The one item that the sku means; NotListed or Unmatched otherwise."""
    kind, _, rest = sku.partition(":")
    if kind == "id":
        return await _item(rest, http)
    if kind == "name":
        wanted = skus.words(rest)
        found = await _search(rest, lambda item: bool(wanted) and skus.words(item["name"]) == wanted, http)
    else:
        found = []
        for part in skus.parts(sku):
            found = await _search(part, lambda item: skus.matches(sku, item["sku"]), http)
            if found:
                break
    found = reading.distinct(found)
    if not found:
        raise errors.NotListed(f"Alias lists no {sku}")
    if len(found) > 1:
        named = "; ".join(f"id:{item['catalog_id']}" for item in found[:4])
        raise errors.Unmatched(f"{sku} fits {len(found)} items, ask for one by id: {named}")
    return reading.listing(found[0])


async def _item(catalog_id: str, http: Http) -> Listing:
    if not reading.ID.fullmatch(catalog_id):
        raise errors.NotListed(f"{catalog_id[:60]!r} is not an Alias catalog id")
    reply = await http.get(f"/catalog/{quote(catalog_id, safe='')}", endpoint="item")
    body = reply.body if isinstance(reply.body, dict) else {}
    return reading.listing_of_id(body.get("catalog_item", body), catalog_id)


async def _search(query: str, fits: Callable[[dict[str, Any]], bool], http: Http) -> list[dict[str, Any]]:
    """The hits that fit, of the first page that has any."""
    params = {"query": query, "limit": str(SEARCH_LIMIT)}
    found: list[dict[str, Any]] = []
    for _ in range(MAX_PAGES):
        try:
            reply = await http.get("/catalog", params, endpoint="search")
        except errors.NotListed as error:  # no hit is a 200
            raise errors.no_such_path("Alias' search") from error
        found = [item for item in reading.items(reply.body) if fits(item)]
        token = reading.next_page(reply.body, SEARCH_LIMIT)
        if found or token is None:
            break
        params = {**params, "pagination_token": token}
    return found


PROVIDER = Alias
