"""StockX: which product, which size, which amount; and what is no answer at all."""

from __future__ import annotations

from decimal import Decimal
from itertools import permutations
from typing import Any
from uuid import UUID

import pytest

from marketd import config, errors
from marketd.models import Listing
from marketd.provider import Ask, Found, Reply
from marketd.providers.stockx import Options, StockX, choosing, reading
from marketd.wiring import provider_types
from provider_kit import GRANTED_AT, Each, Scripted, example, quote_of

KINDS = provider_types()
SHOE, TWIN = str(UUID(int=1)), str(UUID(int=2))


def product(
    product_id: str = SHOE, style: str | None = "DD1391-100", title: str = "Dunk", **more: Any
) -> dict[str, Any]:
    return {
        "productId": product_id,
        "styleId": style,
        "title": title,
        "brand": "Nike",
        "productType": "sneakers",
        "urlKey": "dunk",
        "productAttributes": {"gender": "men", "retailPrice": 115, "releaseDate": "2021-03-10"},
    } | more


WHOSE = reading.product(product())


def hits(*products: dict[str, Any]) -> dict[str, Any]:
    return {
        "count": len(products),
        "pageNumber": 1,
        "pageSize": 20,
        "hasNextPage": False,
        "products": list(products),
    }


def variant(value: str | None, **chart: str) -> dict[str, Any]:
    rows = [{"type": system, "size": size} for system, size in chart.items()]
    return {
        "productId": SHOE,
        "variantId": f"v{value}",
        "variantValue": value,
        "sizeChart": {"availableConversions": rows},
        "gtins": [{"identifier": "0123", "type": "UPC"}],
    }


def market(value: str | None, ask: Any = "104", bid: Any = "88", **more: Any) -> dict[str, Any]:
    return {
        "productId": SHOE,
        "variantId": f"v{value}",
        "currencyCode": "USD",
        "lowestAskAmount": ask,
        "highestBidAmount": bid,
        "flexLowestAskAmount": "110",
    } | more


async def fetch(
    http: Scripted, sku: str = "DD1391-100", *sizes: str | None, listing: Listing | None = None
) -> Found:
    ask = Ask(sku=sku, sizes=sizes or ("10",), currency="USD", listing=listing)
    return await StockX(Options()).fetch(ask, http)


async def test_the_documented_answers_are_read() -> None:
    http = Scripted(
        search=example("stockx_catalog_search"),
        variants=example("stockx_product_variants"),
        market_data=example("stockx_product_market_data"),
    )
    found = await fetch(http, "DD1391-100", "10", "7", "UK 6", None)
    quote = quote_of(found, "10")
    assert (quote.lowest_ask, quote.highest_bid, quote.last_sale) == (Decimal(104), Decimal(88), None)
    assert (quote.currency, quote.observed_at) == ("USD", GRANTED_AT)
    assert quote.basis == {"ask": "standard", "flex_ask": "110", "currency": "USD"}
    refusals = {
        size: error for size, error in found.answers.items() if isinstance(error, errors.ProviderError)
    }
    assert {size: error.error_code for size, error in refusals.items()} == {
        "7": "size_not_offered",  # listed, but the example has no market data for it
        "UK 6": "ambiguous_size",
    }
    assert found.answers[None] is None
    assert found.listing is not None
    assert found.listing.product.gender == "men"
    assert found.listing.product.image_url is None
    assert found.listing.product.details["retail_price"] == "115"


async def test_both_paging_parameters_are_sent_and_country_never() -> None:
    http = Scripted(search=hits(product()), variants=[variant("10")], market_data=[market("10")])
    await fetch(http)
    assert [(endpoint, params) for endpoint, _, params in http.asked] == [
        ("search", {"query": "DD1391-100", "pageNumber": "1", "pageSize": "20"}),
        ("variants", {}),
        ("market_data", {"currencyCode": "USD"}),
    ]


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        ("104", Decimal(104)),
        (104, Decimal(104)),
        (None, None),
        ("0", None),
        (0, None),
        ("1500.50", Decimal("1500.50")),
    ],
)
async def test_an_amount_is_whole_units_and_nothing_is_none(ask: Any, expected: Decimal | None) -> None:
    http = Scripted(search=hits(product()), variants=[variant("10")], market_data=[market("10", ask)])
    assert quote_of(await fetch(http), "10").lowest_ask == expected


