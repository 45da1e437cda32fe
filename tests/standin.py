"""A second set of the three providers, written from the fact sheet alone.

The sandbox and the clients come from one head, so they may agree on a mistake. This one knows nothing of either: it
follows the sheet's tables, ranks what is wrong first, and notes in `breaches` every request that the sheet does not
allow. Prices are made up from the words of the thing, so that no two are equal.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from aiohttp import web

MEN = [f"{n / 2:g}" for n in range(7, 29)]
WOMEN = [f"{n / 2:g}W" for n in range(10, 25)]
YOUTH = [f"{n / 2:g}Y" for n in range(7, 15)]
KEY, REFRESH, PAT, SECRET = "an-api-key", "a-refresh-token", "a-personal-token", "a-client-secret"
CURRENCIES = {"AUD", "CAD", "CHF", "EUR", "GBP", "HKD", "JPY", "KRW", "MXN", "NZD", "SGD", "USD"}
SHELVES = {"men": "15709", "women": "95672", "kids": "155200"}


@dataclass(frozen=True)
class Shoe:
    style: str
    title: str
    gender: str = "men"

    @property
    def sizes(self) -> list[str]:
        return {"men": MEN, "women": WOMEN, "kids": YOUTH}[self.gender]

    @property
    def uuid(self) -> str:
        return str(uuid5(NAMESPACE_URL, self.title + self.style))

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", f"{self.title} {self.style}".lower()).strip("-")

    @property
    def code(self) -> str:
        """Alias writes a space for the dash."""
        return self.style.replace("-", " ")


SHOES = (
    Shoe("DD1391-100", "Nike Dunk Low Retro White Black Panda"),
    Shoe("DZ5485-612", "Jordan 1 Retro High OG Chicago Lost and Found"),
    Shoe("DZ5485-410", "Jordan 1 Retro High OG True Blue"),
    Shoe("FV5029-010", "Jordan 4 Retro Black Cat"),
    Shoe("DC7770-160", "Jordan 4 Retro Fire Red"),
    Shoe("DD1503-103", "Nike Dunk Low Photon Dust (Women's)", "women"),
    Shoe("IB4171-100", "Jordan 4 Retro White Cement (GS)", "kids"),
    Shoe("1116109-CHE", "UGG Classic Ultra Mini Chestnut (Women's)", "women"),
    Shoe("CP9366", "adidas Yeezy Boost 350 V2 Cream White"),
    Shoe("CV9388-100", "Jordan 4 Retro Off-White Sail (Women's)", "women"),
)
#: other things that a search shows before the right ones: near codes, and equal codes of what is no shoe
NEIGHBOURS = (Shoe("DZ5485-400", "Jordan 1 Retro High OG UNC Toe"), Shoe("DD1391-101", "Nike Dunk Low State"))
DOUBLES = (
    Shoe("FV5029-010", "Jordan Black Cat Basketball"),
    Shoe("CV9388-100", "Jordan 4 Sail Charity (Sample)"),
)


def price(*words: object) -> int:
    """A whole number from 60 to about 1,060, the same for the same words."""
    digest = hashlib.sha256("|".join(map(str, words)).encode()).digest()
    return 60 + int.from_bytes(digest[:2], "big") % 1000


def bare(size: str) -> str:
    return size.rstrip("WY")


def compact(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


class StandIn:
    """All three behind one port; `settings` is what a configuration has to say of them."""

    def __init__(self) -> None:
        self.url = ""
        self.breaches: list[str] = []
        self.calls: Counter[str] = Counter()  #: by provider, token calls apart
        self._tokens: set[str] = set()
        self.settings: dict[str, dict[str, Any]] = {}

    def truth(self, provider: str, style: str, size: str) -> tuple[int | None, int | None, int | None]:
        """Ask, bid, last sale."""
        ask, bid, last = (price(provider, style, size, what) for what in ("ask", "bid", "last"))
        if provider == "ebay":
            return ask, None, None
        return (None if size in ("4", "5W") else ask), bid, (last if provider == "alias" else None)

    def routes(self) -> list[web.RouteDef]:
        stockx, alias = "/sx/v2/catalog", "/al/api/v1"
        return [
            web.post("/sx/oauth/token", self.stockx_token),
            web.get(stockx + "/search", self.guard("stockx", self.stockx_search)),
            web.get(stockx + "/products/{id}/variants", self.guard("stockx", self.stockx_variants)),
            web.get(stockx + "/products/{id}/market-data", self.guard("stockx", self.stockx_market)),
            web.get(alias + "/catalog", self.guard("alias", self.alias_search)),
            web.get(alias + "/pricing_insights/availabilities/{id}", self.guard("alias", self.alias_market)),
            web.post("/eb/identity/v1/oauth2/token", self.ebay_token),
            web.get("/eb/buy/browse/v1/item_summary/search", self.guard("ebay", self.ebay_search)),
            web.get("/eb/developer/analytics/v1_beta/rate_limit/", self.ebay_rates),
            web.route("*", "/{rest:.*}", self.lost),
        ]

    def guard(self, provider: str, handler: Callable[[web.Request], Any]) -> Any:
        """Count the call, and refuse it without credentials."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            self.calls[provider] += 1
            bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
            good = bearer == PAT if provider == "alias" else bearer in self._tokens
            if not good or (provider == "stockx" and request.headers.get("x-api-key") != KEY):
                self.breach(request, "who is it")
                return web.json_response({"message": "Unauthorized"}, status=401)
            if "Content-Type" in request.headers:
                self.breach(request, "a Content-Type on a GET")
            body = handler(request)
            return body if isinstance(body, web.StreamResponse) else web.json_response(body)

        return guarded

    def breach(self, request: web.Request, what: str) -> None:
        self.breaches.append(f"{request.method} {request.path_qs}: {what}")

    def only(self, request: web.Request, *names: str) -> None:
        if extra := set(request.query) - set(names):
            self.breach(request, f"parameters that are not in the sheet: {extra}")

    async def lost(self, request: web.Request) -> web.Response:
        self.breach(request, "there is no such endpoint")
        return web.Response(status=404, text="<html>nothing here</html>", content_type="text/html")

    # -- StockX -------------------------------------------------------------------------------------------

    async def stockx_token(self, request: web.Request) -> web.Response:
        form = dict(await request.post())
        wanted = {
            "grant_type": "refresh_token",
            "client_id": "an-app",
            "client_secret": SECRET,
            "audience": "gateway.stockx.com",
            "refresh_token": REFRESH,
        }
        if form != wanted:
            self.breach(request, f"a refresh with {sorted(form)}")
            return web.json_response({"error": "invalid_grant"}, status=403)
        return web.json_response(
            {"access_token": self.mint(), "expires_in": 43200, "id_token": "x", "token_type": "Bearer"}
        )

    def mint(self) -> str:
        token = f"v^1.1#token-{len(self._tokens)}"
        self._tokens.add(token)
        return token

    def stockx_search(self, request: web.Request) -> Any:
        query, page, size = (request.query.get(key, "") for key in ("query", "pageNumber", "pageSize"))
        self.only(request, "query", "pageNumber", "pageSize")
        if not 1 <= len(query) <= 100 or not page.isdigit() or not 1 <= int(size or 0) <= 50:
            self.breach(request, "paging or query")
        exact = [shoe for shoe in (*DOUBLES, *SHOES) if compact(shoe.style) == compact(query)]
        found = [*NEIGHBOURS, *exact]
        return {
            "count": len(found),
            "pageSize": int(size),
            "pageNumber": int(page),
            "hasNextPage": False,
            "products": [self.stockx_product(shoe) for shoe in found],
        }

    def stockx_product(self, shoe: Shoe) -> dict[str, Any]:
        return {
            "productId": shoe.uuid,
            "urlKey": compact(shoe.title),
            "styleId": shoe.style,
            "productType": "sneakers",
            "title": shoe.title,
            "brand": shoe.title.split()[0],
            "productAttributes": {
                "gender": shoe.gender,
                "season": None,
                "releaseDate": "2021-03-10",
                "retailPrice": 115,
                "colorway": "White/Black",
                "color": None,
            },
        }

    def stockx_variants(self, request: web.Request) -> Any:
        self.only(request)
        shoe = next((s for s in (*SHOES, *DOUBLES, *NEIGHBOURS) if s.uuid == request.match_info["id"]), None)
        if shoe is None:
            return web.json_response({"statusCode": 404, "errorMessage": "Not found"}, status=404)
        sizes = [None] if shoe in DOUBLES else sorted(shoe.sizes)  # sorted as texts: 10 before 3.5
        return [self.stockx_variant(shoe, size, place) for place, size in enumerate(sizes)]

    def stockx_variant(self, shoe: Shoe, size: str | None, place: int) -> dict[str, Any]:
        kind = {"men": "us m", "women": "us w", "kids": "us"}[shoe.gender]
        shown = "" if size is None else size if kind == "us" else f"{kind[-1].upper()} {bare(size)}"
        rows = [] if size is None else [{"size": f"US {shown}", "type": kind}]
        if (
            size is not None and shoe.gender == "men"
        ):  # Nike men (5.3): a half less below 7, one less from there on
            less = Decimal("0.5") if Decimal(size) < 7 else 1
            rows.append({"size": f"UK {Decimal(size) - less:g}", "type": "uk"})
        return {
            "productId": shoe.uuid,
            "variantId": str(uuid5(NAMESPACE_URL, f"{shoe.uuid}/{size}")),
            "variantName": f"{shoe.title.replace(' ', '-')}:{place}",
            "variantValue": size,
            "sizeChart": {"defaultConversion": {"size": size, "type": kind}, "availableConversions": rows},
            "gtins": [],
            "isFlexEligible": True,
            "isDirectEligible": False,
        }

    def stockx_market(self, request: web.Request) -> Any:
        self.only(request, "currencyCode")
        currency = request.query.get("currencyCode", "USD")
        if currency not in CURRENCIES:
            self.breach(request, "a currency that is not of the twelve")
        shoe = next((s for s in SHOES if s.uuid == request.match_info["id"]), None)
        if shoe is None:
            self.breach(request, "prices of what is no shoe that was asked for")
            return web.json_response({"statusCode": 404, "errorMessage": "Not found"}, status=404)
        return [self.stockx_prices(shoe, size, currency) for size in reversed(shoe.sizes)]

    def stockx_prices(self, shoe: Shoe, size: str, currency: str) -> dict[str, Any]:
        ask, bid, _ = (None if n is None else str(n) for n in self.truth("stockx", shoe.style, size))
        block = {"lowestAsk": ask, "highestBidAmount": bid, "sellFaster": "1", "earnMore": "2", "beatUS": "3"}
        flex = block | {"lowestAsk": "61"}  # cheaper, and not what the ask is
        return {
            "productId": shoe.uuid,
            "variantId": str(uuid5(NAMESPACE_URL, f"{shoe.uuid}/{size}")),
            "currencyCode": currency,
            "lowestAskAmount": ask,
            "highestBidAmount": bid,
            "flexLowestAskAmount": "61",
            "sellFasterAmount": "1",
            "earnMoreAmount": "2",
            "standardMarketData": block,
            "flexMarketData": flex,
            "directMarketData": block,
        }

    # -- Alias --------------------------------------------------------------------------------------------

    def alias_search(self, request: web.Request) -> Any:
        self.only(request, "query", "limit", "pagination_token")
        query = request.query.get("query", "")
        if not query:
            self.breach(request, "no query")
        exact = [shoe for shoe in SHOES if compact(shoe.style) == compact(query)]
        return {
            "catalog_items": [self.alias_item(shoe) for shoe in (*NEIGHBOURS, *exact)],
            "next_pagination_token": "bW9yZQ",
            "has_more": True,
        }

    def alias_item(self, shoe: Shoe) -> dict[str, Any]:
        sizes = [float(bare(size)) for size in shoe.sizes]
        numbers = [int(size) if size.is_integer() else size for size in sizes]
        return {
            "catalog_id": shoe.slug,
            "name": shoe.title,
            "sku": shoe.code,
            "brand": shoe.title.split()[0],
            "gender": "youth" if shoe.gender == "kids" else shoe.gender,
            "release_date": "2021-03-10T23:59:59.999Z",
            "product_category": "PRODUCT_CATEGORY_SHOES",
            "product_category_v2": "shoes",
            "product_type": "sneakers",
            "size_unit": "SIZE_UNIT_US",
            "allowed_sizes": [{"display_name": str(n), "value": n, "us_size_equivalent": n} for n in numbers],
            "retail_price_cents": "11500",
            "main_picture_url": f"https://image.goat.com/{shoe.slug}.png",
        }

    def alias_market(self, request: web.Request) -> Any:
        self.only(request, "region_id", "consigned")
        shoe = next((s for s in SHOES if s.slug == request.match_info["id"]), None)
        if shoe is None:
            return web.json_response({"code": 5, "message": "not found", "details": []}, status=404)
        return {"variants": list(self.alias_rows(shoe))}

    def alias_rows(self, shoe: Shoe) -> Iterator[dict[str, Any]]:
        for number in (0, 40):
            yield _alias_row(number, ("777", "777", "777"))
        for size in sorted(shoe.sizes):
            number = float(bare(size))
            cents = tuple("0" if n is None else str(n * 100) for n in self.truth("alias", shoe.style, size))
            for condition, box in (("USED", "GOOD_CONDITION"), ("NEW", "NO_ORIGINAL_BOX")):
                yield _alias_row(number, ("6000", "0", "5500"), condition, box)
            yield _alias_row(int(number) if number.is_integer() else number, cents)
            yield _alias_row(number, ("6100", "0", "0"), "NEW_WITH_DEFECTS")

    # -- eBay ---------------------------------------------------------------------------------------------

    async def ebay_token(self, request: web.Request) -> web.Response:
        form = dict(await request.post())
        pair = base64.b64encode(f"an-app:{SECRET}".encode()).decode()
        scope = "https://api.ebay.com/oauth/api_scope"
        if form != {"grant_type": "client_credentials", "scope": scope}:
            self.breach(request, f"a mint with {form}")
        if request.headers.get("Authorization") != f"Basic {pair}":
            self.breach(request, "no Basic authentication")
            return web.json_response({"error": "invalid_client"}, status=401)
        kind = "Application Access Token"
        return web.json_response({"access_token": self.mint(), "expires_in": 7200, "token_type": kind})

    async def ebay_rates(self, request: web.Request) -> web.Response:
        return web.Response(status=204)

    def ebay_search(self, request: web.Request) -> Any:
        query = request.query
        self.only(request, "q", "category_ids", "aspect_filter", "filter", "sort", "limit", "offset")
        category, aspect = query.get("category_ids"), query.get("aspect_filter", "")
        limit = query.get("limit", "50")
        if not query.get("q") and not category:
            self.breach(request, "neither q nor category_ids")
        if len(query.get("q", "")) > 100 or not limit.isdigit() or not 1 <= int(limit) <= 200:
            self.breach(request, "q or limit")
        if request.headers.get("X-EBAY-C-MARKETPLACE-ID") != "EBAY_US":
            self.breach(request, "no marketplace")
        told = re.fullmatch(r"categoryId:(\d+),US Shoe Size:\{([0-9.]+)\}", aspect)
        if aspect and (not told or told[1] != category):
            self.breach(request, "an aspect_filter that eBay ignores")
        rows = [
            row
            for shoe in SHOES
            if compact(query.get("q", "")) == compact(shoe.style) and category in (None, SHELVES[shoe.gender])
            for size in shoe.sizes
            if not told or bare(size) == told[2]
            for row in self.ebay_items(shoe, size)
        ]
        rows = [row for row in rows if _passes(row, query.get("filter", ""))]
        if query.get("sort") == "price":
            rows.sort(key=_total)
        body = {"href": str(request.url), "total": len(rows), "limit": int(limit), "offset": 0}
        return body | ({"itemSummaries": rows[: int(limit)]} if rows else {})

    def ebay_items(self, shoe: Shoe, size: str) -> Iterator[dict[str, Any]]:
        ask = Decimal(self.truth("ebay", shoe.style, size)[0] or 0)
        who = {"men": "Mens Size ", "women": "Womens Size ", "kids": "Size "}[shoe.gender]
        worn = f"{who}{size if shoe.gender == 'kids' else bare(size)}"
        plain, shelf = f"{shoe.title} {shoe.style} {worn}", SHELVES[shoe.gender]
        yield _item(plain, ask - 5, shelf, shipping=[{"shippingCostType": "FIXED", "shippingCost": _usd(5)}])
        yield _item(f"{shoe.title} {worn} {shoe.code}", ask + 9, shelf)
        yield _item(plain, ask - 3, shelf, shipping=[{"shippingCostType": "CALCULATED"}])
        yield _item(plain, ask - 20, shelf, conditionId="1500")
        yield _item(plain, ask - 21, shelf, itemGroupType="SELLER_DEFINED_VARIATIONS")
        yield _item(plain, ask - 22, shelf, price={"value": str(ask - 22), "currency": "GBP"})
        auction = {"buyingOptions": ["AUCTION"], "currentBidPrice": _usd(3)}
        yield {key: value for key, value in _item(plain, ask, shelf, **auction).items() if key != "price"}
        yield _item(f"Shoe laces for {plain}", Decimal(9), shelf)
        yield _item(f"{shoe.title} {shoe.style} box only {worn}", Decimal(12), shelf)
        yield _item(f"{shoe.title} {worn} (code in the description)", ask - 23, shelf)
        yield _item(
            f"{shoe.title} {shoe.style} {who}{'1Y' if shoe.gender == 'kids' else '15.5'}", ask - 24, shelf
        )


