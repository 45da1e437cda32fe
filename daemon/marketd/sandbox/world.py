"""The world behind the sandbox: what is for sale, the passing ticks, and the ids that products go by now."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from marketd.sandbox.catalog import fixed
from marketd.sandbox.generated import generated
from marketd.sandbox.prices import Prices
from marketd.sandbox.product import Product, compact, stable_uuid, words

_STEM = 6  #: codes that agree in so many leading characters count as similar


class World:
    """Everything that is for sale. Prices stand still when `move_every_s` is 0."""

    def __init__(
        self,
        *,
        seed: int,
        products: int = 0,
        move_every_s: float = 0.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.prices = Prices(seed)
        self._move_every_s = move_every_s
        self._monotonic = monotonic
        self._started = monotonic()
        self._advanced = 0
        self._generation: dict[tuple[str, str], int] = {}
        self._products = [*fixed(), *generated(products)]
        self._number = {product.key: number for number, product in enumerate(self._products)}
        self._ids: dict[str, dict[str, str]] = {"stockx": {}, "alias": {}}
        self._codes: dict[str, list[int]] = defaultdict(list)
        self._stems: dict[str, list[int]] = defaultdict(list)
        self._words: dict[str, set[int]] = defaultdict(set)
        for number, product in enumerate(self._products):
            self._index(number, product)

    @property
    def tick(self) -> int:
        """How often prices had the chance to move since the start."""
        passed = (self._monotonic() - self._started) / self._move_every_s if self._move_every_s else 0
        return self._advanced + int(passed)

    def advance(self, ticks: int = 1) -> int:
        """Let time pass at once; returns the new tick."""
        self._advanced += ticks
        return self.tick

    def __iter__(self) -> Iterator[Product]:
        return iter(self._products)

    def __len__(self) -> int:
        return len(self._products)

    def at(self, number: int) -> Product | None:
        return self._products[number] if 0 <= number < len(self._products) else None

    def number(self, product: Product) -> int:
        return self._number[product.key]

    # -- ids ---------------------------------------------------------------------------------------------

    def id_of(self, provider: str, product: Product) -> str | None:
        """The id under which `provider` lists the product now, None if it does not carry it."""
        original = {"stockx": product.stockx_id, "alias": product.alias_id}.get(provider)
        generation = self._generation.get((provider, product.key), 0)
        if original is None or generation == 0:
            return original
        if provider == "alias":
            return f"{original}-r{generation}"
        return stable_uuid(provider, original, generation)

    def by_id(self, provider: str, wanted: str) -> Product | None:
        key = self._ids[provider].get(wanted)
        return self._products[self._number[key]] if key is not None else None

    def variant_id(self, product: Product, size: str | None) -> str:
        return stable_uuid("variant", self.id_of("stockx", product), size)

    def retire(self, product: Product, provider: str) -> str:
        """Give the product a new id at `provider`; the old one is unknown from now on. Returns the new id.

        LookupError when the provider has no ids of its own for it.
        """
        old = self.id_of(provider, product)
        if old is None:
            raise LookupError(f"{provider} has no id for {product.key}")
        slot = (provider, product.key)
        self._generation[slot] = self._generation.get(slot, 0) + 1
        new = self.id_of(provider, product)
        assert new is not None
        del self._ids[provider][old]
        self._ids[provider][new] = product.key
        return new

    def add_size(self, product: Product, size: str) -> Product:
        """Start to trade a further size, which clients with a cached list of sizes do not know."""
        changed = replace(product, sizes=(*product.sizes, size))
        self._products[self._number[product.key]] = changed
        return changed

    # -- finding -----------------------------------------------------------------------------------------

    def find(self, wanted: str) -> Product:
        """The product meant by a key, a style code, a provider's id or an exact title.

        `id:` and `name:` in front are allowed. LookupError when nothing or more than one product is meant;
        decoys are meant only by their own key or id.
        """
        bare = wanted.removeprefix("id:").removeprefix("name:").strip()
        for key in (bare, self._ids["stockx"].get(bare), self._ids["alias"].get(bare)):
            if key is not None and key in self._number:
                return self._products[self._number[key]]
        numbers = {n for part in bare.split("/") for n in self._codes.get(compact(part), ())}
        real = [self._products[n] for n in sorted(numbers) if not self._products[n].decoy]
        real = real or [product for product in self._products if words(product.title) == words(bare)]
        if len(real) != 1:
            raise LookupError(f"{wanted!r} means {[product.key for product in real] or 'nothing'} here")
        return real[0]

    def coded(self, code: str) -> list[Product]:
        """Products with exactly this style code, decoys included."""
        return self._in_order(self._codes.get(compact(code), ()))

    def similar(self, code: str) -> list[Product]:
        """Products whose style code begins alike, the exact ones included."""
        bare = compact(code)
        if len(bare) < _STEM or not any(char.isdigit() for char in bare[:_STEM]):
            return []
        return self._in_order(self._stems.get(bare[:_STEM], ()))

    def mentioning(self, tokens: Iterable[str]) -> list[tuple[float, Product]]:
        """Products that have any of the words, with the share of words that they have."""
        asked = list(dict.fromkeys(tokens))
        hits: dict[int, int] = defaultdict(int)
        for token in asked:
            for number in self._words.get(token, ()):
                hits[number] += 1
        return [(count / len(asked), self._products[number]) for number, count in sorted(hits.items())]

    def _in_order(self, numbers: Iterable[int]) -> list[Product]:
        return [self._products[number] for number in sorted(set(numbers))]

    def _index(self, number: int, product: Product) -> None:
        self._ids["stockx"][product.stockx_id] = product.key
        if product.alias_id:
            self._ids["alias"][product.alias_id] = product.key
        for code in product.codes:
            self._codes[code].append(number)
            self._stems[code[:_STEM]].append(number)
            self._words[code.lower()].add(number)
        for text in (product.title, product.style or "", product.alias_name or ""):
            for word in words(text):
                self._words[word].add(number)
