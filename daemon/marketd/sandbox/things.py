"""What the sandbox sells besides shoes: cards and collectibles, which have no style code."""

from __future__ import annotations

from marketd.sandbox.product import (
    FIGURES,
    GAME_CARDS,
    SEALED,
    SPORT_CARDS,
    Product,
    Shelf,
    slug,
    stable_uuid,
)


def things() -> tuple[Product, ...]:
    return (*_singles(), *_boxes(), *_collectibles())


def _singles() -> tuple[Product, ...]:
    return (
        _thing(
            "Auston Matthews 2016 Upper Deck Series 1 Young Guns Rookie #201",
            "trading cards",
            SPORT_CARDS,
            usd=310,
            sizes=("PSA 10",),
            url_key="auston-matthews-2016-upper-deck-series-1-young-guns-rookie-201",
        ),
        _thing(
            "Charizard 1999 Pokemon Sandbox Set Holo #4",
            "trading cards",
            GAME_CARDS,
            usd=2200,
            sizes=("PSA 8", "PSA 9", "PSA 10", "BGS 9.5"),
        ),
    )


def _boxes() -> tuple[Product, ...]:
    return (
        _thing(
            "Pokemon TCG 25th Anniversary Celebrations Ultra Premium Collection Box",
            "trading cards",
            SEALED,
            usd=720,
            url_key="pokemon-tcg-25th-anniversary-celebrations-ultra-premium-collection-box",
        ),
        _thing(
            "Pokemon TCG Prismatic Evolutions Elite Trainer Box",
            "trading cards",
            SEALED,
            usd=118,
            single="",
            url_key="pokemon-tcg-prismatic-evolutions-elite-trainer-box",
        ),
        # A name search for the box above finds this one first.
        _thing(
            "Pokemon TCG Prismatic Evolutions Elite Trainer Box (Pokemon Center Edition)",
            "trading cards",
            None,
            usd=355,
            single="",
            rank=0,
        ),
    )


def _collectibles() -> tuple[Product, ...]:
    return (
        _thing(
            "Bearbrick Star Wars The Mandalorian 1000% Chrome",
            "collectibles",
            FIGURES,
            usd=610,
            single="One Size",
            url_key="bearbrick-star-wars-the-mandalorian-1000-chrome",
        ),
        _thing(
            "Bearbrick Star Wars The Mandalorian 400% Chrome",
            "collectibles",
            None,
            usd=140,
            single="One Size",
            rank=0,
        ),
        _thing(
            "Pop Mart Labubu Time to Chill Vinyl Plush Doll",
            "collectibles",
            FIGURES,
            usd=88,
            single="Single",
            url_key="pop-mart-labubu-time-to-chill-vinyl-plush-doll",
        ),
    )


def _thing(
    title: str,
    product_type: str,
    shelf: Shelf | None,
    *,
    usd: int,
    sizes: tuple[str | None, ...] = (None,),
    single: str | None = None,
    url_key: str | None = None,
    rank: int = 1,
) -> Product:
    """A card or collectible: no style code, no gender, no size chart."""
    key = url_key or slug(title)
    return Product(
        key=key,
        title=title,
        brand=title.split()[0],
        gender=None,
        style=None,
        url_key=key,
        stockx_id=stable_uuid("stockx", key),
        product_type=product_type,
        sizes=sizes,
        usd=usd,
        single=single,
        shelf=shelf,
        quoted=sizes[-1],
        rank=rank,
        pace=2,
    )
