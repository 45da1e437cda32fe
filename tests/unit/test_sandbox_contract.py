"""What the sandbox answers fits the schemas of the providers' documents, where these are at hand."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft4Validator  # type: ignore[import-untyped]

from marketd.sandbox import Sandbox

SPECS = Path(__file__).resolve().parents[3] / "shared" / "providers" / "specs"
PANDA, SCOPE = "5e6a1e57-1c7d-435a-82bd-5666a13560fe", "https://api.ebay.com/oauth/api_scope"
pytestmark = pytest.mark.skipif(
    not SPECS.is_dir(), reason="the providers' specs are not beside the repository"
)


def nullable(node: Any) -> Any:
    """OpenAPI 3.0 marks null by a keyword that JSON Schema does not have."""
    if isinstance(node, list):
        return [nullable(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    plain = {key: nullable(value) for key, value in node.items() if key != "nullable"}
    if node.get("nullable") is True and isinstance(plain.get("type"), str):
        plain["type"] = [plain["type"], "null"]
    return plain


def violations(spec: str, schema: str | dict[str, Any], body: Any) -> list[str]:
    """What is wrong with `body`, measured by a named or inline schema of a spec file."""
    document = nullable(json.loads((SPECS / spec).read_text()))
    wanted = {"$ref": f"#/components/schemas/{schema}"} if isinstance(schema, str) else schema
    validator = Draft4Validator(wanted | {"components": document["components"]})
    return [f"{list(error.path)}: {error.message[:200]}" for error in validator.iter_errors(body)]


def response_schema(spec: str, path: str) -> dict[str, Any]:
    document = nullable(json.loads((SPECS / spec).read_text()))
    content = document["paths"][path]["get"]["responses"]["200"]["content"]
    schema: dict[str, Any] = next(iter(content.values()))["schema"]
    return schema


class Caller:
    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox, self.session = sandbox, session
        self.headers: dict[str, dict[str, str]] = {}

    async def login(self) -> None:
        own = self.sandbox.credentials
        form = {"grant_type": "refresh_token", "audience": "gateway.stockx.com", **own["stockx"]}
        stockx = await self.token("stockx/oauth/token", form, {})
        pair = f"{own['ebay']['client_id']}:{own['ebay']['client_secret']}"
        basic = {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        scope = {"grant_type": "client_credentials", "scope": f"{SCOPE} {SCOPE}/buy.marketplace.insights"}
        ebay = await self.token("ebay/identity/v1/oauth2/token", scope, basic)
        assert not violations("ebay_oauth_token_openapi.json", "Token", ebay)
        self.headers = {
            "stockx": {
                "Authorization": f"Bearer {stockx['access_token']}",
                "x-api-key": own["stockx"]["api_key"],
            },
            "alias": {"Authorization": f"Bearer {own['alias']['token']}"},
            "ebay": {"Authorization": f"Bearer {ebay['access_token']}"},
        }

    async def token(self, path: str, form: dict[str, str], headers: dict[str, str]) -> Any:
        url = f"{self.sandbox.url}/{path}"
        async with self.session.post(url, data=form, headers=headers) as answer:
            return await answer.json()

    async def get(self, provider: str, path: str, **query: str) -> Any:
        async with self.session.get(
            f"{self.sandbox.url}/{provider}{path}", params=query, headers=self.headers[provider]
        ) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with Sandbox(limits={"*": None}, products=30) as sandbox, aiohttp.ClientSession() as session:
        sandbox.grant_insights()
        caller = Caller(sandbox, session)
        await caller.login()
        yield caller


async def test_stockx_answers_fit_the_official_document(caller: Caller) -> None:
    spec = "stockx_catalog_openapi.json"
    found = await caller.get("stockx", "/v2/catalog/search", query="DD1391-100")
    assert not violations(spec, "Search", found)
    for product in caller.sandbox.world:
        at = f"/v2/catalog/products/{product.stockx_id}"
        variants = await caller.get("stockx", f"{at}/variants")
        market = await caller.get("stockx", f"{at}/market-data", currencyCode="EUR")
        one = f"{at}/variants/{variants[0]['variantId']}"
        for schema, body in (
            ("Product", await caller.get("stockx", at)),
            ({"type": "array", "items": {"$ref": "#/components/schemas/ProductVariant"}}, variants),
            ({"type": "array", "items": {"$ref": "#/components/schemas/VariantMarketDataResponse"}}, market),
            ("ProductVariantDetails", await caller.get("stockx", one)),
            ("VariantMarketDataResponse", await caller.get("stockx", f"{one}/market-data")),
        ):
            assert not violations(spec, schema, body), product.key


async def test_stockx_sizes_are_those_that_stockx_publishes(caller: Caller) -> None:
    tables = json.loads((SPECS / "size_conversions.json").read_text())["tables"]
    for code, table in (
        ("DC7770-160", "jordan/men"),
        ("DD1391-100", "nike/men"),
        ("DD1503-103", "nike/women"),
        ("CV9388-100", "jordan/women"),
        ("IB4171-100", "jordan/youth"),
        ("1116109-CHE", "ugg/women"),
    ):
        product = caller.sandbox.world.find(code)
        variants = await caller.get("stockx", f"/v2/catalog/products/{product.stockx_id}/variants")
        for variant in variants:
            rows = {
                row["type"]: row["size"].split(" (")[0].split(" ", 1)[1]
                for row in variant["sizeChart"]["availableConversions"]
            }
            known = tables[table][variant["variantValue"]]
            assert {system: rows[system] for system in ("uk", "eu", "cm")} == {
                system: known[system] for system in ("uk", "eu", "cm")
            }


async def test_alias_answers_fit_the_reconstructed_document(caller: Caller) -> None:
    spec = "alias_openapi_reconstructed.json"
    one = {"size": "10", "product_condition": "1", "packaging_condition": "1"}
    catalog_id = "dunk-low-black-white-dd1391-100"
    for template, query in (
        ("/api/v1/test", {}),
        ("/api/v1/catalog", {"query": "DD1391-100"}),
        ("/api/v1/catalog", {"query": "nothing like it"}),
        ("/api/v1/catalog/{id}", {}),
        ("/api/v1/pricing_insights/availabilities/{catalog_id}", {}),
        ("/api/v1/pricing_insights/availabilities/{catalog_id}", {"consigned": "true", "region_id": "2"}),
        ("/api/v1/pricing_insights/availability", one | {"catalog_id": catalog_id}),
        ("/api/v1/pricing_insights/offer_histogram", one | {"catalog_id": catalog_id}),
        ("/api/v1/pricing_insights/recent_sales", one | {"catalog_id": catalog_id}),
    ):
        path = template.replace("{id}", catalog_id).replace("{catalog_id}", catalog_id)
        body = await caller.get("alias", path, **query)
        assert not violations(spec, response_schema(spec, template), body), template


async def test_ebay_answers_fit_the_official_documents(caller: Caller) -> None:
    spec = "ebay_browse_oas3.json"
    search = "/buy/browse/v1/item_summary/search"
    for query in (
        {"q": "DD1391-100", "fieldgroups": "EXTENDED,ASPECT_REFINEMENTS", "filter": "soldItemsOnly:true"},
        {"q": "DD1391-100", "filter": "buyingOptions:{AUCTION}"},
        {"q": "nothing like it"},
        {"q": "Charizard 1999 Pokemon", "limit": "200"},
    ):
        body = await caller.get("ebay", search, **query)
        assert not violations(spec, "SearchPagedCollection", body)
    rows = (await caller.get("ebay", search, q="CP9366", limit="200"))["itemSummaries"]
    item = await caller.get("ebay", f"/buy/browse/v1/item/{rows[0]['itemId']}")
    assert not violations(spec, "Item", item)
    group = next(row for row in rows if "itemGroupType" in row)
    items = await caller.get(
        "ebay", "/buy/browse/v1/item/get_items_by_item_group", item_group_id=group["legacyItemId"]
    )
    assert not violations(spec, "ItemGroup", items)
    sales = "/buy/marketplace_insights/v1_beta/item_sales/search"
    sold = await caller.get("ebay", sales, q="CP9366", category_ids="15709")
    assert not violations("ebay_marketplace_insights_oas3.json", "SalesHistoryPagedCollection", sold)
    report = await caller.get("ebay", "/developer/analytics/v1_beta/rate_limit/", api_name="Browse")
    assert not violations("ebay_developer_analytics_oas3.json", "RateLimitsResponse", report)


async def test_keys_are_those_of_the_example_answers(caller: Caller) -> None:
    """Additional keys are allowed by some schemas, so the sets of keys are compared as well."""

    def example(name: str) -> Any:
        return json.loads((SPECS / "examples" / f"{name}.json").read_text())["body"]

    market = await caller.get("stockx", f"/v2/catalog/products/{PANDA}/market-data")
    assert set(market[0]) == set(example("stockx_product_market_data")[0])
    search = await caller.get("ebay", "/buy/browse/v1/item_summary/search", q="DD1391-100")
    known = set(example("ebay_item_summary_search")["itemSummaries"][0])
    usual = next(row for row in search["itemSummaries"] if "shippingOptions" in row and "price" in row)
    assert set(usual) - {"itemGroupHref", "itemGroupType"} == known
    items = await caller.get("alias", "/api/v1/catalog", query="DD1391-100", limit="1")
    assert set(items["catalog_items"][0]) == set(example("alias_catalog_search")["catalog_items"][0])


async def test_the_golden_set_is_for_sale_under_its_public_ids(caller: Caller) -> None:
    for entry in json.loads((SPECS / "golden_set.json").read_text())["golden"]:
        product = caller.sandbox.world.find(entry["sku"])
        size = entry["size"]
        assert product.quoted == size
        assert caller.sandbox.truth("stockx", entry["sku"], size, "GBP").ask
        assert None not in caller.sandbox.truth("alias", entry["sku"], size)
        assert caller.sandbox.truth("ebay", entry["sku"], size).ask
        for provider, key, id_ in (
            ("stockx", "productId", product.stockx_id),
            ("alias", "catalog_id", product.alias_id),
        ):
            assert entry.get(provider, {}).get(key, id_) == id_
