"""What a provider's module in `faces/` has to be: the outward face of the sandbox for one provider."""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple, Protocol

from aiohttp import web

from marketd.sandbox.limits import Breach, Limits
from marketd.sandbox.product import Product
from marketd.sandbox.tokens import Tokens
from marketd.sandbox.world import World

Handler = Callable[[web.Request], Awaitable[web.Response]]


class Truth(NamedTuple):
    """What a correct client must store. None = no such amount, or nobody asks, bids or sold."""

    ask: Decimal | None
    bid: Decimal | None
    last_sale: Decimal | None


class Refused(Exception):
    """Ends a request early with `response`."""

    def __init__(self, response: web.Response) -> None:
        super().__init__(f"refused with {response.status}")
        self.response = response


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint. `meter` says what it counts as: `calls`, `mints`, `analytics`, or nothing."""

    method: str
    path: str
    endpoint: str
    handler: Handler
    meter: str = "calls"


class Usage(Protocol):
    """The sandbox's own count, for providers that report it."""

    def used(self, provider: str, account: str, meter: str) -> int: ...

    def limits(self, provider: str) -> Limits: ...

    def resets_at(self, provider: str) -> datetime: ...


class Face(ABC):
    """One provider. A module in `faces/` exports its subclass as `FACE`; nothing else has to be told."""

    name: ClassVar[str]  #: equals the module's name and the first segment of every path
    base_path: ClassVar[str]  #: where its API begins
    token_path: ClassVar[str | None] = None
    credentials: ClassVar[Mapping[str, str]]
    limits: ClassVar[Limits]  #: the real ones
    token_life_s: ClassVar[float] = math.inf
    priced: ClassVar[frozenset[str]]  #: endpoints whose answers hold market amounts
    amount: ClassVar[re.Pattern[bytes]]  #: group 1 is an amount's key in JSON text, group 2 its value

    def __init__(self, world: World, usage: Usage) -> None:
        self.world = world
        self.usage = usage
        self.tokens = Tokens(self.token_life_s)

    @abstractmethod
    def routes(self) -> Iterable[Route]:
        """Every endpoint; paths begin with `/<name>`."""

    def lost(self) -> Route:
        """Every other path below the provider's name: not found, in its own words."""

        async def handler(request: web.Request) -> web.Response:
            return self.error(404)

        return Route("*", f"/{self.name}/{{rest:.*}}", "unknown", handler)

    @abstractmethod
    def account(self, request: web.Request) -> str | None:
        """Whose credentials the request carries; None counts as nobody's."""

    @abstractmethod
    def error(self, status: int, text: str | None = None) -> web.Response:
        """An error in this provider's own words; `text` replaces the usual message."""

    @abstractmethod
    def over(self, breach: Breach) -> web.Response:
        """The answer to a request over a limit."""

    @abstractmethod
    def truth(self, product: Product, size: str | None, currency: str, tick: int, **basis: Any) -> Truth:
        """The amounts at `tick`. LookupError when the provider lacks the product, size or currency."""

    def token_refused(self) -> web.Response | None:
        """What the token endpoint says to credentials that were withdrawn; None without such an endpoint."""
        return None


def json_response(
    body: Any, status: int = 200, *, content_type: str = "application/json", **headers: str
) -> web.Response:
    """`body` as JSON. Header names are given with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.Response(
        body=json.dumps(body, ensure_ascii=False).encode(),
        status=status,
        headers={"Content-Type": content_type, **named},
    )


def bearer(request: web.Request) -> str | None:
    """The token of an `Authorization: Bearer` header."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def amounts(*keys: str) -> re.Pattern[bytes]:
    """A pattern for the market amounts under these JSON keys."""
    return re.compile(rb'("(?:%s)": )("[^"]*"|null|-?[0-9.]+)' % b"|".join(key.encode() for key in keys))
