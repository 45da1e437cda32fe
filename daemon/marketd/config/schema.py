"""The whole of config.yaml but `providers:`, with the shipped defaults.

A check of several keys stands at the last of them (fields are validated in their order, `info.data` has those that are
in order), so that it is made whatever else is wrong in the section.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from marketd.config.base import Int, Model, Number, fault
from marketd.config.dsn import postgres_url
from marketd.config.durations import Duration, lasting
from marketd.config.faults import Fault, KeyPath, Origin, scrubbed
from marketd.config.flat import digest, secrets
from marketd.config.providers import Provider

PER_DAEMON = ("database", "state_dir", "http", "log")  #: may differ between daemons of one database

Keep = Annotated[Duration, lasting("1s")]
_HEARTBEAT_FLOOR = timedelta(seconds=1)


def _empty_is_none(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


Dsn = Annotated[SecretStr | None, BeforeValidator(_empty_is_none), AfterValidator(postgres_url)]


class Database(Model):
    """Where Postgres is. `listen_dsn` goes around a pooler that cannot LISTEN."""

    dsn: Dsn = None
    listen_dsn: Dsn = None
    embedded: bool = False
    pool_size: Int = Field(default=8, ge=1, le=50)
    statement_timeout: Annotated[Duration, lasting("100ms", "10m")] = timedelta(seconds=10)

    @field_validator("embedded")
    @classmethod
    def _one_database(cls, embedded: bool, info: ValidationInfo) -> bool:
        named = [name for name in ("dsn", "listen_dsn") if info.data.get(name)]
        if embedded and named:
            raise fault(f"true, and a {named[0]} is set too: choose one")
        return embedded


def _state_dir(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():
        raise ValueError("expected a directory")
    if not isinstance(value, str | Path):
        raise ValueError("expected a directory as text")
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise ValueError("no home directory is known for ~; write the whole path") from None
    if not path.is_absolute():
        raise ValueError("expected an absolute path, or one that starts with ~/")
    return path


class Http(Model):
    """Where /metrics, /healthz and /readyz are served; port 0 takes a free one."""

    host: Annotated[str, Field(pattern=r"^[^\s/@]+$")] = "127.0.0.1"
    port: Int = Field(default=9464, ge=0, le=65535)


class Log(Model):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Scheduler(Model):
    """The timer's pass, the fallback poll, and the priority from which a request wakes a lane by itself."""

    interval: Annotated[Duration, lasting("100ms", "7d")] = timedelta(minutes=1)
    poll: Annotated[Duration, lasting("100ms", "1h")] = timedelta(seconds=5)
    wake_priority: Int = Field(default=150, ge=1, le=1000)


class Backoff(Model):
    """Full-jitter backoff of a retry: up to base * 2^(attempt-1), never over cap."""

    cap: Annotated[Duration, lasting("1ms")] = timedelta(minutes=15)
    base: Annotated[Duration, lasting("1ms")] = Field(default=timedelta(seconds=2), validate_default=True)

    @field_validator("base")
    @classmethod
    def _base_below_cap(cls, base: timedelta, info: ValidationInfo) -> timedelta:
        if base > info.data.get("cap", base):
            raise fault("base is longer than cap")
        return base


class Jobs(Model):
    fresh_for: Duration = timedelta(minutes=10)
    max_attempts: Int = Field(default=5, ge=1, le=100)
    lease: Duration = timedelta(seconds=60)
    shutdown_grace: Annotated[Duration, lasting("0s", "1h")] = timedelta(seconds=20)
    keep_finished: Keep = timedelta(days=7)
    keep_history: Keep = timedelta(days=365)
    keep_requests: Keep = timedelta(days=14)
    backoff: Backoff = Backoff()
    not_listed_cooldown: Duration = timedelta(days=7)

    @property
    def heartbeat(self) -> timedelta:
        """How often a running fetch extends its lease: a quarter of it, at least a second."""
        return max(_HEARTBEAT_FLOOR, self.lease / 4)

    @field_validator("lease")
    @classmethod
    def _lease_outlives_heartbeats(cls, lease: timedelta) -> timedelta:
        if lease < 3 * _HEARTBEAT_FLOOR:
            raise fault("expected at least 3s (a lease must outlive three heartbeats)")
        return lease


def _image(value: str) -> str:
    if not re.fullmatch(r"(https?://[^\s/@]+(/\S*)?|/[^\s/]\S*)", value):
        raise ValueError("expected an https address or a path such as /images/fallback.svg")
    return value


