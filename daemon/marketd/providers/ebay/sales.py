"""Sold prices from Marketplace Insights, which eBay gives to few (fact sheet 4.4).

They are an extra: whatever goes wrong with them, the ask that the other request brought stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from marketd import errors, http_client, oauth, provider
from marketd.models import Quote
from marketd.provider import Http
from marketd.providers.ebay import reading
from marketd.providers.ebay.titles import Wanted

SCOPE = "https://api.ebay.com/oauth/api_scope/buy.marketplace.insights"
SEARCH = "/buy/marketplace_insights/v1_beta/item_sales/search"
_QUIET = timedelta(
    days=1
)  #: without a further try after a refusal, which a request of the budget is too dear for


class WidestToken:
    """The token with the extra scope, or, once that is refused, the basic one; implements `http_client.Auth`.

    The refusal holds until the credentials or the stanza change, or the process starts anew.
    """

    def __init__(self, wide: oauth.MintedToken, basic: oauth.MintedToken) -> None:
        self._wide = wide
        self._basic = basic
        self._in_use = wide

    async def headers(self, send: http_client.Send) -> Mapping[str, str]:
        """As `MintedToken.headers`; a refused extra scope costs one mint more."""
        try:
            return await self._in_use.headers(send)
        except errors.Unauthorized as error:
            if error.error_code != "invalid_scope" or self._in_use is self._basic:
                raise
        self._in_use = self._basic
        return await self._basic.headers(send)

    def refused(self, headers: Mapping[str, str]) -> bool:
        """As `MintedToken.refused`."""
        return self._in_use.refused(headers)


class Insights:
    """Adds sold prices to quotes, and leaves the service alone for a day after it refused."""

    def __init__(self) -> None:
        self._quiet_until: datetime | None = None
        self._quiet_for = "refused"

    async def add(
        self, quote: Quote, wish: Wanted, params: Mapping[str, str], headers: Mapping[str, str], http: Http
    ) -> Quote:
        """The quote with its last sale and the sales of 90 days; `basis.insights` says what became of it.

        `used`, `no_answer` (throttled, too: the last sale that was told stands), `refused` (no scope), or `no_category`
        (which the service demands).
        """
        if "category_ids" not in params:
            return _marked(quote, "no_category")
        if self._quiet_until is not None and quote.observed_at < self._quiet_until:
            return _marked(quote, self._quiet_for)
        try:
            reply = await http.get(SEARCH, params, endpoint="insights", headers=headers)
            last = _read(reply.body, wish, reply.granted_at)
        except (errors.Unauthorized, errors.Throttled) as error:
            self._quiet_until = quote.observed_at + _QUIET
            self._quiet_for = "refused" if isinstance(error, errors.Unauthorized) else "no_answer"
            return _marked(quote, self._quiet_for)
        except (errors.ProviderError, errors.NotGranted):
            return _marked(quote, "no_answer")
        self._quiet_until = None
        basis = {**quote.basis, "insights": "used", "sales_90d": last.count}
        return replace(quote, last_sale=last.price, last_sale_at=last.at, basis=basis)


@dataclass(frozen=True, slots=True)
class _Sales:
    price: Decimal | None = None
    at: datetime | None = None
    count: int = 0


def _marked(quote: Quote, word: str) -> Quote:
    return replace(quote, basis={**quote.basis, "insights": word}, sale_unknown=word == "no_answer")


def _read(body: Any, wish: Wanted, now: datetime) -> _Sales:
    """The latest of the sales that are the wanted thing, and how many there were."""
    if not isinstance(body, dict) or "total" not in body:
        raise errors.BadPayload("insights: no total")
    rows = body.get("itemSales", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise errors.BadPayload("insights: itemSales is not a list of items")
    wish, found = reading.warned(body, rows, wish), _Sales()
    for row in rows:
        price = reading.plausible(row.get("lastSoldPrice"), wish) if reading.is_wanted(row, wish) else None
        if price is None:
            continue
        at = provider.sold_at(row.get("lastSoldDate"), "insights: a sale", now)
        times = row.get("totalSoldQuantity")
        count = found.count + (times if type(times) is int and times > 0 else 1)
        newest = found.at is None or at > found.at
        found = _Sales(price, at, count) if newest else replace(found, count=count)
    return found
