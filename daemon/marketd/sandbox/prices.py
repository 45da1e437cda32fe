"""Prices that move: pure functions of (seed, product, size, tick), so any moment can be looked up again."""

from __future__ import annotations

import hashlib
import math
from decimal import Decimal
from typing import Any

from marketd.sandbox.product import Product

#: US dollars to the twelve currencies that StockX documents; fixed, so that expectations stay exact
RATES = {
    "AUD": "1.53",
    "CAD": "1.37",
    "CHF": "0.88",
    "EUR": "0.92",
    "GBP": "0.79",
    "HKD": "7.8",
    "JPY": "151",
    "KRW": "1370",
    "MXN": "18.5",
    "NZD": "1.67",
    "SGD": "1.35",
    "USD": "1",
}


_REMEMBERED = 100_000  #: draws kept at most


def rate(currency: str) -> Decimal:
    """How many units of `currency` one dollar buys. KeyError for a currency that the sandbox lacks."""
    return Decimal(RATES[currency])


class Prices:
    """Draws every amount of one world."""

    def __init__(self, seed: int) -> None:
        self._seed = str(seed).encode()
        # One answer shows many views of the same few levels, and drawing them is most of its cost.
        self._epochs: dict[tuple[str, str | None, int], int] = {}
        self._levels: dict[tuple[str, str, str | None, int], Decimal] = {}
        self._gaps: dict[tuple[str, str, str | None, int], float] = {}

    def unit(self, *parts: object) -> float:
        """A number in [0, 1) that depends on the seed and on nothing but `parts`."""
        text = "|".join(map(str, parts)).encode()
        digest = hashlib.blake2b(text, digest_size=7, key=self._seed).digest()
        return int.from_bytes(digest, "big") / 2**56

    def epoch(self, product: Product, size: str | None, tick: int) -> int:
        """Counts the moves of one size: lively products move every tick, quiet ones seldom."""
        key = (product.key, size, tick)
        if key not in self._epochs:
            _make_room(self._epochs)
            self._epochs[key] = self._epoch(product, size, tick)
        return self._epochs[key]

    def _epoch(self, product: Product, size: str | None, tick: int) -> int:
        pace = product.pace * (1 + int(self.unit("pace", product.key, size) * 3))
        return (tick + int(self.unit("phase", product.key, size) * pace)) // pace

    def level(self, salt: str, product: Product, size: str | None, tick: int) -> Decimal:
        """US dollars around which the asks of one provider (`salt`) stand, with cents."""
        key = (salt, product.key, size, tick)
        if key not in self._levels:
            _make_room(self._levels)
            self._levels[key] = self._level(salt, product, size, tick)
        return self._levels[key]

    def _level(self, salt: str, product: Product, size: str | None, tick: int) -> Decimal:
        epoch = self.epoch(product, size, tick)
        wave = (
            0.07 * math.sin(epoch / 9.7 + 6.3 * self.unit("slow", product.key, size))
            + 0.04 * math.sin(epoch / 3.1 + 6.3 * self.unit("fast", salt, product.key, size))
            + 0.04 * (self.unit("step", salt, product.key, size, epoch) - 0.5)
        )
        shape = 0.88 + 0.35 * self.unit("size", product.key, size)
        bias = 0.96 + 0.08 * self.unit("bias", salt, product.key)
        return Decimal(f"{product.usd * shape * bias * (1 + wave):.2f}")

    def absent(self, kind: str, share: float, product: Product, size: str | None, tick: int) -> bool:
        """Whether this side of the book is empty now; never so for a `quoted` size or a single-size item."""
        if size is None or size == product.quoted:
            return False
        key = (kind, product.key, size, self.epoch(product, size, tick) // 6)
        if key not in self._gaps:
            _make_room(self._gaps)
            self._gaps[key] = self.unit("absent", *key)
        return self._gaps[key] < share


def _make_room(cache: dict[Any, Any]) -> None:
    if len(cache) >= _REMEMBERED:
        cache.clear()
