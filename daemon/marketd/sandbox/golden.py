"""Ten real shoes that every provider client has to get right: half sizes, women's, youth's, odd codes.

Ids, url keys and catalog ids are public catalogue keys; prices are made up.
"""

from __future__ import annotations

from marketd.sandbox.charts import run
from marketd.sandbox.product import Product, shoe

_MEN = (*run("3.5", "14"), "15")
_WOMEN = run("5", "12", suffix="W")
_YOUTH = run("3.5", "7", suffix="Y")


_NIKE, _JORDAN = {"brand": "Nike"}, {"brand": "Jordan"}
_MENS = {"gender": "men", "sizes": _MEN}
_WOMENS = {"gender": "women", "sizes": _WOMEN}
_SPECS: tuple[dict[str, object], ...] = (
    _NIKE
    | _MENS
    | {
        "style": "DD1391-100",
        "title": "Nike Dunk Low Retro White Black Panda",
        "url_key": "nike-dunk-low-retro-white-black-2021",
        "stockx_id": "5e6a1e57-1c7d-435a-82bd-5666a13560fe",
        "alias_id": "dunk-low-black-white-dd1391-100",
        "alias_name": "Nike Dunk Low 'Black White'",
        "colorway": "White/Black",
        "released": "2021-03-10",
        "retail": 115,
        "usd": 104,
        "quoted": "10",
        "near": ("DD1391-101", "DD1391-103"),
    },
    _JORDAN
    | _MENS
    | {
        "style": "DZ5485-612",
        "title": "Jordan 1 Retro High OG Chicago Lost and Found",
        "alias_id": "air-jordan-1-retro-high-og-dz5485-612",
        "colorway": "Varsity Red/Black-Sail",
        "released": "2022-11-19",
        "retail": 180,
        "usd": 365,
        "quoted": "9.5",
        "near": ("DZ5485-400", "DZ5485-410"),
    },
    _JORDAN
    | _MENS
    | {
        "style": "DZ5485-410",
        "title": "Jordan 1 Retro High OG True Blue",
        "alias_id": "air-jordan-1-retro-high-og-true-blue-dz5485-410",
        "colorway": "True Blue/White/Cement Grey",
        "released": "2022-12-24",
        "retail": 180,
        "usd": 142,
        "quoted": "9",
        "near": ("DZ5485-400", "DZ5485-612"),
    },
    _JORDAN
    | _MENS
    | {
        "style": "FV5029-010",
        "title": "Jordan 4 Retro Black Cat (2025)",
        "url_key": "air-jordan-4-retro-black-cat-2025",
        "stockx_id": "15795a80-5cc8-4d2d-9ed0-20250d83be7f",
        "alias_id": "air-jordan-4-retro-black-cat-2025-fv5029-010",
        "colorway": "Black/Black-Light Graphite",
        "released": "2025-11-28",
        "retail": 220,
        "usd": 268,
        "quoted": "11",
        "near": ("FV5029-006", "CU1110-010"),
    },
    _JORDAN
    | _MENS
    | {
        "style": "DC7770-160",
        "title": "Jordan 4 Retro Fire Red (2020)",
        "url_key": "air-jordan-4-retro-fire-red-2020",
        "stockx_id": "d514a683-46e2-4bc7-9027-fbcdaaaa9005",
        "alias_id": "air-jordan-4-retro-og-fire-red-2020-dc7770-160",
        "colorway": "White/Fire Red-Black-Tech Grey",
        "released": "2020-11-28",
        "retail": 200,
        "usd": 312,
        "quoted": "7",
        "near": ("DC7770-161",),
        "pace": 2,
    },
    _NIKE
    | _WOMENS
    | {
        "style": "DD1503-103",
        "title": "Nike Dunk Low Photon Dust (Women's)",
        "url_key": "nike-dunk-low-photon-dust-w",
        "stockx_id": "796882e1-685f-4bbb-8720-075b76db84dd",
        "alias_id": "wmns-dunk-low-photon-dust-dd1503-103",
        "colorway": "White/Photon Dust",
        "released": "2021-05-06",
        "retail": 100,
        "usd": 128,
        "quoted": "7.5W",
        "near": ("DD1503-101",),
    },
    _JORDAN
    | {
        "gender": "kids",
        "sizes": _YOUTH,
        "style": "IB4171-100",
        "title": "Jordan 4 Retro White Cement (2025) (GS)",
        "url_key": "air-jordan-4-retro-white-cement-2025-gs",
        "stockx_id": "451bf0a3-a4dc-437e-9110-07bc9d7cbdaa",
        "alias_id": "air-jordan-4-retro-og-gs-white-cement-2025-ib4171-100",
        "colorway": "White/Fire Red-Black",
        "released": "2025-05-24",
        "retail": 160,
        "usd": 151,
        "quoted": "5Y",
        "near": ("IB4171-103",),
    },
    _WOMENS
    | {
        "brand": "UGG",
        "chart": "ugg",
        "sizes": run("5", "12", step="1", suffix="W"),
        "style": "1116109-CHE",
        "title": "UGG Classic Ultra Mini Boot Chestnut (Women's)",
        "url_key": "ugg-classic-ultra-mini-chestnut-w",
        "stockx_id": "f1ecf14c-ec7f-4aa3-9aeb-5e7f7662b250",
        "alias_id": "wmns-classic-ultra-mini-boot-chestnut-1116109-che",
        "colorway": "Chestnut",
        "released": "2020-09-01",
        "retail": 150,
        "usd": 137,
        "quoted": "8W",
        "near": ("1116109-BLK",),
        "pace": 3,
    },
    _MENS
    | {
        "brand": "adidas",
        "chart": "adidas",
        "sizes": run("4", "14"),
        "style": "CP9366",
        "title": "adidas Yeezy Boost 350 V2 Cream White",
        "alias_id": "yeezy-boost-350-v2-cream-white-cp9366",
        "colorway": "Cream White/Cream White/Core White",
        "released": "2017-04-29",
        "retail": 220,
        "usd": 249,
        "quoted": "10.5",
        "near": ("CP9652", "CP9654"),
        "pace": 2,
    },
    _JORDAN
    | _WOMENS
    | {
        "style": "CV9388-100",
        "title": "Jordan 4 Retro Off-White Sail (Women's)",
        "url_key": "air-jordan-4-retro-off-white-sail-w",
        "stockx_id": "253f8ae0-e498-4613-bb87-de479e4e9c63",
        "alias_id": "off-white-x-wmns-air-jordan-4-sp-sail-cv9388-100",
        "colorway": "Sail/Muslin-White-Black",
        "released": "2020-07-25",
        "retail": 200,
        "usd": 905,
        "quoted": "10W",
        "near": ("CV9388-200",),
        "pace": 2,
    },
)


def golden() -> tuple[Product, ...]:
    """The ten shoes, each with a size that is always priced."""
    return tuple(shoe(spec) for spec in _SPECS)
