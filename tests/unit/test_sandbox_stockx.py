"""The sandbox behaves as StockX does: both headers, tokens, limits, traps of the search, amounts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from marketd.sandbox import Limits, Sandbox

PANDA = "5e6a1e57-1c7d-435a-82bd-5666a13560fe"


class Client:
    """A caller with a fresh token."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox, self.session = sandbox, session
        self.secrets = sandbox.credentials["stockx"]
        self.token = ""

    async def mint(self, **changes: str) -> tuple[int, Any]:
        form = {
            "grant_type": "refresh_token",
            "client_id": self.secrets["client_id"],
            "client_secret": self.secrets["client_secret"],
            "audience": "gateway.stockx.com",
            "refresh_token": self.secrets["refresh_token"],
        } | changes
        async with self.session.post(f"{self.sandbox.url}/stockx/oauth/token", data=form) as answer:
            body = await answer.json()
            self.token = body.get("access_token", self.token)
            return answer.status, body

    async def get(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> tuple[int, Any]:
        own = {"x-api-key": self.secrets["api_key"], "Authorization": f"Bearer {self.token}"}
        async with self.session.get(
            f"{self.sandbox.url}/stockx/v2{path}", params=query, headers=own if headers is None else headers
        ) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Sandbox(limits={"*": None}) as sandbox, aiohttp.ClientSession() as session:
        client = Client(sandbox, session)
        await client.mint()
        yield client


async def prices(client: Client, product: str, currency: str = "USD") -> dict[str | None, dict[str, Any]]:
    """Market data by size, through the list of variants as a client has to do it."""
    _, variants = await client.get(f"/catalog/products/{product}/variants")
    _, market = await client.get(f"/catalog/products/{product}/market-data", currencyCode=currency)
    sizes = {variant["variantId"]: variant["variantValue"] for variant in variants}
    return {sizes[row["variantId"]]: row for row in market}


async def test_either_header_alone_is_not_enough(client: Client) -> None:
    key, bearer = {"x-api-key": client.secrets["api_key"]}, {"Authorization": f"Bearer {client.token}"}
    for headers in ({}, key, bearer, key | {"Authorization": "Bearer sandbox-access-999999"}):
        status, body = await client.get("/catalog/search", headers, query="x")
        assert (status, body["statusCode"], body["errorMessage"]) == (401, 401, "Unauthorized")


async def test_a_refresh_gives_a_token_of_twelve_hours_and_no_new_refresh_token(client: Client) -> None:
    status, body = await client.mint()
    assert (status, body["expires_in"], "refresh_token" in body) == (200, 43_200, False)


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"grant_type": "client_credentials"}, 403, "unauthorized_client"),
        ({"refresh_token": "another"}, 403, "invalid_grant"),
        ({"client_secret": "wrong"}, 401, "access_denied"),
        ({"audience": ""}, 400, "invalid_request"),
        ({"grant_type": "password"}, 400, "invalid_request"),
    ],
)
async def test_other_grants_are_refused(
    client: Client, changes: dict[str, str], status: int, error: str
) -> None:
    found, body = await client.mint(**changes)
    assert (found, body["error"]) == (status, error)


async def test_expired_tokens_answer_401_until_a_new_one_is_minted(client: Client) -> None:
    assert client.sandbox.expire_tokens("stockx") == 1
    assert (await client.get("/catalog/search", query="x"))[0] == 401
    await client.mint()
    assert (await client.get("/catalog/search", query="x"))[0] == 200


async def test_invalid_grant_lasts_as_long_as_it_is_ordered(client: Client) -> None:
    client.sandbox.fault("stockx", "invalid_grant", times=None)
    assert [(await client.mint())[0] for _ in range(2)] == [403, 403]
    client.sandbox.clear_faults()
    assert (await client.mint())[0] == 200