@pytest.mark.parametrize(
    "ask", ["-5", "99999999", "NaN", "ten", "", "1_0", "1e3", " 104", True, [], Decimal("Infinity")]
)
async def test_an_amount_that_cannot_be_a_price_refuses_its_size_and_no_other(ask: Any) -> None:
    http = Scripted(
        search=hits(product()),
        variants=[variant("10"), variant("11")],
        market_data=[market("10", ask), market("11")],
    )
    found = await fetch(http, "DD1391-100", "10", "11")
    assert isinstance(found.answers["10"], errors.BadPayload)
    assert [quote.size for quote in found.quotes] == ["11"]


async def test_another_currency_than_asked_for_is_never_stored() -> None:
    http = Scripted(
        search=hits(product()), variants=[variant("10")], market_data=[market("10", currencyCode="GBP")]
    )
    with pytest.raises(errors.BadPayload, match="asked for USD, got 'GBP'"):
        await fetch(http)


@pytest.mark.parametrize("value", [None, "", "One Size", "Single"])
async def test_a_single_size_item_is_told_in_each_of_its_forms(value: str | None) -> None:
    row = variant(value) | {"variantId": "only"}
    prices = [market("", variantId="only")]
    http = Scripted(search=hits(product()), variants=[row], market_data=prices)
    found = await fetch(http, "DD1391-100", None)
    assert quote_of(found, None).lowest_ask == 104


async def test_what_cannot_be_told_apart_is_left_out_and_loaded_no_more_than_once() -> None:
    rows = [variant("10"), variant("Odd Words"), variant("11"), variant("11") | {"variantId": "second"}]
    prices = [market("10"), market("Odd Words"), market("11"), market("", variantId="second")]
    http = Scripted(search=hits(product()), variants=rows, market_data=prices)
    stockx = StockX(Options())
    ask = Ask(sku="DD1391-100", sizes=("10", "11"), currency="USD")
    first = await stockx.fetch(ask, http)
    assert [quote.size for quote in first.quotes] == ["10"]
    again = await stockx.fetch(Ask(sku=ask.sku, sizes=("10",), currency="USD", listing=first.listing), http)
    assert [endpoint for endpoint, *_ in http.asked] == ["search", "variants", "market_data", "market_data"]
    assert again.listing is None


@pytest.mark.parametrize(
    "trouble", [errors.Transient("HTTP 500"), errors.NotGranted("budget", None), {"no": "list"}]
)
async def test_prices_stand_when_the_list_of_sizes_cannot_be_loaded_again(trouble: Any) -> None:
    listing = Listing(
        product=reading.product(product()),
        variants=reading.variants([variant("10", uk="9"), variant("12")], WHOSE),
    )
    asked = Ask(sku="DD1391-100", sizes=("10", "11", "UK 9", None), currency="USD", listing=listing)
    http = Scripted(
        market_data=[market("10"), market("11"), market("12")],
        variants=Each((trouble, [variant("10", uk="9"), variant("11"), variant("12")])),
    )
    stockx = StockX(Options())
    found = await stockx.fetch(asked, http)
    assert found.listing is None
    assert [quote.size for quote in found.quotes] == ["10", "12"]
    assert found.answers["10"] == "10"
    for size in ("11", "UK 9", None):  # which may be, or fit, the one that is new
        assert isinstance(
            found.answers[size], errors.BadPayload if isinstance(trouble, dict) else type(trouble)
        )
    again = await stockx.fetch(asked, http)
    assert again.answers == {"10": "10", "11": "11", "UK 9": "10", None: None}


