"""SQL and Python read any sku and any size alike: whatever hypothesis thinks of, and texts picked by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from marketd import sizes, skus
from queue_kit import Connection

_BLANK = st.text(" \t\n\r\f\v\u00a0\u2003", max_size=3)
_ANY = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)
_CODE = st.text("AZaz09.-+_/|,() vnéµ²½", max_size=14)
_SKU = st.builds(
    lambda parts: "".join(parts),
    st.lists(
        st.one_of(_BLANK, _ANY, _CODE, st.sampled_from(["id:", "ID:", "Name:", "NAME: ", "(White)"])),
        max_size=6,
    ),
)
_SYSTEM = ["", "US", "us ", "M", "W", "UK ", "eu", "CM", "KR ", "PSA", "BGS ", "TAG"]
_NUMBER = st.one_of(
    st.decimals(0, 450, places=1).map(str),
    st.integers(0, 450).map(str),
    st.sampled_from(["10.00", "10.505", "7.5" + 21 * "0"]),
    st.sampled_from(["10,5", "9½", "05", "10.50", ".5", "10.", "38 2/3", "38 1/3", "½", "280", "1O"]),
)
_SIZE = st.one_of(
    st.builds(
        lambda *parts: "".join(parts),
        _BLANK,
        st.sampled_from(_SYSTEM),
        _BLANK,
        _NUMBER,
        _BLANK,
        st.sampled_from(["", "M", "W", "Y", "c", "XL", " 1/3"]),
        _BLANK,
    ),
    st.sampled_from(["One Size", "o/s", "OS", "xxl", "2XL", "5XL", "XXXXL", "", " "]),
    _ANY,
)
_RUNS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def _read(reader: Callable[..., str | None], *args: Any) -> tuple[str | None, bool]:
    """(canonical text, whether it was refused)."""
    try:
        return reader(*args), False
    except ValueError:
        return None, True


@pytest.fixture
def ask(database: str) -> Iterator[Callable[..., list[asyncpg.Record]]]:
    """Runs one statement; hypothesis drives functions that are not coroutines."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        db: Connection = runner.run(asyncpg.connect(database))
        yield lambda sql, *args: runner.run(db.fetch(sql, *args))
        runner.run(db.close())


@_RUNS
@given(st.lists(_SKU, min_size=1, max_size=40))
@example(
    [
        "vn000d3hy28",
        "DD1391 - 100",
        "(Wht) dd1391/100 , a1",
        "v",
        "name:  \v ab\u0085",
        "id:İd",
        "ID:\vAb\v",
        "k\u212a1",
    ]
)
def test_sql_and_python_read_any_sku_alike(
    ask: Callable[..., list[asyncpg.Record]], texts: list[str]
) -> None:
    rows = ask(
        "select s.sku, s.problem from unnest($1::text[]) with ordinality t(x, n), market__sku(x) s order by n",
        texts,
    )
    for text, row in zip(texts, rows, strict=True):
        assert (row["sku"], row["problem"] is not None) == _read(skus.canonical, text), text


@_RUNS
@given(st.lists(_SIZE, min_size=1, max_size=40), st.sampled_from(["us", "uk", "eu"]))
@example(
    ["US M 10 M", "10W", "us w 7.5", "EU 38 2/3", "KR 405", "½", "PSA 10", "UK\v9", "42 2/3", "1/2"], "eu"
)
def test_sql_and_python_read_any_size_alike(
    ask: Callable[..., list[asyncpg.Record]], texts: list[str], system: str
) -> None:
    rows = ask(
        "select s.size, s.problem from unnest($1::text[]) with ordinality t(x, n), market__size(x, $2) s order by n",
        texts,
        system,
    )
    for text, row in zip(texts, rows, strict=True):
        assert (row["size"], row["problem"] is not None) == _read(sizes.canonical, text, system), text


def test_null_is_no_size_in_both(ask: Callable[..., list[asyncpg.Record]]) -> None:
    (row,) = ask("select * from market__size(null, 'us')")
    assert (row["size"], row["problem"]) == (None, None)
    assert sizes.canonical(None) is None


def test_what_is_canonical_stays_as_it_is(ask: Callable[..., list[asyncpg.Record]]) -> None:
    texts = ["10", "7.5W", "5Y", "9C", "UK 9", "EU 42.5", "EU 38 2/3", "CM 28", "KR 280", "PSA 10", "XXL"]
    rows = ask(
        "select s.size from unnest($1::text[]) with ordinality t(x, n), market__size(x, 'uk') s order by n",
        texts,
    )
    assert [row["size"] for row in rows] == ["UK 10", *texts[1:]]