async def test_the_browser_login_yields_a_code_that_works_once(client: Client) -> None:
    back = "http://127.0.0.1:9/callback"
    login = {
        "response_type": "code",
        "client_id": client.secrets["client_id"],
        "redirect_uri": back,
        "scope": "offline_access openid",
        "audience": "gateway.stockx.com",
        "state": "s 1",
    }
    url = f"{client.sandbox.url}/stockx/authorize"
    async with client.session.get(url, params=login, allow_redirects=False) as answer:
        target = urlsplit(answer.headers["Location"])
    asked = parse_qs(target.query)
    assert (answer.status, target.netloc, asked["state"]) == (302, "127.0.0.1:9", ["s 1"])
    exchange = {"grant_type": "authorization_code", "code": asked["code"][0], "redirect_uri": back}
    status, body = await client.mint(**exchange)
    assert (status, body["refresh_token"]) == (200, client.secrets["refresh_token"])
    assert (await client.mint(**exchange))[1]["error"] == "invalid_grant"
    async with client.session.get(url, params=login | {"scope": "catalog.read"}) as answer:
        assert answer.status == 400


async def test_a_second_call_within_a_second_is_one_too_many() -> None:
    async with Sandbox() as sandbox, aiohttp.ClientSession() as session:
        client = Client(sandbox, session)
        await client.mint()
        first = await client.get("/catalog/search", query="x")
        second = await client.get("/catalog/search", query="x")
        assert (first[0], second) == (200, (429, {"message": "Too Many Requests"}))
        assert [entry.breach for entry in sandbox.breaches("stockx")] == ["window"]
        assert sandbox.count("stockx") == 2


async def test_the_day_of_25_000_calls_starts_anew_at_midnight_utc() -> None:
    now = [datetime(2026, 3, 4, 23, 59, 50, tzinfo=UTC).timestamp()]
    async with Sandbox(wall=lambda: now[0]) as sandbox, aiohttp.ClientSession() as session:
        client = Client(sandbox, session)
        await client.mint()
        sandbox.set_limits("stockx", per_window=None, retry_after="seconds")
        sandbox.spend("stockx", 24_999)
        assert (await client.get("/catalog/search", query="x"))[0] == 200
        assert (await client.get("/catalog/search", query="x"))[0] == 429
        now[0] += 11
        assert (await client.get("/catalog/search", query="x"))[0] == 200


async def test_accounts_have_limits_of_their_own() -> None:
    limits = {"stockx": Limits(per_window=1, window_s=60)}
    async with Sandbox(limits=limits) as sandbox, aiohttp.ClientSession() as session:
        first, second = Client(sandbox, session), Client(sandbox, session)
        second.secrets = sandbox.credentials_for("stockx", "two")
        await first.mint()
        await second.mint()
        answers = [(await client.get("/catalog/search", query="x"))[0] for client in (first, second, first)]
        assert answers == [200, 200, 429]


@pytest.mark.parametrize("wait", ["seconds", "date"])
async def test_a_429_names_the_wait_when_told_to(wait: str) -> None:
    limits = {"stockx": Limits(per_window=0, window_s=7, retry_after=wait)}  # type: ignore[arg-type]
    async with Sandbox(limits=limits) as sandbox, aiohttp.ClientSession() as session:
        async with session.get(f"{sandbox.url}/stockx/v2/catalog/search?query=x") as answer:
            header = answer.headers["Retry-After"]
        assert header == "7" if wait == "seconds" else header.endswith(" GMT")


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/catalog/products/nike-dunk-low/variants", {}, 400),
        (f"/catalog/products/{PANDA}/market-data", {"country": "US"}, 400),
        (f"/catalog/products/{PANDA}/market-data", {"currencyCode": "XXX"}, 400),
        ("/catalog/products/0f0e0d0c-1111-4aaa-8bbb-000000000001", {}, 404),
        (f"/catalog/products/{PANDA}/variants/0f0e0d0c-1111-4aaa-8bbb-000000000001", {}, 404),
        ("/catalog/products/variants/gtins/12", {}, 400),
        ("/catalog/products/variants/gtins/012345678905", {}, 404),
        ("/catalog/search", {}, 400),
        ("/catalog/search", {"query": "x" * 101}, 400),
        ("/catalog/search", {"query": "x", "pageSize": "51"}, 400),
        ("/selling/listings", {}, 404),
    ],
)
async def test_wrong_requests_are_told_so(
    client: Client, path: str, query: dict[str, str], status: int
) -> None:
    found, body = await client.get(path, None, **query)
    assert (found, body["statusCode"]) == (status, status)
    assert body["errorMessage"]