async def test_a_429_to_the_list_of_sizes_is_told_to_the_lane() -> None:
    listing = Listing(product=reading.product(product()), variants=reading.variants([variant("10")], WHOSE))
    http = Scripted(market_data=[market("10"), market("11")], variants=errors.Throttled("HTTP 429"))
    with pytest.raises(errors.Throttled):
        await fetch(http, listing=listing)


@pytest.mark.parametrize("nothing", [[], errors.NotListed("HTTP 404: gone", http_status=404)])
async def test_a_rival_without_sizes_does_not_hide_the_shoe(nothing: Any) -> None:
    pair = hits(product(TWIN, title="Dunk"), product(SHOE))
    http = Scripted(search=pair, variants=Each((nothing, [variant("10")])), market_data=[market("10")])
    found = await fetch(http)
    assert found.listing is not None
    assert found.listing.product.id == SHOE


@pytest.mark.parametrize(
    "garbled",
    [
        errors.BadPayload("expected JSON, got text/html", code="content_type"),
        errors.Transient("HTTP 503"),
        {},
        None,
        [variant("10"), {"x": 1}],
    ],
)
@pytest.mark.parametrize("size", ["10", None])
async def test_a_rival_whose_sizes_cannot_be_read_leaves_the_field_to_nobody(
    garbled: Any, size: str | None
) -> None:
    pair = hits(product(SHOE), product(TWIN, title="Dunk (Extra Lace Set Only)"))
    http = Scripted(search=pair, variants=Each((garbled, [variant("10")])), market_data=[market("10")])
    with pytest.raises((errors.BadPayload, errors.Transient)):
        await fetch(http, "DD1391-100", size)


async def test_where_no_rival_has_sizes_that_is_a_broken_answer() -> None:
    pair = hits(product(SHOE), product(TWIN, title="Dunk (Extra Lace Set Only)"))
    with pytest.raises(errors.BadPayload, match="has any sizes"):
        await fetch(Scripted(search=pair, variants=[]), "DD1391-100", None)


@pytest.mark.parametrize(
    ("style", "listed"),
    [
        ("(White) DD1391-100", True),
        ("ZZ0000-000/(White) DD1391-100", True),
        ("DD1391-100 (White)", True),
        ("ZZ0000-000; DD1391-100", True),
        ("DD1391-100 & ZZ0000-000", True),
        ("DD1391 & 100", False),
        ("DD1391-100 S", False),
        ("DD1391-1000", False),
        (None, False),
    ],
)
async def test_a_style_code_is_told_from_labels_and_samples(style: str | None, listed: bool) -> None:
    http = Scripted(search=hits(product(style=style)), variants=[variant("10")], market_data=[market("10")])
    if listed:
        assert (await fetch(http)).answers == {"10": "10"}
    else:
        with pytest.raises(errors.NotListed):
            await fetch(http)


async def test_an_empty_market_is_not_told_as_no_asks() -> None:
    http = Scripted(search=hits(product()), variants=[variant("10")], market_data=[])
    found = await fetch(http, "DD1391-100", None, "10")
    assert all(isinstance(answer, errors.BadPayload) for answer in found.answers.values())


@pytest.mark.parametrize("value", ["CGC Pristine 10", "PSA 10 GEM MT", "M 10 / W 11.5", "US 10 (EU 44)"])
async def test_a_grade_or_size_that_cannot_be_read_is_no_single_size(value: str) -> None:
    http = Scripted(search=hits(product()), variants=[variant(value)], market_data=[market(value)])
    ask = Ask(sku="DD1391-100", sizes=(None,), currency="USD")
    found = await StockX(Options()).fetch(ask, http)
    assert isinstance(found.answers[None], errors.Unmatched)
    assert found.quotes == ()


@pytest.mark.parametrize("value", [None, ""])
async def test_a_variant_without_a_value_has_the_size_that_its_chart_calls_its_default(
    value: str | None,
) -> None:
    silent = variant("11") | {"variantValue": value}
    silent["sizeChart"]["defaultConversion"] = {"size": "11", "type": "us m"}
    http = Scripted(
        search=hits(product()),
        variants=[variant("10"), silent],
        market_data=[market("10"), market("11", "205")],
    )
    found = await fetch(http, "DD1391-100", "10", "11")
    assert quote_of(found, "11").lowest_ask == 205


