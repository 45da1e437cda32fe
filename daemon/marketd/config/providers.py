"""The `providers:` part of the schema: addresses, budgets, pace, accounts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time, timedelta
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    field_validator,
)

from marketd.config.base import Address, Int, Model, fault, is_loopback
from marketd.config.durations import Duration, Share, check_zone, lasting, parse_day_start, parse_share


@dataclass(frozen=True, slots=True)
class ProviderTypes:
    """What a provider's own file says about its stanza. Empty `currencies` means any."""

    credentials: type[BaseModel]
    options: type[BaseModel]
    currencies: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)  #: as in YAML; what the stanza does not say


class DayStart(Model):
    """When a provider's day begins: a wall clock time in a zone of the time zone database."""

    at: time = time(0, 0)
    zone: Annotated[str, AfterValidator(check_zone)] = "UTC"

    def __str__(self) -> str:
        return f"{self.at:%H:%M} {self.zone}"


class Reserve(Model):
    """Calls of the hour kept for urgent work: worked out from demand (`auto`), or a fixed share of 0 to 1."""

    auto: bool = True
    share: float = 0.0

    def __str__(self) -> str:
        return "auto" if self.auto else f"{self.share * 100:g}%"


def _reserve(value: Any) -> Any:
    if value == "auto":
        return Reserve()
    if isinstance(value, Reserve | dict):
        return value
    try:
        return Reserve(auto=False, share=parse_share(value))
    except ValueError:
        raise ValueError("expected auto or a percentage such as 20%") from None


