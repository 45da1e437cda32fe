"""The sandbox behaves as eBay does: tokens by Basic auth, searches full of traps, a day that ends in California."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from marketd.sandbox import Limits, Sandbox

SCOPE = "https://api.ebay.com/oauth/api_scope"
GOOD = {
    "q": "DD1391-100",
    "category_ids": "15709",
    "aspect_filter": "categoryId:15709,US Shoe Size:{10}",
    "filter": "conditionIds:{1000},buyingOptions:{FIXED_PRICE}",
    "sort": "price",
    "limit": "50",
}


class Client:
    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox, self.session = sandbox, session
        self.token = ""

    async def mint(self, scope: str | None = SCOPE, secret: str | None = None) -> tuple[int, Any]:
        own = self.sandbox.credentials["ebay"]
        form = {"grant_type": "client_credentials"} | ({} if scope is None else {"scope": scope})
        pair = f"{own['client_id']}:{secret or own['client_secret']}"
        basic = f"Basic {base64.b64encode(pair.encode()).decode()}"
        url = f"{self.sandbox.url}/ebay/identity/v1/oauth2/token"
        async with self.session.post(url, data=form, headers={"Authorization": basic}) as answer:
            body = await answer.json()
            self.token = body.get("access_token", "")
            return answer.status, body

    async def get(
        self, path: str = "/buy/browse/v1/item_summary/search", market: str = "EBAY_US", **query: str
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.token}", "X-EBAY-C-MARKETPLACE-ID": market}
        url = f"{self.sandbox.url}/ebay{path}"
        async with self.session.get(url, params=query, headers=headers) as answer:
            return answer.status, await answer.json() if answer.status != 204 else None

    async def titles(self, **query: str) -> list[str]:
        _, body = await self.get(**query)
        return [row["title"] for row in body.get("itemSummaries", [])]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Sandbox(limits={"*": None}) as sandbox, aiohttp.ClientSession() as session:
        client = Client(sandbox, session)
        await client.mint()
        yield client


def is_honest(row: dict[str, Any], code: str, worn: tuple[str, ...]) -> bool:
    """What a careful reader makes of a hit."""
    title = row["title"]
    plain = title.replace("-", "").replace(" ", "")
    return (
        code in plain
        and "itemGroupType" not in row
        and row.get("price", {}).get("currency") == "USD"
        and any(word in title for word in worn)
        and not any(word in title for word in ("Laces", "BOX ONLY", "Keychain", " like "))
    )


async def test_a_token_lasts_two_hours_and_opens_the_search(client: Client) -> None:
    status, body = await client.mint()
    assert (status, body["expires_in"], body["token_type"]) == (200, 7200, "Application Access Token")
    assert (await client.get(q="DD1391-100"))[0] == 200


async def test_token_requests_are_refused_with_the_reason(client: Client) -> None:
    assert (await client.mint(secret="wrong"))[1]["error"] == "invalid_client"
    assert (await client.mint(scope=f"{SCOPE}/buy.marketplace.insights"))[1]["error"] == "invalid_scope"


async def test_a_token_without_scope_is_minted_and_good_for_nothing(client: Client) -> None:
    assert (await client.mint(scope=None))[0] == 200
    status, body = await client.get(q="x")
    assert (status, body["errors"][0]["errorId"]) == (403, 1100)


async def test_an_expired_token_is_error_1001(client: Client) -> None:
    client.sandbox.expire_tokens("ebay")
    status, body = await client.get(q="x")
    assert (status, body["errors"][0]["errorId"], body["errors"][0]["domain"]) == (401, 1001, "OAuth")


async def test_a_thousand_mints_a_day_are_enough() -> None:
    async with Sandbox() as sandbox, aiohttp.ClientSession() as session:
        client = Client(sandbox, session)
        sandbox.spend("ebay", 999, meter="mints")
        assert [(await client.mint())[0] for _ in range(2)] == [200, 429]


async def test_the_day_ends_at_midnight_in_california() -> None:
    now = [datetime(2026, 7, 2, 6, 59, tzinfo=UTC).timestamp()]  # summer: midnight is 07:00 UTC
    async with Sandbox(wall=lambda: now[0]) as sandbox, aiohttp.ClientSession() as session:
        client = Client(sandbox, session)
        await client.mint()
        sandbox.spend("ebay", 4_999)
        assert (await client.get(q="x"))[0] == 200
        status, body = await client.get(q="x")
        assert (status, body["errors"][0]["errorId"]) == (429, 2001)
        _, report = await client.get("/developer/analytics/v1_beta/rate_limit/", api_name="Browse")
        rate = report["rateLimits"][0]["resources"][0]["rates"][0]
        assert (rate["remaining"], rate["reset"]) == (0, "2026-07-02T07:00:00.000Z")
        now[0] += 120
        assert (await client.get(q="x"))[0] == 200


async def test_the_report_on_limits_is_empty_for_other_apis(client: Client) -> None:
    assert await client.get("/developer/analytics/v1_beta/rate_limit/", api_name="Feed") == (204, None)


async def test_a_day_without_limit_is_never_reported_as_spent() -> None:
    async with Sandbox(limits={"ebay": None}) as sandbox, aiohttp.ClientSession() as session:
        client = Client(sandbox, session)
        await client.mint()
        sandbox.spend("ebay", 6_000)
        _, report = await client.get("/developer/analytics/v1_beta/rate_limit/", api_name="Browse")
        [rate] = report["rateLimits"][0]["resources"][0]["rates"]
        assert rate["remaining"] > 0
        assert rate["count"] + rate["remaining"] == rate["limit"]


async def test_a_day_can_be_shortened() -> None:
    now = [1_000_000_030.0]
    limits = {"ebay": Limits(per_day=1, day_s=60)}
    async with Sandbox(limits=limits, wall=lambda: now[0]) as sandbox, aiohttp.ClientSession() as session:
        client = Client(sandbox, session)
        await client.mint()
        first, second = await client.get(q="x"), await client.get(q="x")
        now[0] += 60
        third = await client.get(q="x")
        assert [first[0], second[0], third[0]] == [200, 429, 200]


async def test_right_hits_hold_the_truth_with_and_without_shipping(client: Client) -> None:
    _, body = await client.get(**GOOD)
    rows = [row for row in body["itemSummaries"] if is_honest(row, "DD1391100", ("Size 10", "Sz 10"))]
    alone = [Decimal(row["price"]["value"]) for row in rows]
    totals = [
        Decimal(row["price"]["value"]) + Decimal(row["shippingOptions"][0]["shippingCost"]["value"])
        for row in rows
        if "shippingCost" in row.get("shippingOptions", [{}])[0]
    ]
    truth = client.sandbox.truth
    assert truth("ebay", "DD1391-100", "10") == (min(totals), None, None)
    assert truth("ebay", "DD1391-100", "10", shipping=False) == (min(alone), None, None)
    assert min(alone) < min(totals)


async def test_the_cheapest_hits_are_traps(client: Client) -> None:
    _, body = await client.get(**GOOD)
    rows = body["itemSummaries"]
    ask = client.sandbox.truth("ebay", "DD1391-100", "10").ask
    assert ask
    cheap = [row for row in rows if Decimal(row["price"]["value"]) < ask]
    titles = " ".join(row["title"] for row in cheap)
    for trap in (
        "Laces",
        "BOX ONLY",
        "Keychain",
        "DD1391-101",
        "All Sizes",
        "Sizes 4-16",
        " like ",
        "17.5 US",
    ):
        assert trap in titles
    assert {row["price"]["currency"] for row in cheap} == {"USD", "GBP"}
    assert {row["listingMarketplaceId"] for row in cheap} == {"EBAY_US", "EBAY_GB"}
    assert any("itemGroupType" in row for row in cheap)
    assert any("Size 10" not in row["title"] and "Men's Size" in row["title"] for row in cheap)
    assert any("DD1391" not in row["title"] for row in rows)


async def test_auctions_are_shown_on_demand_and_have_no_price(client: Client) -> None:
    plain = await client.titles(q="DD1391-100", limit="200")
    _, body = await client.get(q="DD1391-100", filter="buyingOptions:{AUCTION}", limit="200")
    rows = body["itemSummaries"]
    assert all("price" not in row and row["currentBidPrice"]["value"] for row in rows)
    assert not {row["title"] for row in rows} & set(plain)


async def test_shipping_is_known_free_calculated_or_missing(client: Client) -> None:
    _, body = await client.get(**GOOD)
    kinds = set()
    for row in body["itemSummaries"]:
        option = row.get("shippingOptions", [None])[0]
        kinds.add("missing" if option is None else option.get("shippingCost", {}).get("value", "unknown"))
    assert {"missing", "unknown", "0.00"} < kinds


async def test_condition_ids_filter_exactly_and_condition_names_loosely(client: Client) -> None:
    async def conditions(text: str) -> set[str]:
        _, body = await client.get(q="DD1391-100", limit="200", filter=text)
        return {row["conditionId"] for row in body["itemSummaries"]}

    assert await conditions("conditionIds:{1000}") == {"1000"}
    assert await conditions("conditions:{NEW}") == {"1000", "1500", "1750"}
    assert "3000" in await conditions("")


async def test_sorting_by_price_adds_shipping(client: Client) -> None:
    _, body = await client.get(**GOOD)
    totals = [
        Decimal(row["price"]["value"])
        + Decimal(row.get("shippingOptions", [{}])[0].get("shippingCost", {}).get("value", "0"))
        for row in body["itemSummaries"]
    ]
    assert totals == sorted(totals)


async def test_the_size_aspect_works_only_with_its_category(client: Client) -> None:
    aspects = GOOD["aspect_filter"]
    narrow = await client.titles(q="DD1391-100", category_ids="15709", aspect_filter=aspects, limit="200")
    wide = await client.titles(q="DD1391-100", aspect_filter=aspects, limit="200")
    other = await client.titles(q="DD1391-100", category_ids="15709", aspect_filter="US Shoe Size:{10}")
    assert 0 < len(narrow) < len(wide)
    assert len(other) == 50
    assert await client.titles(q="DD1391-100", category_ids="95672") == []


async def test_filters_on_price_and_place_work_and_lists_of_places_do_nothing(client: Client) -> None:
    async def prices(text: str) -> list[dict[str, Any]]:
        _, body = await client.get(**(GOOD | {"filter": text}))
        return [row["price"] | row["itemLocation"] for row in body.get("itemSummaries", [])]

    band = await prices("price:[50..120],priceCurrency:USD")
    assert band
    assert all(50 <= Decimal(row["value"]) <= 120 for row in band)
    assert {row["country"] for row in await prices("itemLocationCountry:US")} == {"US"}
    assert {row["country"] for row in await prices("itemLocationCountry:{GB|US}")} == {"US", "GB"}
    free = await prices("maxDeliveryCost:0")
    assert 0 < len(free) < len(await prices(""))


@pytest.mark.parametrize(
    ("query", "error_id"),
    [
        ({"filter": "soldItemsOnly:true"}, 12002),
        ({"filter": "price:[1..2]"}, 12012),
        ({"sort": "cheapest"}, 12008),
        ({"category_ids": "shoes"}, 12009),
        ({"category_ids": "15709", "aspect_filter": "US Shoe Size:{10}"}, 12017),
        ({"category_ids": "15709", "aspect_filter": "categoryId:15709,US Shoe Size:10"}, 12018),
    ],
)
async def test_what_is_ignored_is_a_warning_in_a_200(
    client: Client, query: dict[str, str], error_id: int
) -> None:
    status, body = await client.get(q="DD1391-100", **query)
    assert status == 200
    assert [warning["errorId"] for warning in body["warnings"]] == [error_id]
    assert body["itemSummaries"]
    client.sandbox.fault("ebay", "no_warnings")
    assert "warnings" not in (await client.get(q="DD1391-100", **query))[1]


@pytest.mark.parametrize(
    ("query", "error_id"),
    [
        ({}, 12001),
        ({"q": "x", "limit": "0"}, 12006),
        ({"q": "x", "limit": "many"}, 12007),
        ({"q": "x", "offset": "-1"}, 12004),
        ({"q": "x", "offset": "y"}, 12005),
        ({"q": "x", "limit": "50", "offset": "20"}, 12515),
        ({"q": "x", "offset": "10000"}, 12029),
        ({"q": "x", "filter": "qualifiedPrograms:{AUTHENTICITY_GUARANTEE}"}, 12033),
    ],
)
async def test_what_cannot_be_understood_is_a_bad_request(
    client: Client, query: dict[str, str], error_id: int
) -> None:
    status, body = await client.get(**query)
    assert (status, body["errors"][0]["errorId"]) == (400, error_id)


async def test_no_hit_leaves_the_list_out(client: Client) -> None:
    _, body = await client.get(q="xyznotaproduct")
    assert body["total"] == 0
    assert "itemSummaries" not in body


async def test_pages_are_followed_by_next(client: Client) -> None:
    _, body = await client.get(q="DD1391-100", limit="100", sort="price")
    seen = [row["itemId"] for row in body["itemSummaries"]]
    headers = {"Authorization": f"Bearer {client.token}"}
    while "next" in body:
        async with client.session.get(body["next"], headers=headers) as answer:
            body = await answer.json()
        seen += [row["itemId"] for row in body["itemSummaries"]]
    assert len(seen) == len(set(seen)) == body["total"]


async def test_an_unknown_marketplace_becomes_the_american_one(client: Client) -> None:
    _, strange = await client.get(market="EBAY_MARS", **GOOD)
    _, usual = await client.get(market="EBAY_US", **GOOD)
    assert strange == usual
    _, british = await client.get(
        market="EBAY_GB", **(GOOD | {"aspect_filter": "categoryId:15709,UK Shoe Size:{9}"})
    )
    assert {row["price"]["currency"] for row in british["itemSummaries"]} == {"GBP", "USD"}
    assert client.sandbox.truth("ebay", "DD1391-100", "10", "GBP").ask


async def test_an_item_by_itself_tells_size_and_code(client: Client) -> None:
    _, body = await client.get(**GOOD)
    row = next(row for row in body["itemSummaries"] if "Keychain" not in row["title"])
    _, item = await client.get(f"/buy/browse/v1/item/{row['itemId']}")
    assert (item["itemId"], item["size"], item["mpn"]) == (row["itemId"], "10", "DD1391-100")
    assert item["price"] == row["price"]
    status, missing = await client.get("/buy/browse/v1/item/v1|999|0")
    assert (status, missing["errors"][0]["errorId"]) == (404, 11001)
    assert (await client.get("/buy/browse/v1/item/", item_ids=row["itemId"]))[0] == 403


async def test_a_group_has_its_own_price_for_every_size(client: Client) -> None:
    _, body = await client.get(**GOOD)
    group = next(row for row in body["itemSummaries"] if "itemGroupType" in row)
    _, items = await client.get(
        "/buy/browse/v1/item/get_items_by_item_group", item_group_id=group["legacyItemId"]
    )
    ten = next(item for item in items["items"] if item["size"] == "10")
    assert Decimal(ten["price"]["value"]) > Decimal(group["price"]["value"])
    assert len(items["items"]) == len(client.sandbox.world.find("DD1391-100").sizes)


async def test_graded_cards_are_surrounded_by_lower_grades_and_raw_ones(client: Client) -> None:
    card = "Auston Matthews 2016 Upper Deck Series 1 Young Guns Rookie #201"
    query = {"q": f"{card} PSA 10", "category_ids": "261328", "sort": "price"}
    _, body = await client.get(filter="conditionIds:{2750}", **query)
    right = [row for row in body["itemSummaries"] if "PSA 10" in row["title"]]
    known = [row for row in right if "shippingCost" in row.get("shippingOptions", [{}])[0]]
    totals = [
        Decimal(row["price"]["value"]) + Decimal(row["shippingOptions"][0]["shippingCost"]["value"])
        for row in known
        if row["price"]["currency"] == "USD" and "BOX ONLY" not in row["title"]
    ]
    assert client.sandbox.truth("ebay", card, "PSA 10").ask == min(totals)
    assert any("PSA 4" in row["title"] for row in body["itemSummaries"])
    _, raw = await client.get(filter="conditionIds:{4000}", **query)
    assert raw["itemSummaries"]


async def test_sold_prices_need_the_limited_scope(client: Client) -> None:
    path = "/buy/marketplace_insights/v1_beta/item_sales/search"
    assert (await client.get(path, q="DD1391-100", category_ids="15709"))[0] == 403
    client.sandbox.grant_insights()
    await client.mint(scope=f"{SCOPE} {SCOPE}/buy.marketplace.insights")
    _, body = await client.get(path, q="DD1391-100", category_ids="15709")
    assert body["itemSales"][0]["lastSoldPrice"]["currency"] == "USD"


async def test_some_sizes_have_traps_only(client: Client) -> None:
    bare = [
        (product.key, size)
        for product in client.sandbox.world
        if product.shelf and product.shelf.sized
        for size in product.sizes
        if client.sandbox.truth("ebay", product.key, size).ask is None
    ]
    assert bare
