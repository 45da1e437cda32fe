"""Listings and search answers as eBay gives them, for tests of what is taken from them."""

from __future__ import annotations

from typing import Any


def listing(
    price: str = "100.00", title: str = "Nike Dunk DD1391-100 Men's Size 10", **more: Any
) -> dict[str, Any]:
    return {
        "itemId": "v1|1|0",
        "title": title,
        "price": {"value": price, "currency": "USD"},
        "conditionId": "1000",
        "buyingOptions": ["FIXED_PRICE"],
        "leafCategoryIds": ["15709"],
        "shippingOptions": [shipping("0.00")],
        "listingMarketplaceId": "EBAY_US",
        "image": {"imageUrl": "https://i.ebayimg.com/1.jpg"},
        "seller": {"username": "somebody"},
    } | more


def shipping(cost: str) -> dict[str, Any]:
    return {"shippingCostType": "FIXED", "shippingCost": {"value": cost, "currency": "USD"}}


def results(*items: dict[str, Any]) -> dict[str, Any]:
    return {"total": len(items), "limit": 50} | ({"itemSummaries": list(items)} if items else {})