@pytest.mark.parametrize(
    "odd", [{"currencyCode": "GBP"}, {"currencyCode": None}, {"lowestAskAmount": "206"}], ids=str
)
async def test_a_row_in_another_currency_or_that_contradicts_one_refuses_its_size_and_no_other(
    odd: dict[str, Any],
) -> None:
    rows = [market("10"), market("11", "205"), market("11", "205") | odd]
    if "currencyCode" in odd:
        del rows[1]
    http = Scripted(search=hits(product()), variants=[variant("10"), variant("11")], market_data=rows)
    found = await fetch(http, "DD1391-100", "10", "11")
    assert isinstance(found.answers["11"], errors.BadPayload)
    assert [(quote.size, quote.lowest_ask) for quote in found.quotes] == [("10", 104)]


async def test_a_variant_without_a_value_is_a_single_size() -> None:
    row = variant(None) | {"variantId": "only"}
    del row["variantValue"]
    http = Scripted(search=hits(product()), variants=[row], market_data=[market("", variantId="only")])
    assert quote_of(await fetch(http, "DD1391-100", None), None).lowest_ask == 104


async def test_a_product_id_must_be_a_uuid() -> None:
    http = Scripted()
    with pytest.raises(errors.NotListed, match="UUID"):
        await fetch(http, "id:nike-dunk-low")
    assert http.asked == []


@pytest.mark.parametrize("other", [TWIN, SHOE[:-1], "", 7, {}])
async def test_an_answer_about_another_product_than_was_asked_for_is_no_answer(other: Any) -> None:
    shoe, sizes, prices = product(), [variant("10")], [market("10")]
    listing = Listing(product=reading.product(shoe), variants=reading.variants(sizes, WHOSE))
    wrong_size, wrong_price = variant("10") | {"productId": other}, market("10", productId=other)
    with pytest.raises(errors.BadPayload):
        await fetch(Scripted(product=shoe | {"productId": other}), f"id:{SHOE}")
    with pytest.raises(errors.BadPayload, match=SHOE):
        await fetch(Scripted(search=hits(shoe), variants=[*sizes, wrong_size]))
    for cached in (None, listing):
        http = Scripted(search=hits(shoe), variants=sizes, market_data=[*prices, wrong_price])
        with pytest.raises(errors.BadPayload, match=SHOE):
            await fetch(http, listing=cached)


async def test_a_product_id_is_the_same_in_any_letters() -> None:
    mixed = "ABCDEF00-0000-4000-8000-00000000abcd"
    for given in (mixed.lower(), mixed.upper(), None):
        http = Scripted(
            product=product(mixed.upper()),
            variants=[variant("10") | {"productId": given}],
            market_data=[market("10", productId=given)],
        )
        assert (await fetch(http, f"id:{mixed.lower()}")).answers == {"10": "10"}


async def test_what_an_answer_says_is_told_in_one_line() -> None:
    for wrong in ({"currencyCode": "X\nY"}, {"productId": "X\nY"}):
        http = Scripted(search=hits(product()), variants=[variant("10")], market_data=[market("10", **wrong)])
        with pytest.raises(errors.BadPayload) as refused:
            await fetch(http)
        assert "\n" not in str(refused.value)
    for wrong in (product(title="X\nY"), product(title="X\x1b[2JY")):
        twins = Scripted(
            search=hits(wrong, wrong | {"productId": TWIN}), variants=[variant("10") | {"productId": None}]
        )
        with pytest.raises(errors.Unmatched) as tied:
            await fetch(twins)
        assert str(tied.value).isprintable()


async def test_a_product_is_found_by_its_id() -> None:
    http = Scripted(product=product(), variants=[variant("10")], market_data=[market("10")])
    assert (await fetch(http, f"id:{SHOE}")).answers == {"10": "10"}


