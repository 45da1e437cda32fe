"""The grammar of sizes, and which variant a wanted size is. Nothing is ever guessed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd import sizes
from marketd.errors import Unmatched
from marketd.models import Variant
from provider_kit import SPECS

NUMBERS = st.integers(1, 44).map(lambda halves: f"{halves // 2}.5" if halves % 2 else str(halves // 2))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10", "10"),
        ("10.0", "10"),
        ("09.5", "9.5"),
        ("10,5", "10.5"),
        ("10.50", "10.5"),
        ("9,000", "9"),
        ("US 7.50 W", "7.5W"),
        ("UK 9.50", "UK 9.5"),
        ("9½", "9.5"),
        (" us  10 ", "10"),
        ("US M 10", "10"),
        ("m10", "10"),
        ("10 M", "10"),
        ("us10m", "10"),
        ("W 7.5", "7.5W"),
        ("US W 7", "7W"),
        ("7 w", "7W"),
        ("US 5Y", "5Y"),
        ("9 c", "9C"),
        ("uk6", "UK 6"),
        ("EU 42.5", "EU 42.5"),
        ("eu38 2/3", "EU 38 2/3"),
        ("CM 28", "CM 28"),
        ("KR 280", "KR 280"),
        ("psa10", "PSA 10"),
        ("BGS 9.5", "BGS 9.5"),
        ("2xl", "XXL"),
        ("xs", "XS"),
        ("M", "M"),
        ("one size", None),
        ("O/S", None),
        (None, None),
    ],
)
def test_ways_of_writing_a_size_have_one_canonical_text(text: str | None, canonical: str | None) -> None:
    assert sizes.canonical(text) == canonical


@pytest.mark.parametrize(("system", "canonical"), [("us", "9.5"), ("uk", "UK 9.5"), ("eu", None)])
def test_a_bare_number_is_of_the_default_system_and_in_its_range(system: str, canonical: str | None) -> None:
    if canonical is None:
        with pytest.raises(ValueError, match="size"):
            sizes.canonical("9.5", system)
    else:
        assert sizes.canonical("9.5", system) == canonical


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "0", "22.5", "10.25", "100", "-1", "10 10", "ten", "１０", "US", "W", ".", "14Y", "5XL"),
        *("EU 14", "EU 61", "EU 38.5 1/3", "EU 38 1/2", "CM 4", "KR 282", "KR 405", "UK 9 (EU 44)"),
        *("PSA 11", "PSA 0.5", "XYZ 9", "10.05", "10.505"),
    ],
)
def test_what_is_no_size_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"^size "):
        sizes.canonical(text)


@given(st.text(max_size=12) | st.from_regex(r"(US|UK|EU|CM|KR|PSA)? ?[MW]? ?[0-9.]{1,4} ?[0-9/MWYC]{0,3}"))
def test_canonical_text_stays_as_it_is_and_can_be_taken_apart(text: str) -> None:
    try:
        once = sizes.canonical(text)
    except ValueError:
        return
    assert sizes.canonical(once) == once
    if once is not None:
        assert sizes.Size.parse(once).text == once


def variants(*texts: str | None) -> list[Variant]:
    return [Variant(id=f"v{place}", size=text) for place, text in enumerate(texts)]


def charted(*rows: tuple[str, str]) -> list[Variant]:
    """Variants with the chart rows of UK and EU: (size, "UK 6 (EU 39)")."""
    return [
        Variant(id=size, size=size, chart={"uk": uk, "eu": f"EU {uk.partition('EU ')[2].rstrip(')')}"})
        for size, uk in rows
    ]


def refused(wanted: str | None, offered: list[Variant], **about: str) -> Unmatched:
    with pytest.raises(Unmatched) as refusal:
        sizes.match(wanted, offered, **about)
    return refusal.value


@given(NUMBERS, st.sets(NUMBERS), st.sampled_from(["W", "Y", "C"]))
def test_a_mens_size_is_never_found_among_other_peoples_sizes(
    wanted: str, others: set[str], group: str
) -> None:
    offered = variants(*(f"{number}{group}" for number in others if Fraction(number) <= Fraction("13.5")))
    expected = "size_system" if offered else "size_not_offered"
    assert refused(wanted, offered).error_code == expected


@given(st.sets(NUMBERS, min_size=1), st.data())
def test_an_offered_size_is_found_and_no_other(offered: set[str], data: st.DataObject) -> None:
    wanted = data.draw(NUMBERS)
    rows = variants(*sorted(offered))
    if wanted in offered:
        assert sizes.match(wanted, rows).size == wanted
    else:
        assert refused(wanted, rows).error_code == "size_not_offered"


def test_a_size_of_another_system_goes_through_the_products_own_chart() -> None:
    rows = charted(("6", "UK 5.5 (EU 38.5)"), ("8W", "UK 6.5 (EU 40)"), ("7W", "UK 5.5 (EU 38 2/3)"))
    assert sizes.match("UK 6.5", rows).size == "8W"
    assert sizes.match("EU 38 2/3", rows).size == "7W"
    assert sizes.match("EU 38.5", rows).size == "6"
    assert refused("EU 38", rows).error_code == "size_not_offered"


def test_a_size_that_fits_two_variants_is_refused_and_both_are_named() -> None:
    error = refused("UK 6", charted(("6.5", "UK 6 (EU 39)"), ("7", "UK 6 (EU 40)")))
    assert error.error_code == "ambiguous_size"
    assert "US 6.5 and US 7" in str(error)


def test_a_size_that_the_maker_gives_to_two_is_refused_although_only_one_is_listed() -> None:
    rows = charted(("6", "UK 5.5 (EU 38.5)"), ("7", "UK 6 (EU 40)"), ("10", "UK 9"))
    for brand in ("Nike", "Air Jordan"):
        assert refused("UK 6", rows, brand=brand, gender="men").error_code == "ambiguous_size"
        assert sizes.match("UK 9", rows, brand=brand, gender="men").size == "10"
        assert sizes.match("EU 40", rows, brand=brand, gender="men").size == "7"
    assert sizes.match("UK 6", rows, brand="Unheard Of", gender="men").size == "7"


@pytest.mark.parametrize("cell", [None, "", "UK ?"])
def test_a_size_whose_neighbour_has_no_row_in_its_chart_is_refused(cell: str | None) -> None:
    silent = Variant(id="6.5", size="6.5", chart={} if cell is None else {"uk": cell})
    rows = [*charted(("6", "UK 5.5 (EU 38.5)"), ("7", "UK 6 (EU 40)"), ("10", "UK 9")), silent]
    assert "US 7 and US 6.5" in str(refused("UK 6", rows))
    assert refused("UK 5.5", rows).error_code == "ambiguous_size"
    assert sizes.match("UK 9", rows).size == "10"
    womens = Variant(id="w", size="9.5W", chart={})
    assert sizes.match("UK 9", [*rows, womens, Variant(id="x", size="PSA 10")]).size == "10"


def test_no_size_is_enough_for_a_single_size_item_only() -> None:
    assert sizes.match(None, variants(None)).id == "v0"
    assert refused(None, variants("9", "10")).error_code == "size_required"
    assert refused(None, []).error_code == "size_required"
    assert refused("10", variants(None)).error_code == "size_not_offered"


def test_grades_and_letters_match_exactly() -> None:
    rows = variants("PSA 9", "PSA 10", "XL")
    assert sizes.match("PSA 10", rows).id == "v1"
    assert sizes.match("XL", rows).id == "v2"
    assert refused("BGS 10", rows).error_code == "size_not_offered"


def test_the_makers_table_helps_where_a_product_has_no_chart() -> None:
    rows = variants("6.5", "7", "9", "10")
    assert sizes.match("UK 9", rows, brand="Air Jordan", gender="men").size == "10"
    assert sizes.match("KR 250", rows, brand="Nike", gender="men").size == "7"
    assert refused("UK 6", rows, brand="Nike", gender="men").error_code == "ambiguous_size"
    assert refused("UK 9", rows, brand="Unheard Of", gender="men").error_code == "size_system"
    assert refused("UK 9", rows).error_code == "size_system"
    assert refused("CM 28", variants("9"), brand="ASICS", gender="men").error_code == "size_system"


def _published() -> Iterable[tuple[str, str, str, str, str]]:
    file = SPECS / "size_conversions.json"
    tables = json.loads(file.read_text())["tables"] if file.exists() else {}
    for key, table in tables.items():
        brand, _, gender = key.partition("/")
        for us, row in table.items():
            for system in ("uk", "eu", "cm"):
                yield brand, gender, us, system, row[system]


def test_the_makers_tables_agree_with_every_published_conversion_they_have() -> None:
    seen = list(_published())
    if not seen:
        pytest.skip("the published conversions are not beside this repository")
    checked = 0
    for brand, gender, us, system, text in seen:
        number = sizes.chart_number(text)
        run = sizes.us_equivalents(sizes.Size("", system, number), brand=brand, gender=gender)
        known = sizes.conversions(brand, gender).get(us, {})
        if system in known:
            assert known[system] == number, (brand, gender, us, system)
            assert us in run
            checked += 1
    assert checked > 450


@pytest.mark.parametrize(
    ("given_text", "number"),
    [
        ("UK 6 (EU 39)", "6"),
        ("EU 38 2/3", "116/3"),
        ("CM 23.5 (US M 4.5)", "23.5"),
        ("US M 10", "10"),
        ("9", "9"),
    ],
)
def test_a_charts_cell_is_read_without_its_brackets(given_text: str, number: str) -> None:
    assert sizes.chart_number(given_text) == Fraction(number)


def test_a_charts_cell_that_is_no_number_fits_nothing() -> None:
    assert sizes.chart_number("") is None
    assert sizes.chart_number("UK ?") is None
