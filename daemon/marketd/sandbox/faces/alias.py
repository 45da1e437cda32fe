"""Alias (GOAT's seller platform) v1: a gRPC gateway's habits, prices in US cents as strings."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any, ClassVar, NoReturn
from uuid import uuid4

from aiohttp import web

from marketd.sandbox import alias_market as market
from marketd.sandbox.alias_market import View
from marketd.sandbox.charts import number
from marketd.sandbox.face import Face, Refused, Route, Truth, amounts, bearer, json_response
from marketd.sandbox.limits import Breach, Limits
from marketd.sandbox.product import Product, compact, words
from marketd.sandbox.tokens import account_of

_RPC = {
    400: (3, "invalid argument"),
    401: (16, "unauthenticated"),
    402: (9, "failed precondition"),
    403: (7, "permission denied"),
    404: (5, "not found"),
    409: (10, "aborted"),
    429: (8, "resource exhausted"),
    500: (13, "internal"),
    501: (12, "unimplemented"),
    502: (14, "unavailable"),
    503: (14, "unavailable"),
    504: (4, "deadline exceeded"),
}
_TAIL = 3  #: so many loosely related products end every list of hits, as relevance lists go on for long
_JUNK_SIZES = (0, 40)


class Alias(Face):
    name: ClassVar[str] = "alias"
    base_path: ClassVar[str] = "/alias/api/v1"
    credentials: ClassVar = {"token": "sandbox-personal-access-token"}
    #: nobody knows the real figure; this one lets eight calls in 1.6 s pass, which was seen
    limits: ClassVar = Limits(per_window=120, window_s=60.0)
    priced: ClassVar = frozenset({"availabilities", "availability", "offer_histogram", "recent_sales"})
    amount: ClassVar[re.Pattern[bytes]] = amounts(
        "lowest_listing_price_cents",
        "highest_offer_price_cents",
        "last_sold_listing_price_cents",
        "global_indicator_price_cents",
        "offer_price_cents",
        "price_cents",
    )

    def routes(self) -> Iterable[Route]:
        base = "/alias/api/v1"
        insights = f"{base}/pricing_insights"
        return (
            Route("GET", f"{base}/test", "test", self.test),
            Route("GET", f"{base}/catalog", "catalog", self.search),
            Route("GET", f"{base}/catalog/{{id}}", "catalog_item", self.item),
            Route("GET", f"{insights}/availabilities/{{id}}", "availabilities", self.availabilities),
            Route("GET", f"{insights}/availability", "availability", self.availability),
            Route("GET", f"{insights}/offer_histogram", "offer_histogram", self.offer_histogram),
            Route("GET", f"{insights}/recent_sales", "recent_sales", self.recent_sales),
        )

    # -- who asks ----------------------------------------------------------------------------------------

    def account(self, request: web.Request) -> str | None:
        return account_of(bearer(request), self.credentials["token"])

    def error(self, status: int, text: str | None = None) -> web.Response:
        code, usual = _RPC.get(status, (2, "unknown"))
        return _json({"code": code, "message": text or usual, "details": []}, status)

    def over(self, breach: Breach) -> web.Response:
        return self.error(429)

    def _admit(self, request: web.Request) -> None:
        if self.account(request) is None:
            self._refuse(401)

    def _refuse(self, status: int, text: str | None = None) -> NoReturn:
        raise Refused(self.error(status, text))

    # -- catalogue ---------------------------------------------------------------------------------------

    async def test(self, request: web.Request) -> web.Response:
        self._admit(request)
        return _json({"ok": True})

    async def search(self, request: web.Request) -> web.Response:
        self._admit(request)
        query = request.query.get("query", "").strip()
        if not query:
            self._refuse(400, "Missing parameter: input.Query")
        limit = self._limit(request, default=10, highest=100)
        found = self._found(query)
        first = self._offset(request)
        page = found[first : first + limit]
        more = first + limit < len(found)
        token = base64.b64encode(f"{first + limit:020}".encode()).decode().rstrip("=") if more else ""
        return _json(
            {
                "catalog_items": [market.item(self.world, product) for product in page],
                "next_pagination_token": token,
                "has_more": more,
            }
        )

    def _found(self, query: str) -> list[Product]:
        """The exact code first, then similar codes, else by words; a joined pair of codes finds nothing."""
        wanted = compact(query)
        exact = [p for p in self.world.coded(query) if p.alias_sku and compact(p.alias_sku) == wanted]
        near = [] if "/" in query else [product for product in self.world.similar(query) if product.alias_id]
        hits = [hit for hit in self.world.mentioning(words(query)) if hit[0] >= 0.75 and "/" not in query]
        named = [product for _, product in sorted(hits, key=lambda hit: -hit[0]) if product.alias_id]
        found = exact + near or named
        if found:
            alike = (found[0].brand, found[0].gender)
            tail = (p for p in self.world if p.alias_id and {p.brand, p.gender} & set(alike))
            found = found + list(islice(tail, _TAIL))
        return list({product.key: product for product in found}.values())

    async def item(self, request: web.Request) -> web.Response:
        self._admit(request)
        return _json({"catalog_item": market.item(self.world, self._named(request.match_info["id"]))})

    def _named(self, catalog_id: str) -> Product:
        product = self.world.by_id(self.name, catalog_id)
        if product is None:
            self._refuse(404)
        return product

    # -- pricing insights --------------------------------------------------------------------------------

    async def availabilities(self, request: web.Request) -> web.Response:
        """Every size in every state, junk sizes among them, in no order."""
        self._admit(request)
        product = self._named(request.match_info["id"])
        view, tick = self._view(request), self.world.tick
        rows = []
        for size in product.sizes:
            assert size is not None  # Alias carries shoes only
            for state in self._states(product, size):
                amounts_now = market.cents(self.world, product, size, view, tick, state)
                rows.append(self._row(market.plain(float(number(size))), state, amounts_now, request))
        for junk in _JUNK_SIZES:
            odd = market.Cents(9600, 10500, 11500, 0) if junk == 0 else market.NOTHING
            rows.append(self._row(junk, (market.NEW, market.GOOD), odd, request))
        rows.sort(key=lambda row: self.world.prices.unit("row", product.key, *list(row.values())[:3]))
        return _json({"variants": rows})

    async def availability(self, request: web.Request) -> web.Response:
        self._admit(request)
        product, size, state = self._asked(request)
        view = self._view(request)
        return _json(
            {"availability": market.cents(self.world, product, size, view, self.world.tick, state).body()}
        )

    async def offer_histogram(self, request: web.Request) -> web.Response:
        """Offers by price, the highest first."""
        self._admit(request)
        product, size, state = self._asked(request)
        top = market.cents(self.world, product, size, self._view(request), self.world.tick, state).bid
        steps = [top - drop * 500 for drop in range(6) if top - drop * 500 > 0]
        bins = [{"offer_price_cents": str(step), "count": str(place + 1)} for place, step in enumerate(steps)]
        return _json({"offer_histogram": {"bins": bins}})

    async def recent_sales(self, request: web.Request) -> web.Response:
        """Newest first; the newest is the last sale that the availability tells."""
        self._admit(request)
        product, size, state = self._asked(request)
        limit = self._limit(request, default=10, highest=200)
        view, tick = self._view(request), self.world.tick
        newest = datetime.now(UTC).replace(minute=24, second=8, microsecond=701_000) - timedelta(hours=1)
        sales = []
        for back in range(min(limit, 25)):
            sold = market.cents(self.world, product, size, view, max(tick - back, 0), state).last
            at = newest - timedelta(hours=7 * back)
            if sold:
                sales.append(
                    {
                        "purchased_at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                        "price_cents": str(sold),
                        "size": market.plain(float(number(size))),
                        "consigned": view.consigned if view.consigned is not None else bool(back % 2),
                        "catalog_id": self.world.id_of(self.name, product),
                    }
                )
        return _json({"recent_sales": sales})

    def truth(self, product: Product, size: str | None, currency: str, tick: int, **basis: Any) -> Truth:
        """New in a good box, in US dollars. `region` and `consigned` narrow the view, else it is global."""
        if product.alias_id is None or size is None or size not in product.sizes or currency != "USD":
            raise LookupError(f"alias has no {product.key} in size {size} for {currency}")
        view = View(basis.get("region"), basis.get("consigned"))
        now = market.cents(self.world, product, size, view, tick)
        return Truth(*(Decimal(amount) / 100 if amount else None for amount in (now.ask, now.bid, now.last)))

    def _states(self, product: Product, size: str) -> list[tuple[str, str]]:
        """New in a good box always; most of the other states for most sizes."""
        draw = self.world.prices.unit
        others = [state for state in market.STATES[1:] if draw("state", product.key, size, *state) < 0.7]
        return [market.STATES[0], *others]

    def _row(
        self, size: float, state: tuple[str, str], now: market.Cents, request: web.Request
    ) -> dict[str, Any]:
        row = {"size": size, "product_condition": state[0], "packaging_condition": state[1]}
        asked = self._view(request).consigned
        kept = {} if asked is None else {"consigned": asked}
        return row | kept | {"availability": now.body()}

    # -- parameters --------------------------------------------------------------------------------------

    def _asked(self, request: web.Request) -> tuple[Product, str, tuple[str, str]]:
        """Product, canonical size and state of a call about one size; all of them have to be sent."""
        query = request.query
        for name, shown in (("catalog_id", "CatalogId"), ("size", "Size")):
            if not query.get(name):
                self._refuse(400, f"Missing parameter: input.{shown}")
        state = (
            self._condition(query.get("product_condition"), market.PRODUCT_CONDITIONS, "ProductCondition"),
            self._condition(
                query.get("packaging_condition"), market.PACKAGING_CONDITIONS, "PackagingCondition"
            ),
        )
        product = self._named(query["catalog_id"])
        try:
            wanted = float(query["size"])
        except ValueError:
            self._refuse(400, "input.Size: not a number")
        carried = {float(number(size)): size for size in product.sizes if size}
        return product, carried.get(wanted, ""), state

    def _condition(self, sent: str | None, known: tuple[str, ...], name: str) -> str:
        """Names and numbers are both taken; the first of `known` is the refused default."""
        if sent in known[1:]:
            return str(sent)
        if not (sent and sent.isdigit() and 0 < int(sent) < len(known)):
            self._refuse(400, f"Missing parameter: input.{name}")
        return known[int(sent)]

    def _view(self, request: web.Request) -> View:
        region = request.query.get("region_id") or None
        if region is not None and region not in market.REGIONS:
            self._refuse(400, "input.RegionId: unknown region")
        sent = request.query.get("consigned")
        if sent not in (None, "true", "false"):
            self._refuse(400, "input.Consigned: not a boolean")
        return View(region, None if sent is None else sent == "true")

    def _limit(self, request: web.Request, *, default: int, highest: int) -> int:
        sent = request.query.get("limit", str(default))
        if not sent.isdigit() or not 1 <= int(sent) <= highest:
            self._refuse(400, f"input.Limit: must be from 1 to {highest}")
        return int(sent)

    def _offset(self, request: web.Request) -> int:
        token = request.query.get("pagination_token", "")
        try:
            return int(base64.b64decode(token + "=" * (-len(token) % 4), validate=True) or b"0")
        except (binascii.Error, ValueError):
            self._refuse(400, "input.PaginationToken: invalid")


def _json(body: dict[str, Any], status: int = 200) -> web.Response:
    return json_response(body, status, x_request_id=str(uuid4()))


FACE = Alias
