"""Every value of every field of an item: it alone is refused, in words that name the field, and its mates go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest

from faults.kit import Connection, broken

#: function -> what it answers for an item that is good
DOORS = {
    "market_enqueue_many": {"queued", "merged", "raised"},
    "market_refresh": {"queued", "merged", "raised"},
    "market_watch": {"watched", "kept"},
    "market_unwatch": {"unwatched", "not_watched"},
    "market_viewed": {"counted", "repeated"},
}
GOOD: Mapping[str, Any] = {"provider": "stockx", "sku": "AA1-1", "size": "9"}
#: of no field's type; RAW is put into the JSON as it stands
ODD = (True, False, [], {}, [[[[[]]]]], {"a": {"b": [1, None]}}, "[]", "{}", "null")
HUGE = "9" * 100_000
RAW = (
    "1e309", "-1e309", "-1e30", "1e-300", "1" * 5000, "1E+2000", "9007199254740993", "1.7976931348623157e308",
)  # fmt: skip
TEXTS = (
    "", " ", "\t\n", "x" * 65, HUGE, "NaN", "Infinity", "-inf", "1e309", "-1", "\u0001", "\u202e", "\ufffe", "🥿", "İ",
    "a\nb", "'; drop table market_jobs; --", "$1", "%s", "%n", "\\", "\\u0000", "|", "a|b|c",
    "../../etc/passwd", "null",
)  # fmt: skip
TIMES = (
    "-1e30", "1e309", "infinity", "-infinity", "NaN", "soon", "0", "-1", "4714-11-24 BC", "4715-01-01 BC",
    "0044-03-15 BC", "10000-01-01", "294276-12-31", "294277-01-01", "2026-02-30", "2026-13-01", "2026-01-01 25:00",
    "2026-01-01 00:00+99", "2026-01-01 00:00-1e30", "2026-01-01 00:00 Mars/Phobos", "2026-01-01 00:00 ../../etc/passwd",
    "allballs", "J9999999999", "T", "P1Y", "1767225600000", "2026-01-01T00:00:00+24:00:00:00", "x" * 5000, HUGE,
)  # fmt: skip
#: what may be read as something in one of the fields
FINE: Mapping[str, tuple[Any, ...]] = {
    "provider": ("stockx", " STOCKX ", "alias", "ebay"),
    "sku": ("AA1-1", "a|b|c", "null", "NaN", "Infinity", "1e309", "a\nb", "id:x", "name:abc", "1" * 64, "(x)AA1-1"),
    "size": (None, "9", 9, 10.5, "one size", "EU 42 2/3"),
    "currency": (None, "gbp", " GBP "),
    "priority": (None, 0, 1000, "150", 200),
    "not_before": (
        None, "now", "today", "epoch", "20261128", "2026-01-01", "2100-01-01T00:00:00+14:00", "0001-06-01",
        "9999-06-01 UTC",
    ),
}  # fmt: skip


def _wrong(field: str) -> list[str]:
    """Values of this field as JSON, of which none can be read."""
    fine = FINE[field]
    values: list[Any] = [*ODD, *TEXTS, *(TIMES if field == "not_before" else ())]
    if field not in ("size", "priority"):
        values += [0, 5, -1, 1.5]
    if field == "priority":
        values += [-1, 1001, 10_000, 1.5, 2**31, 2**63, -(2**63), "0x10", "1_000", "１００"]
    found = [json.dumps(value) for value in values if not (isinstance(value, str) and value in fine)]
    return found + list(RAW)


def _item(field: str, value: str) -> str:
    """GOOD with this JSON as the field's value."""
    rest = json.dumps({key: told for key, told in GOOD.items() if key != field})
    return f'{rest[:-1]}, "{field}": {value}}}'


def _array(items: list[str]) -> str:
    return "[" + ", ".join(items) + "]"


@pytest.mark.parametrize("field", list(FINE))
async def test_a_value_that_cannot_be_read_refuses_its_item_and_no_other(db: Connection, field: str) -> None:
    wrong = _wrong(field)
    good = [{**GOOD, field: value} for value in FINE[field]]
    mixed = [text for bad in wrong for text in (_item(field, bad), json.dumps({**GOOD, "sku": "MATE-1"}))]
    items = _array(mixed + [json.dumps(item) for item in good])
    for door, answers in DOORS.items():
        rows = await db.fetch(f"select * from {door}($1::jsonb)", items)
        assert [row["ord"] for row in rows] == list(range(1, 2 * len(wrong) + len(good) + 1)), door
        for bad, row in zip(wrong, rows[: 2 * len(wrong) : 2], strict=True):
            told = (door, field, bad[:80], dict(row))
            assert (row["result"], row["error_code"], row["job_id"]) == ("refused", "22023", None), told
            assert field in row["error_message"], told
            assert len(row["error_message"]) < 300, told
        others = [*rows[1 : 2 * len(wrong) : 2], *rows[2 * len(wrong) :]]
        assert [row["error_message"] for row in others if row["result"] not in answers] == [], door
    assert await broken(db) == {}


