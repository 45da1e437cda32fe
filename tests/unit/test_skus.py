"""The grammar of skus: one canonical text each, and how two compare."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd import skus

CODES = st.from_regex(r"[A-Z0-9][A-Z0-9._+-]{0,20}(/[A-Z0-9][A-Z0-9._+-]{0,20}){0,2}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("dd1391-100", "DD1391-100"),
        ("  DD1391 \t100\n", "DD1391-100"),
        ("CP9366", "CP9366"),
        ("315122-111 / CW2288-111", "315122-111/CW2288-111"),
        ("315122-111,cw2288-111|x1", "315122-111/CW2288-111/X1"),
        ("(White) FV5029-003", "FV5029-003"),
        ("id: 5E6A1E57-1C7D ", "id:5e6a1e57-1c7d"),
        ("ID:abc.d_e", "id:abc.d_e"),
        ("NAME:  Labubu   Time to\tChill ", "name:labubu time to chill"),
        ("name:Pokémon 25th", "name:pokémon 25th"),
    ],
)
def test_ways_of_writing_a_sku_have_one_canonical_text(text: str, canonical: str) -> None:
    assert skus.canonical(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \v\f ",
        "-100",
        "DD1391--/",
        "DD1391/",
        "DD 1391 é",
        "DD1391\u00a0100",
        "X" * 65,
        "(White)",
        "(a)(b)C1",
        "id:",
        "id:-a",
        "id:a b",
        "id:" + "a" * 101,
        "name:ab",
        "name:---",
        "name:" + "a" * 101,
        "name:abc\x7fdef",
    ],
)
def test_what_names_nothing_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"^sku "):
        skus.canonical(text)


@given(st.text(max_size=80))
def test_canonical_text_stays_as_it_is(text: str) -> None:
    try:
        once = skus.canonical(text)
    except ValueError:
        return
    assert skus.canonical(once) == once


@given(CODES)
def test_case_and_blanks_around_a_code_do_not_matter(code: str) -> None:
    try:
        canonical = skus.canonical(code)
    except ValueError:
        assert len(code) > skus.MAX_CODE
        return
    assert skus.canonical(f"\t{code.lower()} ") == canonical
    assert skus.canonical(code.replace("/", " | ")) == canonical
    assert "/".join(skus.parts(canonical)) == canonical


@pytest.mark.parametrize(
    ("wanted", "style", "same"),
    [
        ("DD1391-100", "DD1391 100", True),
        ("DD1391-100", "dd1391100", True),
        ("FV5029-003", "(Gold) FV5029-003", True),
        ("CW2288-111", "315122-111/CW2288-111", True),
        ("315122-111/CW2288-111", "CW2288-111", True),
        ("DD1391-100", "DD1391-101", False),
        ("DD1391-100", "DD1391-1001", False),
        ("DD1391-100", "DD1391-100 S", False),
        ("DD1391-100", None, False),
        ("DD1391-100", "", False),
        ("DD1391-100", "/", False),
    ],
)
def test_two_codes_match_when_a_part_of_each_has_the_same_letters_and_digits(
    wanted: str, style: str | None, same: bool
) -> None:
    assert skus.matches(wanted, style) is same
