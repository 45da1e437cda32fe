"""Everything that marketd raises.

MarketdError
  ConfigError               exit 78 at start; on SIGHUP the old config stays
  SchemaError               exit 78: the schema is missing, old, newer or changed, or our login may not use it
  DatabaseError
    DatabaseUnavailable     exit 75, or wait and reconnect
      DatabaseBusy          Postgres is there, but a statement outlasted its time: a lock, or load
    StatementRefused        not by itself any better the next time: told, and the rest goes on
      DatabaseUnfit         and so is every such statement, whatever is in it: waited for like a database that is away
  CannotListen              exit 1: the address for /metrics is taken
  LeaseLost                 another worker owns the unit: drop the result, count it
  NotGranted                budget, pace, cool-down, circuit or pause refuse the next request: release
  ProviderError             what a provider answered; `code` is a stable word for SQL and metrics
    Transient               retry     reset, timeout, 5xx, HTML where JSON belongs
    BadPayload              retry     200, but not a shape that we can read
    Throttled               release   429; pauses the lane for `retry_after_s`
    Unauthorized            release   401/403; pauses the lane until credentials change
    Rejected                fail      4xx that says our request is wrong
    NotListed               fail      the provider has no such product
    Unmatched               fail      the product or the size cannot be told for certain
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar


class MarketdError(Exception):
    """Root of all errors of marketd."""


class ConfigError(MarketdError):
    """The configuration is unusable. `problems` are lines `file:line:col: key: reason`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class SchemaError(MarketdError):
    """The database's schema does not fit this program; the message says what to do."""


class DatabaseError(MarketdError):
    """Postgres did not do what was asked."""


class DatabaseUnavailable(DatabaseError):
    """Postgres cannot be reached (or refuses us) right now."""


class DatabaseBusy(DatabaseUnavailable):
    """A statement outlasted its time: for a lock that somebody holds, or under load."""


class StatementRefused(DatabaseError):
    """Postgres refuses a statement for what is in it, or in its tables: a number out of range, a check, a right."""


class DatabaseUnfit(StatementRefused, DatabaseUnavailable):
    """A right is revoked, or a table or column is not there: until somebody mends that."""


class CannotListen(MarketdError):
    """The address for /metrics cannot be had; the message says which."""


class LeaseLost(MarketdError):
    """Another worker owns the unit by now; nothing was written."""


class NotGranted(MarketdError):
    """The next request may not leave now. `reason` is one of `budget pace cooldown circuit paused off`."""

    def __init__(self, reason: str, until: datetime | None) -> None:
        super().__init__(f"{reason} until {until.isoformat() if until else 'resumed'}")
        self.reason = reason
        self.until = until


class ProviderError(MarketdError):
    """A provider did not give what was asked. The message never holds a secret or a whole body."""

    code: ClassVar[str] = "provider_error"

    def __init__(self, message: str, *, code: str | None = None, http_status: int | None = None) -> None:
        super().__init__(message)
        self.error_code = code or self.code
        self.http_status = http_status


class Transient(ProviderError):
    """Likely gone by itself: codes `timeout`, `connection`, `server_error`."""

    code = "server_error"


class BadPayload(ProviderError):
    """A 200 whose body cannot be read: `bad_payload` (shape), `bad_json`, `too_large`, `content_type`."""

    code = "bad_payload"


def no_such_path(what: str) -> Transient:
    """For a 404 where it cannot mean that a thing is unknown: the service is down, or `base_url` is wrong."""
    return Transient(f"HTTP 404: {what} is not at this address; is base_url right?", http_status=404)


class Throttled(ProviderError):
    """The provider counts us over a limit. `retry_after_s` is the provider's own word, if it gave one.

    `day_spent` says that a daily quota is gone, so that waiting seconds is pointless.
    """

    code = "throttled"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        day_spent: bool = False,
        http_status: int = 429,
    ) -> None:
        super().__init__(message, http_status=http_status)
        self.retry_after_s = retry_after_s
        self.day_spent = day_spent


class Unauthorized(ProviderError):
    """Credentials are refused.

    Codes: `unauthorized` (401), `forbidden` (403), `invalid_grant` (needs a login), `invalid_scope`.
    """

    code = "unauthorized"


class Rejected(ProviderError):
    """The provider says that the request itself is wrong (400, 404 of an endpoint, 415)."""

    code = "rejected"


class NotListed(ProviderError):
    """The provider does not carry the product: codes `unknown_sku`, `mapping_broken`."""

    code = "unknown_sku"


class Unmatched(ProviderError):
    """Product or size cannot be told for certain.

    Codes: `ambiguous_product`, `ambiguous_size`, `size_not_offered`, `size_required`, `size_system`.
    """

    code = "ambiguous_product"