@pytest.mark.parametrize(
    ("name", "titles", "outcome"),
    [
        ("pokémon box", ["Pokemon Box", "Pokemon Box Two"], 0),
        ("box pokemon", ["Pokemon Gold Box", "Pikachu"], 0),
        ("box pokemon", ["Pokemon Gold Box", "Pokemon Red Box"], "ambiguous_product"),
        ("box pokemon", ["Pokemon", "Box"], "unknown_sku"),
        ("pokemon box", ["Pokemon Box Sealed Case (10x)"], "ambiguous_product"),
        ("pokemon box", ["Pokemon Box Bundle", "Pokemon Box"], 1),
        ("same", ["Same", "Same"], "ambiguous_product"),
    ],
)
async def test_a_name_is_the_whole_title_or_the_only_title_with_all_its_words(
    name: str, titles: list[str], outcome: int | str
) -> None:
    listed = [product(str(UUID(int=place)), None, title) for place, title in enumerate(titles)]
    chosen = str(UUID(int=outcome)) if isinstance(outcome, int) else None
    http = Scripted(
        search=hits(*listed),
        variants=[variant(None) | {"variantId": "only", "productId": chosen}],
        market_data=[market("", variantId="only", productId=chosen)],
    )
    if isinstance(outcome, str):
        with pytest.raises(errors.ProviderError) as refused:
            await fetch(http, f"name:{name}", None)
        assert refused.value.error_code == outcome
    else:
        found = await fetch(http, f"name:{name}", None)
        assert found.listing is not None
        assert found.listing.product.name == titles[outcome]


@pytest.mark.parametrize("more", [{"hasNextPage": True}, {"hasNextPage": None, "pageSize": 1}])
async def test_the_only_title_with_all_the_words_counts_only_among_all_hits(more: dict[str, Any]) -> None:
    def found(title: str, **told: Any) -> Scripted:
        full = [product(str(UUID(int=100 + place)), None, "Pikachu") for place in range(19)]
        listed = hits(product(SHOE, None, title), *full) | told
        return Scripted(search=listed, variants=[variant(None)], market_data=[market(None)])

    with pytest.raises(errors.Unmatched, match=SHOE) as refused:
        await fetch(found("Pokemon Gold Box", **more), "name:pokemon box", None)
    assert refused.value.error_code == "ambiguous_product"
    assert (await fetch(found("Pokemon Gold Box"), "name:pokemon box", None)).answers == {None: None}
    assert (await fetch(found("Pokemon Box", **more), "name:pokemon box", None)).answers == {None: None}
    with pytest.raises(errors.NotListed):
        await fetch(found("Eevee", **more), "name:pokemon box", None)


@pytest.mark.parametrize(
    ("sku", "right", "size"),
    [("DD1391-100", {}, "10"), ("name:pokemon box", {"style": None, "title": "Pokemon Box"}, None)],
)
async def test_what_stands_behind_a_page_of_other_things_is_found(
    sku: str, right: dict[str, Any], size: str | None
) -> None:
    others = [product(str(UUID(int=100 + place)), "DD1391-101", "Pikachu") for place in range(20)]
    first, second = hits(*others) | {"hasNextPage": True}, hits(product(**right)) | {"pageNumber": 2}
    http = Scripted(search=Each((first, second)), variants=[variant(size)], market_data=[market(size)])
    assert (await fetch(http, sku, size)).answers == {size: size}
    pages = [params["pageNumber"] for endpoint, _, params in http.asked if endpoint == "search"]
    assert pages == ["1", "2"]


async def test_no_more_than_two_pages_are_searched_and_none_after_the_last() -> None:
    for page, pages in (
        (hits(product(style="DD1391-101")) | {"hasNextPage": True}, 2),
        (hits(product(style="DD1391-101")), 1),
        (hits() | {"hasNextPage": True}, 1),
    ):
        http = Scripted(search=page)
        with pytest.raises(errors.NotListed):
            await fetch(http)
        assert len(http.asked) == pages