async def test_a_variant_of_another_product_is_a_bad_request(client: Client) -> None:
    other = client.sandbox.world.find("DC7770-160")
    foreign = client.sandbox.world.variant_id(other, "7")
    assert (await client.get(f"/catalog/products/{PANDA}/variants/{foreign}"))[0] == 400


async def test_a_search_shows_near_misses_and_doubles_before_the_right_product(client: Client) -> None:
    for code, wrong in (
        ("DD1391-100", "DD1391-101"),
        ("AJ4219-400", "Extra Lace Set Only"),
        ("FV5029-010", "Basketball"),
        ("CV9388-100", "Charity"),
        ("DZ5485-612", "(Sample)"),
    ):
        status, body = await client.get("/catalog/search", query=code, pageNumber=1, pageSize=20)
        rows = [f"{row['styleId']} {row['title']}" for row in body["products"]]
        ids = [row["productId"] for row in body["products"]]
        right = client.sandbox.world.find(code).stockx_id
        assert status == 200
        assert ids[0] != right
        assert right in ids
        assert any(wrong in row for row in rows[: ids.index(right)])


async def test_labels_joined_codes_and_unknown_codes_are_found_as_they_are(client: Client) -> None:
    async def styles(query: str) -> list[str]:
        _, body = await client.get("/catalog/search", query=query)
        return [row["styleId"] for row in body["products"]]

    assert {"(White) FV5029-003", "(Gold) FV5029-003"} <= set(await styles("FV5029-003"))
    assert await styles("CW2288-111") == ["315122-111/CW2288-111"]
    assert "DD1391-199" not in await styles("DD1391-199")
    assert (await client.get("/catalog/search", query="xyznotaproduct"))[1]["count"] == 0


async def test_search_pages_do_not_overlap(client: Client) -> None:
    _, first = await client.get("/catalog/search", query="Jordan 4 Retro", pageNumber=1, pageSize=3)
    _, second = await client.get("/catalog/search", query="Jordan 4 Retro", pageNumber=2, pageSize=3)
    ids = [row["productId"] for body in (first, second) for row in body["products"]]
    assert (first["hasNextPage"], len(ids), len(set(ids))) == (True, 6, 6)


async def test_single_size_items_come_with_null_an_empty_text_or_a_word(client: Client) -> None:
    values = {}
    for name in ("Celebrations Ultra Premium", "Prismatic Evolutions Elite Trainer Box", "Bearbrick 1000"):
        _, body = await client.get("/catalog/search", query=name)
        for row in body["products"]:
            _, variants = await client.get(f"/catalog/products/{row['productId']}/variants")
            values[row["title"]] = [variant["variantValue"] for variant in variants]
    assert [None] in values.values()
    assert [""] in values.values()
    assert ["One Size"] in values.values()


async def test_sizes_carry_their_letters_and_shared_uk_sizes_their_brackets(client: Client) -> None:
    async def chart(code: str) -> dict[str, dict[str, str]]:
        product = client.sandbox.world.find(code)
        _, variants = await client.get(f"/catalog/products/{product.stockx_id}/variants")
        return {
            variant["variantValue"]: {
                row["type"]: row["size"] for row in variant["sizeChart"]["availableConversions"]
            }
            for variant in variants
        }

    men, women, youth = await chart("DC7770-160"), await chart("DD1503-103"), await chart("IB4171-100")
    assert (men["6.5"]["uk"], men["7"]["uk"]) == ("UK 6 (EU 39)", "UK 6 (EU 40)")
    assert (women["7.5W"]["us w"], women["7.5W"]["uk"]) == ("US W 7.5", "UK 5")
    assert (youth["5Y"]["us"], "us m" in youth["5Y"]) == ("US 5Y", False)
    assert list(men) != sorted(men, key=float)


async def test_amounts_are_whole_units_in_the_asked_currency_and_match_the_truth(client: Client) -> None:
    world = client.sandbox.world
    for code in ("DD1391-100", "CV9388-100", "1116109-CHE"):
        product = world.find(code)
        for currency in ("USD", "GBP", "JPY"):
            for size, row in (await prices(client, product.stockx_id, currency)).items():
                truth = client.sandbox.truth("stockx", code, size, currency)
                told = [row[key] and Decimal(row[key]) for key in ("lowestAskAmount", "highestBidAmount")]
                assert row["currencyCode"] == currency
                assert tuple(told) == (truth.ask, truth.bid)
                assert truth.last_sale is None
                assert row["standardMarketData"]["lowestAsk"] == row["lowestAskAmount"]
                assert not (truth.ask and truth.bid) or truth.bid < truth.ask


