"""Tables, ages, times and amounts as text, and answers as JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from marketd.cli.tables import Table, age, amount, as_json, item, lane, moment, text

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def test_columns_line_up_and_numbers_stand_right() -> None:
    table = Table(
        title="calls",
        columns=("lane", "used"),
        right=frozenset({"used"}),
        rows=[("stockx", "7"), ("a", "100")],
    )
    assert text([table]).splitlines() == ["calls", "  lane    used", "  stockx     7", "  a        100"]


def test_a_table_without_rows_is_one_line_that_says_so() -> None:
    assert text([Table(title="queue", columns=("a",), rows=[], empty="empty")]) == "queue: empty"


def test_blocks_stand_apart_and_long_lines_are_cut_to_the_width() -> None:
    assert text(["one", "x" * 20], width=5) == "one\n\nxxxx…"


def test_text_from_outside_cannot_steer_the_terminal_or_break_a_line() -> None:
    table = Table(title="errors", columns=("message",), rows=[("bad\x1b[2J\nworse",)])
    assert text([table]).splitlines()[2] == "  bad [2J worse"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (None, "-"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (12, "12 s"),
        (119, "119 s"),
        (125, "2 min"),
        (7300, "2.0 h"),
        (40000, "11 h"),
        (200000, "2 d"),
    ],
)
def test_an_age_is_told_in_its_largest_fitting_unit(seconds: float | None, told: str) -> None:
    assert age(seconds) == told


def test_a_time_is_told_in_utc_with_its_distance_and_with_its_date_on_another_day() -> None:
    berlin = timezone(timedelta(hours=1))
    assert moment(datetime(2026, 3, 1, 13, 10, tzinfo=berlin), NOW) == "12:10:00 UTC (in 10 min)"
    assert moment(NOW - timedelta(seconds=30), NOW) == "11:59:30 UTC (30 s ago)"
    assert moment(NOW + timedelta(days=1), NOW) == "2026-03-02 12:00:00 UTC (in 24 h)"
    assert moment(None, NOW) == "-"


def test_an_amount_has_two_decimals_or_none() -> None:
    assert [amount(Decimal(value)) for value in ("104", "104.00", "104.5", "1e3")] == [
        "104",
        "104",
        "104.50",
        "1000",
    ]
    assert amount(None, "none") == "none"


def test_items_and_lanes_leave_out_what_goes_without_saying() -> None:
    assert item("DD1391-100", "10") == "DD1391-100 size 10"
    assert item("name:bearbrick", None) == "name:bearbrick"
    assert lane("stockx", "default") == "stockx"
    assert lane("stockx", "shop2") == "stockx/shop2"


def test_json_keeps_every_digit_and_tells_times_in_utc() -> None:
    told = as_json({"ask": Decimal("104.10"), "at": NOW, "for": timedelta(minutes=1), "name": "Pokémon"})
    assert json.loads(told) == {
        "ask": "104.10",
        "at": "2026-03-01T12:00:00+00:00",
        "for": 60.0,
        "name": "Pokémon",
    }
    assert "Pokémon" in told


def test_json_refuses_what_it_has_no_form_for() -> None:
    with pytest.raises(TypeError, match="object"):
        as_json(object())