async def test_a_product_that_a_search_gives_twice_is_one_product() -> None:
    http = Scripted(
        search=hits(product(), product(SHOE.upper())), variants=[variant("10")], market_data=[market("10")]
    )
    assert (await fetch(http)).answers == {"10": "10"}
    assert [endpoint for endpoint, _, _ in http.asked] == ["search", "variants", "market_data"]


@pytest.mark.parametrize("product_id", ["", None, 7, "X\nY"])
async def test_a_hit_without_an_id_is_a_broken_answer(product_id: Any) -> None:
    with pytest.raises(errors.BadPayload):
        await fetch(Scripted(search=hits(product(), product(product_id))))


class TwoOfOneCode(Scripted):
    """A shoe in 9 and 10, and what shares its code, in 9 and 13; each has prices of its own."""

    def __init__(self, title: str = "Dunk (Sample)", sizes: tuple[str | None, ...] = ("9", "13")) -> None:
        super().__init__()
        self._search = hits(product(TWIN, title=title), product(SHOE))
        self._sizes = {SHOE: ("9", "10"), TWIN: sizes}

    async def get(self, path: str, *args: Any, endpoint: str, **more: Any) -> Reply:
        self.asked.append((endpoint, path, {}))
        if endpoint == "search":
            return Reply(status=200, body=self._search, headers={}, granted_at=GRANTED_AT)
        one = SHOE if SHOE in path else TWIN
        known = [(size, {"productId": one, "variantId": f"{one}/{size}"}) for size in self._sizes[one]]
        body = [
            variant(size) | ids
            if endpoint == "variants"
            else market(size, "100" if one == SHOE else "900") | ids
            for size, ids in known
        ]
        return Reply(status=200, body=body, headers={}, granted_at=GRANTED_AT)


@pytest.mark.parametrize("order", list(permutations(("9", "10", "13"))))
async def test_which_product_a_size_means_depends_on_no_other_size(order: tuple[str, ...]) -> None:
    right = {"9": Decimal(100), "10": Decimal(100), "13": Decimal(900)}
    listing = None
    for size in order:  # one after the other, as they are cached
        found = await fetch(TwoOfOneCode(), "DD1391-100", size, listing=listing)
        assert {quote.size: quote.lowest_ask for quote in found.quotes}.items() <= right.items()
        assert quote_of(found, size).lowest_ask == right[size]
        listing = found.listing or listing
    together = await fetch(TwoOfOneCode(), "DD1391-100", *order)
    assert {size: quote_of(together, size).lowest_ask for size in order} == right
    assert len(together.quotes) == 3


async def test_among_rivals_the_wanted_size_counts_before_the_words_of_the_title() -> None:
    http = TwoOfOneCode()
    found = await fetch(http, "DD1391-100", "13")
    assert quote_of(found, "13").lowest_ask == 900
    assert found.listing is None  # for it is not what the code means in any size
    assert [(quote.size, quote.lowest_ask) for quote in found.quotes] == [("13", 900)]
    all_sizes = await fetch(TwoOfOneCode(), "DD1391-100", None)
    assert {quote.size: quote.lowest_ask for quote in all_sizes.quotes} == {"9": 100, "10": 100}


@pytest.mark.parametrize("sizes", [("9",), (None,), ("9", "10")])
async def test_what_has_no_size_of_its_own_beside_the_shoe_leaves_the_code_to_the_shoe(
    sizes: tuple[str | None, ...],
) -> None:
    for asked in ("9", "10", "13", None):
        found = await fetch(TwoOfOneCode(sizes=sizes), "DD1391-100", asked)
        assert found.listing is not None
        assert found.listing.product.id == SHOE
        assert {quote.lowest_ask for quote in found.quotes} == {Decimal(100)}


async def test_of_two_equal_products_only_the_sizes_that_one_of_them_has_are_told() -> None:
    found = await fetch(TwoOfOneCode(title="Dunk"), "DD1391-100", "9", "10", "13")
    assert isinstance(found.answers["9"], errors.Unmatched)
    assert found.answers["9"].error_code == "ambiguous_product"
    assert {quote.size: quote.lowest_ask for quote in found.quotes} == {"10": 100, "13": 900}
    with pytest.raises(errors.Unmatched, match=SHOE):
        await fetch(TwoOfOneCode(title="Dunk"), "DD1391-100", "9")


