"""eBay Browse API v1: the cheapest live listing that is exactly the product and size asked for.

One request for each size (fact sheet section 4). Only live listings exist here: there is no bid, and a sold price
only through Marketplace Insights, which eBay gives to few. Failed calls count against 5,000 a day.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

from marketd import errors, http_client, oauth, provider
from marketd.models import Listing, Product, Quote
from marketd.provider import Ask, Found, Http, Usage
from marketd.providers.ebay import reading, sales, searching
from marketd.providers.ebay.options import MARKETPLACES, Band, Credentials, Options
from marketd.providers.ebay.reading import Offer

__all__ = ["PROVIDER", "Band", "Credentials", "EBay", "Options"]

SCOPE = "https://api.ebay.com/oauth/api_scope"  #: the production host also in eBay's own sandbox
SEARCH = "/buy/browse/v1/item_summary/search"


class EBay:
    """One request for each size; one more when it finds nothing, and one more for sold prices (option `insights`)."""

    name: ClassVar[str] = "ebay"
    all_sizes: ClassVar[bool] = False
    images: ClassVar[bool] = True
    currencies: ClassVar[frozenset[str]] = frozenset(MARKETPLACES.values())
    defaults: ClassVar[Mapping[str, Any]] = {
        "base_url": "https://api.ebay.com",
        "token_url": "/identity/v1/oauth2/token",
        "currency": "USD",
        "budget": {"per_hour": 150, "per_day": 5000, "day_starts": "00:00 America/Los_Angeles"},
        "concurrency": 2,
        "timeout": "15s",
    }
    credentials_type: ClassVar[type[provider.Credentials]] = Credentials
    options_type: ClassVar[type[provider.Options]] = Options

    def __init__(self, options: Options) -> None:
        self.options = options
        self._insights = sales.Insights() if options.insights else None

    def authorize(
        self, credentials: Credentials, *, token_url: str | None, token_file: Path
    ) -> http_client.Auth:
        """An application token, with the scope for sold prices where that is wanted and granted.

        ValueError without a token_url.
        """
        if not token_url:
            raise ValueError("ebay needs a token_url")

        def token(*scopes: str) -> oauth.MintedToken:
            grant = oauth.ClientGrant(
                token_url=token_url,
                client_id=credentials.client_id,
                client_secret=credentials.client_secret.get_secret_value(),
                scope=" ".join(scopes),  # without any a token is minted that then gets 403
                hint="check client_id and client_secret",
            )
            return oauth.MintedToken(grant, token_file)

        basic = token(SCOPE)
        return sales.WidestToken(token(SCOPE, sales.SCOPE), basic) if self.options.insights else basic

    @staticmethod
    def classify(status: int, headers: Mapping[str, str], body: Any) -> errors.ProviderError | None:
        """429 with error 2001: the day's calls are spent. 404: no search knows it, so the address is wrong."""
        if status == 429 and "2001" in map(str, _error_ids(body)):
            return errors.Throttled("HTTP 429: the day's calls are spent (error 2001)", day_spent=True)
        if status == 404:  # 11001, item not found, belongs to calls by item id, which are never made
            return errors.no_such_path("eBay's API")
        return None

    async def usage(self, http: Http) -> Usage | None:
        """eBay's word on the day's Browse calls; it lags. None when it says nothing (204, as for a new keyset)."""
        reply = await http.get(
            "/developer/analytics/v1_beta/rate_limit/",
            {"api_context": "buy", "api_name": "Browse"},
            endpoint="rate_limit",
            meter="reports",
        )
        return reading.usage(reply.body)

    async def fetch(self, ask: Ask, http: Http) -> Found:
        """A quote for each asked size. The product's name and picture are those of the cheapest listing."""
        expected = MARKETPLACES[self.options.marketplace]
        if ask.currency != expected:
            raise errors.Rejected(
                f"{self.options.marketplace} has prices in {expected}, not in {ask.currency}", code="currency"
            )
        quotes: dict[str | None, Quote] = {}
        answers: dict[str | None, str | errors.ProviderError | None] = {}
        best: Offer | None = None
        for asked in ask.sizes:
            try:
                size = searching.us_size(ask, asked)
                if size not in quotes:
                    quotes[size], offer = await self._quote(ask, size, http)
                    best = best or offer
            except errors.Unmatched as error:
                answers[asked] = error
            else:
                answers[asked] = size
        listing = None
        if best and not ask.listing:
            listing = Listing(product=_product_of(ask.sku, best), variants=())
        return Found(listing=listing, quotes=tuple(quotes.values()), answers=answers)

    async def _quote(self, ask: Ask, size: str | None, http: Http) -> tuple[Quote, Offer | None]:
        options = self.options
        wish, headers = searching.wanted(ask, size, options), searching.headers(options)
        aspect = searching.aspect(wish, options)
        wanted, quality = searching.by_title(wish), "low"
        if aspect:
            wanted, quality = replace(wish, category=aspect["category_ids"]), "aspect"
        reply = await http.get(
            SEARCH, searching.live(ask.sku, wanted, aspect, options), endpoint="search", headers=headers
        )
        found = reading.offers(reply.body, wanted)
        sure = reading.is_conclusive(reply.body, wanted)
        if not found and aspect and options.search_titles:
            wanted, quality = searching.by_title(wish), "low"
            params = searching.live(ask.sku, wanted, {}, options)
            reply = await http.get(SEARCH, params, endpoint="search", headers=headers)
            found = reading.offers(reply.body, wanted)
            sure = sure or reading.is_conclusive(reply.body, wanted)
        if misfit := reading.misfit(reply.body, wanted, found):
            raise misfit
        if not found and not sure:
            raise errors.Unmatched(
                "no listing is it for certain, but eBay has more of them, or some that do not tell their US size"
            )
        found, band = reading.sane(found, wanted, options.band)
        basis = {"quality": quality, "band": band}
        quote, best = self._cheapest(size, ask.currency, found, basis, reply.granted_at)
        if self._insights:
            params = searching.sold(ask.sku, wish, aspect)
            quote = await self._insights.add(quote, wish, params, headers, http)
        return quote, best

    def _cheapest(
        self, size: str | None, currency: str, found: list[Offer], more: Mapping[str, str], at: datetime
    ) -> tuple[Quote, Offer | None]:
        """The lowest price with known shipping; where no shipping is known, or it is not asked for, without."""
        known = [offer for offer in found if offer.shipping is not None]
        use = known if self.options.include_shipping and known else found
        included = use is known

        def cost(offer: Offer) -> Decimal:
            return offer.price + (offer.shipping or 0 if included else 0)

        best = min(use, key=cost, default=None)
        basis = {
            "marketplace": self.options.marketplace,
            "shipping": "included" if included else "excluded",
            "delivery": " ".join(filter(None, (self.options.delivery_country, self.options.delivery_zip))),
            "listings": len(use),
            **more,
        }
        ask = cost(best) if best else None
        return Quote(size=size, currency=currency, lowest_ask=ask, basis=basis, observed_at=at), best


def _error_ids(body: Any) -> list[Any]:
    listed = body.get("errors") if isinstance(body, dict) else None
    rows = listed if isinstance(listed, list) else []
    return [error.get("errorId") for error in rows if isinstance(error, dict)]


def _product_of(sku: str, offer: Offer) -> Product:
    kind, _, rest = sku.partition(":")
    return Product(
        id=rest if kind == "id" else sku,
        style_code=None if kind in ("id", "name") else sku,
        name=offer.title,
        image_url=offer.image_url,
    )


PROVIDER = EBay
