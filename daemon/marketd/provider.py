"""What a provider file promises to the lane, and what it may use. No I/O here.

A provider is one module in `providers/` with a class that satisfies `Provider`, exported as `PROVIDER`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from pydantic import BaseModel, ConfigDict, SecretStr

from marketd.errors import BadPayload, NotGranted, ProviderError
from marketd.models import Listing, Quote
from marketd.values import value


class Options(BaseModel):
    """Base of a provider's `options:` in config.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def currencies(self) -> frozenset[str]:
        """What these options leave of the provider's currencies; empty = all of them."""
        return frozenset()


class Credentials(BaseModel):
    """Base of a provider's `credentials:`. A provider with an empty one is off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def missing(self) -> tuple[str, ...]:
        """Names of the credentials that are empty."""
        return tuple(
            name
            for name, value in self
            if not (value.get_secret_value() if isinstance(value, SecretStr) else value)
        )


@value
class Reply:
    """One answer of 2xx: its JSON (fractions as Decimal), and the database time its request was granted."""

    status: int
    body: Any
    headers: Mapping[str, str]
    granted_at: datetime


class Http(Protocol):
    """One metered door to one provider's account; the frame behind it charges, paces, sends, measures.

    Raises `NotGranted` before anything is sent, `ProviderError` subclasses for what comes back: transport
    faults and 5xx as `Transient`, 429 as `Throttled`, 401 and 403 as `Unauthorized`, 404 as `NotListed`,
    other 4xx as `Rejected`, and an unreadable 200 as `BadPayload`, unless the provider's own
    `classify(status, headers, body)` answers first.
    """

    async def get(
        self,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        endpoint: str,
        headers: Mapping[str, str] | None = None,
        meter: str = "calls",
    ) -> Reply:
        """GET base_url + path. `endpoint` is the short fixed name that metrics and the call record use."""
        ...


@value
class Ask:
    """What a fetch is to find: one sku, the sizes that wait for it, one currency."""

    sku: str  #: canonical: style code, `id:<product id>` or `name:<words>`
    sizes: tuple[str | None, ...]  #: canonical texts as asked
    currency: str
    listing: Listing | None = None  #: what the sku is known to be, if it is
    #: Median asks of the other providers in the same currency, by US size, for plausibility.
    references: Mapping[str | None, Decimal] = field(default_factory=dict)
    elsewhere: Listing | None = None  #: what another provider lists under this sku, for its sizes and chart


#: By asked size: the provider's US size whose quote settles it, None for all sizes, or why there is no answer.
Answers: TypeAlias = Mapping[str | None, str | ProviderError | NotGranted | None]


def certain(answers: Answers, trouble: ProviderError | NotGranted) -> Answers:
    """What may be said by a list of sizes that lags behind and could not be loaded again, because of `trouble`.

    Only who asked for a size by its very name has an answer: one that is missing may be new, and one that fits may
    not be the only one any more.
    """
    return {
        size: size if size is not None and answer == size else trouble for size, answer in answers.items()
    }


_FIRST_SALE, _CLOCKS_APART = datetime(2000, 1, 1, tzinfo=UTC), timedelta(hours=1)


def instant(given: Any, what: str) -> datetime:
    """A time that a provider tells, as text with its zone. BadPayload, which names `what` has it, for any other."""
    try:
        at = datetime.fromisoformat(given)
    except (TypeError, ValueError):
        raise BadPayload(f"{what} whose time cannot be read") from None
    if at.tzinfo is None:
        raise BadPayload(f"{what} whose time has no zone")
    return at


def sold_at(given: Any, what: str, now: datetime) -> datetime:
    """When a sale was. BadPayload also for one of another age or yet to come: it would stay the last for long."""
    at = instant(given, what)
    if not _FIRST_SALE <= at <= now + _CLOCKS_APART:
        raise BadPayload(f"{what} of {at:%Y-%m-%d}, which cannot be")
    return at


@value
class Found:
    """What a fetch found. Every asked size is a key of `answers`, no other is.

    `quotes` holds every size that the provider returned, asked for or not.
    """

    listing: Listing | None  #: None when only the quotes are new and the cached listing stands
    quotes: tuple[Quote, ...]
    answers: Answers = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """A provider's own word on the calls of its day."""

    remaining: int
    reset: datetime


@runtime_checkable
class TellsUsage(Protocol):
    """A provider that can be asked how many calls its day has left (not every one can)."""

    async def usage(self, http: Http) -> Usage | None:
        """What it says, None when it says nothing. Charged to the meter `reports`."""
        ...


class Provider(Protocol):
    """One provider for one account, built anew at every (re)load of the config.

    It may also have `first_calls`, the calls that a product costs which was never found before (else 1), for ETAs.
    """

    name: ClassVar[str]  #: equals the module's name
    all_sizes: ClassVar[bool]  #: one call returns every size of a product
    images: ClassVar[bool]  #: a fetch brings the product's image address
    currencies: ClassVar[frozenset[str]]  #: what `currency` may be; empty = any ISO code
    credentials_type: ClassVar[type[Credentials]]
    options_type: ClassVar[type[Options]]

    async def fetch(self, ask: Ask, http: Http) -> Found:
        """Find the listing (unless known), then its prices, in as few requests as the provider allows."""
        ...
