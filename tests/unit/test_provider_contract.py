"""What holds for every provider that can be found, a fourth one too."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd import providers
from marketd.errors import ConfigError, ProviderError, Transient
from marketd.models import Listing, Product, Variant
from marketd.provider import Ask, Credentials, Found, Options, Reply, TellsUsage
from provider_kit import GRANTED_AT

FOUND = providers.discover()
NAMES = sorted(FOUND)

SCALARS = (
    st.none() | st.booleans() | st.integers(-5, 10**12) | st.decimals(allow_nan=False) | st.text(max_size=8)
)
KEYS = st.sampled_from(
    [
        *(
            "products",
            "productId",
            "variantId",
            "variantValue",
            "currencyCode",
            "lowestAskAmount",
            "highestBidAmount",
        ),
        *("catalog_items", "catalog_id", "sku", "variants", "size", "availability", "product_condition"),
        *(
            "packaging_condition",
            "allowed_sizes",
            "has_more",
            "total",
            "itemSummaries",
            "price",
            "value",
            "currency",
        ),
        *("title", "conditionId", "rateLimits", "resources", "rates", "errors"),
    ]
)
BODIES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=12,
)


class Answers:
    """Every request gets the next of these bodies, whatever was asked."""

    def __init__(self, bodies: list[Any]) -> None:
        self._bodies = bodies

    async def get(
        self, path: str, params: Any = None, *, endpoint: str, headers: Any = None, meter: str = "calls"
    ) -> Reply:
        body = self._bodies.pop(0) if len(self._bodies) > 1 else self._bodies[0]
        return Reply(status=200, body=body, headers={}, granted_at=GRANTED_AT)


def plugin(name: str) -> providers.Plugin:
    kind = FOUND[name]
    return kind(kind.options_type())


def test_the_three_providers_are_found_by_themselves() -> None:
    assert {"alias", "ebay", "stockx"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_provider_tells_what_the_configuration_needs(name: str) -> None:
    kind = FOUND[name]
    assert kind.name == name
    assert issubclass(kind.credentials_type, Credentials)
    assert issubclass(kind.options_type, Options)
    assert kind.options_type().model_config["extra"] == "forbid"
    assert kind.credentials_type().missing(), "without credentials a provider is off"
    assert all(len(currency) == 3 for currency in kind.currencies)


@pytest.mark.parametrize("name", NAMES)
def test_credentials_do_not_show_their_secrets(name: str, tmp_path: Path) -> None:
    kind = FOUND[name]
    held = kind.credentials_type(**dict.fromkeys(kind.credentials_type.model_fields, "hush-hush"))
    auth = plugin(name).authorize(held, token_url="https://x.example/token", token_file=tmp_path / "t")
    assert "hush-hush" not in repr(auth)
    assert "hush-hush" not in repr({key: value for key, value in held if key != "client_id"})


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(bodies=st.lists(BODIES, min_size=1, max_size=3), known=st.booleans())
async def test_a_foreign_body_ends_in_a_provider_error_or_in_sane_prices(
    name: str, bodies: list[Any], known: bool
) -> None:
    product = Product(id="00000000-0000-0000-0000-000000000001", name="Dunk", gender="men", brand="Nike")
    listing = Listing(product=product, variants=(Variant(id="10", size="10"),)) if known else None
    ask = Ask(sku="DD1391-100", sizes=("10", None), currency="USD", listing=listing)
    try:
        found = await plugin(name).fetch(ask, Answers(bodies))
    except ProviderError:
        return
    check(found, ask)


def check(found: Found, ask: Ask) -> None:
    assert set(found.answers) == set(ask.sizes)
    quoted = [quote.size for quote in found.quotes]
    assert len(quoted) == len(set(quoted))
    for quote in found.quotes:
        json.dumps(quote.basis)
        amounts = (quote.lowest_ask, quote.highest_bid, quote.last_sale)
        assert all(amount is None or Decimal(0) < amount < Decimal(10**8) for amount in amounts)
    for answer in found.answers.values():
        assert answer is None or isinstance(answer, ProviderError) or answer in quoted


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_answer_is_classified_without_trusting_its_body(name: str) -> None:
    bodies: tuple[Any, ...] = (
        None,
        [],
        "text",
        {"errors": None},
        {"errors": [None]},
        {"errors": 7},
        {"code": "x"},
    )
    for body in bodies:
        for status in (400, 404, 429, 500):
            own = plugin(name).classify(status, {}, body)
            # A 404 in no form of the provider's own says nothing about the product.
            assert isinstance(own, Transient) if status == 404 else own is None


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50, deadline=None)
@given(body=BODIES)
async def test_a_provider_that_tells_its_usage_survives_any_body(name: str, body: Any) -> None:
    kind = plugin(name)
    if isinstance(kind, TellsUsage):
        told = await kind.usage(Answers([body]))
        assert told is None or told.remaining >= 0


class Goat:
    """A fourth provider, as little as will do."""

    name = "goat"
    all_sizes = True
    images = False
    currencies = frozenset({"USD"})
    credentials_type = Credentials
    options_type = Options
    authorize = classify = fetch = staticmethod(lambda: None)


def outside(monkeypatch: pytest.MonkeyPatch, name: str, exported: Any) -> None:
    module = ModuleType(name)
    if exported is not None:
        module.PROVIDER = exported  # type: ignore[attr-defined]
    entry = SimpleNamespace(name=name, value=f"shop.{name}", load=lambda: module)
    monkeypatch.setattr(providers, "entry_points", lambda group: [entry])


def test_a_fourth_provider_outside_the_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    outside(monkeypatch, "goat", Goat)
    found: dict[str, Any] = dict(providers.discover())
    assert found["goat"] is Goat


@pytest.mark.parametrize(
    ("name", "exported", "reason"),
    [
        ("goat", None, "must export PROVIDER"),
        ("goat", type("Bare", (), {"name": "goat"}), "fetch"),
        ("sheep", Goat, "the module's name is 'sheep'"),
        ("stockx", type("Twin", (Goat,), {"name": "stockx"}), "already"),
    ],
)
def test_a_provider_that_is_not_whole_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, name: str, exported: Any, reason: str
) -> None:
    outside(monkeypatch, name, exported)
    with pytest.raises(ConfigError, match=reason):
        providers.discover()


def test_a_provider_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise ImportError("No module named 'lost'")

    entry = SimpleNamespace(name="goat", value="shop.goat", load=load)
    monkeypatch.setattr(providers, "entry_points", lambda group: [entry])
    with pytest.raises(ConfigError, match=r"shop\.goat: ImportError: No module named 'lost'"):
        providers.discover()
