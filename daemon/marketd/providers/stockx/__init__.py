"""StockX API v2: search, variants, then one call for the market of all sizes (fact sheet section 2).

Amounts are whole units of the asked currency as strings; null is none. There is no last sale and no image.
The region follows the account: `country` is never sent, since the live service answers it with 400.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from pydantic import SecretStr

from marketd import errors, oauth, provider, sizes
from marketd.models import Listing, Quote
from marketd.provider import Answers, Ask, Found, Http
from marketd.providers.stockx import finding, reading
from marketd.providers.stockx.choosing import Choice

AUDIENCE = "gateway.stockx.com"


class Credentials(provider.Credentials):
    """The key of the application, and what `marketd auth stockx` yields."""

    api_key: SecretStr = SecretStr("")
    client_id: str = ""
    client_secret: SecretStr = SecretStr("")
    refresh_token: SecretStr = SecretStr("")


class Options(provider.Options):
    """StockX has no options: the region is the account's, the currency is in the stanza."""


class StockX:
    """Cold: 3 requests (more where products share a code, or stand on the second page). Warm: 1 for all sizes."""

    name: ClassVar[str] = "stockx"
    all_sizes: ClassVar[bool] = True
    images: ClassVar[bool] = False
    first_calls: ClassVar[int] = 3  #: search, variants, market data
    currencies: ClassVar[frozenset[str]] = frozenset(
        ("AUD", "CAD", "CHF", "EUR", "GBP", "HKD", "JPY", "KRW", "MXN", "NZD", "SGD", "USD")
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "base_url": "https://api.stockx.com/v2",
        "token_url": "https://accounts.stockx.com/oauth/token",
        "currency": "GBP",
        "budget": {"per_hour": 100, "per_day": 25000, "day_starts": "00:00 UTC"},
        "pace": {"calls": 1, "per": "1s"},
    }
    credentials_type: ClassVar[type[provider.Credentials]] = Credentials
    options_type: ClassVar[type[provider.Options]] = Options

    def __init__(self, options: Options) -> None:
        self.options = options
        self._unreadable: set[str] = set()  # variants that have prices but no size that could be told

    def authorize(
        self, credentials: Credentials, *, token_url: str | None, token_file: Path
    ) -> oauth.MintedToken:
        """API key and a bearer token from the refresh token; ValueError without a token_url."""
        if not token_url:
            raise ValueError("stockx needs a token_url")
        grant = oauth.RefreshGrant(
            token_url=token_url,
            client_id=credentials.client_id,
            client_secret=credentials.client_secret.get_secret_value(),
            refresh_token=credentials.refresh_token.get_secret_value(),
            audience=AUDIENCE,
            hint="log in again with `marketd auth stockx`",
        )
        return oauth.MintedToken(grant, token_file, {"x-api-key": credentials.api_key.get_secret_value()})

    @staticmethod
    def classify(status: int, headers: Mapping[str, str], body: Any) -> errors.ProviderError | None:
        """Only a 404 in StockX's own form says that a thing is unknown; any other is trouble on the way to it."""
        if status == 404 and not reading.is_own_error(body):
            return errors.no_such_path("StockX's API")
        return None

    async def fetch(self, ask: Ask, http: Http) -> Found:
        """All sizes of the product. A cached product id that is gone is searched for once more."""
        if ask.listing is None:
            return await self._chosen(await finding.find(ask, http), ask, http)
        try:
            rows, at = await _market(ask.listing, ask.currency, http)
        except errors.NotListed:
            return await self._chosen(await finding.find_again(ask, http), ask, http)
        listing = ask.listing
        trouble: errors.ProviderError | errors.NotGranted | None = None
        if not rows.keys() <= self._known(listing):
            try:
                listing = replace(listing, variants=await finding.variants(listing.product, http))
            except (errors.Transient, errors.BadPayload, errors.NotGranted) as error:
                trouble = error  # it says nothing of the prices that are here; the next fetch tries again
        quotes, refused = _quotes(listing, rows, ask.currency, at)
        answers: Answers = {size: _answer(size, listing, quotes, refused) for size in ask.sizes}
        if trouble is None:
            self._unreadable |= rows.keys() - self._known(listing)
        else:
            answers = provider.certain(answers, trouble)
        new = None if listing is ask.listing else listing
        return Found(listing=new, quotes=tuple(quotes.values()), answers=answers)

    async def _chosen(self, choice: Choice, ask: Ask, http: Http) -> Found:
        """The prices of what was found: mostly one product, else of each the sizes that are its own."""
        quotes: list[Quote] = []
        answers: dict[str | None, str | errors.ProviderError | None] = dict(choice.refused)
        for part in choice.parts:
            rows, at = await _market(part.listing, ask.currency, http)
            own = {variant: row for variant, row in rows.items() if variant in part.variants}
            priced, refused = _quotes(part.listing, own, ask.currency, at)
            answers |= {size: _answer(size, part.listing, priced, refused) for size in part.asked}
            quotes += priced.values()
            self._unreadable |= rows.keys() - self._known(part.listing)
        return Found(listing=choice.settled, quotes=tuple(quotes), answers=answers)

    def _known(self, listing: Listing) -> set[str]:
        """Variants that are no reason to load the list of sizes again."""
        return {variant.id for variant in listing.variants} | self._unreadable


def _quotes(
    listing: Listing, rows: Mapping[str, reading.Row], currency: str, at: datetime
) -> tuple[dict[str, Quote], dict[str, errors.ProviderError]]:
    """By variant: what its row says, or why that is no price."""
    quotes: dict[str, Quote] = {}
    refused: dict[str, errors.ProviderError] = {}
    for variant in listing.variants:
        try:
            if variant.id in rows:
                quotes[variant.id] = reading.quote(rows[variant.id], variant, currency, at)
        except errors.BadPayload as error:
            refused[variant.id] = error
    return quotes, refused


def _answer(
    wanted: str | None,
    listing: Listing,
    quotes: Mapping[str, Quote],
    refused: Mapping[str, errors.ProviderError],
) -> str | errors.ProviderError | None:
    """The size that settles the wish; None (all sizes) where none was named."""
    if wanted is None and any(variant.size for variant in listing.variants):
        return None if quotes else errors.BadPayload("no market data for any of its sizes")
    product = listing.product
    try:
        variant = sizes.match(wanted, listing.variants, brand=product.brand, gender=product.gender)
    except errors.Unmatched as error:
        return error
    if variant.id in quotes:
        return variant.size
    if variant.id in refused:
        return refused[variant.id]
    if not quotes:  # nothing about any size is a broken answer, not news about this one
        return errors.BadPayload(f"no market data for size {variant.size}, nor for any other")
    return errors.Unmatched(
        f"size {variant.size} is listed, but StockX has no market for it", code="size_not_offered"
    )


async def _market(listing: Listing, currency: str, http: Http) -> tuple[dict[str, reading.Row], datetime]:
    path = f"/catalog/products/{finding.segment(listing.product.id)}/market-data"
    try:
        reply = await http.get(path, {"currencyCode": currency}, endpoint="market_data")
    except errors.NotListed as gone:
        raise errors.NotListed(str(gone), code="mapping_broken", http_status=404) from gone
    return reading.market(reply.body, listing.product.id, currency), reply.granted_at


PROVIDER = StockX