async def test_what_is_no_item_is_refused_and_what_is_twice_in_a_call_is_answered_twice(
    db: Connection,
) -> None:
    nothing = [
        "null",
        "true",
        "5",
        '"text"',
        "[]",
        "[{}]",
        "{}",
        '{"": 1}',
        '{"provider": "stockx"}',
        '{"sku": "AA1-1"}',
    ]
    unknown = ["{" + json.dumps(key) + ": 1}" for key in ("price", "x" * 9000, "'", "%s", "\u0001")]
    items = _array([*nothing, *unknown, *[json.dumps(GOOD)] * 3])
    for door, answers in DOORS.items():
        rows = await db.fetch(f"select * from {door}($1::jsonb)", items)
        bad, twice = rows[:-3], rows[-3:]
        assert {(row["result"], row["error_code"]) for row in bad} == {("refused", "22023")}, door
        assert all(row["error_message"] and len(row["error_message"]) < 300 for row in bad), door
        assert {row["result"] for row in twice} <= answers, door
        assert len({row["job_id"] for row in twice}) == 1, door


async def test_a_refused_item_never_stands_for_one_without_a_size(db: Connection) -> None:
    """Both would have the same key if a size that cannot be read were no size."""
    for door, first in zip(DOORS, ("queued", "merged", "watched", "unwatched", "counted"), strict=True):
        items = [
            {"provider": "stockx", "sku": "AA1-1", "size": "enormous"},
            {"provider": "stockx", "sku": "AA1-1"},
        ]
        if door == "market_refresh":
            first = "raised"
        if door == "market_viewed":
            await db.execute("delete from market_signals")  # an enqueue counts as a view, too
        rows = await db.fetch(f"select * from {door}($1::jsonb)", json.dumps(items))
        assert [row["result"] for row in rows] == ["refused", first], door
    await db.execute("""select market_watch('[{"provider": "stockx", "sku": "AA1-1"}]')""")
    assert await db.fetchval("select count(*) from market_watches") == 1


async def test_only_what_is_no_array_or_too_long_raises(db: Connection) -> None:
    for door in DOORS:
        call = f"select * from {door}($1::jsonb)"
        for items in (None, "null", "{}", "5", '"[]"', "true"):
            with pytest.raises(
                asyncpg.InvalidParameterValueError, match=f"{door}: items is not a JSON array"
            ):
                await db.fetch(call, items)
        with pytest.raises(
            asyncpg.InvalidParameterValueError, match=f"{door}: items holds 10001 entries, 10000 at most"
        ):
            await db.fetch(call, json.dumps([GOOD] * 10_001))
        assert await db.fetch(call, "[]") == []
    most = await db.fetch("select * from market_enqueue_many($1::jsonb)", json.dumps([GOOD] * 10_000))
    assert len(most) == 10_000


@pytest.mark.parametrize("text", ['["\\u0000"]', '["\\ud800"]', "[1e400000]", "[" * 9000, "[", "", "NaN"])
async def test_text_that_is_no_json_for_postgres_never_gets_as_far_as_the_functions(
    db: Connection, text: str
) -> None:
    """jsonb itself cannot hold these; it says so before any function of ours is called."""
    for door in DOORS:
        with pytest.raises(asyncpg.PostgresError) as refused:
            await db.fetch(f"select * from {door}($1::jsonb)", text)
        assert refused.value.sqlstate in ("22P02", "22P05", "22003", "54001", "54000"), (
            text[:20],
            refused.value,
        )
    assert await db.fetchval("select count(*) from market_jobs") == 0


@pytest.mark.parametrize(
    "year", ["-infinity", "infinity", "294276-12-31 UTC", "10000-01-01 UTC", "0044-03-15 BC"]
)
async def test_a_time_that_apps_could_not_read_back_is_refused_by_single_calls_and_inserts(
    db: Connection, year: str
) -> None:
    for sql in (
        f"select * from market_enqueue('stockx', 'AA1-1', '9', not_before => '{year}')",
        f"insert into market_jobs (provider, sku, size, not_before) values ('stockx', 'AA1-1', '9', '{year}')",
    ):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="not_before"):
            await db.execute(sql)
