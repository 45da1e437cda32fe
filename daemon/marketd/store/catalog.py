"""What skus were found to be at a provider."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from marketd.models import Listing, Product, Variant
from marketd.store.pool import Database
from marketd.store.sqlfile import queries


class CatalogStore:
    """Reads what earlier fetches learnt; `JobStore.settle` writes it."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._sql = queries("catalog")

    async def known(
        self, provider: str, sku: str, currency: str, size: str | None
    ) -> tuple[Listing | None, Decimal | None]:
        """The cached listing of a sku, and the median ask of the other providers for this item."""
        row = await self._db.fetchrow(self._sql["known"], provider, sku, currency, size)
        if row is None:
            return None, None
        listing = None if row["listing"] is None else _listing(json.loads(row["listing"]))
        return listing, row["reference"]

    async def enrich(self, at_most: int) -> int:
        """Queue fetches that bring an image for products without one. Returns how many."""
        queued: int = await self._db.fetchval("select market_enrich(null, $1)", at_most)
        return queued


def _listing(row: dict[str, Any]) -> Listing:
    words = ("style_code", "name", "brand", "category", "gender", "image_url", "url", "details")
    return Listing(
        product=Product(id=row["product_id"], **{word: row[word] for word in words}),
        variants=tuple(
            Variant(id=v["id"], size=v["size"], chart=v["chart"], gtins=tuple(v["gtins"]))
            for v in row["variants"]
        ),
    )
