"""eBay: which sizes a title states, for whom and in whose system; what is not clear vouches for nothing."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ebay_kit import listing, results
from marketd import errors
from marketd.models import Listing, Product, Variant
from marketd.provider import Ask, Found
from marketd.providers.ebay import EBay, Options
from provider_kit import Each, Scripted, quote_of

CODE = "DD1391-100"


async def fetch(
    http: Scripted,
    size: str = "10",
    *,
    named: str | None = None,
    chart: Listing | None = None,
    **options: Any,
) -> Found:
    chosen = Options(**options)
    (currency,) = chosen.currencies
    elsewhere = Listing(product=Product(id="1", name=named), variants=()) if named else chart
    return await EBay(chosen).fetch(
        Ask(sku=CODE, sizes=(size,), currency=currency, elsewhere=elsewhere), http
    )


async def priced(title: str, size: str = "10", *, aspect: bool, **more: Any) -> bool:
    """Whether the only listing is taken for the size, with the aspect to vouch for it or by its title alone."""
    shelf = {"W": "95672"}.get(size[-1], "15709")
    rows = results(listing("77.00", title, leafCategoryIds=[shelf]))
    found = await fetch(Scripted(search=rows if aspect else Each((results(), rows))), size, **more)
    return any(quote.lowest_ask == 77 for quote in found.quotes)


@pytest.mark.parametrize(
    ("title", "size"),
    [
        (f"Air Jordan Mens 11 Retro Bred {CODE}", "11"),
        (f"Nike Jordan Men's 4 Retro White Cement {CODE}", "4"),
        (f"Jordan Womens 12 Retro {CODE} New", "12W"),
        (f"Nike Mens 1 Retro High OG {CODE}", "1"),
        (f"Jordan 11 Mens Shoes {CODE}", "11"),
        (f"Nike Air Max 1 Mens {CODE}", "1"),
    ],
)
async def test_the_number_of_a_model_is_never_taken_for_the_size(title: str, size: str) -> None:
    assert not await priced(title, size, aspect=False)
    assert await priced(f"{title} Size {size}", size, aspect=False)


async def test_a_number_of_the_products_name_is_no_size_beside_mens() -> None:
    assert await priced(f"Zoom Runner 5 Mens {CODE}", "5", aspect=False)
    assert not await priced(f"Zoom Runner 5 Mens {CODE}", "5", aspect=False, named="Zoom Runner 5 Black")
    assert not await priced(f"Zoom Runner 5 Mens {CODE}", aspect=True)
    assert await priced(f"Zoom Runner 5 Mens {CODE}", aspect=True, named="Zoom Runner 5 Black")


@pytest.mark.parametrize("end", ["", " New", " brand new in box", ", DS", f" {CODE}", " Shoes"])
async def test_a_bare_number_beside_mens_is_a_size_where_nothing_else_can_be_meant(end: str) -> None:
    assert await priced(f"Nike Dunk {CODE} Men's 10{end}", aspect=False)


FOREIGN = [
    "UK Mens 10",
    "UK Mens Size 10",
    "Size 10 Mens UK",
    "Size UK Men 10",
    "EU Mens Size 10",
    "U.K. Size 10",
    "Size 10 U.K.",
    "UK sizing size 10",
    "size 10 british",
    "UK 10",
    "Size 10 (UK)",
    "AU Size 10",
]


@pytest.mark.parametrize("words", FOREIGN)
async def test_a_size_of_another_system_is_never_taken_for_one_of_the_us(words: str) -> None:
    assert not await priced(f"Nike Dunk {CODE} {words}", aspect=False)
    assert await priced(f"Nike Dunk {CODE} US 10 / UK 9", aspect=False)
    assert await priced(f"Nike Dunk {CODE} Size 10 UK 9", aspect=False)
    assert await priced(f"Nike Dunk {CODE} U.S. Size 10", aspect=False)


@pytest.mark.parametrize(
    "words", ["UK 10", "Size 10 UK", "EU 46 / UK 11", "UK10 EU45", "UK 6", "Size 10 U.K."]
)
async def test_a_uk_size_that_cannot_be_the_us_one_contradicts_the_aspect(words: str) -> None:
    assert not await priced(f"Nike Dunk {CODE} {words}", aspect=True)


@pytest.mark.parametrize(
    "words",
    [
        *("Size-11", "Size - 11", "Size (11)", "Size #11", "Size=11", "Sz/11", "US-11", "US M11", "11 Mens"),
        *("Mens (11)", "Size W10", "M8.5 W10", "Size 10 and a half", "size \uff11\uff11", "Size 10 or 11"),
        *("si\u200bze 11", "Gr. 44", "10 Womans", "Size 10 11 12"),
    ],
)
async def test_a_title_of_another_size_contradicts_the_aspect_however_it_is_written(words: str) -> None:
    assert not await priced(f"Nike Dunk {CODE} {words}", aspect=True)


@pytest.mark.parametrize(
    "words",
    [
        *("Size-10", "Size (10)", "US-10", "US M10", "10 Mens", "Mens (10)", "M10 W11.5", "size is unknown"),
        *("Air Max 97 Mens", "Force 1 '07 Mens", "Retro 4 Mens Size 10", "Size 10 UK 9 EU 44", "UK seller"),
    ],
)
async def test_a_title_that_agrees_or_is_silent_leaves_the_word_to_the_aspect(words: str) -> None:
    assert await priced(f"Nike Dunk {CODE} {words}", aspect=True)


@pytest.mark.parametrize(
    "words",
    [
        *("Womans size 10", "Wmn size 10", "female size 10", "Kids size 10", "girls size 10", "boys 10"),
        *("Junior Size 10", "Baby size 10", "size 10 Ladies", "Children's size 10"),
    ],
)
async def test_a_size_of_other_people_is_never_taken_for_a_mens(words: str) -> None:
    for aspect in (True, False):
        assert not await priced(f"Nike Dunk {CODE} {words}", aspect=aspect)


@pytest.mark.parametrize("written", ["Size-{}", "{} Mens", "Size #{}", "UK {}"])
async def test_an_ignored_aspect_is_told_by_sizes_however_they_are_written(written: str) -> None:
    sizes = (6, 7, 8, 9, 10, 11)
    rows = [listing(f"{70 + n}", f"Nike Dunk {CODE} {written.format(n)}") for n in sizes]
    found = await fetch(Scripted(search=results(listing("60.00", f"Nike Dunk {CODE} new"), *rows)))
    asks = [quote.lowest_ask for quote in found.quotes]
    assert asks == ([] if "UK" in written else [80])


# --- sizes of other systems by another provider's chart -------------------------------------------------------

CHART = Listing(
    product=Product(id="1", brand="Jordan", gender="men"),
    variants=tuple(
        Variant(id=us, size=us, chart={"uk": f"UK {uk}", "eu": f"EU {eu}", "cm": f"CM {cm}"})
        for us, uk, eu, cm in (
            ("6.5", "6 (EU 39)", "39", "24.5"),
            ("7", "6 (EU 40)", "40", "25"),
            ("9.5", "8.5", "43", "27.5"),
            ("10", "9", "44", "28"),
            ("10.5", "9.5", "44 2/3", "28.5"),
        )
    ),
)


@pytest.mark.parametrize(
    ("words", "size", "right"),
    [
        ("EU 44", "10", True),
        ("UK 9", "10", True),
        ("Mens UK 9 EU 44", "10", True),
        ("28cm", "10", True),
        ("JP 28", "10", True),
        ("44 EUR", "10", True),
        ("EU 44 2/3", "10.5", True),
        ("EU 44\u2154", "10.5", True),
        ("44 2/3 EU", "10.5", True),
        ("EU 40", "7", True),
        ("EU 43", "10", False),
        ("EU 44 2/3", "10", False),
        ("EU 44", "10.5", False),
        ("UK 8.5", "10", False),
        ("28.5 cm", "10", False),
        ("UK 9 EU 43", "10", False),
        ("Kids UK 9", "10", False),
    ],
)
@pytest.mark.parametrize("aspect", [True, False])
async def test_a_size_of_another_system_is_read_by_another_providers_chart(
    words: str, size: str, right: bool, aspect: bool
) -> None:
    assert await priced(f"Nike Dunk {CODE} {words}", size, aspect=aspect, chart=CHART) is right


async def test_a_number_that_fits_two_sizes_by_the_chart_tells_neither() -> None:
    for size in ("6.5", "7"):
        assert not await priced(f"Nike Dunk {CODE} UK 6", size, aspect=False, chart=CHART)


async def test_in_britain_sizes_are_read_by_another_providers_chart() -> None:
    rows = [british("60.00", f"Nike Dunk {CODE} UK 8.5"), british("70.00", f"Nike Dunk {CODE} UK 9")]
    found = await fetch(Scripted(search=results(*rows)), chart=CHART, marketplace="EBAY_GB")
    assert quote_of(found, "10").lowest_ask == 70


# --- marketplaces whose sizes are not those of the US --------------------------------------------------------


def british(price: str, title: str) -> dict[str, Any]:
    return listing(price, title, listingMarketplaceId="EBAY_GB", shippingOptions=[]) | {
        "price": {"value": price, "currency": "GBP"}
    }


def test_a_us_aspect_is_refused_where_sizes_are_british() -> None:
    with pytest.raises(ValidationError, match="UK Shoe Size"):
        Options(marketplace="EBAY_GB", size_aspect="US Shoe Size")
    assert Options(marketplace="EBAY_GB").us_aspect is None
    assert Options(marketplace="EBAY_GB", size_aspect="UK Shoe Size").us_aspect is None
    assert Options().us_aspect == "US Shoe Size"


@pytest.mark.parametrize(
    "title", ["Trainers UK 6", "Mens Trainers Size 10 BNIB", "UK 10", "Men's 10", "Trainers"]
)
async def test_in_britain_only_a_size_that_is_called_one_of_the_us_counts(title: str) -> None:
    rows = results(british("70.00", f"Nike Dunk {CODE} {title}"))
    refusal = (await fetch(Scripted(search=rows), marketplace="EBAY_GB")).answers["10"]
    assert isinstance(refusal, errors.Unmatched)
    assert refusal.error_code == "ambiguous_product"
    http = Scripted(search=results(*rows["itemSummaries"], british("74.00", f"Nike Dunk {CODE} US 10 UK 9")))
    assert quote_of(await fetch(http, marketplace="EBAY_GB"), "10").lowest_ask == 74
    assert "aspect_filter" not in http.asked[0][2]


async def test_a_bare_size_is_one_of_the_us_on_its_own_marketplace_and_canadas_only() -> None:
    for marketplace, currency, right in (
        ("EBAY_US", "USD", True),
        ("EBAY_CA", "CAD", True),
        ("EBAY_AU", "AUD", False),
        ("EBAY_DE", "EUR", False),
    ):
        row = british("70.00", f"Nike Dunk {CODE} Size 10")
        row |= {"price": {"value": "70.00", "currency": currency}, "listingMarketplaceId": marketplace}
        found = await fetch(Scripted(search=Each((results(), results(row)))), marketplace=marketplace)
        assert any(quote.lowest_ask == 70 for quote in found.quotes) is right
