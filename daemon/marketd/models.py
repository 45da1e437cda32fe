"""The nouns that every floor shares: what is asked, what a provider knows, what a price is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from decimal import Decimal
from typing import Any, NewType
from uuid import UUID

from marketd.values import value

JobId = NewType("JobId", int)

DEFAULT_ACCOUNT = "default"


@value
class Job:
    """One claimed request to refresh a target; `attempt` is this run's number, from 1."""

    id: JobId
    size: str | None  #: canonical text as asked (`10`, `7.5W`, `UK 9`), None for a single-size item
    priority: int  #: 200 manual, 150 hot, 100 background
    attempt: int
    max_attempts: int
    due_at: datetime  #: when it became due; queue wait is measured from here


@value
class Product:
    """A provider's product, as far as the provider itself tells. `id` is the provider's own key."""

    id: str
    style_code: str | None = None
    name: str | None = None
    brand: str | None = None
    category: str | None = (
        None  #: sneakers, trading_cards, collectibles, ... (the provider's word, lower case)
    )
    gender: str | None = None  #: men, women, youth, unisex
    image_url: str | None = None  #: only an address that the provider itself gave
    url: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)  #: JSON: colorway, release date, retail price


@value
class Variant:
    """One size of a product. `size` is the provider's US size in canonical text, None for a single size."""

    id: str
    size: str | None
    chart: Mapping[str, str] = field(
        default_factory=dict
    )  #: other systems: {"uk": "9", "eu": "44"}, as given
    gtins: tuple[str, ...] = ()


@value
class Listing:
    """What a sku was found to be at a provider; cached, so that a warm product costs one call."""

    product: Product
    variants: tuple[Variant, ...]


@value
class Known:
    """What earlier fetches learnt of a sku."""

    listing: Listing | None = None  #: what it was found to be here
    elsewhere: Listing | None = None  #: what another provider lists under it, preferably one with size charts
    references: Mapping[str | None, Decimal] = field(
        default_factory=dict
    )  #: median asks elsewhere in this currency, by US size


NOTHING_KNOWN = Known()


@value
class Unit:
    """What one fetch serves: claimed jobs of one product under one lease."""

    key: str
    lease_id: UUID  #: the fence; fresh at every claim
    claimed_at: datetime
    provider: str
    account: str
    sku: str
    currency: str
    jobs: tuple[Job, ...]  #: the most urgent first
    known: Known = NOTHING_KNOWN  #: as of the claim
    troubled: bool = False  #: the provider failed before this claim: success is news

    @property
    def priority(self) -> int:
        return self.jobs[0].priority

    @property
    def sizes(self) -> tuple[str | None, ...]:
        """The distinct sizes asked, in the order of the jobs."""
        return tuple(dict.fromkeys([job.size for job in self.jobs]))


@value
class Quote:
    """The market of one size at one moment. None = the provider says there is none; amounts are never 0."""

    size: str | None  #: the provider's US size in canonical text
    currency: str
    lowest_ask: Decimal | None = None
    highest_bid: Decimal | None = None
    last_sale: Decimal | None = None
    last_sale_at: datetime | None = None
    sales_72h: int | None = None
    sale_unknown: bool = False  #: its last sale could not be looked up: the one that is stored stands
    basis: Mapping[str, Any] = field(
        default_factory=dict
    )  #: JSON: what the amounts mean (region, shipping, ...)
    observed_at: datetime  #: database time at which the request that brought it was granted
    parser: int = 1  #: raised when answers are read differently: what then differs is no price change
