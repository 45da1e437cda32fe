"""What an operator can choose about eBay, and the keyset that it takes."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from marketd import provider

MARKETPLACES = {"EBAY_US": "USD", "EBAY_CA": "CAD", "EBAY_AU": "AUD", "EBAY_GB": "GBP", "EBAY_DE": "EUR"}

_UK_SIZED = ("EBAY_GB",)  #: marketplaces whose size aspect is `UK Shoe Size` (fact sheet 4.5)


class Credentials(provider.Credentials):
    """The keyset of an application; it must be enabled for production."""

    client_id: str = ""
    client_secret: SecretStr = SecretStr("")


class Band(BaseModel):
    """Shares of the median ask between which a price can be the real thing; null = no bound.

    The median is that of the other providers for this size in the same currency; without one, that of the listings
    themselves where there are five or more. `basis.band` of a price says which: `providers`, `listings` or `none`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lowest: Decimal | None = Field(default=Decimal("0.4"), ge=0, lt=1)
    highest: Decimal | None = Field(default=None, gt=1, le=1000)


class Options(provider.Options):
    """Which eBay, and what counts as an ask there. Category ids differ from one marketplace to another."""

    marketplace: Literal["EBAY_US", "EBAY_CA", "EBAY_AU", "EBAY_GB", "EBAY_DE"] = "EBAY_US"
    delivery_country: str = Field(default="US", pattern=r"^[A-Z]{2}$")
    delivery_zip: str | None = Field(default=None, pattern=r"^[A-Za-z0-9 -]{2,10}$")
    category_men: str | None = Field(default="15709", pattern=r"^[0-9]+$")
    category_women: str | None = Field(default="95672", pattern=r"^[0-9]+$")
    category_youth: str | None = Field(default=None, pattern=r"^[0-9]+$")  # None = sizes are read from titles
    size_aspect: str | None = Field(default=None, pattern=r"^[A-Za-z ]+$")  # None = that of the marketplace
    include_shipping: bool = True  # false = price alone, also of listings whose shipping is unknown
    band: Band = Band()
    search_titles: bool = True  # a second request without the size aspect when the first finds nothing
    insights: bool = False  # one more request per size, for sold prices; the keyset needs the scope

    @field_validator("size_aspect")
    @classmethod
    def _is_known_there(cls, name: str | None, info: ValidationInfo) -> str | None:
        """A filter by a name that the marketplace does not have does nothing, and eBay does not say so."""
        if name and name.startswith("US ") and info.data.get("marketplace") in _UK_SIZED:
            raise ValueError("EBAY_GB has UK sizes: leave it out or set `UK Shoe Size`; titles tell US sizes")
        return name

    @property
    def us_aspect(self) -> str | None:
        """What the US size of a shoe is called there; None where a US number would be another size."""
        name = self.size_aspect or ("" if self.marketplace in _UK_SIZED else "US Shoe Size")
        return name if name.startswith("US ") else None

    @property
    def currencies(self) -> frozenset[str]:
        """A marketplace has prices in one."""
        return frozenset((MARKETPLACES[self.marketplace],))
