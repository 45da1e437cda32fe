"""The two readers of skus and sizes, one in Python and one in SQL, agree on every text."""

from __future__ import annotations

import random
from collections.abc import Callable

import asyncpg
import pytest

from marketd import sizes, skus

TEXTS = 4000  #: of each kind in one run; the seed is fixed, so a failure can be repeated

_SKU_PARTS = (
    *(
        "id:",
        "ID:",
        "name:",
        "NaMe:",
        "(White)",
        "(",
        ")",
        "DD1391",
        "dd1391-100",
        "CW2288",
        "100",
        "a",
        "Z9",
        "é",
        "½",
    ),
    *(
        "/",
        ",",
        "|",
        "-",
        ".",
        "_",
        "+",
        " ",
        "  ",
        "\t",
        "\n",
        "\v",
        "\f",
        "\r",
        "\u00a0",
        "\u2003",
        "ß",
        "µ",
        "ª",
        "日本",
    ),
    *("\x01", "\x7f", "\x85", "İ", "ſ", "K", "x" * 30, "x" * 61, "\\", "'", "%", "$1", "²", "×", "—"),
)
_SIZE_PARTS = (
    *(
        "US",
        "us",
        "UK",
        "EU",
        "CM",
        "KR",
        "M",
        "m",
        "W",
        "w",
        "Y",
        "C",
        "PSA",
        "bgs",
        "XL",
        "2XL",
        "xxs",
        "One Size",
    ),
    *(
        "OS",
        "O/S",
        "10",
        "7.5",
        "9,5",
        "½",
        "0",
        "00",
        "09",
        ".5",
        ".0",
        ".",
        "1/3",
        "2/3",
        "38",
        "42",
        "280",
        "400",
        "405",
    ),
    *(" ", "  ", "\t", "\n", "\u00a0", "-1", "22", "22.5", "１０", "K", "ſ", "(EU 39)", "/"),
)


def drawn(parts: tuple[str, ...]) -> list[str]:
    draw = random.Random(f"{len(parts)} parts")
    return ["".join(draw.choices(parts, k=draw.choice((0, 1, 2, 2, 2, 3, 3, 4, 5)))) for _ in range(TEXTS)]


def read(reader: Callable[[str], str | None], text: str) -> str | None:
    try:
        return reader(text) or "(none)"
    except ValueError:
        return None


async def test_both_readers_have_the_same_canonical_sku(db: asyncpg.Connection[asyncpg.Record]) -> None:
    texts = drawn(_SKU_PARTS)
    rows = await db.fetch(
        "select s.sku, s.problem from unnest($1::text[]) with ordinality t(x, n), market__sku(x) s order by n",
        texts,
    )
    told = {text: row["sku"] for text, row in zip(texts, rows, strict=True)}
    mine = {text: read(skus.canonical, text) for text in texts}
    assert {text: (mine[text], told[text]) for text in texts if mine[text] != told[text]} == {}
    assert sum(sku is not None for sku in mine.values()) > TEXTS / 50


@pytest.mark.parametrize("system", ["us", "uk", "eu"])
async def test_both_readers_have_the_same_canonical_size(
    db: asyncpg.Connection[asyncpg.Record], system: str
) -> None:
    texts = drawn(_SIZE_PARTS)
    rows = await db.fetch(
        "select s.size, s.problem from unnest($1::text[]) with ordinality t(x, n), market__size(x, $2) s order by n",
        texts,
        system,
    )
    told = {
        text: None if row["problem"] else row["size"] or "(none)"
        for text, row in zip(texts, rows, strict=True)
    }
    mine = {text: read(lambda size: sizes.canonical(size, system), text) for text in texts}
    assert {text: (mine[text], told[text]) for text in texts if mine[text] != told[text]} == {}
    assert sum(size is not None for size in mine.values()) > TEXTS / 50
