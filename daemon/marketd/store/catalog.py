"""What skus were found to be at a provider."""

from __future__ import annotations

import json
from decimal import Decimal

from marketd.models import Listing, Product, Variant
from marketd.store.pool import Database
from marketd.store.sqlfile import queries


class CatalogStore:
    def __init__(self, db: Database) -> None:
        self._db = db
        self._sql = queries("catalog")

    async def listing(self, provider: str, sku: str) -> Listing | None:
        """The cached product and variants of a sku, if it was ever found."""
        row = await self._db.fetchrow(self._sql["listing"], provider, sku)
        if row is None:
            return None
        product = Product(
            id=row["product_id"],
            style_code=row["style_code"],
            name=row["name"],
            brand=row["brand"],
            category=row["category"],
            gender=row["gender"],
            image_url=row["image_url"],
            url=row["url"],
            details=json.loads(row["details"]),
        )
        variants = tuple(
            Variant(id=v["id"], size=v["size"], chart=v["chart"], gtins=tuple(v["gtins"]))
            for v in json.loads(row["variants"])
        )
        return Listing(product=product, variants=variants)

    async def reference_ask(self, provider: str, sku: str, currency: str, size: str | None) -> Decimal | None:
        """Median ask of the other providers for this item, for plausibility."""
        found: Decimal | None = await self._db.fetchval(
            self._sql["reference_ask"], provider, sku, currency, size
        )
        return found
