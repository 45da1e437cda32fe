"""The sandbox's fixed catalogue: the golden products, and one product for every known trap.

Ids, url keys and catalog ids of real products are public catalogue keys; prices are made up.
"""

from __future__ import annotations

from marketd.sandbox.charts import run
from marketd.sandbox.golden import golden
from marketd.sandbox.product import Product, shoe, slug, stable_uuid
from marketd.sandbox.things import things


def fixed() -> tuple[Product, ...]:
    return (*golden(), *_doubles(), *_neighbours(), *_odd_codes(), *_labelled(), *things())


def _doubles() -> tuple[Product, ...]:
    """Products that share a style code; every decoy is ranked before the real one."""
    return (
        shoe(
            {
                "title": "Nike Air Max 1/97 Sean Wotherspoon (All Accessories and Dustbag)",
                "url_key": "nike-air-max-1-97-sean-wotherspoon",
                "stockx_id": "835848c5-3f95-433c-9f2a-e42aad647cc1",
                "alias_id": "sean-wotherspoon-x-air-max-97-1-aj4219-400-571f1838-7346-4d43-85f0-8dde12b778cb",
                "brand": "Nike",
                "gender": "men",
                "style": "AJ4219-400",
                "released": "2018-03-26",
                "retail": 160,
                "sizes": run("4", "13"),
                "usd": 640,
                "quoted": "9",
                "near": ("AJ4219-401",),
                "pace": 3,
            }
        ),
        *_decoys(),
    )


def _decoys() -> tuple[Product, ...]:
    return (
        _decoy(
            "AJ4219-400",
            "Nike Air Max 1/97 Sean Wotherspoon (Extra Lace Set Only)",
            "ea2d8ce5-b912-4fb0-b1dd-21c2032e92aa",
            (None,),
            single="",
            usd=35,
        ),
        _decoy(
            "FV5029-010",
            "Jordan 4 Retro Black Cat (2025) Basketball",
            "9c500914-3f79-4620-87f9-a77590dbadd2",
            (None,),
            usd=60,
        ),
        _decoy(
            "CV9388-100",
            "Jordan 4 Retro Off-White Sail (Women's) Design Museum Charity Pair",
            "5c7550f4-83a2-4fde-ba83-5823c0120ad4",
            ("9W",),
            usd=2400,
        ),
        _decoy("DZ5485-612", "Jordan 1 Retro High OG Chicago Lost and Found (Sample)", "", ("9",), usd=1900),
    )


def _decoy(
    style: str,
    title: str,
    stockx_id: str,
    sizes: tuple[str | None, ...],
    *,
    usd: int,
    single: str | None = None,
) -> Product:
    key = slug(title)
    return Product(
        key=key,
        title=title,
        brand=title.split()[0],
        gender="women" if sizes[0] == "9W" else "men",
        style=style,
        url_key=key,
        stockx_id=stockx_id or stable_uuid("stockx", key),
        product_type="sneakers",
        sizes=sizes,
        usd=usd,
        single=single,
        chart="nike" if sizes[0] else None,
        decoy=True,
        rank=0,
        pace=6,
    )


def _neighbours() -> tuple[Product, ...]:
    """Near misses: codes that differ in a digit, ranked before what was asked."""
    men = {"gender": "men", "sizes": run("7", "13")}
    rows = (
        ("DD1391-101", "Nike Dunk Low Michigan State", "Nike", 109),
        ("DD1391-102", "Nike Dunk Low UNC (2021)", "Nike", 188),
        ("DD1391-103", "Nike Dunk Low Retro Grey Fog", "Nike", 121),
        ("DZ5485-400", "Jordan 1 Retro High OG UNC Toe", "Jordan", 171),
        ("DZ5485-106", "Jordan 1 Retro High OG Palomino", "Jordan", 133),
        ("DC7770-161", "Jordan 4 Retro Fire Red Player Edition", "Jordan", 980),
        ("CP9652", "adidas Yeezy Boost 350 V2 Bred", "adidas", 331),
        ("FV5029-006", "Jordan 4 Retro Wet Cement", "Jordan", 204),
    )
    return tuple(
        shoe(
            men
            | {
                "style": style,
                "title": title,
                "brand": brand,
                "usd": usd,
                "chart": "adidas" if brand == "adidas" else "nike",
                "alias_id": f"{slug(title)}-{style.lower()}",
                "retail": 120,
                "released": "2023-05-10",
                "rank": 0,
                "pace": 4,
            }
        )
        for style, title, brand, usd in rows
    )


def _odd_codes() -> tuple[Product, ...]:
    """A joined code, a label in front of a code, and a sample with its suffix."""
    men = {"gender": "men", "sizes": run("6", "13")}
    nike = men | {"brand": "Nike", "released": "2022-02-01", "retail": 110}
    return tuple(
        shoe(spec)
        for spec in (
            nike
            | {
                "style": "315122-111/CW2288-111",
                "title": "Nike Air Force 1 Low '07 White",
                "alias_id": "air-force-1-low-07-white-cw2288-111",
                "alias_sku": "CW2288 111",
                "usd": 112,
                "quoted": "9",
            },
            nike
            | {
                "key": "QX1001-200",
                "style": "(Clay) QX1001-200",
                "title": "Nike Sandbox Runner Clay",
                "alias_id": "sandbox-runner-clay-qx1001-200",
                "alias_sku": "QX1001 200",
                "usd": 95,
                "quoted": "10",
            },
            nike
            | {
                "key": "QX1002-300",
                "style": "QX1002-300 S",
                "title": "Nike Sandbox Runner Moss (Sample)",
                "sizes": ("9",),
                "shelf": None,
                "usd": 540,
                "quoted": "9",
            },
        )
    )


def _labelled() -> tuple[Product, ...]:
    """One code, two products that only the label in front tells apart: nobody can say which one is meant."""
    rare = {
        "gender": "men",
        "sizes": run("6", "13"),
        "brand": "Jordan",
        "released": "2025-07-19",
        "retail": 220,
    }
    return tuple(
        shoe(spec)
        for spec in (
            rare
            | {
                "key": "fv5029-003-white",
                "style": "(White) FV5029-003",
                "title": "Jordan 4 Retro Rare Air (White Lettering)",
                "alias_id": "air-jordan-4-retro-rare-air-fv5029-003",
                "alias_sku": "FV5029 003",
                "usd": 225,
                "quoted": "10",
            },
            rare
            | {
                "key": "fv5029-003-gold",
                "style": "(Gold) FV5029-003",
                "title": "Jordan 4 Retro Rare Air (Gold Lettering)",
                "shelf": None,
                "usd": 238,
            },
        )
    )