def _text_schema(pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


class Budget(Model):
    """Calls that a provider allows; None = no limit of that kind, 0 = no call at all."""

    per_hour: Int | None = Field(default=None, ge=0, le=10_000_000)
    per_day: Int | None = Field(default=None, ge=0, le=100_000_000)
    day_starts: Annotated[
        DayStart, BeforeValidator(parse_day_start), _text_schema(r"^\d\d:\d\d +\S+$", "00:00 UTC")
    ] = DayStart()
    window: Literal["fixed", "rolling"] = "fixed"
    background_min: Share = 0.05
    reserve: Annotated[Reserve, BeforeValidator(_reserve), _text_schema(r"^(auto|.*%)$", "auto")] = Reserve()

    @field_validator("reserve")
    @classmethod
    def _shares_fit(cls, reserve: Reserve, info: ValidationInfo) -> Reserve:
        background_min = info.data.get("background_min", 0.0)
        if reserve.share + background_min > 1:
            share = f"{background_min * 100:g}%"
            raise fault(f"reserve {reserve} and background_min {share} make more than 100%")
        return reserve


class Pace(Model):
    """At most `calls` in every `per`, evenly spaced."""

    calls: Int = Field(default=1, ge=1, le=1000)
    per: Annotated[Duration, lasting("1ms", "1d")] = timedelta(seconds=1)

    @property
    def interval_s(self) -> float:
        """Seconds between two calls."""
        return self.per.total_seconds() / self.calls


class Circuit(Model):
    """After `failures` failures in a row, no call for `open`; then one probe decides."""

    failures: Int = Field(default=5, ge=1, le=1000)
    open: Annotated[Duration, lasting("100ms", "1d")] = timedelta(seconds=30)


class Account(Model):
    """A further account at a provider, with its own credentials and budget, for the users named."""

    credentials: BaseModel
    budget: Budget | None = None
    users: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()

    @field_validator("users")
    @classmethod
    def _users_once(cls, users: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({user for user in users if users.count(user) > 1})
        if twice:
            raise fault(f"user {twice[0]!r} is listed twice")
        return users


AccountName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class Reach(Model):
    """Where a provider's requests go, if they go."""

    enabled: bool = True
    base_url: Address | None = None
    token_url: Address | None = None


class Provider(Model):
    """One provider's stanza; `credentials` and `options` are of the types that its own file declares."""

    enabled: bool = True
    base_url: Address
    token_url: Address | None = None
    credentials: BaseModel
    options: BaseModel
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]  #: after `options`, which may allow fewer
    budget: Budget = Budget()
    pace: Pace = Pace()
    concurrency: Int = Field(default=1, ge=1, le=1000)
    timeout: Annotated[Duration, lasting("10ms", "10m")] = timedelta(seconds=30)
    circuit: Circuit = Circuit()
    accounts: dict[AccountName, Account] = Field(default_factory=dict)

    def budget_of(self, account: str) -> Budget:
        """The budget of an account by name; the provider's own for `default` and where none is set."""
        known = self.accounts.get(account)
        return known.budget if known and known.budget else self.budget

    def credentials_of(self, account: str) -> BaseModel:
        """The credentials of an account by name; the provider's own for any other name."""
        known = self.accounts.get(account)
        return known.credentials if known else self.credentials

    def with_credentials(self, account: str, credentials: BaseModel) -> Provider:
        """The stanza with other credentials for one account; any name that is no further account's means its own."""
        known = self.accounts.get(account)
        if known is None:
            return self.model_copy(update={"credentials": credentials})
        changed = known.model_copy(update={"credentials": credentials})
        return self.model_copy(update={"accounts": {**self.accounts, account: changed}})

    @field_validator("accounts")
    @classmethod
    def _accounts_apart(cls, accounts: dict[str, Account]) -> dict[str, Account]:
        if "default" in accounts:
            raise fault("'default' names the provider's own credentials; choose another name")
        owner: dict[str, str] = {}
        for name, account in accounts.items():
            for user in account.users:
                if owner.setdefault(user, name) != name:
                    raise fault(f"user {user!r} is in accounts {owner[user]} and {name}")
        return accounts


def currencies_of(options: BaseModel | None, offered: frozenset[str]) -> frozenset[str]:
    """Those of the `offered` currencies that a provider's options leave; empty means any."""
    return getattr(options, "currencies", None) or offered


def _known_currency(value: str, info: ValidationInfo, *, offered: frozenset[str]) -> str:
    allowed = currencies_of(info.data.get("options"), offered)
    if allowed and value not in allowed:
        why = "" if allowed == offered else " by these options"
        raise ValueError(f"expected one of {', '.join(sorted(allowed))}{why}")
    return value


def stanza_type(name: str, types: ProviderTypes) -> type[Provider]:
    """`Provider` with this provider's own credentials, options and currencies in it."""
    account = create_model(
        f"{name.title()}Account",
        __base__=Account,
        credentials=(types.credentials, Field(default_factory=dict, validate_default=True)),
    )
    currency = Annotated[
        str,
        Field(pattern=r"^[A-Z]{3}$"),
        AfterValidator(partial(_known_currency, offered=types.currencies)),
    ]
    fields: dict[str, Any] = {
        "credentials": (types.credentials, Field(default_factory=dict, validate_default=True)),
        "options": (types.options, Field(default_factory=dict, validate_default=True)),
        "currency": (currency, types.defaults.get("currency", ...)),
        "base_url": (Address, types.defaults.get("base_url", ...)),
        "accounts": (dict[AccountName, account], Field(default_factory=dict)),  # type: ignore[valid-type]
    }
    return create_model(f"{name.title()}Provider", __base__=Provider, **fields)


def with_defaults(stanza: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The stanza as written, with the provider's own addresses and limits where it is silent.

    `budget` is completed key by key: who sets an hourly limit keeps the provider's daily one. Limits and the token's
    address belong to the provider's own address: a stand-in elsewhere has those that are written.
    """
    base_url = stanza.get("base_url", defaults.get("base_url"))
    known = dict(defaults)
    if base_url != defaults.get("base_url"):
        known["budget"] = {k: v for k, v in known.get("budget", {}).items() if k == "day_starts"}
    token_url = known.pop("token_url", None)
    if token_url and token_url.startswith("/"):
        known["token_url"] = f"{str(base_url).rstrip('/')}{token_url}"
    elif token_url and base_url == defaults["base_url"]:
        known["token_url"] = token_url
    done = {**known, **stanza}
    for key, value in known.items():
        if isinstance(value, Mapping) and isinstance(stanza.get(key), Mapping):
            done[key] = {**value, **stanza[key]}
    return done


def loopback_faults(providers: Mapping[str, Provider | Reach]) -> list[str]:
    """Keys of the addresses of enabled providers that are not on this machine."""
    return [
        f"providers.{name}.{key}"
        for name, provider in providers.items()
        if provider.enabled
        for key, url in (("base_url", provider.base_url), ("token_url", provider.token_url))
        if url and not is_loopback(url)
    ]