def _alias_row(
    size: float, cents: tuple[str, ...], condition: str = "NEW", box: str = "GOOD_CONDITION"
) -> dict[str, Any]:
    ask, bid, last = cents
    return {
        "size": size,
        "product_condition": f"PRODUCT_CONDITION_{condition}",
        "packaging_condition": f"PACKAGING_CONDITION_{box}",
        "availability": {
            "lowest_listing_price_cents": ask,
            "highest_offer_price_cents": bid,
            "last_sold_listing_price_cents": last,
            "global_indicator_price_cents": "123",
        },
    }


def _usd(amount: Decimal | int) -> dict[str, str]:
    return {"value": f"{amount:.2f}", "currency": "USD"}


def _item(title: str, amount: Decimal, shelf: str, shipping: Any = None, **more: Any) -> dict[str, Any]:
    free = [{"shippingCostType": "FIXED", "shippingCost": _usd(0)}]
    return {
        "itemId": f"v1|{price(title, amount)}|0",
        "title": title,
        "price": _usd(amount),
        "buyingOptions": ["FIXED_PRICE"],
        "condition": "New with box",
        "conditionId": "1000",
        "leafCategoryIds": [shelf],
        "image": {"imageUrl": "https://i.ebayimg.com/images/g/standin/s-l225.jpg"},
        "seller": {"username": "a-seller-nobody-may-keep"},
        "shippingOptions": free if shipping is None else shipping,
    } | more


