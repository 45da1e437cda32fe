"""The clients over real HTTP against the written-down answers: what they ask fits the specs, what they read is right.

A small server replays the example answers and remembers each request; every request is then held against the spec
of its endpoint: path, query, headers, form.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from jsonschema import Draft4Validator  # type: ignore[import-untyped]

from marketd import errors
from marketd.errors import NotListed, ProviderError, Rejected, Throttled, Transient, Unauthorized
from marketd.provider import TellsUsage
from provider_kit import SPECS, client, quote_of

pytestmark = pytest.mark.skipif(
    not SPECS.is_dir(), reason="the providers' specs are not beside the repository"
)

PANDA = "DD1391-100"
SHOE = "0f0e0d0c-1111-4aaa-8bbb-000000000001"
ITEM = "dunk-low-black-white-dd1391-100"
#: provider -> where its API begins, and spec files with the path that theirs begin at
BASES = {"stockx": "/v2", "alias": "/api/v1", "ebay": ""}
DOCUMENTS = {
    "stockx": (("stockx_catalog_openapi.json", "/v2"),),
    "alias": (("alias_openapi_reconstructed.json", ""),),
    "ebay": (
        ("ebay_browse_oas3.json", "/buy/browse/v1"),
        ("ebay_marketplace_insights_oas3.json", "/buy/marketplace_insights/v1_beta"),
        ("ebay_developer_analytics_oas3.json", "/developer/analytics/v1_beta"),
        ("ebay_oauth_token_openapi.json", ""),
    ),
}
TOKENS = {"stockx": "/oauth/token", "ebay": "/identity/v1/oauth2/token"}
CREDENTIALS = {
    "stockx": {"api_key": "k", "client_id": "c", "client_secret": "s", "refresh_token": "r"},
    "alias": {"token": "t"},
    "ebay": {"client_id": "c", "client_secret": "s"},
}
#: what the endpoints answer unless a test says otherwise: part of the path -> example
USUAL = {
    "/oauth/token": "stockx_oauth_token_refresh",
    "/oauth2/token": "ebay_oauth_token",
    "/catalog/search": "stockx_catalog_search",
    "/variants": "stockx_product_variants",
    "/market-data": "stockx_product_market_data",
    "/catalog/products/": "stockx_product",
    "/availabilities/": "alias_pricing_availabilities",
    "/recent_sales": "alias_recent_sales",
    "/api/v1/catalog/": "alias_catalog_item",
    "/api/v1/catalog": "alias_catalog_search",
    "/item_summary/search": "ebay_item_summary_search",
    "/item_sales/search": "ebay_marketplace_insights_search",
    "/rate_limit/": "ebay_rate_limit",
}
#: examples of endpoints that marketd never calls, and why
UNUSED = {
    "alias_test",  # a health check that costs a call; every fetch is one
    "alias_pricing_availability",  # one size, where `availabilities` tells all
    "alias_offer_histogram",  # depth is not kept
    "ebay_item",  # a call for each listing
    "stockx_product_variant",  # one size, where `variants` tells all
    "stockx_variant_by_gtin",  # no sku form is a barcode
}


@dataclass
class Replay:
    """Answers with examples; `told` overrides the usual one, by part of the path."""

    url: str = ""
    told: dict[str, str] = field(default_factory=dict)
    requests: list[web.BaseRequest] = field(default_factory=list)
    forms: dict[int, dict[str, str]] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.Response:
        self.forms[len(self.requests)] = {key: str(value) for key, value in (await request.post()).items()}
        self.requests.append(request)
        known = {**self.told, **{part: name for part, name in USUAL.items() if part not in self.told}}
        name = next((name for part, name in known.items() if part in request.path), None)
        assert name is not None, f"nobody answers {request.path}"
        given = written(name)
        headers = {"Content-Type": given["headers"]["content-type"]} if "headers" in given else {}
        body = _of_asked(request.path, given["body"])
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=given["status"], body=text.encode(), headers=headers)

    def settings(self, provider: str) -> dict[str, Any]:
        return {
            "base_url": self.url + BASES[provider],
            "token_url": self.url + TOKENS.get(provider, ""),
            "credentials": CREDENTIALS[provider],
        }

    def breaches(self, provider: str) -> list[str]:
        """What each request, held against its spec, did that it says nothing of."""
        return [
            f"{request.method} {request.path_qs}: {wrong}"
            for place, request in enumerate(self.requests)
            for wrong in _breaches(provider, request, self.forms[place])
        ]


def _of_asked(path: str, body: Any) -> Any:
    """The examples are of several StockX products; the service answers of the one that it is asked for."""
    asked = re.search(r"/catalog/products/([^/]+)", path)
    rows = body if isinstance(body, list) else [body]
    for row in rows if asked else ():
        if "productId" in row:
            row["productId"] = asked[1]
    return body


def written(name: str) -> Any:
    return json.loads((SPECS / "examples" / f"{name}.json").read_text())


def _breaches(provider: str, request: web.BaseRequest, form: Mapping[str, str]) -> list[str]:
    if provider == "stockx" and request.path == TOKENS["stockx"]:
        wanted = set(written("stockx_oauth_token_refresh")["request"]["form"])
        return [] if set(form) == wanted else [f"a form of {sorted(form)}"]
    found = _operation(provider, request)
    if found is None:
        return ["no spec has this path"]
    document, operation = found
    body = operation.get("requestBody", {}).get("content", {}).get("application/x-www-form-urlencoded")
    wrong = [] if body is None else _invalid(document, body["schema"], dict(form))
    declared = {(one["in"], one["name"]): one for one in operation.get("parameters", [])}
    for name, value in request.query.items():
        parameter = declared.get(("query", name))
        if parameter is None or parameter.get("deprecated"):
            wrong.append(f"parameter {name} is not in the spec, or on its way out of it")
        else:
            wrong += _invalid(document, parameter["schema"], _typed(parameter["schema"], value))
    for (place, name), parameter in declared.items():
        if parameter.get("required") and place == "query" and name not in request.query:
            wrong.append(f"parameter {name} is missing")
    own = [name for name in request.headers if name.upper().startswith("X-EBAY")]
    insights = "marketplace_insights" in request.path  # its spec leaves out the header that its text demands
    wrong += [f"header {name}" for name in own if ("header", name) not in declared and not insights]
    return wrong + _without_proof(provider, request)


def _operation(provider: str, request: web.BaseRequest) -> tuple[Any, Any] | None:
    for file, base in DOCUMENTS[provider]:
        document = json.loads((SPECS / file).read_text())
        # Paths without a variable part come first: /item_summary/search is no item id.
        for path in sorted(document["paths"], key=lambda path: "{" in path):
            pattern = re.sub(r"\{[^}]+\}", "[^/]+", base + path)
            operation = document["paths"][path].get(request.method.lower())
            if operation and re.fullmatch(pattern, request.raw_path.partition("?")[0]):
                return document, operation
    return None


def _typed(schema: Mapping[str, Any], value: str) -> Any:
    match schema.get("type"):
        case "integer":
            return int(value)
        case "number":
            return float(value)
        case "boolean":
            return {"true": True, "false": False}.get(value, value)
    return value


def _invalid(document: Any, schema: Mapping[str, Any], value: Any) -> list[str]:
    validator = Draft4Validator({**schema, "components": document["components"]})
    return [error.message for error in validator.iter_errors(value)]


def _without_proof(provider: str, request: web.BaseRequest) -> list[str]:
    wrong = []
    scheme = "Basic " if request.path == TOKENS.get(provider) else "Bearer "
    if not request.headers.get("Authorization", "").startswith(scheme):
        wrong.append(f"no {scheme}authorization")
    if provider == "stockx" and request.headers.get("x-api-key") != "k":
        wrong.append("no API key")
    if request.method == "GET" and "Content-Type" in request.headers:
        wrong.append("a Content-Type without content")
    if "application/json" not in request.headers.get("Accept", "*/*") and request.method == "GET":
        wrong.append("JSON is not accepted")
    if (
        provider == "ebay"
        and "/search" in request.path
        and not request.headers.get("X-EBAY-C-MARKETPLACE-ID")
    ):
        wrong.append("no marketplace")
    return wrong


@pytest.fixture
async def replay() -> AsyncIterator[Replay]:
    replay, application = Replay(), web.Application()
    application.router.add_route("*", "/{rest:.*}", replay.answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    replay.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield replay
    await runner.cleanup()


@pytest.mark.parametrize(
    ("told", "sku", "size", "ask", "calls"),
    [
        ({}, PANDA, "10", 104, 3),
        ({}, f"id:{SHOE}", "10", 104, 3),
        ({}, "name:nike dunk low retro white black panda", "10", 104, 3),
        ({"/catalog/search": "stockx_catalog_search_duplicate_style"}, "AJ4219-400", "10", 104, 4),
    ],
)
async def test_stockx_is_asked_as_its_document_has_it_and_read_right(
    replay: Replay, tmp_path: Path, told: dict[str, str], sku: str, size: str, ask: int, calls: int
) -> None:
    replay.told = told
    async with client("stockx", replay.settings("stockx"), tmp_path) as caller:
        assert quote_of(await caller.fetch(sku, size), size).lowest_ask == ask
    assert len(replay.requests) == 1 + calls
    assert replay.breaches("stockx") == []


@pytest.mark.parametrize(
    ("example", "size", "uk"),
    [
        ("stockx_product_variants_women", "7.5W", "UK 5"),
        ("stockx_product_variants_youth", "5Y", None),
        ("stockx_product_variants_graded_card", "PSA 10", None),
    ],
)
async def test_the_sizes_of_every_kind_of_product_are_read(
    replay: Replay, tmp_path: Path, example: str, size: str, uk: str | None
) -> None:
    replay.told = {"/variants": example}
    async with client("stockx", replay.settings("stockx"), tmp_path) as caller:
        found = await caller.fetch(f"id:{SHOE}", size, *([uk] if uk else []), "10")
    assert found.listing is not None
    assert size in {variant.size for variant in found.listing.variants}
    for wanted in filter(None, (size, uk)):  # listed; the example market knows other variants only
        refusal = found.answers[wanted]
        assert isinstance(refusal, errors.BadPayload)
        assert f"size {size}" in str(refusal)
    assert isinstance(found.answers["10"], errors.Unmatched), "a men's size is not taken for any of them"


def test_the_market_of_one_variant_is_read_as_a_row_of_all() -> None:
    from marketd.models import Variant
    from marketd.providers.stockx import reading
    from provider_kit import GRANTED_AT

    for name, ask in (("stockx_variant_market_data", 104), ("stockx_variant_market_data_no_ask", None)):
        body = written(name)["body"]
        rows = reading.market([body], body["productId"], "USD")
        variant = Variant(id=body["variantId"], size="10")
        assert reading.quote(rows[variant.id], variant, "USD", GRANTED_AT).lowest_ask == ask


async def test_no_hit_at_stockx_is_an_unknown_code(replay: Replay, tmp_path: Path) -> None:
    replay.told = {"/catalog/search": "stockx_catalog_search_empty"}
    async with client("stockx", replay.settings("stockx"), tmp_path) as caller:
        with pytest.raises(NotListed):
            await caller.fetch(PANDA, "10")
    assert replay.breaches("stockx") == []


@pytest.mark.parametrize("options", [{}, {"region_id": "1", "consigned": False}, {"recent_sales": True}])
@pytest.mark.parametrize("sku", [PANDA, f"id:{ITEM}"])
async def test_alias_is_asked_as_its_document_has_it_and_read_right(
    replay: Replay, tmp_path: Path, options: dict[str, Any], sku: str
) -> None:
    if "region_id" in options:
        replay.told = {"/availabilities/": "alias_pricing_availabilities_consigned"}
    async with client("alias", replay.settings("alias"), tmp_path, options) as caller:
        quote = quote_of(await caller.fetch(sku, "10"), "10")
    assert replay.breaches("alias") == []
    body = written(replay.told.get("/availabilities/", "alias_pricing_availabilities"))["body"]
    right = next(
        row["availability"]["lowest_listing_price_cents"]
        for row in body["variants"]
        if row["size"] == 10
        and row["product_condition"] == "PRODUCT_CONDITION_NEW"
        and row["packaging_condition"] == "PACKAGING_CONDITION_GOOD_CONDITION"
        and row.get("consigned", False) is False
    )
    assert quote.lowest_ask == (None if right == "0" else Decimal(right) / 100)


async def test_no_hit_at_alias_is_an_unknown_code(replay: Replay, tmp_path: Path) -> None:
    replay.told = {"/api/v1/catalog": "alias_catalog_search_empty"}
    async with client("alias", replay.settings("alias"), tmp_path) as caller:
        with pytest.raises(NotListed):
            await caller.fetch("315122-111/CW2288-111", "10")
    assert replay.breaches("alias") == []


@pytest.mark.parametrize(
    ("example", "sku", "size", "ask"),
    [
        ("ebay_item_summary_search", PANDA, "10", Decimal("99.95")),
        ("ebay_item_summary_search_empty", PANDA, "10", None),
        ("ebay_item_summary_search_auction", PANDA, "10", None),
        ("ebay_item_summary_search_empty", "name:labubu time to chill", None, None),
        ("ebay_item_summary_search_empty", "id:12345", "PSA 10", None),
    ],
)
@pytest.mark.parametrize("options", [{}, {"insights": True}, {"delivery_zip": "97202"}])
async def test_ebay_is_asked_as_its_documents_have_it_and_read_right(
    replay: Replay,
    tmp_path: Path,
    example: str,
    sku: str,
    size: str | None,
    ask: Decimal | None,
    options: dict[str, Any],
) -> None:
    replay.told = {"/item_summary/search": example}
    async with client("ebay", replay.settings("ebay"), tmp_path, options) as caller:
        quote = quote_of(await caller.fetch(sku, size, references={size: Decimal(100)}), size)
        assert quote.lowest_ask == ask
        assert isinstance(caller.plugin, TellsUsage)
        told = await caller.plugin.usage(caller.http())
        assert told is not None
        assert told.remaining == 4890
    assert replay.breaches("ebay") == []
    if options.get("insights") and size == "10":
        assert quote.basis["insights"] == "used"


async def test_a_filter_that_ebay_warns_of_vouches_for_no_size(replay: Replay, tmp_path: Path) -> None:
    replay.told = {"/item_summary/search": "ebay_item_summary_search_warning"}
    async with client("ebay", replay.settings("ebay"), tmp_path) as caller:
        found = await caller.fetch(PANDA, "10")
    titles = [row["title"] for row in written("ebay_item_summary_search_warning")["body"]["itemSummaries"]]
    stated = any(re.search(r"size 10\b", title, re.IGNORECASE) for title in titles)
    assert (quote_of(found, "10").lowest_ask is not None) is stated


#: example -> where it is answered, the class that it must end in, and the stable code
FAILURES: dict[str, tuple[str, type[ProviderError], str]] = {
    "stockx_error_400_country": ("/market-data", Rejected, "rejected"),
    "stockx_error_400_not_uuid": ("/variants", Rejected, "rejected"),
    "stockx_error_401": ("/market-data", Unauthorized, "unauthorized"),
    "stockx_error_404_product": ("/market-data", NotListed, "mapping_broken"),
    "stockx_error_429": ("/market-data", Throttled, "throttled"),
    "stockx_error_500": ("/market-data", Transient, "server_error"),
    "stockx_error_504_html": ("/market-data", Transient, "server_error"),
    "stockx_error_oauth_invalid_grant": ("/oauth/token", Unauthorized, "invalid_grant"),
    "alias_error_400_missing_size": ("/availabilities/", Rejected, "rejected"),
    "alias_error_401": ("/availabilities/", Unauthorized, "unauthorized"),
    "alias_error_403": ("/availabilities/", Unauthorized, "forbidden"),
    "alias_error_404": ("/availabilities/", NotListed, "mapping_broken"),
    "alias_error_429": ("/availabilities/", Throttled, "throttled"),
    "alias_error_503": ("/availabilities/", Transient, "server_error"),
    "ebay_error_400_limit": ("/item_summary/search", Rejected, "rejected"),
    "ebay_error_400_missing_q": ("/item_summary/search", Rejected, "rejected"),
    "ebay_error_401": ("/item_summary/search", Unauthorized, "unauthorized"),
    "ebay_error_403": ("/item_summary/search", Unauthorized, "forbidden"),
    "ebay_error_404_item": ("/item_summary/search", Transient, "server_error"),
    "ebay_error_429": ("/item_summary/search", Throttled, "throttled"),
    "ebay_error_500": ("/item_summary/search", Transient, "server_error"),
    "ebay_error_oauth_invalid_client": ("/oauth2/token", Unauthorized, "unauthorized"),
    "ebay_error_oauth_invalid_scope": ("/oauth2/token", Unauthorized, "invalid_scope"),
}


@pytest.mark.parametrize("example", FAILURES)
async def test_every_written_down_error_ends_in_its_class(
    replay: Replay, tmp_path: Path, example: str
) -> None:
    where, expected, code = FAILURES[example]
    provider = example.partition("_")[0]
    replay.told = {where: example}
    async with client(provider, replay.settings(provider), tmp_path) as caller:
        with pytest.raises(ProviderError) as failed:
            await caller.fetch(PANDA, "10")
    assert type(failed.value) is expected
    assert failed.value.error_code == code
    if isinstance(failed.value, Throttled):
        assert failed.value.day_spent == (provider == "ebay")
    if code == "invalid_grant":
        assert "marketd auth stockx" in str(failed.value)
    assert replay.breaches(provider) == []


async def test_the_login_asks_for_its_code_as_the_document_has_it(replay: Replay, tmp_path: Path) -> None:
    from marketd import login

    replay.told = {"/oauth/token": "stockx_oauth_token_code"}
    shown: list[str] = []

    async def answer() -> str:
        state = re.findall(r"state=([^&]+)", shown[0])[0]
        return f"https://example.test/callback?code=abc&state={state}"

    await login.login(
        token_url=replay.url + "/oauth/token",
        client_id="c",
        client_secret="s",
        redirect_uri="https://example.test/callback",
        file=tmp_path / "login.json",
        show=shown.append,
        answer=answer,
    )
    assert set(replay.forms[0]) == set(written("stockx_oauth_token_code")["request"]["form"])
    kept = json.loads((tmp_path / "login.json").read_text())["refresh_token"]
    assert kept == written("stockx_oauth_token_code")["body"]["refresh_token"]


def test_no_written_down_answer_is_left_out() -> None:
    known = {file.stem for file in (SPECS / "examples").glob("*.json")}
    here = Path(__file__).read_text()
    assert {name for name in known if f'"{name}"' not in here} == set()
    assert known >= UNUSED
