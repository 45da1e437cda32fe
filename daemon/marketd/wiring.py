"""From a validated config to the values that stores and lanes take: no I/O, nothing that lives."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import BaseModel

from marketd import clock, errors, login, providers
from marketd.config import Config, ProviderTypes
from marketd.config import Provider as Stanza
from marketd.config.flat import digest
from marketd.config.providers import currencies_of
from marketd.fetch import LaneSettings, Visit
from marketd.models import DEFAULT_ACCOUNT, Unit
from marketd.provider import Credentials
from marketd.providers import Plugin
from marketd.retry import RetryPolicy
from marketd.scheduler import Timing
from marketd.store.daemons import AccountLimits, Settings
from marketd.store.plan import Dials
from marketd.visits import key_of, plugged


def provider_types() -> dict[str, ProviderTypes]:
    """What each known provider's stanza may hold, for `config.load`."""
    return {
        name: ProviderTypes(
            kind.credentials_type, kind.options_type, kind.currencies, getattr(kind, "defaults", {})
        )
        for name, kind in providers.discover().items()
    }


def settings_of(config: Config) -> Settings:
    """The row of market_settings."""
    testing = config.testing
    return Settings(
        fresh_for=config.jobs.fresh_for,
        wake_priority=config.scheduler.wake_priority,
        max_attempts=config.jobs.max_attempts,
        default_size_system=config.catalog.default_size_system,
        hour_s=testing.hour.total_seconds() if testing else 3600.0,
        day_s=testing.day.total_seconds() if testing else None,
        fallback_images=config.catalog.fallback_images.model_dump(),
    )


def accounts_of(config: Config, kinds: Mapping[str, type[Plugin]]) -> list[AccountLimits]:
    """The rows of market_providers: each provider's own account and its further ones."""
    return [
        _limits(name, account, stanza, kinds[name])
        for name, stanza in config.providers.items()
        for account in (DEFAULT_ACCOUNT, *stanza.accounts)
    ]


def off_reason(stanza: Stanza, credentials: BaseModel) -> str | None:
    """Why a lane does not run, None when it does."""
    if not stanza.enabled:
        return "switched off in the configuration (enabled: false)"
    missing = credentials.missing() if isinstance(credentials, Credentials) else ()
    return f"no credentials: {', '.join(missing)} not set" if missing else None


def with_logins(config: Config) -> Config:
    """`config` with the refresh tokens of earlier logins where it names none. Raises ConfigError."""
    stanzas = dict(config.providers)
    problems: list[str] = []
    for name, account in lanes_of(config):
        stanza = stanzas[name]
        try:
            kept = login.stored(config.state_dir, name, account, stanza.credentials_of(account))
        except errors.ConfigError as error:
            problems += [config.fault_at(key_of(name, account), problem) for problem in error.problems]
            continue
        stanzas[name] = stanza.with_credentials(account, kept)
    if problems:
        raise errors.ConfigError(problems)
    return config.model_copy(update={"providers": stanzas})


def built(config: Config, kinds: Mapping[str, type[Plugin]]) -> Config:
    """`config` as it would start: with logins, and every lane that is on built once, to see that it can be.

    Raises ConfigError with every fault that a start would find.
    """
    problems: list[str] = []
    try:
        config = with_logins(config)
    except errors.ConfigError as error:
        problems += error.problems
    for name, account in lanes_of(config):
        stanza = config.providers[name]
        if off_reason(stanza, stanza.credentials_of(account)) is None:
            try:
                plugged(kinds[name], config, name, account)
            except errors.ConfigError as error:
                problems += error.problems
    if problems:
        raise errors.ConfigError(list(dict.fromkeys(problems)))
    return config


def timing_of(config: Config) -> Timing:
    """What the timers go by."""
    return Timing(
        interval=config.scheduler.interval,
        poll=config.scheduler.poll,
        lease=config.jobs.lease,
        keep_finished=config.jobs.keep_finished,
        keep_history=config.jobs.keep_history,
        keep_requests=config.jobs.keep_requests,
    )


def dials_of(config: Config) -> Dials:
    """The row of market_planner."""
    planner = config.planner
    return Dials(
        enabled=planner.enabled,
        kappa=planner.kappa,
        lane=planner.lane,
        memory=planner.memory,
        size_weight=planner.size_weight,
        prior_a=planner.prior.a,
        prior_b=planner.prior.b,
        evidence_cap=planner.evidence_cap,
        slowest=planner.slowest,
    )


def policy_of(config: Config) -> RetryPolicy:
    """How retries back off, and for how long a final no holds."""
    backoff = config.jobs.backoff
    base_s, cap_s = backoff.base.total_seconds(), backoff.cap.total_seconds()
    return RetryPolicy(
        delay_s=lambda attempt: clock.full_jitter(attempt, base_s=base_s, cap_s=cap_s),
        cooldown=config.jobs.not_listed_cooldown,
    )


def lane_settings(
    config: Config,
    provider: str,
    account: str,
    visit: Callable[[Unit], Visit],
    charged_ahead: Callable[[], bool],
) -> LaneSettings:
    """What one lane goes by."""
    return LaneSettings(
        provider=provider,
        account=account,
        credentials=digest(config.providers[provider].credentials_of(account)),
        concurrency=config.providers[provider].concurrency,
        lease=config.jobs.lease,
        heartbeat_s=config.jobs.heartbeat.total_seconds(),
        poll_s=config.scheduler.poll.total_seconds(),
        policy=policy_of(config),
        visit=visit,
        charged_ahead=charged_ahead,
    )


def lanes_of(config: Config) -> list[tuple[str, str]]:
    """Every provider account of the configuration."""
    return [
        (name, account)
        for name, stanza in config.providers.items()
        for account in (DEFAULT_ACCOUNT, *stanza.accounts)
    ]


def _limits(name: str, account: str, stanza: Stanza, kind: type[Plugin]) -> AccountLimits:
    budget = stanza.budget_of(account)
    further = stanza.accounts.get(account)
    return AccountLimits(
        provider=name,
        account=account,
        off_reason=off_reason(stanza, stanza.credentials_of(account)),
        all_sizes=kind.all_sizes,
        images=kind.images,
        currency=stanza.currency,
        currencies=sorted(currencies_of(stanza.options, kind.currencies)),
        quota_hour=budget.per_hour,
        quota_day=budget.per_day,
        day_zone=budget.day_starts.zone,
        day_start=budget.day_starts.at,
        rolling=budget.window == "rolling",
        reserve=None if budget.reserve.auto else budget.reserve.share,
        background_min=budget.background_min,
        pace_s=stanza.pace.interval_s,
        circuit_after=stanza.circuit.failures,
        circuit_open_s=stanza.circuit.open.total_seconds(),
        concurrency=stanza.concurrency,
        first_calls=getattr(kind, "first_calls", 1),
        users=further.users if further else (),
    )