def _passes(row: dict[str, Any], given: str) -> bool:
    """eBay's own filtering: conditions and buying options; and only FIXED_PRICE where nothing is said."""
    conditions = re.search(r"conditionIds:\{([0-9|]+)\}", given)
    options = re.search(r"buyingOptions:\{([A-Z_|]+)\}", given)
    wanted = set(options[1].split("|")) if options else {"FIXED_PRICE"}
    bounds = re.search(r"price:\[([0-9.]*)\.\.([0-9.]*)\]", given)
    amount = Decimal(row.get("price", {}).get("value", "0"))
    return (
        (not conditions or row["conditionId"] in conditions[1].split("|"))
        and bool(wanted & set(row["buyingOptions"]))
        and (not bounds or Decimal(bounds[1] or 0) <= amount <= Decimal(bounds[2] or 10**9))
    )


def _total(row: dict[str, Any]) -> Decimal:
    costs = [Decimal(one["shippingCost"]["value"]) for one in row["shippingOptions"] if "shippingCost" in one]
    return Decimal(row.get("price", {"value": "0"})["value"]) + min(costs, default=Decimal(0))


@asynccontextmanager
async def standing_in() -> AsyncIterator[StandIn]:
    """All three on a free port."""
    providers = StandIn()
    application = web.Application()
    application.add_routes(providers.routes())
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = providers.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    app = {"client_id": "an-app", "client_secret": SECRET}
    providers.settings = {
        "stockx": {
            "base_url": f"{url}/sx/v2",
            "token_url": f"{url}/sx/oauth/token",
            "credentials": app | {"api_key": KEY, "refresh_token": REFRESH},
        },
        "alias": {"base_url": f"{url}/al/api/v1", "token_url": None, "credentials": {"token": PAT}},
        "ebay": {
            "base_url": f"{url}/eb",
            "token_url": f"{url}/eb/identity/v1/oauth2/token",
            "credentials": app,
        },
    }
    try:
        yield providers
    finally:
        await runner.cleanup()
