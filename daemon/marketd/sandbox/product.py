"""What the sandbox knows of a product, before any provider dresses it up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from uuid import NAMESPACE_URL, uuid5


@lru_cache(50_000)
def compact(text: str) -> str:
    """Letters and digits only, upper case: how codes are compared."""
    return "".join(char for char in text.upper() if char.isascii() and char.isalnum())


def words(text: str) -> tuple[str, ...]:
    """Lower-case words of a title or of a query."""
    cleaned = "".join(char if char.isalnum() or char == "." else " " for char in text.lower())
    return tuple(word.strip(".") for word in cleaned.split() if word.strip("."))


def slug(text: str) -> str:
    return "-".join(word.replace(".", "-") for word in words(text))


def stable_uuid(*parts: object) -> str:
    """The same parts give the same UUID in every run and under every seed."""
    return str(uuid5(NAMESPACE_URL, "sandbox:" + ":".join(str(part) for part in parts)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """Where eBay files a product: the leaf category, its parents, and the size aspect's presence."""

    leaf: str
    name: str
    parents: tuple[tuple[str, str], ...] = ()
    sized: bool = False
    card: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One thing that is traded. `key` names it in `truth`, `retire` and `add_size`."""

    key: str
    title: str
    brand: str
    gender: str | None  #: men, women, kids, unisex (StockX's words), None for what is not worn
    style: str | None  #: exactly as StockX prints it: labels, joined codes and all
    url_key: str
    stockx_id: str
    product_type: str
    sizes: tuple[str | None, ...]  #: canonical US sizes or grades; (None,) for a single-size item
    usd: int  #: the level around which asks move
    colorway: str | None = None
    released: str | None = None
    retail: int | None = None
    chart: str | None = None  #: maker whose conversions hold, None where sizes are not shoes
    single: str | None = None  #: what StockX puts into `variantValue` of a single-size item
    alias_id: str | None = None  #: None = Alias does not carry it
    alias_sku: str | None = None
    alias_name: str | None = None
    shelf: Shelf | None = None  #: None = nobody lists it on eBay
    near: tuple[str, ...] = ()  #: codes of look-alikes that eBay sellers mix up with it
    quoted: str | None = None  #: a size that always has an ask, a bid and a last sale
    decoy: bool = False  #: shares a style code with the real product; never what is meant
    rank: int = 1  #: position class in StockX search results, lowest first
    pace: int = 1  #: ticks between price moves of its liveliest size

    @property
    def codes(self) -> tuple[str, ...]:
        """Style codes in compare form, with labels and joiners taken apart."""
        bare = (self.style or "").rsplit(")", 1)[-1].removesuffix(" S")
        return tuple(compact(part) for part in bare.split("/") if compact(part))

    @property
    def search_code(self) -> str:
        """The first style code as a seller writes it into a title, empty for cards and collectibles."""
        return (self.style or "").rsplit(")", 1)[-1].removesuffix(" S").split("/")[0].strip()


def shoe(spec: Mapping[str, object]) -> Product:
    """A shoe from the few facts that differ; ids that are not given are derived from its url key."""
    facts = dict(spec)
    title = str(facts["title"])
    facts.setdefault("url_key", slug(title))
    facts.setdefault("stockx_id", stable_uuid("stockx", facts["url_key"]))
    facts.setdefault("product_type", "sneakers")
    facts.setdefault("chart", "nike")
    facts.setdefault("key", facts["style"])
    facts.setdefault("shelf", SHOE_SHELVES[str(facts["gender"])])
    if facts.get("alias_id"):
        facts.setdefault("alias_sku", str(facts["style"]).replace("-", " "))
        facts.setdefault("alias_name", title)
    return Product(**facts)  # type: ignore[arg-type]  # the mapping is written out in catalog.py


MEN = Shelf(leaf="15709", name="Athletic Shoes", parents=(("93427", "Men's Shoes"),), sized=True)
WOMEN = Shelf(leaf="95672", name="Athletic Shoes", parents=(("3034", "Women's Shoes"),), sized=True)
KIDS = Shelf(leaf="57929", name="Boys' Shoes", parents=(("171146", "Kids"),), sized=True)
SHOE_SHELVES = {"men": MEN, "women": WOMEN, "kids": KIDS, "unisex": MEN}
SPORT_CARDS = Shelf(leaf="261328", name="Trading Card Singles", parents=(("212", "Sports Cards"),), card=True)
GAME_CARDS = Shelf(leaf="183454", name="CCG Individual Cards", parents=(("2536", "Card Games"),), card=True)
SEALED = Shelf(leaf="261044", name="CCG Sealed Boxes", parents=(("2536", "Card Games"),))
FIGURES = Shelf(leaf="261068", name="Action Figures", parents=(("220", "Toys & Hobbies"),))
