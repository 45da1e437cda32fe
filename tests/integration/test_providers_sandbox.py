"""The three clients against the sandbox: right prices, refused traps, every kind of trouble in its class."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from marketd import errors
from marketd.errors import BadPayload, NotListed, ProviderError, Rejected, Throttled, Transient, Unauthorized
from marketd.sandbox.server import Sandbox
from provider_kit import SPECS, Client, client, quote_of

PANDA = "DD1391-100"
PROVIDERS = ("stockx", "alias", "ebay")
#: eBay files youth shoes under a category of each marketplace's own; this one is the sandbox's
OPTIONS: dict[str, dict[str, Any]] = {"stockx": {}, "alias": {}, "ebay": {"category_youth": "57929"}}
PRICED = {"stockx": "market_data", "alias": "availabilities", "ebay": "search"}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, limits={"*": None}) as running:
        yield running


def golden() -> list[tuple[str, str]]:
    file = SPECS / "golden_set.json"
    rows = json.loads(file.read_text())["golden"] if file.exists() else [{"sku": PANDA, "size": "10"}]
    return [(row["sku"], row["size"]) for row in rows]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_golden_set_is_priced_as_the_provider_has_it(
    sandbox: Sandbox, provider: str, tmp_path: Path
) -> None:
    async with client(provider, sandbox.settings[provider], tmp_path, OPTIONS[provider]) as caller:
        for sku, size in golden():
            found = await caller.fetch(sku, size)
            quote, truth = quote_of(found, size), sandbox.truth(provider, sku, size)
            assert (quote.lowest_ask, quote.highest_bid, quote.last_sale) == (
                truth.ask,
                truth.bid,
                truth.last_sale,
            ), (sku, size, quote)
            assert quote.lowest_ask != 0


@pytest.fixture
async def callers(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[dict[str, Client]]:
    """A client of each provider."""
    async with (
        client("stockx", sandbox.settings["stockx"], tmp_path, timeout_s=2) as stockx,
        client("alias", sandbox.settings["alias"], tmp_path, timeout_s=2) as alias,
        client("ebay", sandbox.settings["ebay"], tmp_path, OPTIONS["ebay"], timeout_s=2) as ebay,
    ):
        yield {"stockx": stockx, "alias": alias, "ebay": ebay}


@pytest.mark.parametrize(("provider", "cold", "warm"), [("stockx", 3, 1), ("alias", 2, 1), ("ebay", 1, 1)])
async def test_a_fetch_costs_the_requests_that_it_must_and_no_more(
    sandbox: Sandbox, callers: dict[str, Client], provider: str, cold: int, warm: int
) -> None:
    caller = callers[provider]
    first = await caller.fetch(PANDA, "10")
    assert sandbox.count(provider) == cold
    again = await caller.fetch(PANDA, "10", listing=first.listing)
    assert sandbox.count(provider) == cold + warm
    assert again.listing is None
    assert quote_of(again, "10").lowest_ask == quote_of(first, "10").lowest_ask
    mints = 0 if provider == "alias" else 1
    assert caller.gate.charged == cold + warm + mints
    assert [meter for _, meter in caller.gate.taken].count("mints") == mints


@pytest.mark.parametrize("provider", ["stockx", "alias"])
async def test_one_call_brings_every_size_as_it_is(
    sandbox: Sandbox, callers: dict[str, Client], provider: str
) -> None:
    found = await callers[provider].fetch("DC7770-160", None, "9")
    assert found.answers[None] is None
    assert len(found.quotes) > 15
    for quote in found.quotes:
        truth = sandbox.truth(provider, "DC7770-160", quote.size)
        assert (quote.lowest_ask, quote.highest_bid, quote.last_sale) == (
            truth.ask,
            truth.bid,
            truth.last_sale,
        )


async def test_stockx_prices_are_in_the_currency_that_was_asked_for(
    sandbox: Sandbox, callers: dict[str, Client]
) -> None:
    for currency in ("GBP", "EUR", "JPY"):
        quote = quote_of(await callers["stockx"].fetch(PANDA, "10", currency=currency), "10")
        assert quote.currency == currency
        assert quote.lowest_ask == sandbox.truth("stockx", PANDA, "10", currency).ask


@pytest.mark.parametrize(("provider", "currency"), [("alias", "GBP"), ("ebay", "GBP")])
async def test_a_currency_that_the_provider_lacks_is_refused_without_a_request(
    sandbox: Sandbox, callers: dict[str, Client], provider: str, currency: str
) -> None:
    with pytest.raises(Rejected, match="USD") as refused:
        await callers[provider].fetch(PANDA, "10", currency=currency)
    assert refused.value.error_code == "currency"
    assert sandbox.count(provider) == 0


@pytest.mark.parametrize(
    ("sku", "size", "code"),
    [
        ("DC7770-160", "UK 6", "ambiguous_size"),
        ("DD1503-103", "7.5", "size_system"),
        ("IB4171-100", "5", "size_system"),
        (PANDA, "10W", "size_system"),
        (PANDA, "22", "size_not_offered"),
    ],
)
@pytest.mark.parametrize("provider", ["stockx", "alias"])
async def test_a_size_that_cannot_be_told_for_certain_is_refused_and_the_others_are_kept(
    callers: dict[str, Client], provider: str, sku: str, size: str, code: str
) -> None:
    found = await callers[provider].fetch(sku, size)
    refusal = found.answers[size]
    assert isinstance(refusal, ProviderError)
    assert refusal.error_code == code
    assert found.quotes


@pytest.mark.parametrize(
    ("sku", "size", "us"),
    [("DC7770-160", "UK 9", "10"), ("DC7770-160", "EU 40", "7"), ("DD1503-103", "UK 5", "7.5W")],
)
@pytest.mark.parametrize("provider", ["stockx", "alias"])
async def test_sizes_of_other_systems_find_the_right_us_size(
    callers: dict[str, Client], provider: str, sku: str, size: str, us: str
) -> None:
    assert (await callers[provider].fetch(sku, size)).answers == {size: us}


async def test_ebay_takes_no_size_that_it_cannot_be_asked_for(callers: dict[str, Client]) -> None:
    found = await callers["ebay"].fetch(PANDA, "UK 9", None)
    codes = {
        size: error.error_code for size, error in found.answers.items() if isinstance(error, ProviderError)
    }
    assert codes == {"UK 9": "size_system", None: "size_required"}
    assert found.quotes == ()


@pytest.mark.parametrize("provider", ["stockx", "alias"])
@pytest.mark.parametrize("sku", ["ZZ0000-000", "DD1391-999"])
async def test_an_unknown_code_is_not_listed_however_near_its_neighbours_are(
    callers: dict[str, Client], provider: str, sku: str
) -> None:
    with pytest.raises(NotListed) as missing:
        await callers[provider].fetch(sku, "10")
    assert missing.value.error_code == "unknown_sku"


@pytest.mark.parametrize(
    ("sku", "size", "title"),
    [
        ("AJ4219-400", "9", "Nike Air Max 1/97 Sean Wotherspoon (All Accessories and Dustbag)"),
        ("FV5029-010", "11", "Jordan 4 Retro Black Cat (2025)"),
        ("CV9388-100", "10W", "Jordan 4 Retro Off-White Sail (Women's)"),
        ("CV9388-100", "9W", "Jordan 4 Retro Off-White Sail (Women's)"),
        ("DZ5485-612", "9", "Jordan 1 Retro High OG Chicago Lost and Found"),
    ],
)
async def test_of_products_with_one_style_code_the_shoe_is_chosen(
    callers: dict[str, Client], sku: str, size: str, title: str
) -> None:
    found = await callers["stockx"].fetch(sku, size)
    assert found.listing is not None
    assert found.listing.product.name == title


async def test_two_equal_products_of_one_code_are_left_to_a_person(callers: dict[str, Client]) -> None:
    with pytest.raises(errors.Unmatched, match="id:") as tied:
        await callers["stockx"].fetch("FV5029-003", "10")
    assert tied.value.error_code == "ambiguous_product"
    chosen = re.findall(r"id:([0-9a-f-]+)", str(tied.value))[0]
    assert (await callers["stockx"].fetch(f"id:{chosen}", "10")).answers == {"10": "10"}


@pytest.mark.parametrize("provider", ["stockx", "alias"])
async def test_a_joined_code_is_found_by_either_half(
    sandbox: Sandbox, callers: dict[str, Client], provider: str
) -> None:
    for sku in ("315122-111/CW2288-111", "CW2288-111"):
        found = await callers[provider].fetch(sku, "9")
        assert quote_of(found, "9").lowest_ask == sandbox.truth(provider, "CW2288-111", "9").ask


async def test_things_without_a_style_code_are_found_by_name(
    sandbox: Sandbox, callers: dict[str, Client]
) -> None:
    unstyled = [product for product in sandbox.world if product.style is None]
    assert len(unstyled) > 4
    for product in unstyled:
        size = product.sizes[0]
        found = await callers["stockx"].fetch(f"name:{product.title.lower()[:100]}", size)
        assert quote_of(found, size).lowest_ask == sandbox.truth("stockx", product.key, size).ask


async def test_ebay_finds_things_by_name_and_says_that_only_titles_vouch_for_them(
    sandbox: Sandbox, callers: dict[str, Client]
) -> None:
    single = [product for product in sandbox.world if product.style is None and product.sizes == (None,)]
    named = [product for product in single if product.shelf is not None]
    assert named
    for product in named:
        found = await callers["ebay"].fetch(f"name:{product.title.lower()[:100]}", None)
        quote = quote_of(found, None)
        assert quote.lowest_ask == sandbox.truth("ebay", product.key).ask
        assert quote.basis["quality"] == "low"


async def test_ebay_finds_a_grade_by_the_title_of_graded_cards(
    sandbox: Sandbox, callers: dict[str, Client]
) -> None:
    card = next(product for product in sandbox.world if "PSA 10" in product.sizes and product.shelf)
    quote = quote_of(await callers["ebay"].fetch(f"name:{card.title.lower()}", "PSA 10"), "PSA 10")
    assert quote.lowest_ask == sandbox.truth("ebay", card.key, "PSA 10").ask
    assert quote.basis["quality"] == "low"


@pytest.mark.parametrize("provider", ["stockx", "alias"])
async def test_a_cached_id_that_is_gone_is_searched_for_again(
    sandbox: Sandbox, callers: dict[str, Client], provider: str
) -> None:
    known = (await callers[provider].fetch(PANDA, "10")).listing
    new = sandbox.retire(PANDA, provider)
    found = await callers[provider].fetch(PANDA, "10", listing=known)
    assert found.listing is not None
    assert found.listing.product.id == new
    assert quote_of(found, "10").lowest_ask == sandbox.truth(provider, PANDA, "10").ask


@pytest.mark.parametrize("provider", ["stockx", "alias"])
async def test_a_size_that_is_new_is_learnt_when_prices_name_it(
    sandbox: Sandbox, callers: dict[str, Client], provider: str
) -> None:
    known = (await callers[provider].fetch(PANDA, "10")).listing
    sandbox.add_size(PANDA, "16")
    before = sandbox.count(provider)
    found = await callers[provider].fetch(PANDA, "16", listing=known)
    assert found.answers == {"16": "16"}
    assert sandbox.count(provider) - before == 2


@pytest.mark.parametrize("provider", ["stockx", "ebay"])
async def test_an_expired_token_is_minted_again_once_and_every_request_is_charged(
    sandbox: Sandbox, callers: dict[str, Client], provider: str
) -> None:
    caller = callers[provider]
    known = (await caller.fetch(PANDA, "10")).listing
    sandbox.expire_tokens(provider)
    before = len(sandbox.requests)
    found = await caller.fetch(PANDA, "10", listing=known)
    assert not isinstance(found.answers["10"], Exception)
    assert [entry.status for entry in sandbox.requests[before:]] == [401, 200, 200]
    assert caller.gate.charged == len(sandbox.requests)


async def test_a_refused_refresh_token_asks_for_a_login_and_shows_no_secret(
    sandbox: Sandbox, callers: dict[str, Client]
) -> None:
    sandbox.fault("stockx", "invalid_grant", endpoint="token")
    with pytest.raises(Unauthorized, match="marketd auth stockx") as refused:
        await callers["stockx"].fetch(PANDA, "10")
    assert refused.value.error_code == "invalid_grant"
    assert not any(secret in str(refused.value) for secret in sandbox.credentials["stockx"].values())


def trouble(kind: str, expected: type[Exception], word: str, told: str, /, **options: Any) -> Any:
    return pytest.param(
        kind, options, expected, word, told, id="-".join([kind, *map(str, options.values())])[:40]
    )


TROUBLES = [
    trouble("status", Rejected, "rejected", "bad_request", status=400),
    trouble("status", Unauthorized, "forbidden", "forbidden", status=403),
    trouble("status", NotListed, "mapping_broken", "not_found", status=404),
    trouble("status", Transient, "server_error", "not_found", status=404, html=True),
    trouble("status", Throttled, "throttled", "throttled", status=429, retry_after=17),
    trouble("status", Transient, "server_error", "server_error", status=500),
    trouble("status", Transient, "server_error", "server_error", status=503),
    trouble("status", Transient, "server_error", "server_error", status=504, html=True),
    trouble("message", Transient, "server_error", "server_error", status=500),
    trouble("stall", Transient, "timeout", "timeout", seconds=25),
    trouble("drip", Transient, "timeout", "timeout", seconds=25),
    trouble("reset", Transient, "connection", "connection", when="before"),
    trouble("reset", Transient, "connection", "connection", when="body"),
    trouble("truncated", BadPayload, "bad_json", "bad_payload"),
    trouble("empty", BadPayload, "bad_json", "bad_payload"),
    trouble("html", BadPayload, "content_type", "bad_payload"),
    trouble("wrong_shape", BadPayload, "bad_payload", "ok"),
    trouble("content_type", BadPayload, "content_type", "bad_payload"),
    trouble("huge", BadPayload, "too_large", "bad_payload"),
    trouble("gzip_bomb", BadPayload, "too_large", "bad_payload"),
    trouble("redirect", Transient, "server_error", "other"),
    trouble("invalid_utf8", BadPayload, "bad_json", "bad_payload"),
    trouble("nan", BadPayload, "bad_json", "bad_payload"),
    trouble("overflow", BadPayload, "bad_json", "bad_payload"),
    trouble("negative", BadPayload, "bad_payload", "ok"),
    trouble("absurd", BadPayload, "bad_payload", "ok"),
]


@pytest.mark.parametrize(("kind", "options", "expected", "word", "status"), TROUBLES)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_every_trouble_ends_in_its_class_after_one_request(
    sandbox: Sandbox,
    callers: dict[str, Client],
    provider: str,
    kind: str,
    options: dict[str, Any],
    expected: type[Exception],
    word: str,
    status: str,
) -> None:
    caller = callers[provider]
    listing = (await caller.fetch(PANDA, "10")).listing
    before = sandbox.count(provider), len(caller.notes.requests)
    sandbox.fault(provider, kind, endpoint=PRICED[provider], times=None, **options)
    if kind == "status" and options["status"] == 404 and provider == "ebay":
        expected, word = Transient, "server_error"  # a search knows no 404
    error = await failure(caller, listing)
    assert isinstance(error, expected), error
    assert isinstance(error, ProviderError)
    assert error.error_code == word
    assert caller.notes.requests[-1].status_class == status
    again = 2 if word == "mapping_broken" else 0  # it is searched for once more
    again += provider == "stockx" and word == "mapping_broken"
    assert sandbox.count(provider) - before[0] == 1 + again
    assert len(caller.notes.requests) - before[1] == 1 + again
    if isinstance(error, Throttled) and provider != "ebay":
        assert error.retry_after_s == 17
    if isinstance(error, Throttled):
        assert error.day_spent == (provider == "ebay")


async def failure(caller: Client, listing: Any) -> object:
    try:
        found = await caller.fetch(PANDA, "10", listing=listing)
    except ProviderError as error:
        return error
    return found.answers["10"]
