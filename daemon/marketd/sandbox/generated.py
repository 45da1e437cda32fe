"""Further shoes, each a pure function of its number, so that a bigger world holds the smaller one."""

from __future__ import annotations

import hashlib

from marketd.sandbox.charts import run
from marketd.sandbox.product import SHOE_SHELVES, Product, shoe, slug

_MODELS = (
    ("Nike", "nike", "Nike Dunk Low"),
    ("Nike", "nike", "Nike Air Max 95"),
    ("Nike", "nike", "Nike SB Blazer"),
    ("Jordan", "nike", "Jordan 1 Retro Low"),
    ("Jordan", "nike", "Jordan 3 Retro"),
    ("Jordan", "nike", "Jordan 11 Retro"),
    ("adidas", "adidas", "adidas Samba OG"),
    ("adidas", "adidas", "adidas Campus 00s"),
    ("adidas", "adidas", "adidas Yeezy Slide"),
)
_FIRST = "Amber Brick Cedar Dusty Ember Frost Ginger Harbor Ivory Jade Khaki Lilac Maple Navy Olive Pearl"
_SECOND = "Anchor Bloom Canyon Drift Echo Field Grove Haze Isle Lantern Meadow North Orbit Pine Quarry Reef"
_ENDINGS = ("100", "101", "110")  #: three neighbours share each number, so that near misses abound


def generated(count: int) -> tuple[Product, ...]:
    """The first `count` made-up shoes, 8 to 25 sizes each."""
    return tuple(_one(number) for number in range(count))


def _pick(words: str, draw: int) -> str:
    choice = words.split()
    return choice[draw % len(choice)]


def _one(number: int) -> Product:
    draw = hashlib.blake2b(f"product {number}".encode(), digest_size=16).digest()
    brand, chart, model = _MODELS[draw[0] % len(_MODELS)]
    style = f"ZQ{1000 + number // 3}-{_ENDINGS[number % 3]}"
    title = f"{model} {_pick(_FIRST, draw[1])} {_pick(_SECOND, draw[2])} {number + 1}"
    gender = ("men", "men", "men", "women", "kids")[draw[3] % 5]
    sizes = _sizes(gender, chart, draw[4], draw[5])
    return shoe(
        {
            "style": style,
            "title": title + {"women": " (Women's)", "kids": " (GS)"}.get(gender, ""),
            "brand": brand,
            "chart": "nike" if gender == "kids" else chart,
            "gender": gender,
            "sizes": sizes,
            "usd": 60 + (draw[6] * draw[7]) // 90,
            "colorway": f"{_pick(_FIRST, draw[1])}/{_pick(_SECOND, draw[2])}",
            "released": f"{2019 + draw[8] % 6}-{1 + draw[9] % 12:02}-{1 + draw[10] % 28:02}",
            "retail": 90 + draw[11] % 12 * 10,
            "alias_id": f"{slug(title)}-{style.lower()}" if draw[12] % 10 else None,
            "shelf": None,
            "quoted": sizes[len(sizes) // 2],
            "near": tuple(f"ZQ{1000 + number // 3}-{end}" for end in _ENDINGS if not style.endswith(end)),
            "rank": draw[14] % 3,
            "pace": (1, 1, 2, 3, 5, 8, 13, 21)[draw[15] % 8],
        }
        | _shelf(gender, draw[13])
    )


def _shelf(gender: str, draw: int) -> dict[str, object]:
    """One in twelve has no listing on eBay; the others go to the usual category."""
    return {"shelf": SHOE_SHELVES[gender]} if draw % 12 else {}


def _sizes(gender: str, chart: str, start: int, length: int) -> tuple[str, ...]:
    if gender == "kids":
        return run("3.5", "7", suffix="Y")
    if gender == "women":
        full = run("5", "15", suffix="W")
    else:
        full = (
            *run("4" if chart == "adidas" else "3.5", "14" if chart == "adidas" else "15"),
            *_LARGE[chart],
        )
    count = min(8 + length % 18, len(full))
    first = start % (len(full) - count + 1)
    return full[first : first + count]


_LARGE = {"nike": ("16", "17", "18"), "adidas": ()}
