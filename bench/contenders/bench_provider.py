"""A provider that answers at once, or asks the benchmark's own server over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

from pydantic import SecretStr

from marketd import errors, oauth, provider
from marketd.models import Quote
from marketd.provider import Ask, Found, Http

on_start: Callable[[], None] | None = None  #: called when a fetch begins


class Credentials(provider.Credentials):
    key: SecretStr = SecretStr("")


class Options(provider.Options):
    http: bool = False


class Bench:
    """One call answers every size."""

    name: ClassVar[str] = "bench"
    all_sizes: ClassVar[bool] = True
    images: ClassVar[bool] = False
    currencies: ClassVar[frozenset[str]] = frozenset({"USD"})
    credentials_type: ClassVar[type[provider.Credentials]] = Credentials
    options_type: ClassVar[type[provider.Options]] = Options

    def __init__(self, options: Options) -> None:
        self._http = options.http

    def authorize(self, credentials: Any, *, token_url: str | None, token_file: Path) -> oauth.StaticToken:
        return oauth.StaticToken({})

    @staticmethod
    def classify(status: int, headers: Mapping[str, str], body: Any) -> errors.ProviderError | None:
        return None

    async def fetch(self, ask: Ask, http: Http) -> Found:
        if on_start is not None:
            on_start()
        ask_price, seen = Decimal("210.5"), datetime.now(UTC)
        if self._http:
            reply = await http.get(f"/price/{ask.sku}", endpoint="price")
            ask_price, seen = Decimal(reply.body["ask"]), reply.granted_at
        quotes = tuple(
            Quote(size=size, currency="USD", lowest_ask=ask_price, highest_bid=Decimal(180), observed_at=seen)
            for size in ask.sizes
        )
        return Found(listing=None, quotes=quotes, answers={size: size for size in ask.sizes})


PROVIDER = Bench
