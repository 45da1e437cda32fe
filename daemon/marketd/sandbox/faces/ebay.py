"""eBay: application tokens, Browse search and items, Marketplace Insights, and the rate-limit report."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, ClassVar, NoReturn

from aiohttp import web

from marketd.sandbox import ebay_bodies as bodies
from marketd.sandbox.barcodes import by_gtin
from marketd.sandbox.ebay_query import BadQuery, Search, either, parse
from marketd.sandbox.face import Face, Refused, Route, Truth, Usage, amounts, bearer, json_response
from marketd.sandbox.limits import Breach, Limits
from marketd.sandbox.listings import MARKETS, Listing, by_item, of_size
from marketd.sandbox.prices import rate
from marketd.sandbox.product import Product, words
from marketd.sandbox.tokens import Grant, account_of
from marketd.sandbox.world import World

_SCOPE = "https://api.ebay.com/oauth/api_scope"
_INSIGHTS = f"{_SCOPE}/buy.marketplace.insights"
_MOST_PRODUCTS = 12  #: products looked at for a vague search


class EBay(Face):
    name: ClassVar[str] = "ebay"
    base_path: ClassVar[str] = "/ebay"
    token_path: ClassVar = "/ebay/identity/v1/oauth2/token"
    credentials: ClassVar = {"client_id": "sandbox-app-id", "client_secret": "sandbox-cert-id"}
    limits: ClassVar = Limits(per_day=5_000, mints_per_day=1_000, day_zone="America/Los_Angeles")
    token_life_s: ClassVar = 7_200.0
    priced: ClassVar = frozenset({"search", "item", "legacy_item", "item_group", "insights"})
    amount: ClassVar[re.Pattern[bytes]] = amounts("value")

    def __init__(self, world: World, usage: Usage) -> None:
        super().__init__(world, usage)
        self._shelves: dict[tuple[str, str | None, str], tuple[Listing, ...]] = {}
        self._shelves_at = -1  #: the tick at which they were filled
        self.insights_granted = False  #: sold prices are a limited release; a usual keyset has none

    def routes(self) -> Iterable[Route]:
        browse = "/ebay/buy/browse/v1"
        limits = "/ebay/developer/analytics/v1_beta/rate_limit"
        sales = "/ebay/buy/marketplace_insights/v1_beta/item_sales/search"
        return (
            Route("POST", "/ebay/identity/v1/oauth2/token", "token", self.token, "mints"),
            Route("GET", f"{browse}/item_summary/search", "search", self.search),
            Route("GET", f"{browse}/item/get_items_by_item_group", "item_group", self.item_group),
            Route("GET", f"{browse}/item/get_item_by_legacy_id", "legacy_item", self.legacy_item),
            Route("GET", f"{browse}/item/", "items", self.items),
            Route("GET", f"{browse}/item/{{id}}", "item", self.item),
            Route("GET", sales, "insights", self.insights),
            Route("GET", f"{limits}/", "rate_limit", self.rate_limit, "analytics"),
            Route("GET", limits, "rate_limit", self.rate_limit, "analytics"),
        )

    # -- who asks ----------------------------------------------------------------------------------------

    def account(self, request: web.Request) -> str | None:
        if request.path.endswith("/token"):
            return self._basic(request)
        grant = self.tokens.grant(bearer(request))
        return grant.account if grant else None

    def error(self, status: int, text: str | None = None) -> web.Response:
        return json_response(bodies.error(status, text), status)

    def over(self, breach: Breach) -> web.Response:
        return self.error(429)

    def token_refused(self) -> web.Response:
        return _oauth_error(401, "invalid_client", "client authentication failed")

    def _admit(self, request: web.Request, scope: str = _SCOPE) -> Grant:
        grant = self.tokens.grant(bearer(request))
        if grant is None:
            self._refuse(401)
        if scope not in grant.scopes:
            self._refuse(403)
        return grant

    def _refuse(self, status: int) -> NoReturn:
        raise Refused(self.error(status))

    # -- tokens ------------------------------------------------------------------------------------------

    async def token(self, request: web.Request) -> web.Response:
        """Client credentials only. Without `scope` the token is minted, and then good for nothing."""
        account = self._basic(request)
        if account is None:
            return self.token_refused()
        form = await request.post()
        if form.get("grant_type") != "client_credentials":
            return _oauth_error(400, "unsupported_grant_type", "grant type in request is not supported")
        asked = frozenset(str(form.get("scope", "")).split())
        granted = {_SCOPE, _INSIGHTS} if self.insights_granted else {_SCOPE}
        if not asked <= granted:
            return _oauth_error(400, "invalid_scope", "The requested scope is invalid or exceeds the grant")
        return json_response(
            {
                "access_token": self.tokens.issue("v^1.1#sandbox-", account, scopes=asked),
                "expires_in": int(self.tokens.life_s),
                "token_type": "Application Access Token",
            }
        )

    def _basic(self, request: web.Request) -> str | None:
        scheme, _, packed = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            client, _, secret = base64.b64decode(packed, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        account = account_of(client, self.credentials["client_id"])
        return account if account == account_of(secret, self.credentials["client_secret"]) else None

    # -- browse ------------------------------------------------------------------------------------------

    async def search(self, request: web.Request) -> web.Response:
        self._admit(request)
        search = _parsed(request.query)
        market, tick = _market(request), self.world.tick
        rows = [row for row in self._candidates(request.query, market, tick) if search.meets(row)]
        rows = search.ordered(rows, lambda row: self.world.prices.unit("best match", row.number))
        page = rows[search.offset : search.offset + search.limit]
        body = _page(request, search, len(rows))
        if page:  # the key is left out when nothing matches
            body["itemSummaries"] = [_shown(row, request) for row in page]
        if search.warnings:
            body["warnings"] = search.warnings
        if {"ASPECT_REFINEMENTS", "FULL"} & set(request.query.get("fieldgroups", "").split(",")):
            body["refinement"] = bodies.refinement(rows)
        return json_response(body)

    def _candidates(self, query: Mapping[str, str], market: str, tick: int) -> list[Listing]:
        """Listings among which the search looks: those of the products that the keywords fit best."""
        gtin, text = query.get("gtin", ""), query.get("q", "")[:100]
        if gtin and not text:
            hit = by_gtin(self.world, gtin)
            return list(self._shelf(*hit, market, tick)) if hit else []
        if text:
            scored = self.world.mentioning(words(text))
            best = 0 if "(" in text else max((share for share, _ in scored), default=0)
            products = [product for share, product in scored if share >= best]
        else:
            leaf = query.get("category_ids", "")
            products = [product for product in self.world if product.shelf and product.shelf.leaf == leaf]
        return [
            row
            for product in products[:_MOST_PRODUCTS]
            for size in product.sizes
            for row in self._shelf(product, size, market, tick)
        ]

    def _shelf(self, product: Product, size: str | None, market: str, tick: int) -> tuple[Listing, ...]:
        """Listings are written once a tick, since a search reads those of all sizes."""
        if tick != self._shelves_at:
            self._shelves, self._shelves_at = {}, tick
        place = (product.key, size, market)
        if place not in self._shelves:
            self._shelves[place] = of_size(self.world, product, size, market, tick)
        return self._shelves[place]

    async def item(self, request: web.Request) -> web.Response:
        self._admit(request)
        _, _, rest = request.match_info["id"].partition("|")
        return json_response(bodies.item(self._live(rest.partition("|")[0], request)))

    async def legacy_item(self, request: web.Request) -> web.Response:
        self._admit(request)
        return json_response(bodies.item(self._live(request.query.get("legacy_item_id", ""), request)))

    async def items(self, request: web.Request) -> web.Response:
        """Many items at once: not for a usual keyset."""
        self._admit(request)
        self._refuse(403)

    async def item_group(self, request: web.Request) -> web.Response:
        """A listing with variations, size by size, each with its own price."""
        self._admit(request)
        group = self._live(request.query.get("item_group_id", ""), request)
        if not group.group:
            self._refuse(404)
        product, tick = group.product, self.world.tick
        found = []
        for place, size in enumerate(product.sizes):
            likes = of_size(self.world, product, size, group.market, tick)
            like = next(row for row in likes if row.group)
            level = self.world.prices.level("ebay", product, size, tick) * rate(like.currency)
            one = replace(like, price=(level * Decimal("1.09")).quantize(Decimal("0.01")))
            found.append(bodies.item(one) | {"itemId": f"v1|{group.number}|{place + 1}"})
        return json_response({"items": found})

    def _live(self, number: str, request: web.Request) -> Listing:
        row = None
        if number.isdigit():
            row = by_item(self.world, int(number), _market(request), self.world.tick)
        if row is None:
            self._refuse(404)
        return row

    # -- sold prices and limits --------------------------------------------------------------------------

    async def insights(self, request: web.Request) -> web.Response:
        """Sales of the last 90 days, where the keyset has the scope. `category_ids` is required."""
        self._admit(request, _INSIGHTS)
        query = {**request.query, "q": either(request.query.get("q", ""))}
        search = _parsed(query)
        if not query.get("category_ids"):
            raise Refused(self.error(400, "The call needs a 'category_ids' query parameter."))
        rows = [
            row
            for row in self._candidates(query, _market(request), self.world.tick)
            if search.meets(row) and row.price is not None
        ]
        body = _page(request, search, len(rows))
        shown = rows[search.offset : search.offset + search.limit]
        body["itemSales"] = [bodies.sold(row, _base(request)) for row in shown]
        return json_response(body)

    async def rate_limit(self, request: web.Request) -> web.Response:
        """What is left of the day. 204 without a body for an API that was never called."""
        grant = self._admit(request)
        if request.query.get("api_name", "Browse").lower() != "browse":
            return web.Response(status=204)
        used = self.usage.used(self.name, grant.account, "calls")
        limit = self.usage.limits(self.name).per_day
        allowed = used + 5_000 if limit is None else limit  # without a limit its day is never spent
        resets_at = self.usage.resets_at(self.name)
        return json_response(bodies.rate_limits(used=used, allowed=allowed, resets_at=resets_at))

    def truth(self, product: Product, size: str | None, currency: str, tick: int, **basis: Any) -> Truth:
        """The cheapest honest listing; there are no bids, and sales only with `sold=True`.

        By default among those whose shipping cost is known, shipping included. With `shipping=False` it is
        the lowest price alone, which may be that of a listing with unknown shipping.
        """
        market = next((name for name, facts in MARKETS.items() if facts[0] == currency), None)
        if market is None or product.shelf is None or size not in product.sizes:
            raise LookupError(f"ebay has no {product.key} in size {size} for {currency}")
        rows = [row for row in of_size(self.world, product, size, market, tick) if row.honest]
        if basis.get("shipping", True):
            totals = [row.total() for row in rows if row.shipping is not None]
        else:
            totals = [row.price for row in rows if row.price is not None]
        sale = bodies.latest_sale(rows) if basis.get("sold") else None
        return Truth(ask=min(totals, default=None), bid=None, last_sale=sale)


def _parsed(query: Mapping[str, str]) -> Search:
    try:
        return parse(query)
    except BadQuery as bad:
        raise Refused(json_response(bodies.bad_request(bad.error_id, str(bad)), 400)) from bad


def _market(request: web.Request) -> str:
    """An unknown marketplace silently becomes the US one."""
    asked = request.headers.get("X-EBAY-C-MARKETPLACE-ID", "EBAY_US")
    return asked if asked in MARKETS else "EBAY_US"


def _base(request: web.Request) -> str:
    return f"{request.url.origin()}/ebay/buy/browse/v1"


def _page(request: web.Request, search: Search, total: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "href": str(request.url),
        "total": total,
        "limit": search.limit,
        "offset": search.offset,
    }
    if search.offset + search.limit < total:
        body["next"] = str(request.url.update_query(offset=search.offset + search.limit))
    if search.offset:
        body["prev"] = str(request.url.update_query(offset=max(0, search.offset - search.limit)))
    return body


def _shown(row: Listing, request: web.Request) -> dict[str, Any]:
    body = bodies.summary(row, _base(request))
    if "EXTENDED" in request.query.get("fieldgroups", ""):
        body["shortDescription"] = f"{row.title}. Sold as seen."
    return body


def _oauth_error(status: int, error: str, description: str) -> web.Response:
    return json_response({"error": error, "error_description": description}, status)


FACE = EBay
