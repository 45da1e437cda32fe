"""eBay: the plausibility band, sizes of other systems, and sold prices where the keyset may see them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ebay_kit import listing, results
from marketd import errors, providers
from marketd.models import Listing, Product, Quote, Variant
from marketd.provider import Ask, Found
from marketd.providers.ebay import EBay, Options
from provider_kit import GRANTED_AT, Each, Scripted, example, quote_of

ASKED = results(listing("100.00"))


async def fetch(
    http: Scripted, size: str | None = "10", sku: str = "DD1391-100", plugin: EBay | None = None, **more: Any
) -> Found:
    options = Options(**more.pop("options", {}))
    return await (plugin or EBay(options)).fetch(Ask(sku=sku, sizes=(size,), currency="USD", **more), http)


# --- plausible prices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("band", "filtered", "lowest", "listings"),
    [
        ({}, "price:[80.00..],priceCurrency:USD", "80.00", 3),
        ({"lowest": None}, "", "5.00", 5),
        ({"lowest": "0.5"}, "price:[100.00..],priceCurrency:USD", "100.00", 2),
        ({"lowest": None, "highest": "3"}, "price:[..600.00],priceCurrency:USD", "5.00", 4),
        ({"highest": "3"}, "price:[80.00..600.00],priceCurrency:USD", "80.00", 2),
    ],
)
async def test_the_band_bounds_prices_by_the_other_providers_median(
    band: dict[str, Any], filtered: str, lowest: str, listings: int
) -> None:
    amounts = ("5.00", "79.99", "80.00", "100.00", "600.01")
    http = Scripted(search=results(*(listing(amount) for amount in amounts)))
    quote = quote_of(await fetch(http, options={"band": band}, references={"10": Decimal(200)}), "10")
    assert (quote.lowest_ask, quote.basis["listings"]) == (Decimal(lowest), listings)
    assert http.asked[0][2]["filter"].partition("buyingOptions:{FIXED_PRICE}")[2].lstrip(",") == filtered


async def test_a_dearer_listing_than_the_band_allows_is_no_ask() -> None:
    http = Scripted(search=results(listing("600.01")))
    found = await fetch(http, options={"band": {"highest": 3}}, references={"10": Decimal(200)})
    assert quote_of(found, "10").lowest_ask is None


async def test_without_a_price_of_another_provider_there_is_no_band() -> None:
    http = Scripted(search=results(listing("5.00")))
    quote = quote_of(await fetch(http, options={"band": {"highest": 3}}), "10")
    assert (quote.lowest_ask, quote.basis["band"]) == (5, "none")
    assert "price:" not in http.asked[0][2]["filter"]


async def test_the_reference_of_another_size_is_none() -> None:
    http = Scripted(search=results(listing("5.00")))
    found = await fetch(http, references={"10.5": Decimal(200), None: Decimal(200)})
    assert quote_of(found, "10").basis["band"] == "none"


@pytest.mark.parametrize(
    ("amounts", "band", "lowest", "word"),
    [
        (("5.00", "95.00", "100.00", "110.00", "120.00"), {}, "95.00", "listings"),
        (("5.00", "95.00", "100.00", "110.00"), {}, "5.00", "none"),  # too few to tell
        (("5.00", "95.00", "100.00", "110.00", "120.00"), {"lowest": None}, "5.00", "none"),
        (("40.00", "95.00", "100.00", "110.00", "120.00"), {}, "40.00", "listings"),
        (("40.00", "95.00", "100.00", "110.00", "120.00"), {"lowest": "0.5"}, "95.00", "listings"),
    ],
)
async def test_without_a_reference_the_listings_own_median_tells_what_is_absurd(
    amounts: tuple[str, ...], band: dict[str, Any], lowest: str, word: str
) -> None:
    http = Scripted(search=results(*map(listing, amounts)))
    quote = quote_of(await fetch(http, options={"band": band}), "10")
    assert (quote.lowest_ask, quote.basis["band"]) == (Decimal(lowest), word)


@pytest.mark.parametrize("band", [{"lowest": 1}, {"lowest": -1}, {"highest": 1}, {"middle": 1}])
def test_a_band_that_leaves_nothing_is_refused(band: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options(**{"band": band})


# --- sizes of other systems --------------------------------------------------------------------------------


def shoe(gender: str, *sizes: str, brand: str = "Jordan", **charts: str) -> Listing:
    """What another provider lists: `charts` gives the UK size of a US one, underscores for dots."""
    uk = {us.replace("_", ".").removeprefix("us"): size for us, size in charts.items()}
    variants = tuple(
        Variant(id=size, size=size, chart={"uk": uk[size]} if size in uk else {}) for size in sizes
    )
    return Listing(product=Product(id="1", brand=brand, gender=gender), variants=variants)


async def test_a_uk_size_is_asked_for_by_the_chart_of_another_provider() -> None:
    http = Scripted(search=results(listing("100.00")))
    found = await fetch(http, "UK 9", elsewhere=shoe("men", "9", "10", us9="UK 8", us10="UK 9"))
    assert found.answers == {"UK 9": "10"}
    assert [quote.size for quote in found.quotes] == ["10"]
    assert http.asked[0][2]["aspect_filter"] == "categoryId:15709,US Shoe Size:{10}"


async def test_without_a_chart_the_makers_own_table_tells_the_us_size() -> None:
    http = Scripted(search=results(listing("100.00", "Nike Dunk DD1391-100 Women's Size 7.5")))
    found = await fetch(http, "UK 5", elsewhere=shoe("women", "7W", "7.5W"))
    assert found.answers == {"UK 5": "7.5W"}
    assert http.asked[0][2]["aspect_filter"] == "categoryId:95672,US Shoe Size:{7.5}"


@pytest.mark.parametrize(
    ("size", "elsewhere", "code"),
    [
        ("UK 9", None, "size_system"),
        ("UK 6", shoe("men", "6.5", "7", us6_5="UK 6", us7="UK 6 (EU 40)"), "ambiguous_size"),
        ("UK 6", shoe("men", "6.5", "7"), "ambiguous_size"),
        ("UK 9", shoe("men", "10", brand="Unheard Of"), "size_system"),
        ("UK 13", shoe("men", "10", us10="UK 9"), "size_system"),
        ("XL", shoe("men", "10"), "size_system"),
        ("XL", shoe("men", "XL"), "size_system"),
        ("UK 9", shoe("men", "UK 9"), "size_system"),
        ("10", shoe("women", "10W"), "size_system"),
    ],
)
async def test_a_size_that_no_chart_settles_is_refused_without_a_request(
    size: str, elsewhere: Listing | None, code: str
) -> None:
    http = Scripted()
    refusal = (await fetch(http, size, elsewhere=elsewhere)).answers[size]
    assert isinstance(refusal, errors.Unmatched)
    assert refusal.error_code == code
    assert http.asked == []


async def test_a_us_size_that_the_other_provider_does_not_trade_is_asked_for_all_the_same() -> None:
    found = await fetch(Scripted(search=ASKED), "10", elsewhere=shoe("men", "9", us9="UK 8"))
    assert found.answers == {"10": "10"}


async def test_two_names_of_one_size_cost_one_request() -> None:
    http = Scripted(search=ASKED)
    ask = Ask(
        sku="DD1391-100", sizes=("10", "UK 9"), currency="USD", elsewhere=shoe("men", "10", us10="UK 9")
    )
    found = await EBay(Options()).fetch(ask, http)
    assert found.answers == {"10": "10", "UK 9": "10"}
    assert len(found.quotes) == len(http.asked) == 1


# --- sold prices -------------------------------------------------------------------------------------------


def sale(price: str, day: int, **more: Any) -> dict[str, Any]:
    return {
        "title": "Nike Dunk DD1391-100 Men's Size 10",
        "lastSoldDate": f"2026-02-{day:02}T10:00:00.000Z",
        "lastSoldPrice": {"value": price, "currency": "USD"},
        "totalSoldQuantity": 1,
        "conditionId": "1000",
    } | more


def sold(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"total": len(rows)} | ({"itemSales": list(rows)} if rows else {})


async def with_sales(answer: Any, sku: str = "DD1391-100", size: str | None = "10") -> tuple[Quote, Scripted]:
    http = Scripted(search=ASKED, insights=answer)
    return quote_of(await fetch(http, size, sku, options={"insights": True}), size), http


async def test_sold_prices_are_asked_for_only_when_they_are_switched_on() -> None:
    http = Scripted(search=ASKED)
    quote = quote_of(await fetch(http), "10")
    assert [endpoint for endpoint, _, _ in http.asked] == ["search"]
    assert "insights" not in quote.basis


async def test_the_last_sale_is_the_latest_of_the_right_ones() -> None:
    quote, http = await with_sales(
        sold(
            sale("90.00", 3),
            sale("95.00", 20, totalSoldQuantity=4),
            sale("97.00", 12),
            sale("10.00", 27, title="Laces for Nike Dunk DD1391-100 Men's Size 10"),
            sale("11.00", 27, title="Nike Dunk DD1391-101 Men's Size 10"),
            sale("12.00", 27, title="Nike Dunk DD1391-100 Men's Size 9"),
            sale("13.00", 27, conditionId="3000"),
            sale("14.00", 27, itemGroupType="SELLER_DEFINED_VARIATIONS"),
            sale("15.00", 27, lastSoldPrice={"value": "15.00", "currency": "GBP"}),
        )
    )
    assert (quote.lowest_ask, quote.last_sale) == (100, 95)
    assert quote.last_sale_at == datetime(2026, 2, 20, 10, tzinfo=UTC)
    assert (quote.basis["insights"], quote.basis["sales_90d"]) == ("used", 6)
    endpoint, path, params = http.asked[1]
    assert (endpoint, path) == ("insights", "/buy/marketplace_insights/v1_beta/item_sales/search")
    assert params == {
        "q": "DD1391-100",
        "category_ids": "15709",
        "aspect_filter": "categoryId:15709,US Shoe Size:{10}",
        "filter": "conditionIds:{1000}",
        "limit": "200",
    }


async def test_either_half_of_a_joined_code_is_asked_for_by_a_space() -> None:
    _, http = await with_sales(sold(), "315122-111/CW2288-111")
    assert http.asked[-1][2]["q"] == "315122-111 CW2288-111"


async def test_sales_of_what_is_found_by_name_are_asked_for_by_all_its_words() -> None:
    titled = sale("95.00", 20, title="Nike Dunk Panda Men's Size 10")
    http = Scripted(search=results(listing("100.00", titled["title"])), insights=sold(titled))
    found = await fetch(http, "10", "name:nike dunk panda", options={"insights": True})
    assert http.asked[-1][2]["q"] == "nike,dunk,panda"  # a comma is AND there
    assert quote_of(found, "10").last_sale == 95
    by_id = Scripted(
        search=results(listing("100.00", epid="77")), insights=sold(sale("95.00", 20, epid="77"))
    )
    found = await fetch(by_id, "10", "id:77", options={"insights": True})
    assert (by_id.asked[-1][2]["epid"], "q" in by_id.asked[-1][2]) == ("77", False)
    assert quote_of(found, "10").last_sale == 95


async def test_the_documented_answer_of_sales_is_read() -> None:
    quote, _ = await with_sales(example("ebay_marketplace_insights_search"))
    assert (quote.last_sale, quote.basis["sales_90d"]) == (98, 1)


async def test_no_sale_is_an_answer_too() -> None:
    quote, _ = await with_sales(sold())
    assert (quote.lowest_ask, quote.last_sale, quote.basis["sales_90d"]) == (100, None, 0)


@pytest.mark.parametrize(
    ("trouble", "word"),
    [
        (errors.Unauthorized("no", code="forbidden", http_status=403), "refused"),
        (errors.Unauthorized("no", code="invalid_scope"), "refused"),
        (errors.Throttled("no", day_spent=True), "no_answer"),
        (errors.Transient("no"), "no_answer"),
        (errors.Rejected("no"), "no_answer"),
        (errors.NotGranted("budget", None), "no_answer"),
        ("nonsense", "no_answer"),
        ({"total": 1, "itemSales": [1]}, "no_answer"),
        (sold(sale("95.00", 20, lastSoldDate="soon")), "no_answer"),
        (sold(sale("95.00", 20, lastSoldDate="2026-02-20T10:00:00")), "no_answer"),
        (sold(sale("NaN", 20)), "no_answer"),
        (sold(sale("95.00", 20), sale("5.00", 20, lastSoldDate="2026-03-01T13:01:00Z")), "no_answer"),
        (sold(sale("95.00", 20), sale("5.00", 20, lastSoldDate="2099-02-20T10:00:00Z")), "no_answer"),
        (sold(sale("95.00", 20), sale("5.00", 20, lastSoldDate="0001-01-01T00:00:00Z")), "no_answer"),
        (sold(sale("0.01", 20)), "no_answer"),
    ],
)
async def test_trouble_with_sold_prices_never_costs_the_ask(trouble: Any, word: str) -> None:
    quote, _ = await with_sales(trouble)
    assert (quote.lowest_ask, quote.last_sale, quote.basis["insights"]) == (100, None, word)
    assert quote.sale_unknown == (word == "no_answer")


async def test_a_sale_may_be_an_hour_ahead_of_our_clock() -> None:
    quote, _ = await with_sales(
        sold(sale("90.00", 20), sale("95.00", 20, lastSoldDate="2026-03-01T12:59:00Z"))
    )
    assert (quote.last_sale, quote.basis["insights"]) == (95, "used")


async def test_where_no_category_is_known_no_sales_are_asked_for() -> None:
    http = Scripted(search=results(listing("100.00", "Bearbrick Mandalorian", leafCategoryIds=["158671"])))
    found = await fetch(http, None, "name:bearbrick mandalorian", options={"insights": True})
    assert quote_of(found, None).basis["insights"] == "no_category"
    assert len(http.asked) == 1


async def test_after_a_refusal_no_call_is_spent_on_sold_prices_for_a_day() -> None:
    class Dated(Scripted):
        at = GRANTED_AT

        async def get(self, path: str, params: Any = None, **how: Any) -> Any:
            reply = await super().get(path, params, **how)
            return type(reply)(status=200, body=reply.body, headers={}, granted_at=self.at)

    plugin = EBay(Options(insights=True))
    http = Dated(
        search=ASKED, insights=Each((errors.Unauthorized("no", http_status=403), sold(sale("95", 1))))
    )
    words = []
    for hours in (0, 1, 23, 25):
        http.at = GRANTED_AT + timedelta(hours=hours)
        quote = quote_of(await fetch(http, plugin=plugin), "10")
        assert quote.lowest_ask == 100
        words.append(quote.basis["insights"])
    assert words == ["refused", "refused", "refused", "used"]
    assert [endpoint for endpoint, _, _ in http.asked].count("insights") == 2


def test_the_extra_scope_is_in_the_token_only_when_it_is_wanted(tmp_path: Path) -> None:
    kind = providers.discover()["ebay"]
    keys = kind.credentials_type(**{"client_id": "c", "client_secret": "s"})

    def auth(**options: Any) -> Any:
        plugin = kind(kind.options_type(**options))
        return plugin.authorize(keys, token_url="https://x.test/token", token_file=tmp_path / "t")

    assert type(auth()).__name__ == "MintedToken"
    assert type(auth(insights=True)).__name__ == "WidestToken"
