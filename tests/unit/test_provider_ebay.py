"""eBay: which listings are the real thing, and what the cheapest of them costs."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from ebay_kit import listing, results, shipping
from marketd import errors
from marketd.models import Listing, Product
from marketd.provider import Ask, Found, Usage
from marketd.providers.ebay import EBay, Options
from marketd.providers.ebay.titles import Wanted, says, stated
from provider_kit import Each, Scripted, example, quote_of

MENS_TEN = Wanted(
    currency="USD", marketplace="EBAY_US", conditions=frozenset({"1000"}), code="DD1391-100", number="10"
)


async def fetch(http: Scripted, size: str | None = "10", sku: str = "DD1391-100", **more: Any) -> Found:
    options = Options(**more.pop("options", {}))
    ask = Ask(sku=sku, sizes=(size,), currency=more.pop("currency", "USD"), **more)
    return await EBay(options).fetch(ask, http)


async def test_the_documented_answer_is_read() -> None:
    found = await fetch(Scripted(search=example("ebay_item_summary_search")))
    assert quote_of(found, "10").lowest_ask == Decimal("99.95")


async def test_no_listing_is_an_answer_too() -> None:
    quote = quote_of(await fetch(Scripted(search=example("ebay_item_summary_search_empty"))), "10")
    assert quote.lowest_ask is None
    assert quote.basis["listings"] == 0


async def test_a_page_of_other_things_with_more_to_come_does_not_say_that_there_are_no_asks() -> None:
    others = results(listing(title="Nike Dunk DD1391-100 Size 9", leafCategoryIds=["1"])) | {
        "next": "https://api.ebay.com/page2"
    }
    with_youth = Scripted(search=others)  # no category, so titles alone tell the size
    refusal = (await fetch(with_youth, "5Y")).answers["5Y"]
    assert isinstance(refusal, errors.Unmatched)
    assert refusal.error_code == "ambiguous_product"
    narrowed = Scripted(search=Each((results(), others)))  # the size aspect has answered it
    assert quote_of(await fetch(narrowed), "10").lowest_ask is None


@pytest.mark.parametrize(
    ("title", "certain"),
    [
        ("Nike Dunk DD1391-100", False),
        ("Nike Dunk DD1391-100 UK 9", False),
        ("Nike Dunk DD1391-100 Size 9", False),  # of the UK, that may be US 10
        ("Nike Dunk DD1391-100 US 9", True),
        ("Nike Dunk DD1391-100 9 US / 8 UK", True),
        ("Laces for DD1391-100", True),
    ],
)
async def test_where_only_titles_tell_sizes_a_silent_one_leaves_open_whether_there_are_asks(
    title: str, certain: bool
) -> None:
    rows = results(listing(title=title, listingMarketplaceId="EBAY_GB", leafCategoryIds=["1"]))
    options = {"marketplace": "EBAY_GB", "size_aspect": "UK Shoe Size"}
    found = await fetch(Scripted(search=rows), options=options, currency="GBP")
    answer = found.answers["10"]
    assert answer == "10" if certain else isinstance(answer, errors.Unmatched)
    assert all(quote.lowest_ask is None for quote in found.quotes)


async def test_the_search_is_narrow_sorted_and_from_where_it_is_delivered() -> None:
    http = Scripted(search=results(listing()))
    references = {"7.5W": Decimal(200), "7.5": Decimal(900)}
    await fetch(http, "7.5W", options={"delivery_zip": "97202"}, references=references)
    assert http.asked[0][2] == {
        "q": "DD1391-100",
        "category_ids": "95672",
        "aspect_filter": "categoryId:95672,US Shoe Size:{7.5}",
        "filter": "conditionIds:{1000},buyingOptions:{FIXED_PRICE},deliveryCountry:US,deliveryPostalCode:97202,"
        "price:[80.00..],priceCurrency:USD",
        "sort": "price",
        "limit": "200",
    }


async def test_the_lowest_ask_is_price_plus_known_shipping() -> None:
    rows = results(
        listing("90.00", shippingOptions=[{"shippingCostType": "CALCULATED"}]),
        listing("95.00", shippingOptions=[shipping("9.00"), shipping("6.50")]),
        listing("100.00", image=None),
        listing("105.00", shippingOptions=[]),
    )
    quote = quote_of(await fetch(Scripted(search=rows)), "10")
    assert (quote.lowest_ask, quote.basis["shipping"], quote.basis["listings"]) == (
        Decimal(100),
        "included",
        2,
    )
    quote = quote_of(await fetch(Scripted(search=rows), options={"include_shipping": False}), "10")
    assert (quote.lowest_ask, quote.basis["shipping"], quote.basis["listings"]) == (
        Decimal(90),
        "excluded",
        4,
    )


async def test_where_no_shipping_is_known_the_price_alone_says_so() -> None:
    rows = results(listing("90.00", shippingOptions=[{"shippingCostType": "CALCULATED"}]))
    quote = quote_of(await fetch(Scripted(search=rows)), "10")
    assert (quote.lowest_ask, quote.basis["shipping"]) == (Decimal(90), "excluded")


@pytest.mark.parametrize(
    "trap",
    [
        {
            "price": None,
            "currentBidPrice": {"value": "5.00", "currency": "USD"},
            "buyingOptions": ["AUCTION"],
        },
        {"price": {"value": "5.00", "currency": "GBP"}},
        {"price": {"value": "0.00", "currency": "USD"}},
        {"conditionId": "3000"},
        {"conditionId": None},
        {"itemGroupType": "SELLER_DEFINED_VARIATIONS"},
        {"itemGroupHref": "https://api.ebay.com/x"},
        {"listingMarketplaceId": "EBAY_GB"},
        {"leafCategoryIds": ["24087"]},
        {"leafCategoryIds": [], "categories": [{"categoryId": "24087"}]},
        {"title": "Nike Dunk DD1391-101 Men's Size 10"},
        {"title": "Nike Dunk DD1391-1001 Men's Size 10"},
        {"title": "Nike Dunk Men's Size 10"},
        {"title": "Nike Dunk DD1391-100 Men's Size 10.5"},
        {"title": "Nike Dunk DD1391-100 Women's Size 10"},
        {"title": "Laces for Nike Dunk DD1391-100 Men's Size 10"},
        {"title": "EMPTY BOX ONLY DD1391-100 size 10"},
        {"title": None},
    ],
)
async def test_one_wrong_listing_is_never_the_lowest(trap: dict[str, Any]) -> None:
    rows = results(listing("5.00") | trap, listing("100.00"))
    assert quote_of(await fetch(Scripted(search=rows)), "10").lowest_ask == 100


async def test_what_is_far_below_the_other_providers_is_not_the_real_thing() -> None:
    rows = results(listing("79.99"), listing("80.00"))
    assert (
        quote_of(await fetch(Scripted(search=rows), references={"10": Decimal(200)}), "10").lowest_ask == 80
    )


async def test_where_the_size_aspect_finds_nothing_titles_are_read_and_the_price_says_so() -> None:
    untitled = listing("50.00", "Nike Dunk DD1391-100 new")
    http = Scripted(search=Each((results(), results(untitled, listing("100.00")))))
    quote = quote_of(await fetch(http), "10")
    assert (quote.lowest_ask, quote.basis["quality"]) == (Decimal(100), "low")
    assert "aspect_filter" not in http.asked[1][2]
    http = Scripted(search=results())
    assert quote_of(await fetch(http, options={"search_titles": False}), "10").lowest_ask is None
    assert len(http.asked) == 1


async def test_a_warning_means_that_the_size_aspect_may_not_have_worked() -> None:
    rows = results(listing("50.00", "Nike Dunk DD1391-100 new"), listing("100.00"))
    rows["warnings"] = [{"errorId": 12018, "message": "bad aspect_filter"}]
    assert quote_of(await fetch(Scripted(search=rows)), "10").lowest_ask == 100


async def test_an_aspect_that_was_silently_ignored_is_told_by_the_sizes_in_the_titles() -> None:
    def sized(price: str, size: str) -> dict[str, Any]:
        return listing(price, f"Nike Dunk DD1391-100 Men's Size {size}")

    untitled = listing("50.00", "Nike Dunk DD1391-100 new")
    others = [sized("60.00", size) for size in ("9", "9.5", "11")]
    rows = results(untitled, *others, sized("100.00", "10"))
    assert quote_of(await fetch(Scripted(search=rows)), "10").lowest_ask == 100
    rows = results(untitled, others[0], sized("100.00", "10"))  # one seller's mistake proves nothing
    assert quote_of(await fetch(Scripted(search=rows)), "10").lowest_ask == 50


@pytest.mark.parametrize(
    ("size", "title", "leaf", "outcome"),
    [
        ("7.5", "Nike Dunk DD1391-100 Size 7.5", "95672", "size_system"),
        ("7.5", "Nike Dunk DD1391-100 Women's Size 7.5", "95672", "size_system"),
        ("7.5", "Nike Dunk DD1391-100 Women's Size 9 / Men's Size 7.5", "95672", None),
        ("7.5W", "Nike Dunk DD1391-100 Size 7.5", "15709", "size_system"),
        ("7.5W", "Nike Dunk DD1391-100 Women's Size 7.5", "15709", None),
        ("5Y", "Nike Dunk DD1391-100 Size 5", "15709", "size_system"),
        ("5Y", "Nike Dunk DD1391-100 Size 5Y", "57929", None),
    ],
)
async def test_a_size_among_other_peoples_shoes_is_refused_unless_the_title_says_whose_it_is(
    size: str, title: str, leaf: str, outcome: str | None
) -> None:
    http = Scripted(search=Each((results(), results(listing("80.00", title, leafCategoryIds=[leaf])))))
    if size == "5Y":  # its category is not known, so that titles are read at once
        http = Scripted(search=results(listing("80.00", title, leafCategoryIds=[leaf])))
    found = await fetch(http, size)
    if outcome is None:
        assert quote_of(found, size).lowest_ask == 80
    else:
        refusal = found.answers[size]
        assert isinstance(refusal, errors.Unmatched)
        assert refusal.error_code == outcome
        assert found.quotes == ()


@pytest.mark.parametrize("sku", ["name:nike dunk panda", "id:123"])
async def test_a_shoe_without_a_size_is_never_priced_as_a_thing_of_one_size(sku: str) -> None:
    shelf, elsewhere = ["15709"], ["1"]
    for rows in (
        [listing("50.00", "Nike Dunk Panda new", leafCategoryIds=shelf)],
        [listing("50.00", "Nike Dunk Panda size 9", leafCategoryIds=elsewhere)],
        [
            listing("50.00", "Nike Dunk Panda new", leafCategoryIds=elsewhere),
            *(listing("60.00", f"Nike Dunk Panda US {size}", leafCategoryIds=elsewhere) for size in (9, 10)),
        ],
    ):
        refusal = (await fetch(Scripted(search=results(*rows)), None, sku)).answers[None]
        assert isinstance(refusal, errors.Unmatched)
        assert refusal.error_code == "size_required"


async def test_a_us_number_is_never_asked_under_another_systems_aspect() -> None:
    http = Scripted(search=results(listing("50.00", "Nike Dunk DD1391-100 new"), listing("100.00")))
    quote = quote_of(await fetch(http, options={"size_aspect": "UK Shoe Size"}), "10")
    assert "aspect_filter" not in http.asked[0][2]
    assert (quote.lowest_ask, quote.basis["quality"]) == (Decimal(100), "low")


async def test_numbers_and_texts_are_the_same_to_us() -> None:
    row = listing("1.00") | {"price": {"value": 90, "currency": "USD"}, "conditionId": 1000}
    assert quote_of(await fetch(Scripted(search=results(row))), "10").lowest_ask == 90


@pytest.mark.parametrize("price", ["0.01", "0.98"])
async def test_a_price_that_ebay_does_not_take_is_garbled(price: str) -> None:
    found = await fetch(Scripted(search=results(listing(price), listing("90.00"))))
    assert quote_of(found, "10").lowest_ask == 90
    with pytest.raises(errors.BadPayload, match="does not take"):
        await fetch(Scripted(search=results(listing(price))))
    assert quote_of(await fetch(Scripted(search=results(listing("0.99")))), "10").lowest_ask == Decimal(
        "0.99"
    )


async def test_of_a_long_name_whole_words_are_left_out_and_never_the_grade() -> None:
    words = [f"word{place:02}" for place in range(14)]
    name = " ".join(words)
    card = {"conditionId": "2750", "leafCategoryIds": ["261328"]}
    http = Scripted(
        search=results(
            listing("10.00", f"{' '.join(words[:13])} PSA 10", **card),
            listing("99.00", f"{name} PSA 10", **card),
        )
    )
    found = await fetch(http, "PSA 10", f"name:{name}")
    assert http.asked[0][2]["q"] == f"{' '.join(words[:13])} PSA 10"
    assert quote_of(found, "PSA 10").lowest_ask == 99
    plain = Scripted(search=results())
    await fetch(plain, None, f"name:{'a' * 60} {'b' * 39}")
    assert plain.asked[0][2]["q"] == f"{'a' * 60} {'b' * 39}"
    endless = await fetch(Scripted(), None, "name:" + "\N{LATIN SMALL LETTER SHARP S}" * 100)
    assert "too long" in str(endless.answers[None])


async def test_a_graded_card_must_have_its_grade_in_the_title() -> None:
    def card(price: str, title: str) -> dict[str, Any]:
        return listing(price, title, conditionId="2750", leafCategoryIds=["261328"])

    rows = results(
        card("10.00", "Auston Matthews Young Guns #201 PSA 9"),
        card("20.00", "Auston Matthews Young Guns #201 BGS 10"),
        card("25.00", "Auston Matthews Young Guns #201 PSA 10 or PSA 9"),
        card("30.00", "Auston Matthews Young Guns #202 PSA 10"),
        card("31.00", "Auston Matthews Young Guns #201 PSA10.5"),
        card("32.00", "Auston Matthews Young Guns #201 GMA 10 PSA 10"),
        card("33.00", "Raw for PSA 10 lot Auston Matthews Young Guns #201"),
        card("34.00", "Auston Matthews Young Guns #201 PSA 10 French"),
        card("35.00", "Auston Matthews Young Guns Canvas #201 PSA 10"),
        card("36.00", "Auston Matthews Young Guns Exclusives #201 /100 PSA 10"),
        card("37.00", "Auston Matthews Young Guns #201 potential PSA 10"),
        card("38.00", "Auston Matthews Young Guns #201 PSA 10 Auto signed"),
        *(
            card("39.00", f"Auston Matthews Young Guns #201 {more}")
            for more in (
                "PSA 10?",
                "PSA 10 candidate",
                "PSA ready PSA 10",
                "PSA 10 label only",
                "PSA 10 (OC)",
                "High Gloss /10 PSA 10",
                "/100 PSA 10",
                "+ #202 PSA 10",
                "PSA 10 cracked slab",
            )
        ),
        card("99.00", "Auston Matthews Young Guns #201 PSA10 Rookie"),
    )
    http = Scripted(search=rows)
    found = await fetch(http, "PSA 10", "name:auston matthews young guns #201")
    assert quote_of(found, "PSA 10").lowest_ask == 99
    assert http.asked[0][2]["q"] == "auston matthews young guns 201 PSA 10"
    assert "conditionIds:{2750}" in http.asked[0][2]["filter"]


@pytest.mark.parametrize(
    "more", ["PSA Graded 10", "PSA grade 10", "PSA 10.0", "PSA 10 w/ sleeve", "PSA 10 in protective sleeve"]
)
async def test_a_grade_is_read_as_sellers_write_it(more: str) -> None:
    row = listing("99.00", f"Auston Matthews #201 {more}", conditionId="2750", leafCategoryIds=["261328"])
    found = await fetch(Scripted(search=results(row)), "PSA 10", "name:auston matthews #201")
    assert quote_of(found, "PSA 10").lowest_ask == 99


async def test_a_raw_card_is_ungraded_and_a_sealed_box_is_new() -> None:
    rows = results(
        listing("5.00", "Pikachu Illustrator PSA 9", conditionId="4000", leafCategoryIds=["183454"]),
        *(
            listing("5.00", f"Pikachu Illustrator {more}", conditionId="4000", leafCategoryIds=["183454"])
            for more in (
                "PSA GEM MT 10",
                "PSA-10",
                "P.S.A. 10",
                "Beckett 9",
                "BGS Black Label",
                "Orica",
                "damaged HP",
                "U pick",
                "you choose",
                "checklist",
                "creased",
                "art card",
                "Reverse Holo",
            )
        ),
        listing("6.00", "Pikachu Illustrator", conditionId="4000", leafCategoryIds=["1"]),
        listing("7.00", "Pikachu Illustrator", leafCategoryIds=["183454"]),
        listing("50.00", "Pikachu Illustrator", conditionId="4000", leafCategoryIds=["183454"]),
    )
    assert (
        quote_of(await fetch(Scripted(search=rows), None, "name:pikachu illustrator"), None).lowest_ask == 50
    )


@pytest.mark.parametrize(
    "title",
    [
        "EMPTY BOX Pikachu Elite Trainer Box",
        "Pikachu Elite Trainer Box no packs",
        "Pikachu Elite Trainer Box promo only",
        "Pikachu Elite Trainer Box code card",
        "Pikachu Elite Trainer Box opened",
        "Acrylic case for Pikachu Elite Trainer Box",
        "Pikachu Elite Trainer Box reprint",
        "Pikachu Elite Trainer Box PSA 10",
        "Pikachu Elite Trainer Box card sleeves",
        "1 Booster Pack from Pikachu Elite Trainer Box",
        "Magnetic Protector for Pikachu Elite Trainer Box",
        "Lot of 3 Pikachu Elite Trainer Box",
        "Pikachu Elite Trainer Box Japanese",
        "Pikachu Elite Trainer Box x2",
        "Pikachu Elite Trainer Box EMPTY",
        "Pikachu Elite Trainer Box Case of 10",
        "Pikachu Elite Trainer Box Sealed Case (10 Boxes)",
        "Pikachu Elite Trainer Box half case",
        "Pikachu Elite Trainer Box 10x",
        "Pikachu Elite Trainer Box set of 2",
        "2 Pikachu Elite Trainer Box",
        "Pikachu Elite Trainer Box qty 4",
        "Pikachu Elite Trainer Box, contents only",
        "Pokemon Center Pikachu Elite Trainer Box",
        "Pikachu Elite Trainer Box JP",
        "Pikachu Elite Trainer Box (2)",
        "Pikachu Elite Trainer Box no shrink wrap",
        "Pikachu Elite Trainer Box 100% & 400%",
    ],
)
async def test_what_is_left_of_a_box_is_never_the_box(title: str) -> None:
    rows = results(
        listing("5.00", title, leafCategoryIds=["261044"]),
        listing("50.00", "Pikachu Elite Trainer Box sealed", leafCategoryIds=["261044"]),
    )
    found = await fetch(Scripted(search=rows), None, "name:pikachu elite trainer box")
    assert quote_of(found, None).lowest_ask == 50


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("pikachu elite trainer box", "1x Pikachu Elite Trainer Box case fresh, 9 packs"),
        ("pikachu elite trainer box case of 10", "Pikachu Elite Trainer Box Sealed Case of 10"),
        ("pokemon center pikachu box", "Pokemon Center Pikachu Box"),
        ("bearbrick 100% & 400% set of 2", "Medicom Bearbrick 100% & 400% Set of 2"),
        ("2 fast pikachu", "2 Fast Pikachu"),
        ("pikachu poster collection", "Pikachu Poster Collection"),
        ("pikachu elite trainer box", "Pikachu Elite Trainer Box only 2 left"),
        ("pikachu elite trainer box", "Pikachu Elite Trainer Box sealed, never opened"),
        ("pikachu tech sticker collection", "Pikachu Tech Sticker Collection"),
        ("bearbrick mandalorian 1000%", "Medicom BE@RBRICK Mandalorian 1000%"),
        ("be@rbrick mandalorian 1000%", "Bearbrick Mandalorian 1000%"),
        ("auston matthews young guns", "Auston Matthews Young Guns Center Toronto"),
    ],
)
async def test_words_of_its_name_make_nothing_else_of_it(name: str, title: str) -> None:
    rows = results(listing("50.00", title, leafCategoryIds=["261044"]))
    assert quote_of(await fetch(Scripted(search=rows), None, f"name:{name}"), None).lowest_ask == 50


async def test_a_name_is_the_same_with_and_without_its_accents() -> None:
    rows = results(listing("50.00", "Pokemon Elite Trainer Box sealed", leafCategoryIds=["261044"]))
    found = await fetch(Scripted(search=rows), None, "name:POKÉMON elite trainer box")
    assert quote_of(found, None).lowest_ask == 50


async def test_a_product_is_asked_for_by_its_id_without_words() -> None:
    http = Scripted(search=results(listing()))
    await fetch(http, "10", "id:12345")
    assert http.asked[0][2]["epid"] == "12345"
    assert "q" not in http.asked[0][2]
    with pytest.raises(errors.NotListed):
        await fetch(Scripted(), "10", "id:abc")


@pytest.mark.parametrize("doubt", [{"epid": "6"}, {"warnings": [{"errorId": 12022}]}])
async def test_a_product_id_that_ebay_may_have_ignored_must_be_told_by_the_listing(
    doubt: dict[str, Any],
) -> None:
    rows = results(listing("80.00"), listing("90.00", epid="12345"))
    assert quote_of(await fetch(Scripted(search=rows), "10", "id:12345"), "10").lowest_ask == 80
    rows = results(listing("70.00", **doubt), listing("80.00"), listing("90.00", epid="12345")) | doubt
    assert quote_of(await fetch(Scripted(search=rows), "10", "id:12345"), "10").lowest_ask == 90


async def test_the_product_has_the_title_and_the_picture_but_nothing_of_the_seller() -> None:
    found = await fetch(Scripted(search=results(listing())))
    assert found.listing is not None
    assert found.listing.product.image_url == "https://i.ebayimg.com/1.jpg"
    assert "somebody" not in repr(found)


@pytest.mark.parametrize(
    "text", ["NaN", "-1", "ten", "99999999", "1_2", "\u0669\u0669", "1e-20000", "1,299.00"]
)
async def test_a_price_that_is_no_price_is_a_bad_payload_unless_others_have_one(text: str) -> None:
    with pytest.raises(errors.BadPayload):
        await fetch(Scripted(search=results(listing(text))))
    found = await fetch(Scripted(search=results(listing(text), listing("120.00"))))
    assert quote_of(found, "10").lowest_ask == 120


@pytest.mark.parametrize(
    "body",
    [
        {"total": 57},
        results({**listing(), "conditionId": None}, {**listing(), "conditionId": None}),
        results({**listing(), "buyingOptions": None}),
        results({**listing(), "price": None}),
    ],
    ids=["no listings", "no condition", "no way of buying", "no price"],
)
async def test_an_answer_that_lost_its_listings_or_what_judges_them_does_not_say_that_there_are_no_asks(
    body: dict[str, Any],
) -> None:
    with pytest.raises(errors.BadPayload):
        await fetch(Scripted(search=body))


@pytest.mark.parametrize(
    "title",
    [
        "Lot of 2 Nike Dunk DD1391-100 Men's Size 10",
        "Nike Dunk DD1391-100 Men's Size 10 DEPOSIT",
        "Nike Dunk DD1391-100 Men's Size 10 AAA 1:1",
        "Nike Dunk DD1391-100 Men's Size 10 left foot",
        "Socks for Nike Dunk DD1391-100 Men's Size 10",
        "T-Shirt to match Nike Dunk DD1391-100 Men's Size 10",
    ],
)
async def test_what_goes_with_a_pair_of_shoes_or_is_no_whole_new_pair_is_no_pair(title: str) -> None:
    found = await fetch(Scripted(search=results(listing("5.00", title), listing("120.00"))))
    assert quote_of(found, "10").lowest_ask == 120


@pytest.mark.parametrize(
    ("title", "sizes"),
    [
        ("dunk men's size 10", [("10", "")]),
        ("dunk sz 10.5 new", [("10.5", None)]),
        ("dunk us 10 uk 9", [("10", None)]),
        ("dunk size 9 uk", []),
        ("dunk size 44 eu us 10", [("10", None)]),
        ("men's size 9 / women's size 10.5", [("9", ""), ("10.5", "W")]),
        ("wmns us w 7.5", [("7.5", "W")]),
        ("size 5y", [("5", "Y")]),
        ("dunk 10 us", [("10", None)]),
        ("dunk 10us / 9uk / 44eu", [("10", None)]),
        ("dunk men's 10 us 9 uk", [("10", "")]),
        ("dunk size 9 uk 10 us", [("10", None)]),
        ("dunk uk 9 us 10", [("10", None)]),
        ("dunk eu 44 us 10 uk 9", [("10", None)]),
        ("dunk us10 eu44", [("10", None)]),
        ("dunk 7.5w us", [("7.5", "W")]),
        ("dunk eu 42 2/3", []),
        ("dunk men 10,5", [("10.5", "")]),
        ("dunk us 10,5 eu 44,5", [("10.5", None)]),
        ("dunk 10,5 us", [("10.5", None)]),
        ("dunk 10.5 d(m) us", [("10.5", None)]),
        ("dunk size 7.5 B (M)", [("7.5", None)]),
        ("dunk 10,5m", [("10.5", "")]),
        ("dunk men 4,5", []),
        ("dunk 4,5 us", []),
        ("dunk us 10-5", []),
        ("dunk size 10-1/2", [("10.5", None)]),
        ("dunk size 10 au", []),
        ("dunk mx 8 us 10", [("10", None)]),
        ("toddler 9c", [("9", "C")]),
        ("air max 97 in box", []),
        ("dunk low 10 w/ box", []),
        ("yeezy boost 350 v2", []),
    ],
)
def test_sizes_are_read_from_titles_as_sellers_write_them(
    title: str, sizes: list[tuple[str, str | None]]
) -> None:
    assert stated(title) == sizes


@pytest.mark.parametrize(
    ("title", "right"),
    [
        ("Nike Dunk DD1391 100 Size 10", True),
        ("Nike Dunk dd1391100 new", True),
        ("Nike Dunk DD1391-100 Men\u2019s 9 / Women's 10.5", False),
        ("Nike Dunk DD1391-100 Men's 10 / Women's 11.5", True),
        ("Nike Dunk DD1391-100 size 10 1/2", False),
        ("Women's Nike Dunk DD1391-100", False),
        ("Women's Nike Dunk DD1391-100 Size 10", False),
        ("Nike Dunk Low GS Youth DD1391-100 Size 10", False),
        ("Nike Dunk Low TD DD1391-100 Size 10", False),
        ("Nike Dunk DD1391 - 100 Size 10", True),
        ("Nike Dunk DD1391-100 10 US", True),
        ("Nike Dunk DD1391-100 11 US", False),
        ("Nike Dunk DD1391-100 US11", False),
        ("Nike Dunk DD1391-100 US 9 UK 10", False),
        ("Nike Dunk DD1391-100 10 US / 9 UK", True),
        ("Nike Dunk DD1391-100 9 US / 10 UK", False),
        ("Nike Dunk DD1391-100 Men 10,5", False),
        ("Nike Dunk DD1391-100 US 8-W9.5", False),
        ("Nike Dunk DD1391-100 Size 10-13", False),
        ("Nike Dunk DD1391-100 Sizes 8 to 13", False),
        ("Nike Dunk DD1391-100 Men's 7-12 US", False),
        ("Nike Dunk DD1391-100 Sizes 9, 10, 11", False),
        ("Nike Dunk DD1391-100 Size 10/11", False),
        ("Nike Dunk DD1391-100 Men's 10, 10.5, 11", False),
        ("Nike Dunk DD1391-100 Men's 10 / 11.5 Women's", True),
        ("Nike Dunk DD1391-100 Size 10 M/11.5 W", True),
        ("Nike Dunk DD1391-100 Size 11.5 W / 10 M", True),
        ("Nike Dunk DD1391-100 size 10 mens/11.5 womens", True),
        ("Nike Dunk DD1391-100 Size 8.5 M/10 W", False),
        ("Nike Dunk Retro 10 Mens 11.5 W DD1391-100", False),
        ("Nike Dunk Retro 8.5 Mens 10 w/ box DD1391-100", True),
        ("Nike Dunk DD1391-100 Size 10/44", True),
        ("Nike Dunk DD1391-100 Size 10 Size 11", False),
        ("Nike Dunk DD1391-100 all sizes", False),
        ("Nike Dunk DD1391-100 Pick Your Size", False),
        ("Nike Dunk DD1391-100 Men's 4 Retro Size 10", True),
        ("Nike Dunk DD1391-100 Men's 10 Retro Size 9", False),
        ("Nike Dunk DD1391-100 Size 10 - 100% authentic", True),
        ("Nike Dunk Low FW2021 DD1391-100 Size 10", True),
        ("Nike Dunk DD1391-100 DD1503-103 Size 10", False),
        ("Nike Dunk DD1391-100 not 555088 134 Size 10", False),
        ("Nike Dunk DD1391-100 vs CP9366 size 10", False),
        ("Nike Dunk DD1391-100 Size 10 " + "10 us(" * 100_000, False),
        ("Shoelaces for DD1391-100 size 10", False),
        ("Keychains DD1391-100 size 10", False),
        ("Crease protectors DD1391-100 size 10", False),
        ("Nike Dunk Low (W) DD1391-100 Size 10", False),
        ("Nike Dunk DD1391-100 Size 10 NO BOX", False),
        ("Nike Dunk DD1391-100 Size 10 w/o box", False),
        ("Nike Dunk DD1391-100 Size 10 missing lid", False),
        ("Nike Dunk DD1391-100 Size 10 B-Grade", False),
        ("Nike Dunk DD1391-100 Size 10 worn once", False),
        ("Nike Dunk DD1391-100 Size 10 lightly used", False),
        ("Nike Dunk DD1391-100 Size 10 Sample", False),
        ("Nike Dunk DD1391-100 Size 10 UA", False),
        ("Nike Dunk DD1391-100 Size 10 never used, in box", True),
        ("Nike Dunk Worn Brick DD1391-100 Size 10", True),
        ("Nike Dunk DD1391-100 Size 10 worn", False),
        ("Nike Dunk DD1391-100 Size 10 worn, with box", False),
        ("Nike Dunk DD1391-100 Size 10 never worn", True),
        ("Nike Dunk DD1391-100 Size 10 last one left, ships right away", True),
        ("Nike Dunk DD1391-100 Size 10 tried on", False),
        ("Nike Dunk DD1391-100 Size 10 never tried on", True),
        ("Nike Dunk DD1391-100 Size 10 damaged box", False),
        ("Nike Dunk DD1391-100 Size 10 box damage", False),
        ("Nike Dunk DD1391-100 Size 10 minor flaws", False),
        ("Nike Dunk DD1391-100 Size 10 mismatched pair", False),
        ("Nike Dunk DD1391-100 Size 10 refurbished", False),
        ("Nike Dunk DD1391-100 Size 10 left 11 right", False),
        ("Nike Dunk DD1391-100 receipt only Size 10", False),
        ("Nike Dunk DD1391-100 raffle ticket Size 10", False),
        ("Nike Dunk DD1391-100 Size 10 with original box", True),
        ("Nike Dunk Low (GS) DD1391-100 Size 10", False),
        ("Nike Dunk DD1391-100 Size 10 NWOB", False),
        ("Nike Dunk DD1391-100 Size 10 no original box", False),
        ("Nike Dunk DD1391-100 Size 10 no lid damage", True),
        ("Nike Dunk DD1391-100 Size 10 wrong box", False),
        ("Nike Dunk DD1391-100 Shoe Box Size 10", False),
        ("Nike Dunk DD1391-100 Size 10 w/ shoe box", True),
        ("Nike Dunk DD1391-100 just the box Size 10", False),
        ("Nike Dunk DD1391-100 box & tissue paper only Size 10", False),
        ("Nike Dunk DD1391-100 box, shoes not included Size 10", False),
        ("Nike Dunk DD1391-100 box no sneakers Size 10", False),
        ("Nike Dunk DD1391-100 single shoe Size 10", False),
        ("Nike Dunk DD1391-100 Size 10 left shoe", False),
        ("Nike Dunk DD1391-100 Size 10 pre-order", False),
        ("Nike Dunk DD1391-100 Size 10 pre owned", False),
        ("Nike Dunk DD1391-100 Size 10 like new", False),
        ("Nike Dunk DD1391-100 Size 10 great condition", False),
        ("Nike Dunk DD1391-100 Size 10 9/10 condition", False),
        ("Nike Dunk DD1391-100 Size 10 flawed", False),
        ("Nike Dunk DD1391-100 Size 10 no defects", True),
        ("Nike Dunk DD1391-100 Size 10 worn only once", False),
        ("Nike Dunk DD1391-100 Size 10 has been worn", False),
        ("Nike Dunk DD1391-100 Size 10 never been worn", True),
        ("Nike Dunk DD1391-100 Size 10 un-worn", True),
        ("Nike Dunk DD1391-100 Size 10 scuffed", False),
        ("Nike Dunk DD1391-100 Size 10 no creasing", True),
        ("Nike Dunk DD1391-100 Size 10 ornament", False),
        ("Nike Dunk DD1391-100 mini figure Size 10", False),
        ("Nike Dunk DD1391-100 Mens Sizes", False),
        ("Nike SB Dunk Low Powerpuff Girls DD1391-100 Size 10", True),
        ("Nike SB Dunk Low Girls Don't Cry DD1391-100 Size 10", True),
        ("Air Jordan 11 Cap and Gown DD1391-100 Size 10", True),
        ("Yeezy Boost 700 Magnet DD1391-100 Size 10", True),
        ("Fridge magnet DD1391-100 Size 10", False),
        ("Baseball cap to match DD1391-100 Size 10", False),
        ("Nike Dunk DD1391-100 multi sizes", False),
        ("Nike Dunk DD1391-100 Size 10 / Women's 11.5", True),
        ("Nike Dunk DD1391-100 Size 8.5 / Women's 10", False),
        ("Nike Dunk GS DD1391-100 Size 10 / Women's 11.5", False),
        ("Nike Dunk DD1391-100 Women's Size 10 W11.5", False),
    ],
)
def test_a_title_is_right_when_code_and_size_agree(title: str, right: bool) -> None:
    assert says(title, MENS_TEN) is right


@pytest.mark.parametrize(
    ("more", "right"),
    [
        ("with extra laces", True),
        ("w/ extra lace set", True),
        ("with black and white laces", True),
        ("with 2 sets of laces", True),
        ("extra laces included", True),
        ("+ free crease protectors", True),
        ("includes shoe trees", True),
        ("with box, no laces", False),
        ("without laces", False),
        ("extra laces", False),  # a thing of its own at StockX, under the code of the shoe
        ("in stock shoe laces", False),
        ("free shipping laces", False),
        ("compatible with Nike laces", False),
        ("box with extra laces", False),
        ("insoles with laces", False),
        ("2 pairs available", True),
        ("(2 pairs left)", True),
        ("1 pair", True),
        ("2 pairs", False),
        ("two pairs", False),
        ("9 pairs available", True),
        ("size 9 pairs available", False),
        ("size 9 1 pair", False),
    ],
)
def test_what_comes_along_or_is_in_stock_makes_nothing_else_of_a_pair(more: str, right: bool) -> None:
    assert says(f"Nike Dunk DD1391-100 Size 10 {more}", MENS_TEN) is right


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("Nike Air Max 95 Digital Sticker", "Nike Air Max 95 Digital Sticker DD1391-100 Size 10"),
        ("Nike Dunk Low Bad Boys", "Nike Dunk Low Bad Boys DD1391-100 Size 10"),
        ("Nike Dunk Low Baby Blue", "Nike Dunk Baby Blue DD1391-100 Size 10"),
        ("Under Armour Curry 11", "Under Armour UA Curry 11 DD1391-100 Size 10"),
    ],
)
async def test_words_of_the_products_name_elsewhere_make_nothing_else_of_it(name: str, title: str) -> None:
    elsewhere = Listing(product=Product(id="1", name=name), variants=())
    rows = results(
        listing("80.00", f"{title} Youth"), listing("85.00", f"{title} socks"), listing("90.00", title)
    )
    assert quote_of(await fetch(Scripted(search=rows), elsewhere=elsewhere), "10").lowest_ask == 90


async def test_a_category_that_is_asked_for_may_be_a_parent_of_the_listings() -> None:
    rows = results(
        listing("90.00", leafCategoryIds=["1"], categories=[{"categoryId": "1"}, {"categoryId": "15709"}]),
        listing("95.00", leafCategoryIds=None, categories=None),
    )
    quote = quote_of(await fetch(Scripted(search=rows)), "10")
    assert (quote.lowest_ask, quote.basis["listings"]) == (90, 2)


@pytest.mark.parametrize("joint", ["/", " / ", "; ", " & ", ", "])
async def test_the_other_code_of_a_joined_one_is_no_other_product(joint: str) -> None:
    rows = results(listing("90.00", "Air Jordan 11 378037-623 CW2288-111 Size 10"))
    twins = Listing(product=Product(id="1", style_code=f"378037-623{joint}CW2288-111"), variants=())
    assert (
        quote_of(await fetch(Scripted(search=rows), sku="378037-623", elsewhere=twins), "10").lowest_ask == 90
    )
    http = Scripted(search=Each((rows, results())))
    assert quote_of(await fetch(http, sku="378037-623"), "10").lowest_ask is None


def test_only_error_2001_means_that_the_day_is_spent() -> None:
    spent = EBay.classify(429, {}, {"errors": [{"errorId": 2001}]})
    assert isinstance(spent, errors.Throttled)
    assert spent.day_spent
    as_text = EBay.classify(429, {}, {"errors": [{"errorId": "7"}, {"errorId": "2001"}]})
    assert isinstance(as_text, errors.Throttled)
    assert as_text.day_spent
    assert EBay.classify(429, {}, {"errors": [{"errorId": 7}]}) is None
    assert EBay.classify(500, {}, None) is None


def test_a_404_of_a_search_says_nothing_about_the_product() -> None:
    for body in (None, {"message": "no Route matched"}, {"errors": [{"errorId": 11001}]}):
        assert isinstance(EBay.classify(404, {}, body), errors.Transient)


async def test_the_days_calls_are_read_from_ebays_own_word() -> None:
    async def said(body: Any) -> Usage | None:
        return await EBay(Options()).usage(Scripted(rate_limit=body))

    expected = Usage(remaining=4890, reset=datetime(2026, 1, 3, 8, tzinfo=UTC))
    assert await said(example("ebay_rate_limit")) == expected
    assert await said(None) is None
    assert await said({"rateLimits": [{"resources": []}, 7]}) is None


async def test_of_several_rates_the_one_of_the_day_counts() -> None:
    def answer(*rates: dict[str, Any], name: str = "buy.browse") -> dict[str, Any]:
        return {"rateLimits": [{"apiName": "Browse", "resources": [{"name": name, "rates": list(rates)}]}]}

    def rate(remaining: Any, reset: str = "2026-01-03T08:00:00.000Z", **more: Any) -> dict[str, Any]:
        return {"limit": 5000, "remaining": remaining, "reset": reset, **more}

    async def said(body: Any) -> Usage | None:
        return await EBay(Options()).usage(Scripted(rate_limit=body))

    reset = datetime(2026, 1, 3, 8, tzinfo=UTC)
    five_minutes, day = rate(7, timeWindow=300), rate(4890, timeWindow=86400)
    for rates in ((five_minutes, day), (day, five_minutes), (rate(9), day)):
        assert await said(answer(*rates)) == Usage(remaining=4890, reset=reset)
    assert await said(answer(rate(12))) == Usage(remaining=12, reset=reset)  # the older form tells no window
    for left, known in (("17", 17), ("-3", 0), (-3, 0)):
        assert await said(answer(rate(left, timeWindow="86400"))) == Usage(remaining=known, reset=reset)
    for left in (True, None, "", "many", "1e3", Decimal("1.5")):
        assert await said(answer(rate(left, timeWindow=86400))) is None
    assert await said(answer(five_minutes)) is None
    assert await said(answer(day, name="buy.browse.item.bulk")) is None
    for odd in ("soon", "2026-01-03T08:00:00"):
        with pytest.raises(errors.BadPayload):
            await said(answer(rate(1, odd, timeWindow=86400)))
