"""What skus were found to be at a provider."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias

from marketd.models import Listing, Product, Variant
from marketd.store.batching import Batcher
from marketd.store.pool import Database
from marketd.store.sqlfile import queries

_KNOWN_AT_ONCE = 256

_Asked: TypeAlias = tuple[str, str, str]  # provider, sku, currency


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a sku before it is fetched."""

    listing: Listing | None  #: what it was found to be here
    elsewhere: Listing | None  #: what another provider lists under it, preferably one with size charts
    references: Mapping[str | None, Decimal]  #: median asks elsewhere in this currency, by US size


class CatalogStore:
    """Reads what earlier fetches learnt; `JobStore.settle` writes it."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._sql = queries("catalog")
        self._known = Batcher(self._known_batch, at_most=_KNOWN_AT_ONCE)

    async def known(self, provider: str, sku: str, currency: str) -> Known:
        """What earlier fetches learnt that helps the next one; fetches that begin together share a statement."""
        return await self._known((provider, sku, currency))

    async def _known_batch(self, asked: Sequence[_Asked]) -> list[Known | Exception]:
        rows = await self._db.fetch(
            self._sql["known"], *(list(column) for column in zip(*asked, strict=True))
        )
        return [
            Known(
                listing=_listing(row["listing"]),
                elsewhere=_listing(row["elsewhere"]),
                references=_asks(row["asks"]),
            )
            for row in rows
        ]

    async def enrich(self, at_most: int) -> int:
        """Queue fetches that bring an image for products without one. Returns how many."""
        queued: int = await self._db.fetchval("select market_enrich(null, $1)", at_most)
        return queued


def _asks(text: str | None) -> dict[str | None, Decimal]:
    if text is None:
        return {}
    asks: dict[str, Any] = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    return {size or None: ask for size, ask in asks.items()}


def _listing(text: str | None) -> Listing | None:
    if text is None:
        return None
    row: dict[str, Any] = json.loads(text)
    words = ("style_code", "name", "brand", "category", "gender", "image_url", "url", "details")
    return Listing(
        product=Product(id=row["product_id"], **{word: row[word] for word in words}),
        variants=tuple(
            Variant(id=v["id"], size=v["size"], chart=v["chart"], gtins=tuple(v["gtins"]))
            for v in row["variants"]
        ),
    )