def rival(product_id: str, title: str, *rows: dict[str, Any]) -> Listing:
    whose = reading.product(product(product_id, title=title, brand="Unheard Of"))
    own = [row | {"productId": product_id, "variantId": f"{product_id}/{row['variantId']}"} for row in rows]
    return Listing(product=whose, variants=reading.variants(own, whose))


def test_a_size_that_only_the_chart_of_what_shares_the_code_tells_is_not_that_ones() -> None:
    shoe = rival(SHOE, "Dunk", variant("9"), variant("10"))
    sample = rival(TWIN, "Dunk (Sample)", variant("10", uk="UK 9"))
    alone = choosing.choose("DD1391-100", ["UK 9"], [shoe, sample])
    assert alone.settled is shoe
    assert [part.listing for part in alone.parts] == [shoe]
    more = rival(TWIN, "Dunk (Sample)", variant("10", uk="UK 9"), variant("13", uk="UK 12"))
    choice = choosing.choose("DD1391-100", ["UK 9", "UK 12"], [shoe, more])
    assert choice.settled is None
    assert [(part.listing, part.asked) for part in choice.parts] == [(more, ("UK 12",))]
    assert choice.refused["UK 9"].error_code == "ambiguous_product"


async def test_a_cached_product_that_is_nowhere_any_more_is_a_broken_mapping() -> None:
    listing = Listing(product=reading.product(product()), variants=reading.variants([variant("10")], WHOSE))
    gone = errors.NotListed("HTTP 404: no", http_status=404)
    with pytest.raises(errors.NotListed) as broken:
        await fetch(Scripted(market_data=gone, search=hits()), listing=listing)
    assert broken.value.error_code == "mapping_broken"


async def test_a_search_that_is_not_there_says_nothing_about_the_product() -> None:
    gone = errors.NotListed("HTTP 404: Not Found", http_status=404)
    with pytest.raises(errors.Transient, match="base_url"):
        await fetch(Scripted(search=gone))
    listing = Listing(product=reading.product(product()), variants=reading.variants([variant("10")], WHOSE))
    with pytest.raises(errors.Transient, match="base_url"):  # so a wrong base_url breaks no mapping either
        await fetch(Scripted(market_data=gone, search=gone), listing=listing)


async def test_a_size_without_a_market_is_refused_and_no_other() -> None:
    http = Scripted(
        search=hits(product()), variants=[variant("10"), variant("11")], market_data=[market("10")]
    )
    found = await fetch(http, "DD1391-100", "10", "11")
    assert quote_of(found, "10").lowest_ask == 104
    refusal = found.answers["11"]
    assert isinstance(refusal, errors.Unmatched)
    assert refusal.error_code == "size_not_offered"


@pytest.mark.parametrize(
    ("value", "default", "size"),
    [
        ("7", "us w", "7W"),
        ("US 7", "us w", "7W"),
        ("US10.0", "us m", "10"),
        (" 7 ", "us w", "7W"),
        ("7½", "us w", "7.5W"),
        ("7,5", "us w", "7.5W"),
        ("US 10", "uk", "10"),
        ("9", "uk", "UK 9"),
        ("42", "eu", "EU 42"),
        ("10", "us m", "10"),
        ("5Y", "us", "5Y"),
    ],
)
async def test_a_bare_number_is_of_the_system_that_the_variants_own_chart_names(
    value: str, default: str, size: str
) -> None:
    row = variant(value)
    row["sizeChart"]["defaultConversion"] = {"size": value, "type": default}
    http = Scripted(search=hits(product()), variants=[row], market_data=[market(value)])
    found = await fetch(http, "DD1391-100", size)
    assert found.answers == {size: size}
    if size != value:
        refusal = (await fetch(http, "DD1391-100", "7")).answers["7"]
        assert isinstance(refusal, errors.Unmatched)


