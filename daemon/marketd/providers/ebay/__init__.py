"""eBay Browse API v1: the cheapest live listing that is exactly the product and size asked for.

One request for each size (fact sheet section 4). Only live listings exist here: there is no bid, and a sold price
only through Marketplace Insights, which eBay gives to few. Failed calls count against 5,000 a day.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr

from marketd import errors, oauth, provider, sizes, skus
from marketd.models import Listing, Product, Quote
from marketd.provider import Ask, Found, Http, Usage
from marketd.providers.ebay import reading
from marketd.providers.ebay.reading import GRADED, NEW, UNGRADED, Offer, Wanted

SCOPE = "https://api.ebay.com/oauth/api_scope"  #: the production host also in eBay's own sandbox
SEARCH = "/buy/browse/v1/item_summary/search"
PAGE, LONG_PAGE = 50, 200  #: results asked for; many when no aspect narrows them to one size
_CURRENCIES = {"EBAY_US": "USD", "EBAY_CA": "CAD", "EBAY_AU": "AUD", "EBAY_GB": "GBP", "EBAY_DE": "EUR"}


class Credentials(provider.Credentials):
    """The keyset of an application; it must be enabled for production."""

    client_id: str = ""
    client_secret: SecretStr = SecretStr("")


class Options(provider.Options):
    """Which eBay, and what counts as an ask there. Category ids differ from one marketplace to another."""

    marketplace: Literal["EBAY_US", "EBAY_CA", "EBAY_AU", "EBAY_GB", "EBAY_DE"] = "EBAY_US"
    delivery_country: str = Field(default="US", pattern=r"^[A-Z]{2}$")
    delivery_zip: str | None = Field(default=None, pattern=r"^[A-Za-z0-9 -]{2,10}$")
    category_men: str | None = Field(default="15709", pattern=r"^[0-9]+$")
    category_women: str | None = Field(default="95672", pattern=r"^[0-9]+$")
    category_youth: str | None = Field(default=None, pattern=r"^[0-9]+$")  # None = sizes are read from titles
    size_aspect: str = Field(default="US Shoe Size", pattern=r"^[A-Za-z ]+$")
    include_shipping: bool = True  # false = price alone, also of listings whose shipping is unknown
    lowest_share: Decimal = Field(default=Decimal("0.4"), ge=0, lt=1)  # of the other providers' median ask
    search_titles: bool = True  # a second request without the size aspect when the first finds nothing


class EBay:
    """One request for each size, two when the first finds nothing."""

    name: ClassVar[str] = "ebay"
    all_sizes: ClassVar[bool] = False
    images: ClassVar[bool] = True
    currencies: ClassVar[frozenset[str]] = frozenset(_CURRENCIES.values())
    credentials_type: ClassVar[type[provider.Credentials]] = Credentials
    options_type: ClassVar[type[provider.Options]] = Options

    def __init__(self, options: Options) -> None:
        self.options = options

    def authorize(
        self, credentials: Credentials, *, token_url: str | None, token_file: Path
    ) -> oauth.MintedToken:
        """An application token, minted with the basic scope; ValueError without a token_url."""
        if not token_url:
            raise ValueError("ebay needs a token_url")
        grant = oauth.ClientGrant(
            token_url=token_url,
            client_id=credentials.client_id,
            client_secret=credentials.client_secret.get_secret_value(),
            scope=SCOPE,  # without it a token is minted that then gets 403
            hint="check client_id and client_secret",
        )
        return oauth.MintedToken(grant, token_file)

    @staticmethod
    def classify(status: int, headers: Mapping[str, str], body: Any) -> errors.ProviderError | None:
        """429 with error 2001 means that the day's calls are spent, not that they came too fast."""
        if status == 429 and 2001 in _error_ids(body):
            return errors.Throttled("HTTP 429: the day's calls are spent (error 2001)", day_spent=True)
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
        expected = _CURRENCIES[self.options.marketplace]
        if ask.currency != expected:
            raise errors.Rejected(
                f"{self.options.marketplace} has prices in {expected}, not in {ask.currency}", code="currency"
            )
        quotes: list[Quote] = []
        answers: dict[str | None, str | errors.ProviderError | None] = {}
        best: Offer | None = None
        for size in ask.sizes:
            try:
                quoted, offer = await self._quote(ask, size, http)
            except errors.Unmatched as error:
                answers[size] = error
                continue
            quotes.append(quoted)
            answers[size] = size
            best = best or offer
        listing = None
        if best and not ask.listing:
            listing = Listing(product=_product(ask.sku, best), variants=())
        return Found(listing=listing, quotes=tuple(quotes), answers=answers)

    async def _quote(self, ask: Ask, size: str | None, http: Http) -> tuple[Quote, Offer | None]:
        wanted = self._wanted(ask, size)
        aspect = self._aspect(wanted)
        reply = await http.get(
            SEARCH, self._params(ask.sku, wanted, aspect), endpoint="search", headers=self._headers()
        )
        found, quality = reading.offers(reply.body, wanted if aspect else _by_title(wanted)), "aspect"
        if not aspect:
            quality = "low"
        elif not found and self.options.search_titles:
            wanted, quality = _by_title(wanted), "low"
            params = self._params(ask.sku, wanted, {})
            reply = await http.get(SEARCH, params, endpoint="search", headers=self._headers())
            found = reading.offers(reply.body, wanted)
        return self._cheapest(size, ask.currency, found, quality, reply.granted_at)

    def _cheapest(
        self, size: str | None, currency: str, found: list[Offer], quality: str, at: datetime
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
            "quality": quality,
        }
        ask = cost(best) if best else None
        return Quote(size=size, currency=currency, lowest_ask=ask, basis=basis, observed_at=at), best

    def _wanted(self, ask: Ask, size: str | None) -> Wanted:
        """What listings must be. Raises Unmatched for a size that eBay cannot be asked for."""
        kind, _, rest = ask.sku.partition(":")
        code = "" if kind in ("id", "name") else ask.sku
        parsed = sizes.Size.parse(size) if size else None
        if parsed and parsed.system not in ("us", "grade"):
            raise errors.Unmatched(f"eBay is asked by US size or grade, not by {size}", code="size_system")
        if parsed is None and code:
            raise errors.Unmatched("each size costs a call: name one", code="size_required")
        shoe = parsed is not None and parsed.system == "us"
        conditions = {NEW} if shoe else {GRADED} if parsed else {NEW, UNGRADED}
        floor = None if ask.reference is None else ask.reference * self.options.lowest_share
        return Wanted(
            currency=ask.currency,
            marketplace=self.options.marketplace,
            conditions=frozenset(conditions),
            code=code,
            words=tuple(re.findall(r"[^\W_]+", rest)) if kind == "name" else (),
            number=parsed.text.rstrip("WYC") if parsed and shoe else "",
            group=parsed.group if parsed else "",
            grade=parsed.text if parsed and not shoe else "",
            floor=floor,
        )

    def _aspect(self, wanted: Wanted) -> dict[str, str]:
        """Category and size aspect, which only work together; empty where no category is known."""
        options = self.options
        by_group = {"": options.category_men, "W": options.category_women, "Y": options.category_youth}
        category = by_group.get(wanted.group) if wanted.number else None
        if category is None:
            return {}
        aspect = f"categoryId:{category},{options.size_aspect}:{{{wanted.number}}}"
        return {"category_ids": category, "aspect_filter": aspect}

    def _params(self, sku: str, wanted: Wanted, aspect: Mapping[str, str]) -> dict[str, str]:
        kind, _, rest = sku.partition(":")
        filters = [f"conditionIds:{{{'|'.join(sorted(wanted.conditions))}}}", "buyingOptions:{FIXED_PRICE}"]
        if self.options.delivery_zip:
            filters.append(f"deliveryCountry:{self.options.delivery_country}")
            filters.append(f"deliveryPostalCode:{self.options.delivery_zip}")
        if wanted.floor:
            filters.append(f"price:[{wanted.floor:.2f}..],priceCurrency:{wanted.currency}")
        what = {"epid": _epid(rest)} if kind == "id" else {"q": _keywords(wanted)}
        return {
            **what,
            **aspect,
            "filter": ",".join(filters),
            "sort": "price",
            "limit": str(PAGE if aspect else LONG_PAGE),
        }

    def _headers(self) -> dict[str, str]:
        place = f"country={self.options.delivery_country}"
        if self.options.delivery_zip:
            place += f",zip={self.options.delivery_zip}"
        return {
            "X-EBAY-C-MARKETPLACE-ID": self.options.marketplace,
            "X-EBAY-C-ENDUSERCTX": f"contextualLocation={quote(place, safe='')}",
        }


def _error_ids(body: Any) -> list[Any]:
    listed = body.get("errors") if isinstance(body, dict) else None
    rows = listed if isinstance(listed, list) else []
    return [error.get("errorId") for error in rows if isinstance(error, dict)]


def _epid(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,20}", text):
        raise errors.NotListed(f"{text[:40]!r} is not an eBay product id (digits)")
    return text


def _keywords(wanted: Wanted) -> str:
    """Words that all must occur; a joined code is asked for by either half."""
    codes = skus.parts(wanted.code) if wanted.code else ()
    code = f"({', '.join(codes)})" if len(codes) > 1 else wanted.code
    return " ".join(filter(None, (code, *wanted.words, wanted.grade)))[:100]


def _by_title(wanted: Wanted) -> Wanted:
    """The same, with nothing but the title to vouch for the size."""
    return replace(wanted, stated=bool(wanted.number))


def _product(sku: str, offer: Offer) -> Product:
    kind, _, rest = sku.partition(":")
    return Product(
        id=rest if kind == "id" else sku,
        style_code=None if kind in ("id", "name") else sku,
        name=offer.title,
        image_url=offer.image_url,
    )


PROVIDER = EBay
