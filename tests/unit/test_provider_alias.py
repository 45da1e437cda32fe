"""Alias: cents, conditions, junk sizes, and whose sizes they are."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from marketd import errors
from marketd.models import Listing, Product, Variant
from marketd.provider import Ask, Found
from marketd.providers.alias import Alias, Options, reading
from provider_kit import GRANTED_AT, Each, Scripted, example, quote_of


def item(sku: str = "DD1391 100", *numbers: Any, gender: str = "men", **more: Any) -> dict[str, Any]:
    return {
        "catalog_id": f"item-{sku.lower().replace(' ', '-')}",
        "name": "Dunk",
        "sku": sku,
        "brand": "Nike",
        "gender": gender,
        "product_type": "sneakers",
        "size_unit": "SIZE_UNIT_US",
        "allowed_sizes": [
            {"display_name": str(size), "value": size, "us_size_equivalent": size}
            for size in numbers or (10,)
        ],
        "main_picture_url": "https://image.goat.com/1.png",
    } | more


def hits(*items: dict[str, Any]) -> dict[str, Any]:
    return {"catalog_items": list(items), "has_more": True, "next_pagination_token": "x"}


def row(size: Any, ask: Any = "9700", bid: Any = "8800", last: Any = "9900", **more: Any) -> dict[str, Any]:
    return {
        "size": size,
        "product_condition": "PRODUCT_CONDITION_NEW",
        "packaging_condition": "PACKAGING_CONDITION_GOOD_CONDITION",
        "availability": {
            "lowest_listing_price_cents": ask,
            "highest_offer_price_cents": bid,
            "last_sold_listing_price_cents": last,
            "global_indicator_price_cents": "0",
        },
    } | more


async def fetch(
    http: Scripted,
    *sizes: str | None,
    sku: str = "DD1391-100",
    listing: Listing | None = None,
    **options: Any,
) -> Found:
    ask = Ask(sku=sku, sizes=sizes or ("10",), currency="USD", listing=listing)
    return await Alias(Options(**options)).fetch(ask, http)


async def test_the_documented_answers_are_read() -> None:
    http = Scripted(
        search=example("alias_catalog_search"), availabilities=example("alias_pricing_availabilities")
    )
    found = await fetch(http, "10", "10.5", None)
    ten = quote_of(found, "10")
    assert (ten.lowest_ask, ten.highest_bid, ten.last_sale) == (Decimal(97), Decimal(88), Decimal(99))
    assert quote_of(found, "10.5").lowest_ask is None
    assert ten.basis == {"region": "global", "consigned": "any", "condition": "new", "box": "good"}
    assert ten.observed_at == GRANTED_AT
    assert {quote.size for quote in found.quotes} == {"9", "9.5", "10", "10.5", "11"}
    assert found.listing is not None
    product = found.listing.product
    assert (product.id, product.style_code) == ("dunk-low-black-white-dd1391-100", "DD1391 100")
    assert product.image_url is not None
    assert product.image_url.startswith("https://image.goat.com/")


async def test_a_search_that_is_not_there_says_nothing_about_the_item() -> None:
    gone = errors.NotListed("HTTP 404: Not Found", http_status=404)
    with pytest.raises(errors.Transient, match="base_url"):
        await fetch(Scripted(search=gone))
    listing = reading.listing(item())
    with pytest.raises(errors.Transient, match="base_url"):  # so a wrong base_url breaks no mapping either
        await fetch(Scripted(availabilities=gone, search=gone), listing=listing)


async def test_only_new_pairs_in_a_good_box_count_in_either_spelling() -> None:
    rows = [
        row(10, "1", product_condition="PRODUCT_CONDITION_USED"),
        row(10, "2", packaging_condition="PACKAGING_CONDITION_MISSING_LID"),
        row(10, "300", product_condition=1, packaging_condition=1),
        row(0, "4"),
        row(40, "5"),
    ]
    found = await fetch(Scripted(search=hits(item()), availabilities={"variants": rows}))
    assert [(quote.size, quote.lowest_ask) for quote in found.quotes] == [("10", Decimal(3))]


async def test_a_crossed_book_is_taken_as_it_is() -> None:
    http = Scripted(search=hits(item()), availabilities={"variants": [row(10, "5200", "5500")]})
    quote = quote_of(await fetch(http), "10")
    assert (quote.lowest_ask, quote.highest_bid) == (Decimal(52), Decimal(55))


@pytest.mark.parametrize(
    ("cents", "price"), [("0", None), (0, None), (None, None), ("1", "0.01"), (12345, "123.45")]
)
async def test_cents_are_divided_once_and_zero_is_none(cents: Any, price: str | None) -> None:
    http = Scripted(search=hits(item()), availabilities={"variants": [row(10, cents)]})
    assert quote_of(await fetch(http), "10").lowest_ask == (Decimal(price) if price else None)


@pytest.mark.parametrize("cents", ["-1", "97.00", "9999999999", "", True, Decimal("1.5")])
async def test_cents_that_cannot_be_a_price_refuse_their_size_and_no_other(cents: Any) -> None:
    rows = [row(10, cents), row(11)]
    found = await fetch(
        Scripted(search=hits(item("DD1391 100", 10, 11)), availabilities={"variants": rows}), "10", "11"
    )
    assert isinstance(found.answers["10"], errors.BadPayload)
    assert [quote.size for quote in found.quotes] == ["11"]


@pytest.mark.parametrize(
    ("gender", "size"),
    [("men", "7.5"), ("unisex", "7.5"), ("women", "7.5W"), ("youth", "7.5Y"), ("infant", "7.5C")],
)
async def test_the_items_gender_says_whose_sizes_they_are(gender: str, size: str) -> None:
    number = Decimal("7.5")
    http = Scripted(
        search=hits(item("DD1391 100", number, gender=gender)), availabilities={"variants": [row(number)]}
    )
    assert (await fetch(http, size)).answers == {size: size}


@pytest.mark.parametrize(
    ("name", "letters", "sizes"),
    [
        ("Air Jordan 4 Retro GS 'White Cement'", "", {"3.5Y", "7Y"}),
        ("Air Jordan 4 Retro GS 'White Cement'", "Y", {"3.5Y", "7Y"}),
        ("Air Jordan 4 Retro TD 'White Cement'", "", {"3.5C", "7C", "10C"}),
        ("Jordan 4 White Cement (Toddler)", "", {"3.5C", "7C", "10C"}),
        ("Air Jordan 4 Retro PS 'White Cement'", "", {"7C", "10C"}),  # a 3.5 may be 3.5C or 3.5Y
        ("Air Jordan 4", "", {"3.5Y", "7Y"}),  # a run of youth sizes
        ("Air Jordan 4", "C", {"3.5C", "7C", "10C"}),
    ],
)
async def test_toddler_and_preschool_sizes_are_never_taken_for_youth_ones(
    name: str, letters: str, sizes: set[str]
) -> None:
    numbers = [Decimal("3.5"), 7, *([10] if any(size == "10C" for size in sizes) else [])]
    shoe = item("DD1391 100", *numbers, 0, 40, gender="youth", name=name)
    for entry in shoe["allowed_sizes"]:
        entry["display_name"] += letters
    http = Scripted(search=hits(shoe), availabilities={"variants": [row(number) for number in numbers]})
    found = await fetch(http, "7Y", "7C")
    assert {quote.size for quote in found.quotes} == sizes
    refused = "7Y" if "7C" in sizes else "7C"
    assert isinstance(found.answers[refused], errors.Unmatched)


@pytest.mark.parametrize("name", ["Yeezy Boost 350 V2", "Air Jordan 4 GS PS"])
async def test_where_youth_and_child_cannot_be_told_apart_the_item_is_refused(name: str) -> None:
    with pytest.raises(errors.Unmatched) as refused:
        await fetch(Scripted(search=hits(item("DD1391 100", 4, 10, gender="youth", name=name))), "4Y")
    assert refused.value.error_code == "size_system"


async def test_a_gender_that_is_unknown_is_refused() -> None:
    with pytest.raises(errors.Unmatched) as refused:
        await fetch(Scripted(search=hits(item(gender="robots"))))
    assert refused.value.error_code == "size_system"


async def test_sizes_of_another_unit_are_taken_by_their_us_equivalent() -> None:
    european = item(
        allowed_sizes=[{"display_name": "44", "value": 44, "us_size_equivalent": 10}],
        size_unit="SIZE_UNIT_EU",
    )
    found = await fetch(Scripted(search=hits(european), availabilities={"variants": [row(44)]}))
    assert quote_of(found, "10").lowest_ask == Decimal(97)


async def test_a_number_of_another_unit_is_never_taken_for_a_us_size() -> None:
    british = item(allowed_sizes=[{"display_name": "9", "value": 9}], size_unit="SIZE_UNIT_UK")
    found = await fetch(Scripted(search=hits(british), availabilities={"variants": [row(9)]}), "9")
    assert isinstance(found.answers["9"], errors.Unmatched)
    assert found.quotes == ()


async def test_sizes_as_texts_are_sizes_and_not_a_single_size_item() -> None:
    texts = item(allowed_sizes=[{"display_name": "10", "value": "10", "us_size_equivalent": "10"}])
    http = Scripted(search=hits(texts), availabilities={"variants": [row(0, "100"), row("10")]})
    found = await fetch(http, "10", None)
    assert [(quote.size, quote.lowest_ask) for quote in found.quotes] == [("10", Decimal(97))]


async def test_an_item_whose_sizes_are_not_told_gets_no_price_of_the_junk_size_0() -> None:
    silent = item()
    del silent["allowed_sizes"]
    with pytest.raises(errors.BadPayload):
        await fetch(Scripted(search=hits(silent), availabilities={"variants": [row(0)]}), None)


async def test_a_row_that_lacks_amounts_or_contradicts_another_refuses_its_size_and_no_other() -> None:
    sizes = item("DD1391 100", 9, 10, 11)
    rows = [row(9, availability={}), row(10, "100"), row(10, "200"), row(11), row(12, availability=None)]
    found = await fetch(Scripted(search=hits(sizes), availabilities={"variants": rows}), "9", "10", "11")
    assert isinstance(found.answers["9"], errors.BadPayload)
    assert isinstance(found.answers["10"], errors.BadPayload)
    assert [quote.size for quote in found.quotes] == ["11"]


async def test_where_no_row_can_be_read_all_sizes_are_no_answer() -> None:
    http = Scripted(search=hits(item()), availabilities={"variants": [row(10, availability={})]})
    assert isinstance((await fetch(http, None)).answers[None], errors.BadPayload)


async def test_a_shops_price_that_cannot_be_read_does_not_refuse_the_item() -> None:
    odd = item(retail_price_cents="")
    found = await fetch(Scripted(search=hits(odd), availabilities={"variants": [row(10)]}))
    assert quote_of(found, "10").lowest_ask == Decimal(97)
    assert found.listing is not None
    assert "retail_price" not in found.listing.product.details


async def test_a_name_in_another_script_does_not_fit_a_nameless_item() -> None:
    with pytest.raises(errors.NotListed):
        await fetch(Scripted(search=hits(item(name=None))), sku="name:ポケモン")


async def test_an_item_without_sizes_is_a_single_size_item() -> None:
    http = Scripted(search=hits(item(allowed_sizes=[])), availabilities={"variants": [row(0)]})
    assert quote_of(await fetch(http, None), None).lowest_ask == Decimal(97)


@pytest.mark.parametrize("rows", [[row(10, "0", "0", "0")], [row(11)]])
async def test_a_listed_size_that_nobody_trades_has_no_market(rows: list[dict[str, Any]]) -> None:
    http = Scripted(search=hits(item("DD1391 100", 10, 11)), availabilities={"variants": rows})
    quote = quote_of(await fetch(http), "10")
    assert (quote.lowest_ask, quote.highest_bid, quote.last_sale) == (None, None, None)


@pytest.mark.parametrize("rows", [[], [row(0), row(40)], [row(12)]])
async def test_an_answer_without_a_row_for_any_size_of_the_item_says_nothing(
    rows: list[dict[str, Any]],
) -> None:
    http = Scripted(search=hits(item("DD1391 100", 10, 11)), item=item(), availabilities={"variants": rows})
    found = await fetch(http, "10", None)
    assert found.quotes == ()
    assert all(isinstance(answer, errors.BadPayload) for answer in found.answers.values())


ODD_STATES = [
    {"product_condition": "NEW"},
    {"product_condition": "PRODUCT_CONDITION_INVALID"},
    {"product_condition": None},
    {"product_condition": True},
    {"packaging_condition": "PACKAGING_CONDITION_SEALED"},
    {"packaging_condition": 0},
    {"packaging_condition": []},
]


@pytest.mark.parametrize("odd", [*ODD_STATES, {"consigned": None}, {"consigned": "false"}, {"consigned": 0}])
async def test_a_row_whose_state_is_unknown_refuses_its_size_unless_another_is_certain(
    odd: dict[str, Any],
) -> None:
    rows = [
        row(9, "100", **odd),
        row(10, "100", **odd),
        row(10),
        row(11, product_condition="PRODUCT_CONDITION_USED"),
    ]
    rows.append(row(9, product_condition=2))
    http = Scripted(search=hits(item("DD1391 100", 9, 10, 11)), availabilities={"variants": rows})
    found = await fetch(http, "9", "10", "11", consigned=False)
    assert isinstance(found.answers["9"], errors.BadPayload)
    assert quote_of(found, "10").lowest_ask == Decimal(97)
    assert quote_of(found, "11").lowest_ask is None


@pytest.mark.parametrize("missing", ["product_condition", "packaging_condition"])
async def test_a_row_without_its_state_refuses_its_size_and_no_other(missing: str) -> None:
    odd = row(9, "100")
    del odd[missing]
    http = Scripted(search=hits(item("DD1391 100", 9, 10)), availabilities={"variants": [row(10), odd]})
    found = await fetch(http, "9", "10")
    assert isinstance(found.answers["9"], errors.BadPayload)
    assert quote_of(found, "10").lowest_ask == Decimal(97)


@pytest.mark.parametrize(
    ("wanted", "us", "code"),
    [
        ("UK 10", "10.5", None),
        ("EU 44 2/3", "10.5", None),
        ("UK 6", None, "ambiguous_size"),
        ("UK 4", None, "size_system"),  # not in the chart, and no table of the maker is known
    ],
)
async def test_a_size_of_another_system_goes_by_another_providers_chart(
    wanted: str, us: str | None, code: str | None
) -> None:
    sizes = (("6.5", "6", "39"), ("7", "6", "40"), ("10.5", "10", "44 2/3"))
    elsewhere = Listing(
        product=Product(id="1", brand="adidas", gender="men"),
        variants=tuple(
            Variant(id=size, size=size, chart={"uk": f"UK {uk}", "eu": f"EU {eu}"}) for size, uk, eu in sizes
        ),
    )
    numbers = [Decimal(size) for size, _, _ in sizes]
    yeezy = item("CP9366", *numbers, brand="adidas")
    http = Scripted(search=hits(yeezy), availabilities={"variants": [row(number) for number in numbers]})
    ask = Ask(sku="CP9366", sizes=(wanted,), currency="USD", elsewhere=elsewhere)
    answer = (await Alias(Options()).fetch(ask, http)).answers[wanted]
    if us is not None:
        assert answer == us
    else:
        assert isinstance(answer, errors.Unmatched)
        assert answer.error_code == code


@pytest.mark.parametrize("odd", ODD_STATES)
async def test_where_no_row_tells_its_state_no_size_has_an_answer(odd: dict[str, Any]) -> None:
    http = Scripted(search=hits(item("DD1391 100", 10, 11)), availabilities={"variants": [row(10, **odd)]})
    found = await fetch(http, "10", "11")
    assert all(isinstance(answer, errors.BadPayload) for answer in found.answers.values())


@pytest.mark.parametrize("odd", ["", "ten", None, {}, True])
async def test_a_row_of_an_unreadable_size_may_be_that_of_any(odd: Any) -> None:
    http = Scripted(search=hits(item("DD1391 100", 10, 11)), availabilities={"variants": [row(10), row(odd)]})
    with pytest.raises(errors.BadPayload, match="size"):
        await fetch(http, "10", "11")
    rows = [row(10), row(odd, product_condition="PRODUCT_CONDITION_USED")]
    http = Scripted(search=hits(item()), availabilities={"variants": rows})
    assert quote_of(await fetch(http), "10").lowest_ask == Decimal(97)


async def test_each_half_of_a_joined_code_is_searched_until_one_is_found() -> None:
    http = Scripted(
        search=Each((hits(), hits(item("CW2288 112"), item("CW2288 111")))),
        availabilities={"variants": [row(10)]},
    )
    found = await fetch(http, sku="315122-111/CW2288-111")
    assert [params["query"] for endpoint, _, params in http.asked if endpoint == "search"] == [
        "315122-111",
        "CW2288-111",
    ]
    assert found.listing is not None
    assert found.listing.product.style_code == "CW2288 111"


async def test_two_items_of_one_code_are_left_to_a_person() -> None:
    twins = hits(item(), item(catalog_id="item-2"))
    with pytest.raises(errors.Unmatched, match="id:item-2") as tied:
        await fetch(Scripted(search=twins))
    assert tied.value.error_code == "ambiguous_product"


@pytest.mark.parametrize(
    "garbled", [{"sku": "DD1391-100"}, item(catalog_id=""), item(catalog_id=None), None, "x"]
)
async def test_a_hit_that_cannot_be_read_is_no_word_on_which_item_it_is(garbled: Any) -> None:
    for found in ([garbled], [item(), garbled]):
        with pytest.raises(errors.BadPayload):
            await fetch(Scripted(search=hits(*found)))
    other = {"sku": "AA0000-000"}  # whatever it is, it is not what was asked for
    http = Scripted(search=hits(other, item()), availabilities={"variants": [row(10)]})
    assert (await fetch(http)).answers == {"10": "10"}


@pytest.mark.parametrize(("sku", "name"), [("DD1391-100", "Dunk"), ("name:dunk low", "Dunk Low")])
async def test_what_stands_behind_a_page_of_other_items_is_found(sku: str, name: str) -> None:
    others = hits(*(item(f"DD1391 {place}") for place in range(200, 220)))
    http = Scripted(search=Each((others, hits(item(name=name)))), availabilities={"variants": [row(10)]})
    assert (await fetch(http, sku=sku)).answers == {"10": "10"}
    asked = [params.get("pagination_token") for endpoint, _, params in http.asked if endpoint == "search"]
    assert asked == [None, "x"]


async def test_no_more_than_two_pages_are_searched_and_none_after_the_last() -> None:
    others = [item(f"DD1391 {place}") for place in range(200, 220)]
    for page, pages in (
        (hits(*others), 2),
        (hits(*others[:5]), 1),  # `has_more` alone means nothing
        (hits(*others) | {"has_more": False}, 1),
        (hits(*others) | {"next_pagination_token": ""}, 1),
        (hits(*others) | {"next_pagination_token": 7}, 1),
        ({"catalog_items": 7, "has_more": False}, 1),
    ):
        http = Scripted(search=page)
        with pytest.raises(errors.NotListed):
            await fetch(http)
        assert len(http.asked) == pages


async def test_an_item_that_a_search_gives_twice_is_one_item() -> None:
    twice = hits(item(), item("AA0000 000"), item(), item(catalog_id="ITEM-dd1391-100"))
    found = await fetch(Scripted(search=twice, availabilities={"variants": [row(10)]}))
    assert found.listing is not None
    assert (found.listing.product.id, found.answers) == ("item-dd1391-100", {"10": "10"})


async def test_region_and_consignment_are_sent_when_set_and_kept_with_the_price() -> None:
    http = Scripted(search=hits(item()), availabilities={"variants": [row(10)]})
    found = await fetch(http, region_id="3", consigned=False)
    assert http.asked[-1][2] == {"region_id": "3", "consigned": "false"}
    assert found.quotes[0].basis["region"] == "3"
    assert found.quotes[0].basis["consigned"] is False
    plain = Scripted(search=hits(item()), availabilities={"variants": [row(10)]})
    await fetch(plain)
    assert plain.asked[-1][2] == {}


async def test_rows_of_the_other_consignment_never_give_a_price() -> None:
    rows = [
        row(10, "9000", consigned=True),
        row(10, "9700", consigned=False),
        row(11, "5000", consigned=True),
    ]
    http = Scripted(search=hits(item("DD1391 100", 10, 11)), availabilities={"variants": rows})
    found = await fetch(http, "10", "11", consigned=False)
    assert quote_of(found, "10").lowest_ask == 97
    assert quote_of(found, "11").lowest_ask is None


@pytest.mark.parametrize(
    "trouble", [errors.Transient("HTTP 503"), errors.NotGranted("budget", None), {"catalog_item": "none"}]
)
async def test_prices_stand_when_the_item_cannot_be_loaded_again(trouble: Any) -> None:
    asked = Ask(
        sku="DD1391-100",
        sizes=("10", "11", None),
        currency="USD",
        listing=reading.listing(item("DD1391 100", 10)),
    )
    http = Scripted(
        availabilities={"variants": [row(10), row(11)]}, item=Each((trouble, item("DD1391 100", 10, 11)))
    )
    alias = Alias(Options())
    found = await alias.fetch(asked, http)
    assert (found.listing, [quote.size for quote in found.quotes]) == (None, ["10"])
    assert found.answers["10"] == "10"
    for size in ("11", None):
        assert isinstance(
            found.answers[size], errors.BadPayload if isinstance(trouble, dict) else type(trouble)
        )
    assert (await alias.fetch(asked, http)).answers == {"10": "10", "11": "11", None: None}


async def test_recent_sales_are_asked_for_only_when_switched_on() -> None:
    sales = {
        "recent_sales": [
            {"purchased_at": "2026-02-28T18:00:00.701Z", "price_cents": "9500", "size": 10},
            {"purchased_at": "2026-02-01T18:00:00.000Z", "price_cents": "9100", "size": 10},
        ]
    }
    http = Scripted(search=hits(item()), availabilities={"variants": [row(10)]}, recent_sales=sales)
    quote = quote_of(await fetch(http, recent_sales=True), "10")
    assert (quote.last_sale, quote.sales_72h) == (Decimal(95), 1)
    assert quote.last_sale_at is not None
    assert quote.last_sale_at.isoformat() == "2026-02-28T18:00:00.701000+00:00"
    asked = http.asked[-1][2]
    assert (asked["size"], asked["product_condition"]) == ("10", reading.NEW[0])


@pytest.mark.parametrize(
    "other", [{"size": 9}, {"size": "10.5"}, {"size": "x"}, {"catalog_id": "item-2"}, {"consigned": True}]
)
async def test_a_sale_of_something_else_than_was_asked_for_is_no_last_sale(other: dict[str, Any]) -> None:
    def sold(**more: Any) -> dict[str, Any]:
        own = {"size": 10, "catalog_id": "ITEM-dd1391-100", "consigned": False}
        return {"purchased_at": "2026-02-28T18:00:00.701Z", "price_cents": "9500"} | own | more

    def answers(*sales: dict[str, Any]) -> Scripted:
        return Scripted(
            search=hits(item()),
            availabilities={"variants": [row(10)]},
            recent_sales={"recent_sales": list(sales)},
        )

    right = quote_of(
        await fetch(answers(sold(), sold(size="10.0")), recent_sales=True, consigned=False), "10"
    )
    assert (right.last_sale, right.sales_72h) == (Decimal(95), 2)
    quote = quote_of(await fetch(answers(sold(), sold(**other)), recent_sales=True, consigned=False), "10")
    assert (quote.last_sale, quote.sales_72h) == (Decimal(99), None)
    assert quote.basis["recent_sales"] == "no_answer"


@pytest.mark.parametrize(
    "when", ["2026-03-01T13:01:00Z", "2099-01-01T00:00:00Z", "0001-01-01T00:00:00Z", None, 7]
)
async def test_a_sale_of_another_age_is_no_last_sale(when: Any) -> None:
    sales = [{"purchased_at": when, "price_cents": "9500", "size": 10}]
    http = Scripted(
        search=hits(item()), availabilities={"variants": [row(10)]}, recent_sales={"recent_sales": sales}
    )
    quote = quote_of(await fetch(http, recent_sales=True), "10")
    assert (quote.last_sale, quote.last_sale_at) == (Decimal(99), None)
    assert quote.basis["recent_sales"] == "no_answer"


async def test_an_item_of_another_id_than_was_asked_for_is_no_answer() -> None:
    prices = {"variants": [row(10), row(11)]}
    other = item("DD1391 100", 10, 11, catalog_id="item-2")
    with pytest.raises(errors.BadPayload, match="item-dd1391-100"):
        await fetch(Scripted(item={"catalog_item": other}, availabilities=prices), sku="id:item-dd1391-100")
    mixed = Scripted(item=item(catalog_id="Item-DD1391-100"), availabilities=prices)
    assert (await fetch(mixed, sku="id:item-dd1391-100")).answers == {"10": "10"}
    cached = reading.listing(item())
    found = await fetch(Scripted(item=other, availabilities=prices), "10", "11", listing=cached)
    assert found.listing is None
    assert found.answers["10"] == "10"
    assert isinstance(found.answers["11"], errors.BadPayload)


@pytest.mark.parametrize(
    "trouble",
    [errors.Rejected("HTTP 400", http_status=400), errors.NotGranted("budget", None), {"recent_sales": None}],
)
async def test_prices_stand_when_their_sales_cannot_be_had(trouble: Any) -> None:
    http = Scripted(search=hits(item()), availabilities={"variants": [row(10)]}, recent_sales=trouble)
    quote = quote_of(await fetch(http, recent_sales=True), "10")
    assert (quote.lowest_ask, quote.basis["recent_sales"]) == (Decimal(97), "no_answer")


def test_a_grpc_code_says_more_than_an_odd_status() -> None:
    for status, code in ((402, 14), (409, 10), (499, 1)):
        assert isinstance(Alias.classify(status, {}, {"code": code}), errors.Transient)
    assert Alias.classify(409, {}, {"code": 6}) is None
    assert isinstance(Alias.classify(400, {}, {"code": 8}), errors.Throttled)
    assert Alias.classify(404, {}, {"code": 5}) is None
    assert Alias.classify(500, {}, "text") is None


def test_a_404_that_is_not_alias_own_says_nothing_about_the_item() -> None:
    assert Alias.classify(404, {}, {"code": 5, "message": "not found", "details": []}) is None
    for other in (None, "404 page not found", {}, {"message": "Not Found"}, {"code": 12}, [5]):
        assert isinstance(Alias.classify(404, {}, other), errors.Transient)