@pytest.mark.parametrize("default", [None, "us", ""])
@pytest.mark.parametrize("gender", ["women", "kids", "child", "Toddler", "girls", "Grade School"])
async def test_a_bare_number_of_a_product_for_others_is_no_mens_size(
    gender: str, default: str | None
) -> None:
    rows = [variant("7.5"), variant("US 8"), variant("5Y")]
    for row in rows if default is not None else ():
        row["sizeChart"]["defaultConversion"] = {"size": row["variantValue"], "type": default}
    shoe = product(productAttributes={"gender": gender})
    prices = [market("7.5"), market("US 8"), market("5Y")]
    found = await fetch(
        Scripted(search=hits(shoe), variants=rows, market_data=prices), "DD1391-100", "7.5", "5Y"
    )
    assert isinstance(found.answers["7.5"], errors.Unmatched)
    assert [quote.size for quote in found.quotes] == ["5Y"]
    alone = Scripted(search=hits(shoe), variants=rows[:1], market_data=prices[:1])
    found = await fetch(alone, "DD1391-100", "7.5", None)
    assert found.quotes == ()
    assert all(isinstance(answer, errors.Unmatched) for answer in found.answers.values())


@pytest.mark.parametrize("system", ["jp", "au", "us c"])
async def test_a_bare_number_of_a_system_that_is_not_known_is_no_us_size(system: str) -> None:
    row = variant("9")
    row["sizeChart"]["defaultConversion"] = {"size": "9", "type": system}
    http = Scripted(
        search=hits(product()), variants=[row, variant("10")], market_data=[market("9"), market("10")]
    )
    found = await fetch(http, "DD1391-100", "9", "10")
    assert isinstance(found.answers["9"], errors.Unmatched)
    assert [quote.size for quote in found.quotes] == ["10"]


async def test_two_rows_of_one_variant_that_differ_are_no_price() -> None:
    http = Scripted(
        search=hits(product()), variants=[variant("10")], market_data=[market("10"), market("10", "55")]
    )
    with pytest.raises(errors.BadPayload, match="two rows"):
        await fetch(http)


def test_a_404_that_is_not_stockxs_own_says_nothing_about_the_product() -> None:
    for own in ({"statusCode": 404, "errorMessage": "Not found"}, {"message": "Not found"}):
        assert StockX.classify(404, {}, own) is None
    for other in (None, "Not Found", [], {}, {"detail": "Not Found"}, {"error": {"message": "x"}}):
        assert isinstance(StockX.classify(404, {}, other), errors.Transient)


def test_the_twelve_currencies_of_the_prose_are_taken_and_none_of_the_other_eighteen() -> None:
    stanza = {"base_url": "http://127.0.0.1/v2", "token_url": "http://127.0.0.1/token"}
    for currency in ["AUD", "CAD", "CHF", "EUR", "GBP", "HKD", "JPY", "KRW", "MXN", "NZD", "SGD", "USD"]:
        given = config.from_mapping({"providers": {"stockx": stanza | {"currency": currency}}}, KINDS)
        assert given.providers["stockx"].currency == currency
    for currency in ("BRL", "CNY", "XXX"):
        with pytest.raises(errors.ConfigError, match="currency"):
            config.from_mapping({"providers": {"stockx": stanza | {"currency": currency}}}, KINDS)


@pytest.mark.parametrize(
    ("kind", "category"),
    [("sneakers", "sneakers"), ("trading cards", "trading_cards"), ("handbags", "handbags")],
)
def test_the_kind_of_product_is_an_open_word(kind: str, category: str) -> None:
    assert reading.product(product(productType=kind)).category == category


def test_sizes_are_told_apart_in_any_order_and_with_gaps() -> None:
    rows = [variant("12"), variant("9.5"), variant("10"), variant("7W"), variant("9C"), variant("5Y")]
    assert [one.size for one in reading.variants(rows, WHOSE)] == ["12", "9.5", "10", "7W", "9C", "5Y"]
