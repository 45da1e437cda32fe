"""From a unit to a provider: one door per account, one visit per fetch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from uuid import UUID

import aiohttp

from marketd import errors
from marketd.config import Config
from marketd.config.flat import secrets
from marketd.http_client import Auth, Door, Pacer, ProviderHttp
from marketd.models import DEFAULT_ACCOUNT, Unit
from marketd.provider import Ask, Found, TellsUsage, Usage
from marketd.providers import Plugin
from marketd.store.budgets import Charger, PgGate
from marketd.store.pool import Database
from marketd.telemetry import Observer, RequestReport
from marketd.values import value

Lane = tuple[str, str]
Built = tuple[str, Plugin, Door]  #: by the fingerprint of what it was built from


@value
class Visit:
    """One fetch: a provider, and an HTTP door that charges this fetch's requests."""

    provider: Plugin
    http: ProviderHttp
    gate: PgGate

    @property
    def receipt(self) -> str | None:
        return self.gate.latest

    @property
    def is_probe(self) -> bool:
        return self.gate.is_probe

    @property
    def requests(self) -> int:
        return self.http.requests

    @property
    def calls(self) -> Sequence[RequestReport]:
        return self.http.calls

    def fetch(self, ask: Ask) -> Awaitable[Found]:
        return self.provider.fetch(ask, self.http)


def key_of(provider: str, account: str) -> tuple[str, ...]:
    """Where an account stands in the configuration."""
    return ("providers", provider, *(() if account == DEFAULT_ACCOUNT else ("accounts", account)))


def plugged(kind: type[Plugin], config: Config, provider: str, account: str) -> tuple[Plugin, Auth]:
    """The provider, and who we are to it, as the lane of one account has them.

    Raises ConfigError with the place in the file when the provider refuses what its stanza says.
    """
    stanza = config.providers[provider]
    suffix = "" if account == DEFAULT_ACCOUNT else f"-{account}"
    where: tuple[str, ...] = ("providers", provider, "options")
    try:
        plugin = kind(stanza.options)
        where = key_of(provider, account)
        return plugin, plugin.authorize(
            stanza.credentials_of(account),
            token_url=stanza.token_url,
            token_file=config.state_dir / f"{provider}{suffix}-token.json",
        )
    except Exception as error:  # maybe someone else's module: the operator must learn whose it is
        raise errors.ConfigError([config.fault_at(where, f"{type(error).__name__}: {error}")]) from None


class Visits:
    """Builds providers and doors from the configuration; fetches under way keep the ones they have."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        db: Database,
        kinds: Mapping[str, type[Plugin]],
        observer: Observer,
        daemon_id: UUID,
    ) -> None:
        self._session = session
        self._daemon_id = daemon_id
        self._db = db
        self._kinds = kinds
        self._observer = observer
        self._built: dict[Lane, Built] = {}
        self._chargers: dict[Lane, Charger] = {}

    def build(self, config: Config, lanes: Iterable[Lane]) -> dict[Lane, Built]:
        """What `use` puts to work. An unchanged stanza keeps its door, and so its token. Raises ConfigError."""
        built: dict[Lane, Built] = {}
        problems: list[str] = []
        for lane in lanes:
            try:
                built[lane] = self._build(config, *lane)
            except errors.ConfigError as error:
                problems += error.problems
        if problems:
            raise errors.ConfigError(list(dict.fromkeys(problems)))
        return built

    def use(self, built: dict[Lane, Built]) -> None:
        """From now on visits go through these."""
        self._built = built

    def _build(self, config: Config, provider: str, account: str) -> Built:
        stanza = config.providers[provider]
        fingerprint = config.lane_digest(provider, account)
        known = self._built.get((provider, account))
        if known is not None and known[0] == fingerprint:
            return known
        hidden = tuple(sorted(secrets(stanza.credentials_of(account)), key=len, reverse=True))
        plugin, auth = plugged(self._kinds[provider], config, provider, account)
        door = Door(
            provider=provider,
            account=account,
            base_url=stanza.base_url.rstrip("/"),
            timeout_s=stanza.timeout.total_seconds(),
            session=self._session,
            auth=auth,
            pacer=Pacer(stanza.pace.interval_s),
            classify=plugin.classify,
            secrets=hidden,
        )
        return fingerprint, plugin, door

    def opener(self, provider: str, account: str) -> Callable[[Unit], Visit]:
        """What opens a visit for each unit of this lane."""
        _, built, door = self._built[provider, account]
        charger = self._charger(provider, account)

        def visit(unit: Unit) -> Visit:
            priority = unit.priority
            gate = charger.gate(priority)
            http = ProviderHttp(door, gate=gate, observer=self._observer, priority=priority, of_fetch=True)
            return Visit(provider=built, http=http, gate=gate)

        return visit

    def _charger(self, provider: str, account: str) -> Charger:
        lane = (provider, account)
        if lane not in self._chargers:
            self._chargers[lane] = Charger(self._db, provider, account, self._observer, self._daemon_id)
        return self._chargers[lane]

    def charged_ahead(self, provider: str, account: str) -> Callable[[], bool]:
        """What tells whether a request of this lane could leave without another charge."""
        charger = self._charger(provider, account)
        return lambda: charger.ahead

    def void_blocks(self) -> None:
        """Limits have changed: the very next request is charged by the new ones."""
        for charger in self._chargers.values():
            charger.void_blocks()

    async def close(self) -> None:
        """Give back what was charged ahead and not used."""
        await asyncio.gather(*(charger.close() for charger in self._chargers.values()))

    async def usage(self, provider: str, account: str) -> Usage | None:
        """The provider's own word on the calls of its day; None for one that has no such word.

        Raises NotGranted, ProviderError, DatabaseUnavailable.
        """
        known = self._built.get((provider, account))
        if known is None or not isinstance(known[1], TellsUsage):
            return None
        gate = self._charger(provider, account).gate(priority=0)
        http = ProviderHttp(known[2], gate=gate, observer=self._observer, priority=0)
        return await known[1].usage(http)
