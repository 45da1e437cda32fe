"""Barcodes that lead back to product and size without an index."""

from __future__ import annotations

from marketd.sandbox.product import Product
from marketd.sandbox.world import World


def gtins(world: World, product: Product, size: str | None) -> list[dict[str, str]]:
    """Barcodes carry the product's number and the place of the size; three sizes in ten have none."""
    if world.prices.unit("gtin", product.key, size) < 0.3:
        return []
    upc = f"099{world.number(product):06}{product.sizes.index(size):02}"
    odd, even = (sum(int(digit) for digit in upc[start::2]) for start in (0, 1))
    full_upc = f"{upc}{-(odd * 3 + even) % 10}"
    return [{"identifier": full_upc, "type": "UPC"}, {"identifier": f"0{full_upc}", "type": "EAN-13"}]


def by_gtin(world: World, gtin: str) -> tuple[Product, str | None] | None:
    """What a barcode of `gtins` stands for."""
    digits = gtin.lstrip("0")
    if len(digits) != 11 or not digits.startswith("99"):
        return None
    product, place = world.at(int(digits[2:8])), int(digits[8:10])
    if product is None or place >= len(product.sizes):
        return None
    size = product.sizes[place]
    known = {row["identifier"].lstrip("0") for row in gtins(world, product, size)}
    return (product, size) if digits in known else None