async def test_some_sizes_have_no_ask_and_never_a_zero(client: Client) -> None:
    asks = [
        row["lowestAskAmount"]
        for product in client.sandbox.world
        if product.chart
        for row in (await prices(client, product.stockx_id)).values()
    ]
    assert None in asks
    assert "0" not in asks


async def test_one_variant_tells_the_same_as_the_product(client: Client) -> None:
    all_sizes = await prices(client, PANDA)
    row = all_sizes["10"]
    _, alone = await client.get(f"/catalog/products/{PANDA}/variants/{row['variantId']}/market-data")
    assert alone == row


async def test_a_barcode_leads_to_its_variant(client: Client) -> None:
    _, variants = await client.get(f"/catalog/products/{PANDA}/variants")
    coded = next(variant for variant in variants if variant["gtins"])
    for gtin in coded["gtins"]:
        _, body = await client.get(f"/catalog/products/variants/gtins/{gtin['identifier']}")
        assert body == coded
        _, found = await client.get("/catalog/search", query=gtin["identifier"])
        assert [row["productId"] for row in found["products"]] == [PANDA]


async def test_a_retired_product_answers_404_and_is_found_anew_under_its_code(client: Client) -> None:
    new = client.sandbox.retire("DD1391-100")
    assert (await client.get(f"/catalog/products/{PANDA}/market-data"))[0] == 404
    _, body = await client.get("/catalog/search", query="DD1391-100")
    assert new in [row["productId"] for row in body["products"]]
    assert (await prices(client, new))["10"]["productId"] == new


async def test_a_further_size_appears_in_market_data_and_variants(client: Client) -> None:
    client.sandbox.add_size("QX1001-200", "14")
    product = client.sandbox.world.find("QX1001-200")
    row = (await prices(client, product.stockx_id))["14"]
    assert row["lowestAskAmount"] == str(client.sandbox.truth("stockx", "QX1001-200", "14").ask)


async def test_prices_move_with_the_ticks_and_equal_seeds_agree(client: Client) -> None:
    before = await prices(client, PANDA)
    assert await prices(client, PANDA) == before
    client.sandbox.advance(40)
    after = await prices(client, PANDA)
    assert after != before
    twin, other = Sandbox(seed=1), Sandbox(seed=2)
    asked = ("stockx", "DD1391-100", "10")
    assert twin.truth(*asked, tick=40) == client.sandbox.truth(*asked)
    assert {twin.truth(*asked, tick=tick) for tick in range(9)} != {
        other.truth(*asked, tick=tick) for tick in range(9)
    }


def test_prices_move_by_themselves_when_told_to() -> None:
    now = [0.0]
    sandbox = Sandbox(move_every_s=10, monotonic=lambda: now[0])
    start = sandbox.truth("stockx", "DD1391-100", "10")
    now[0] = 405.0
    assert sandbox.tick == 40
    assert sandbox.truth("stockx", "DD1391-100", "10") != start
    assert sandbox.truth("stockx", "DD1391-100", "10", tick=0) == start


def test_a_bigger_world_holds_the_smaller_one() -> None:
    small, big = Sandbox(products=50), Sandbox(products=500)
    assert [product.key for product in small.world] == [p.key for p in big.world][: len(small.world)]
    assert all(8 <= len(p.sizes) <= 25 for p in big.world if p.key.startswith("ZQ"))
    assert small.truth("stockx", "ZQ1003-100", small.world.find("ZQ1003-100").sizes[0]) == big.truth(
        "stockx", "ZQ1003-100", big.world.find("ZQ1003-100").sizes[0]
    )


def test_truth_refuses_what_nobody_can_answer() -> None:
    sandbox = Sandbox()
    for product, size, currency in (
        ("FV5029-003", "10", "USD"),
        ("NOPE-1", "10", "USD"),
        ("DD1391-100", "7W", "USD"),
        ("DD1391-100", "10", "XXX"),
    ):
        with pytest.raises(LookupError):
            sandbox.truth("stockx", product, size, currency)
