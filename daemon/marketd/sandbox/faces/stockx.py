"""StockX v2: catalogue, variants and market data, as its public document and captured answers have them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, ClassVar, NoReturn
from uuid import UUID

from aiohttp import web

from marketd.sandbox import stockx_bodies as bodies
from marketd.sandbox.barcodes import by_gtin
from marketd.sandbox.face import Face, Refused, Route, Truth, Usage, amounts, bearer, json_response
from marketd.sandbox.limits import Breach, Limits
from marketd.sandbox.prices import RATES
from marketd.sandbox.product import Product, words
from marketd.sandbox.stockx_login import Login, withdrawn
from marketd.sandbox.tokens import account_of
from marketd.sandbox.world import World

_JSON = "application/json; charset=utf-8"
_TEXTS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Product not found",
    500: "Failed to fetch flex market data",
    503: "Service Unavailable",
}
_TIMEOUT_PAGE = (
    b"<!DOCTYPE html>\n<html><head><title>504: Gateway time-out</title></head>"
    b"<body><h1>Gateway time-out</h1></body></html>\n"
)


class StockX(Face):
    name: ClassVar[str] = "stockx"
    base_path: ClassVar[str] = "/stockx/v2"
    token_path: ClassVar = "/stockx/oauth/token"
    credentials: ClassVar = {
        "api_key": "sandbox-api-key",
        "client_id": "sandbox-client-id",
        "client_secret": "sandbox-client-secret",
        "refresh_token": "sandbox-refresh-token",
    }
    limits: ClassVar = Limits(per_window=1, window_s=1.0, per_day=25_000, day_zone="UTC")
    token_life_s: ClassVar = 43_200.0
    priced: ClassVar = frozenset({"market_data", "variant_market_data"})
    amount: ClassVar[re.Pattern[bytes]] = amounts(
        "lowestAskAmount",
        "highestBidAmount",
        "flexLowestAskAmount",
        "earnMoreAmount",
        "sellFasterAmount",
        "lowestAsk",
    )

    def __init__(self, world: World, usage: Usage) -> None:
        super().__init__(world, usage)
        self.login = Login(self.tokens, self.credentials)

    def routes(self) -> Iterable[Route]:
        products = "/stockx/v2/catalog/products"
        one, variant = f"{products}/{{product}}", f"{products}/{{product}}/variants/{{variant}}"
        return (
            Route("GET", "/stockx/authorize", "authorize", self.login.authorize, "none"),
            Route("POST", "/stockx/oauth/token", "token", self.login.token, "none"),
            Route("GET", "/stockx/v2/catalog/search", "search", self.search),
            Route("GET", f"{products}/variants/gtins/{{gtin}}", "gtin", self.gtin),
            Route("GET", one, "product", self.product),
            Route("GET", f"{one}/variants", "variants", self.variants),
            Route("GET", f"{one}/market-data", "market_data", self.market_data),
            Route("GET", variant, "variant", self.variant),
            Route("GET", f"{variant}/market-data", "variant_market_data", self.variant_market_data),
        )

    # -- who asks ----------------------------------------------------------------------------------------

    def account(self, request: web.Request) -> str | None:
        return account_of(request.headers.get("x-api-key"), self.credentials["api_key"])

    def error(self, status: int, text: str | None = None) -> web.Response:
        if status == 504:
            return web.Response(
                body=_TIMEOUT_PAGE, status=504, headers={"Content-Type": "text/html; charset=UTF-8"}
            )
        if status == 429:
            return json_response({"message": text or "Too Many Requests"}, 429, content_type=_JSON)
        body = {"statusCode": status, "errorMessage": text or _TEXTS.get(status, "Error")}
        return json_response(body, status, content_type=_JSON)

    def over(self, breach: Breach) -> web.Response:
        return self.error(429)

    def token_refused(self) -> web.Response:
        return withdrawn()

    def _admit(self, request: web.Request) -> None:
        grant = self.tokens.grant(bearer(request))
        if grant is None or grant.account != self.account(request):
            self._refuse(401)
        if "country" in request.query:
            self._refuse(400, 'The "country" query parameter is not supported anymore; your market decides')

    def _refuse(self, status: int, text: str | None = None) -> NoReturn:
        raise Refused(self.error(status, text))

    # -- catalogue ---------------------------------------------------------------------------------------

    async def search(self, request: web.Request) -> web.Response:
        self._admit(request)
        query = request.query.get("query", "")
        if not 1 <= len(query) <= 100:
            self._refuse(400, "query must have 1 to 100 characters")
        page = self._whole(request, "pageNumber", 1, highest=10**6)
        size = self._whole(request, "pageSize", 10, highest=50)
        found = self._found(query)
        first = (page - 1) * size
        return json_response(
            {
                "count": len(found),
                "pageNumber": page,
                "pageSize": size,
                "hasNextPage": first + size < len(found),
                "products": [bodies.summary(self.world, product) for product in found[first : first + size]],
            },
            content_type=_JSON,
        )

    def _found(self, query: str) -> list[Product]:
        """By GTIN, by code (near misses and decoys first), else by words, of which most must occur."""
        if query.isdigit() and 8 <= len(query) <= 14:
            hit = by_gtin(self.world, query)
            return [hit[0]] if hit else []
        codes = [product for part in query.split("/") for product in self.world.similar(part)]
        codes += [product for part in query.split("/") for product in self.world.coded(part)]
        if codes:
            unique = {product.key: product for product in codes}
            return sorted(unique.values(), key=lambda product: (product.rank, self.world.number(product)))
        hits = [hit for hit in self.world.mentioning(words(query)) if hit[0] >= 0.6]
        return [hit[1] for hit in sorted(hits, key=lambda hit: (hit[1].rank, -hit[0], hit[1].key))]

    async def product(self, request: web.Request) -> web.Response:
        self._admit(request)
        return json_response(bodies.full(self.world, self._named(request)), content_type=_JSON)

    async def variants(self, request: web.Request) -> web.Response:
        self._admit(request)
        product = self._named(request)
        # Neither sorted nor grouped, as in live answers.
        sizes = sorted(product.sizes, key=lambda size: self.world.prices.unit("order", product.key, size))
        return json_response(
            [bodies.variant(self.world, product, size) for size in sizes], content_type=_JSON
        )

    async def variant(self, request: web.Request) -> web.Response:
        self._admit(request)
        product, size = self._sized(request)
        return json_response(bodies.variant_alone(self.world, product, size), content_type=_JSON)

    async def gtin(self, request: web.Request) -> web.Response:
        self._admit(request)
        gtin = request.match_info["gtin"]
        if not (gtin.isdigit() and 8 <= len(gtin) <= 14):
            self._refuse(400, "Invalid GTIN")
        hit = by_gtin(self.world, gtin)
        if hit is None:
            self._refuse(404, "Variant not found")
        return json_response(bodies.variant_alone(self.world, *hit), content_type=_JSON)

    def _named(self, request: web.Request) -> Product:
        wanted = request.match_info["product"]
        try:
            UUID(wanted)
        except ValueError:
            self._refuse(400, "Invalid productId")
        product = self.world.by_id(self.name, wanted)
        if product is None:
            self._refuse(404)
        return product

    def _sized(self, request: web.Request) -> tuple[Product, str | None]:
        product = self._named(request)
        wanted = request.match_info["variant"]
        for size in product.sizes:
            if self.world.variant_id(product, size) == wanted:
                return product, size
        foreign = any(
            self.world.variant_id(other, size) == wanted for other in self.world for size in other.sizes
        )
        text = "The variant belongs to another product" if foreign else "Variant not found"
        return self._refuse(400 if foreign else 404, text)

    def _whole(self, request: web.Request, name: str, default: int, *, highest: int) -> int:
        text = request.query.get(name, str(default))
        if not text.isdigit() or not 1 <= int(text) <= highest:
            self._refuse(400, f"{name} must be a whole number from 1 to {highest}")
        return int(text)

    # -- market data -------------------------------------------------------------------------------------

    async def market_data(self, request: web.Request) -> web.Response:
        self._admit(request)
        product = self._named(request)
        currency, tick = self._currency(request), self.world.tick
        return json_response(
            [bodies.market(self.world, product, size, currency, tick) for size in reversed(product.sizes)],
            content_type=_JSON,
        )

    async def variant_market_data(self, request: web.Request) -> web.Response:
        self._admit(request)
        product, size = self._sized(request)
        body = bodies.market(self.world, product, size, self._currency(request), self.world.tick)
        return json_response(body, content_type=_JSON)

    def _currency(self, request: web.Request) -> str:
        currency = request.query.get("currencyCode", "USD")
        if currency not in RATES:
            self._refuse(400, "Invalid currencyCode")
        return currency

    def truth(self, product: Product, size: str | None, currency: str, tick: int, **basis: Any) -> Truth:
        """Standard ask and bid in whole units; there is no last sale. `flex=True` gives the flex ask."""
        if size not in product.sizes or currency not in RATES:
            raise LookupError(f"stockx has no {product.key} in size {size} for {currency}")
        now = bodies.book(self.world, product, size, currency, tick)
        ask = now.flex if basis.get("flex") else now.ask
        return Truth(
            ask=None if ask is None else Decimal(ask),
            bid=None if now.bid is None else Decimal(now.bid),
            last_sale=None,
        )


FACE = StockX
