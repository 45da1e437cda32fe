"""The sandbox's own endpoints under `/_sandbox/`, for programs that are not in its process."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from marketd.sandbox.server import Sandbox

_HELP = """\
marketd sandbox: StockX, Alias and eBay on your own machine. Prices are made up.

GET    /_sandbox/                 this page
GET    /_sandbox/settings         base URLs, token URLs and the credentials that are accepted
GET    /_sandbox/catalog          what is for sale: keys, style codes, sizes, ids   ?limit=&offset=
GET    /_sandbox/truth            ?provider=&product=&size=&currency=   what a client must store now
GET    /_sandbox/requests         every request that came in   ?provider=&endpoint=&since=<number>&limit=
GET    /_sandbox/limits           the limits in force and what is used up
POST   /_sandbox/limits           {"provider": "stockx", "per_window": 5, "per_day": null, "spend": 100}
GET    /_sandbox/faults           open faults, and all kinds with their options
POST   /_sandbox/faults           {"provider": "stockx", "kind": "status", "times": 3, "status": 503}
DELETE /_sandbox/faults           drop all faults
POST   /_sandbox/tokens/expire    {"provider": "stockx"}
POST   /_sandbox/advance          {"ticks": 1}   let prices move
POST   /_sandbox/retire           {"provider": "stockx", "product": "DD1391-100"}   a new id for a product

For example, a StockX that stalls for 20 s twice:
  curl -X POST $URL/_sandbox/faults -d '{"provider": "stockx", "kind": "stall", "seconds": 20, "times": 2}'
"""

_Handler = Callable[[web.Request], Awaitable[web.Response]]


class Control:
    """Lets another process do what `Sandbox`'s methods do."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def routes(self) -> list[web.RouteDef]:
        at = "/_sandbox"
        return [
            web.get(f"{at}/", _safe(self.help)),
            web.get(at, _safe(self.help)),
            web.get(f"{at}/settings", _safe(self.settings)),
            web.get(f"{at}/catalog", _safe(self.catalog)),
            web.get(f"{at}/truth", _safe(self.truth)),
            web.get(f"{at}/requests", _safe(self.requests)),
            web.get(f"{at}/limits", _safe(self.limits)),
            web.post(f"{at}/limits", _safe(self.set_limits)),
            web.get(f"{at}/faults", _safe(self.faults)),
            web.post(f"{at}/faults", _safe(self.order)),
            web.delete(f"{at}/faults", _safe(self.clear)),
            web.post(f"{at}/tokens/expire", _safe(self.expire)),
            web.post(f"{at}/advance", _safe(self.advance)),
            web.post(f"{at}/retire", _safe(self.retire)),
        ]

    async def help(self, request: web.Request) -> web.Response:
        return web.Response(text=_HELP.replace("$URL", str(request.url.origin())))

    async def settings(self, request: web.Request) -> web.Response:
        return _told(self._sandbox.settings)

    async def catalog(self, request: web.Request) -> web.Response:
        world = self._sandbox.world
        first, count = int(request.query.get("offset", 0)), int(request.query.get("limit", 100))
        return _told(
            [
                {
                    "key": product.key,
                    "title": product.title,
                    "style": product.style,
                    "sizes": product.sizes,
                    "decoy": product.decoy,
                    "stockx": world.id_of("stockx", product),
                    "alias": world.id_of("alias", product),
                    "ebay": product.shelf.leaf if product.shelf else None,
                }
                for product in list(world)[first : first + count]
            ]
        )

    async def truth(self, request: web.Request) -> web.Response:
        query = request.query
        found = self._sandbox.truth(
            query["provider"], query["product"], query.get("size") or None, query.get("currency", "USD")
        )
        amounts = {name: None if value is None else str(value) for name, value in found._asdict().items()}
        return _told(amounts | {"tick": self._sandbox.tick})

    async def requests(self, request: web.Request) -> web.Response:
        query = request.query
        since, limit = int(query.get("since", 0)), int(query.get("limit", 1000))
        found = [
            entry.told()
            for entry in self._sandbox.requests
            if entry.number > since
            and query.get("provider", entry.provider) == entry.provider
            and query.get("endpoint", entry.endpoint) == entry.endpoint
        ]
        return _told({"total": len(found), "requests": found[-limit:] if limit else []})

    async def limits(self, request: web.Request) -> web.Response:
        return _told(self._sandbox.usage())

    async def set_limits(self, request: web.Request) -> web.Response:
        order = await _sent(request)
        provider = order.pop("provider")
        if spend := order.pop("spend", 0):
            self._sandbox.spend(provider, int(spend))
        self._sandbox.set_limits(provider, **order)
        return await self.limits(request)

    async def faults(self, request: web.Request) -> web.Response:
        return _told(self._sandbox.open_faults())

    async def order(self, request: web.Request) -> web.Response:
        order = await _sent(request)
        fault = self._sandbox.fault(order.pop("provider"), order.pop("kind"), **order)
        return _told({"id": fault.id}, status=201)

    async def clear(self, request: web.Request) -> web.Response:
        return _told({"cleared": self._sandbox.clear_faults()})

    async def expire(self, request: web.Request) -> web.Response:
        return _told({"expired": self._sandbox.expire_tokens((await _sent(request))["provider"])})

    async def advance(self, request: web.Request) -> web.Response:
        return _told({"tick": self._sandbox.advance(int((await _sent(request)).get("ticks", 1)))})

    async def retire(self, request: web.Request) -> web.Response:
        order = await _sent(request)
        return _told({"id": self._sandbox.retire(order["product"], order.get("provider", "stockx"))})


def _safe(handler: _Handler) -> _Handler:
    """Tell a caller's mistake as 400 with its reason."""

    async def answered(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except KeyError as missing:
            return _told({"error": f"missing or unknown: {missing.args[0]}"}, status=400)
        except (ValueError, TypeError, LookupError) as wrong:
            return _told({"error": str(wrong)}, status=400)

    return answered


async def _sent(request: web.Request) -> dict[str, Any]:
    """The JSON object in the body; an empty body is an empty one."""
    text = await request.text()
    found = json.loads(text) if text.strip() else {}
    if not isinstance(found, dict):
        raise ValueError("the body has to be a JSON object")
    return found


def _told(body: Any, *, status: int = 200) -> web.Response:
    return web.Response(
        text=json.dumps(body, indent=1) + "\n", status=status, content_type="application/json"
    )
