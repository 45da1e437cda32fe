"""The sandbox behaves as Alias does: cents in strings, mixed unordered rows, enums in two spellings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from marketd.sandbox import Limits, Sandbox

NEW, GOOD = "PRODUCT_CONDITION_NEW", "PACKAGING_CONDITION_GOOD_CONDITION"
PANDA = "dunk-low-black-white-dd1391-100"
ONE = {"catalog_id": PANDA, "size": "10", "product_condition": NEW, "packaging_condition": GOOD}


class Client:
    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox, self.session = sandbox, session
        self.token = sandbox.credentials["alias"]["token"]

    async def get(self, path: str, **query: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        url = f"{self.sandbox.url}/alias/api/v1{path}"
        async with self.session.get(url, params=query, headers=headers) as answer:
            assert answer.headers["x-request-id"]
            return answer.status, await answer.json()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Sandbox(limits={"*": None}) as sandbox, aiohttp.ClientSession() as session:
        yield Client(sandbox, session)


async def new_pairs(client: Client, catalog_id: str, **query: str) -> dict[float, dict[str, str]]:
    """Amounts of new pairs in a good box, by size."""
    _, body = await client.get(f"/pricing_insights/availabilities/{catalog_id}", **query)
    return {
        row["size"]: row["availability"]
        for row in body["variants"]
        if (row["product_condition"], row["packaging_condition"]) == (NEW, GOOD)
    }


@pytest.mark.parametrize("token", ["", "another"])
async def test_without_the_personal_access_token_nothing_is_told(client: Client, token: str) -> None:
    client.token = token
    assert await client.get("/test") == (401, {"code": 16, "message": "unauthenticated", "details": []})


async def test_the_health_check_answers_ok(client: Client) -> None:
    assert await client.get("/test") == (200, {"ok": True})


@pytest.mark.parametrize("code", ["DD1391-100", "DD1391 100", "CP9366", "1116109-CHE", "IB4171-100"])
async def test_a_search_finds_the_code_first_with_dash_or_space(client: Client, code: str) -> None:
    _, body = await client.get("/catalog", query=code, limit=1)
    assert body["catalog_items"][0]["sku"] == code.replace("-", " ")
    assert body["has_more"]


async def test_a_joined_code_finds_nothing_but_its_half_does(client: Client) -> None:
    _, body = await client.get("/catalog", query="315122-111/CW2288-111", limit=5)
    assert body == {"catalog_items": [], "next_pagination_token": "", "has_more": False}
    _, body = await client.get("/catalog", query="CW2288-111", limit=5)
    assert body["catalog_items"][0]["sku"] == "CW2288 111"


async def test_an_unknown_code_finds_similar_ones_only(client: Client) -> None:
    _, body = await client.get("/catalog", query="DD1391-199")
    assert body["catalog_items"]
    assert "DD1391 199" not in [item["sku"] for item in body["catalog_items"]]


async def test_pages_follow_the_token(client: Client) -> None:
    _, whole = await client.get("/catalog", query="Jordan 4 Retro", limit=100)
    token, ids = "", []
    while True:
        _, page = await client.get("/catalog", query="Jordan 4 Retro", limit=2, pagination_token=token)
        ids += [item["catalog_id"] for item in page["catalog_items"]]
        token = page["next_pagination_token"]
        if not page["has_more"]:
            break
    assert ids == [item["catalog_id"] for item in whole["catalog_items"]]
    assert (await client.get("/catalog", query="x", pagination_token="%%"))[0] == 400


async def test_women_and_youth_sizes_are_bare_numbers(client: Client) -> None:
    for code, gender, size in (("DD1503-103", "women", 7.5), ("IB4171-100", "youth", 5)):
        _, body = await client.get("/catalog", query=code)
        item = body["catalog_items"][0]
        assert item["gender"] == gender
        assert {"display_name": str(size), "value": size, "us_size_equivalent": size} in item["allowed_sizes"]
        assert size in await new_pairs(client, item["catalog_id"])


async def test_rows_are_mixed_unordered_and_hold_junk_sizes(client: Client) -> None:
    _, body = await client.get(f"/pricing_insights/availabilities/{PANDA}")
    sizes = [row["size"] for row in body["variants"]]
    assert {0, 40} <= set(sizes)
    assert sizes != sorted(sizes)
    assert len({row["product_condition"] for row in body["variants"]}) == 3
    assert not any("consigned" in row for row in body["variants"])
    values = [value for row in body["variants"] for value in row["availability"].values()]
    assert all(isinstance(value, str) and value.isdigit() for value in values)
    assert "0" in values


async def test_consigned_is_told_only_when_asked(client: Client) -> None:
    _, body = await client.get(f"/pricing_insights/availabilities/{PANDA}", consigned="false", region_id="1")
    assert {row["consigned"] for row in body["variants"]} == {False}


async def test_new_pairs_match_the_truth_in_every_view(client: Client) -> None:
    for query, basis in (
        ({}, {}),
        ({"region_id": ""}, {}),
        ({"region_id": "1"}, {"region": "1"}),
        ({"region_id": "3", "consigned": "true"}, {"region": "3", "consigned": True}),
    ):
        rows = await new_pairs(client, PANDA, **query)
        for size in client.sandbox.world.find(PANDA).sizes:
            assert size
            truth = client.sandbox.truth("alias", "DD1391-100", size, **basis)
            row = rows[float(size)]
            told = tuple(
                Decimal(row[key]) / 100 if row[key] != "0" else None
                for key in (
                    "lowest_listing_price_cents",
                    "highest_offer_price_cents",
                    "last_sold_listing_price_cents",
                )
            )
            assert told == truth


async def test_the_global_view_is_cheaper_than_a_region_and_books_may_cross(client: Client) -> None:
    crossed, cheaper = 0, 0
    for product in client.sandbox.world:
        for size in product.sizes if product.alias_id else ():
            wide = client.sandbox.truth("alias", product.alias_id or "", size)
            narrow = client.sandbox.truth("alias", product.alias_id or "", size, region="1")
            crossed += bool(wide.ask and wide.bid and wide.bid > wide.ask)
            cheaper += bool(wide.ask and narrow.ask and wide.ask < narrow.ask)
            assert not wide.ask or not narrow.ask or wide.ask <= narrow.ask
    assert crossed
    assert cheaper


async def test_one_size_needs_size_and_both_conditions_in_either_spelling(client: Client) -> None:
    by_name = await client.get("/pricing_insights/availability", **ONE)
    by_number = await client.get(
        "/pricing_insights/availability", **(ONE | {"product_condition": "1", "packaging_condition": "1"})
    )
    assert by_name == by_number
    assert by_name[1]["availability"] == (await new_pairs(client, PANDA))[10]
    for missing in ONE:
        query = {name: value for name, value in ONE.items() if name != missing}
        status, body = await client.get("/pricing_insights/availability", **query)
        assert (status, body["code"]) == (400, 3)
    for invalid in ("0", "PRODUCT_CONDITION_INVALID", "9"):
        assert (await client.get("/pricing_insights/availability", **(ONE | {"product_condition": invalid})))[
            0
        ] == 400


async def test_recent_sales_need_a_size_and_start_with_the_last_sale(client: Client) -> None:
    status, body = await client.get("/pricing_insights/recent_sales", catalog_id=PANDA)
    missing = {"code": 3, "message": "Missing parameter: input.Size", "details": []}
    assert (status, body) == (400, missing)
    _, body = await client.get("/pricing_insights/recent_sales", limit=3, **ONE)
    sales = body["recent_sales"]
    assert Decimal(sales[0]["price_cents"]) / 100 == client.sandbox.truth("alias", PANDA, "10").last_sale
    assert [sale["purchased_at"] for sale in sales] == sorted(
        (s["purchased_at"] for s in sales), reverse=True
    )
    assert (await client.get("/pricing_insights/recent_sales", **(ONE | {"limit": "201"})))[0] == 400


async def test_the_highest_offer_leads_the_histogram(client: Client) -> None:
    _, body = await client.get("/pricing_insights/offer_histogram", **ONE)
    bins = body["offer_histogram"]["bins"]
    assert Decimal(bins[0]["offer_price_cents"]) / 100 == client.sandbox.truth("alias", PANDA, "10").bid


@pytest.mark.parametrize("path", ["/catalog/unknown", "/pricing_insights/availabilities/unknown", "/regions"])
async def test_what_does_not_exist_is_code_5(client: Client, path: str) -> None:
    status, body = await client.get(path)
    assert (status, body["code"]) == (404, 5)


async def test_cards_are_not_carried(client: Client) -> None:
    _, body = await client.get("/catalog", query="Pokemon TCG Prismatic Evolutions Elite Trainer Box")
    assert body["catalog_items"] == []
    with pytest.raises(LookupError):
        client.sandbox.truth("alias", "pop-mart-labubu-time-to-chill-vinyl-plush-doll")
    with pytest.raises(LookupError):
        client.sandbox.truth("alias", "DD1391-100", "10", "GBP")


async def test_the_hidden_limit_can_be_set_and_passes_with_its_window() -> None:
    limits = {"alias": Limits(per_window=2, window_s=60, tolerance_s=0)}
    async with Sandbox(limits=limits) as sandbox, aiohttp.ClientSession() as session:
        client = Client(sandbox, session)
        answers = [await client.get("/test") for _ in range(3)]
        assert [status for status, _ in answers] == [200, 200, 429]
        assert answers[2][1]["code"] == 8
        sandbox.set_limits("alias", per_window=3)
        assert (await client.get("/test"))[0] == 200


async def test_a_retired_item_is_found_under_a_new_id(client: Client) -> None:
    new = client.sandbox.retire("DD1391-100", "alias")
    assert (await client.get(f"/pricing_insights/availabilities/{PANDA}"))[0] == 404
    _, body = await client.get("/catalog", query="DD1391-100", limit=1)
    assert body["catalog_items"][0]["catalog_id"] == new
    assert 10 in await new_pairs(client, new)