Image = Annotated[str, AfterValidator(_image)]


class FallbackImages(Model):
    """What `market_catalog` shows for a product without an image, by category."""

    sneakers: Image = "/images/fallback/sneakers.svg"
    trading_cards: Image = "/images/fallback/trading-cards.svg"
    collectibles: Image = "/images/fallback/collectibles.svg"
    default: Image = "/images/fallback/default.svg"


class Catalog(Model):
    default_size_system: Literal["us", "uk", "eu"] = "us"
    fallback_images: FallbackImages = FallbackImages()


class Prior(Model):
    """Gamma prior of a product's change rate: `a` changes seen in `b`."""

    a: Number = Field(default=0.5, gt=0, le=100)
    b: Annotated[Duration, lasting("1m", "365d")] = timedelta(hours=12)


class Planner(Model):
    """Dials of the background order; docs/FRESHNESS.md says what they mean."""

    enabled: bool = True
    kappa: Number = Field(default=0.05, ge=0, le=1)
    lane: Number = Field(default=0.02, ge=0, le=1)
    memory: Annotated[Duration, lasting("1m", "365d")] = timedelta(days=7)
    size_weight: Number = Field(default=0.2, gt=0, le=10)
    prior: Prior = Prior()
    evidence_cap: Number = Field(default=10.0, ge=1, le=1000)
    slowest: Annotated[Duration, lasting("1h", "3650d")] = timedelta(days=180)


class Testing(Model):
    """Shorter budget windows for tests and demos; refused unless every address is on this machine."""

    __test__ = False  # pytest would take it for a test class

    hour: Annotated[Duration, lasting("1s", "1h")] = timedelta(seconds=60)
    day: Annotated[Duration, lasting("1s", "1d")] = Field(
        default=timedelta(minutes=24), validate_default=True
    )

    @field_validator("day")
    @classmethod
    def _day_holds_hour(cls, day: timedelta, info: ValidationInfo) -> timedelta:
        if day < info.data.get("hour", day):
            raise fault("day is shorter than hour")
        return day


def _default_state_dir() -> Path:
    return Path("~/.local/state/marketd").expanduser()


class Config(Model):
    """The whole configuration, validated; a reload makes a new one and swaps the reference."""

    database: Database = Database()
    state_dir: Annotated[Path, BeforeValidator(_state_dir), WithJsonSchema({"type": "string"})] = Field(
        default_factory=_default_state_dir
    )
    http: Http = Http()
    log: Log = Log()
    scheduler: Scheduler = Scheduler()
    jobs: Jobs = Jobs()
    catalog: Catalog = Catalog()
    planner: Planner = Planner()
    testing: Testing | None = None
    providers: dict[str, Provider] = Field(default_factory=dict)
    _origin: Origin = PrivateAttr(default_factory=Origin)

    def read_from(self, origin: Origin) -> None:
        """Remember where it stands written, for faults that only show when something is built from it."""
        self._origin = origin

    def fault_at(self, path: KeyPath, reason: str) -> str:
        """A fault of this configuration as a line `file:line:col: key: reason`, without any of its secrets."""
        one_line = scrubbed(" ".join(reason.split()), self.secrets())
        return self._origin.line(Fault(path, one_line))

    def digest(self, *, shared: bool = False) -> str:
        """sha256 over every effective value; equal exactly for configurations that behave alike.

        Secrets enter as hashes. `shared=True` leaves out what may differ between daemons of one database
        (`database`, `state_dir`, `http`, `log`).
        """
        return digest(self, leave_out=PER_DAEMON if shared else ())

    def lane_digest(self, provider: str, account: str) -> str:
        """sha256 over what one account's requests depend on: address, credentials, pace, timeout, options."""
        stanza = self.providers[provider]
        return digest(
            stanza.model_copy(update={"credentials": stanza.credentials_of(account)}),
            leave_out=("accounts", "budget", "circuit", "concurrency", "enabled"),
        )

    def secrets(self) -> frozenset[str]:
        """Every secret text in it, and the passwords inside the DSNs, for the log to hide."""
        found = set(secrets(self))
        for dsn in (self.database.dsn, self.database.listen_dsn):
            password = urlsplit(dsn.get_secret_value()).password if dsn else None
            found |= {password, unquote(password)} if password else set()
        return frozenset(found)
