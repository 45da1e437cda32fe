"""From a file, a text or plain data to one validated `Config`, or to the list of everything wrong with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, create_model

from marketd.config.changes import RESTART_ONLY
from marketd.config.faults import SECRET_KEYS, Fault, KeyPath, Origin, dotted, in_words, suggestion
from marketd.config.providers import (
    Provider,
    ProviderTypes,
    Reach,
    loopback_faults,
    stanza_type,
    with_defaults,
)
from marketd.config.schema import Config
from marketd.config.substitution import Substitution
from marketd.config.yaml_source import Source, read
from marketd.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


def load(
    path: Path, provider_types: Mapping[str, ProviderTypes], env: Mapping[str, str] = os.environ
) -> Config:
    """The configuration in the file. Raises `ConfigError` with every fault found in it."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(
            [f"{path}:1:1: (file): cannot be read: {(error.strerror or 'error').lower()}"]
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}:1:1: (file): not UTF-8 text (byte {error.start})"]) from None
    return parse(text, str(path), provider_types, env)


def parse(
    text: str, name: str, provider_types: Mapping[str, ProviderTypes], env: Mapping[str, str] = os.environ
) -> Config:
    """The configuration in `text`. `name` stands for the file in messages; `${file:}` starts beside it."""
    source = read(text, Substitution(env, Path(name).parent))
    if source.data is None and not source.faults:
        source.faults.append(Fault((), "the file is empty; expected settings (key: value)", (1, 1)))
    elif source.data is not None and not isinstance(source.data, dict):
        source.faults.append(Fault((), "expected settings (key: value)", (1, 1)))
    if not isinstance(source.data, dict):
        raise ConfigError(_lines(source, name))
    _take_dsn(source, env)
    return _validated(source, name, provider_types)


def _take_dsn(source: Source, env: Mapping[str, str]) -> None:
    """Where the file does not name the database, MARKETD_DSN does, as in the shipped file."""
    database, dsn = source.data.get("database"), env.get("MARKETD_DSN")
    database = {} if database is None else database
    if dsn and isinstance(database, dict) and not database.keys() & {"dsn", "embedded"}:
        source.data["database"] = {**database, "dsn": dsn}
        source.filled.add(dsn)


def from_mapping(data: Mapping[str, Any], provider_types: Mapping[str, ProviderTypes]) -> Config:
    """The configuration in plain data, for programs; nothing is substituted, and messages have no place."""
    return _validated(Source(data=dict(data)), "", provider_types)


def keep_running_parts(running: Config, new: Config) -> Config:
    """`new`, but with the running values of what only a restart may change (`RESTART_ONLY`).

    Raises `ConfigError` when shortened windows would then meet an address that is not on this machine.
    """
    kept = new.model_copy(update={name: getattr(running, name) for name in RESTART_ONLY})
    if kept.testing and (outside := loopback_faults(kept.providers)):
        raise ConfigError([f"testing: on until a restart, and {outside[0]} is not on this machine"])
    return kept


def json_schema(provider_types: Mapping[str, ProviderTypes]) -> dict[str, Any]:
    """JSON Schema (2020-12) of the file before substitution, for editors."""
    stanzas: dict[str, Any] = {
        name: (stanza_type(name, types) | None, None) for name, types in sorted(provider_types.items())
    }
    providers = create_model("Providers", __config__={"extra": "forbid"}, **stanzas)
    whole = create_model("Config", __base__=Config, providers=(providers, Field(default_factory=providers)))
    return whole.model_json_schema()


def _validated(source: Source, name: str, provider_types: Mapping[str, ProviderTypes]) -> Config:
    data: dict[str, Any] = dict(source.data)
    faulty: dict[str, Reach] = {}
    providers = _providers(data.get("providers"), source, provider_types, faulty)
    rest = {**data, "providers": providers}
    config = _checked(Config, rest, source, ())
    outside = loopback_faults({**providers, **faulty})
    if data.get("testing") is not None and outside:
        reason = f"refused unless every address is on this machine, and {outside[0]} is not"
        source.faults.append(Fault(("testing",), reason))
    if source.faults or config is None:
        raise ConfigError(_lines(source, name))
    config.read_from(Origin(name, source.places))
    return config


def _providers(
    data: Any, source: Source, provider_types: Mapping[str, ProviderTypes], faulty: dict[str, Reach]
) -> dict[str, Provider]:
    """Those providers that are in order; the faults of the others go to `source`, their addresses to `faulty`."""
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        source.faults.append(Fault(("providers",), "expected a mapping (name: settings)"))
        return {}
    good: dict[str, Provider] = {}
    for name, stanza in data.items():
        path = ("providers", name)
        if name not in provider_types:
            known = f"expected one of {', '.join(sorted(provider_types))}"
            source.faults.append(Fault(path, f"unknown provider; {known}{suggestion(name, provider_types)}"))
            continue
        types = provider_types[name]
        if isinstance(stanza, Mapping):
            if "token_url" not in stanza and (raw := source.written.get((*path, "base_url"))):
                source.written[(*path, "token_url")] = raw  # it may begin with what was substituted there
            written, stanza = stanza, _completed(with_defaults(stanza, types.defaults))
            if types.defaults.get("token_url") and stanza.get("token_url") is None:
                _missing_token_url((*path, "token_url"), written, source)
        provider = _checked(stanza_type(name, types), stanza, source, path)
        if provider is not None:
            good[name] = provider
        elif isinstance(stanza, Mapping):
            wrong = {fault.path[2] for fault in source.faults if fault.path[:2] == path and fault.path[2:]}
            sound = (Reach.model_fields.keys() & stanza.keys()) - wrong
            faulty[name] = Reach(**{key: stanza[key] for key in sound})
    return good


def _missing_token_url(path: KeyPath, written: Mapping[str, Any], source: Source) -> None:
    if path in source.unread:
        return  # told already
    reason = "required where base_url is not the provider's own"
    if "token_url" in written:
        reason = "an address is required: this provider's access tokens are made there"
    source.faults.append(Fault(path, reason))


def _completed(stanza: Mapping[str, Any]) -> dict[str, Any]:
    """Nulls in credentials become empty, and an account's budget starts from the provider's own."""
    done = dict(stanza)
    if isinstance(done.get("credentials"), Mapping):
        done["credentials"] = {k: "" if v is None else v for k, v in done["credentials"].items()}
    own, accounts = done.get("budget"), done.get("accounts")
    if isinstance(accounts, Mapping):
        done["accounts"] = {
            name: _completed(account) if isinstance(account, Mapping) else account
            for name, account in accounts.items()
        }
        for account in done["accounts"].values():
            if (
                isinstance(account, dict)
                and isinstance(own, Mapping)
                and isinstance(account.get("budget"), Mapping)
            ):
                account["budget"] = {**own, **account["budget"]}
    return done


def _checked(model: type[M], data: Any, source: Source, base: KeyPath) -> M | None:
    """`data` as `model`; None, and the faults told to `source`, if it does not fit."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    hidden = source.filled | set(_secret_texts(source.data))
    for fault in in_words(errors, model, source.written, hidden, base):
        if fault.path not in source.unread and not _inherited(fault.path, source):
            source.faults.append(fault)
    return None


def _inherited(path: KeyPath, source: Source) -> bool:
    """Whether the fault is the provider's own, met again in an account's budget that starts from it."""
    return (
        path[2:3] == ("accounts",) and "budget" in path and bool(source.places) and path not in source.places
    )


def _lines(source: Source, name: str) -> list[str]:
    """The faults as text, in the order of the file."""
    origin = Origin(name, source.places)
    ordered = sorted(source.faults, key=lambda one: (origin.place(one), dotted(one.path)))
    return list(dict.fromkeys(map(origin.line, ordered)))


def _secret_texts(data: Any, *, secret: bool = False) -> list[str]:
    if isinstance(data, Mapping):
        return [
            text
            for key, value in data.items()
            for text in _secret_texts(value, secret=secret or key in SECRET_KEYS)
        ]
    if isinstance(data, list):
        return [text for value in data for text in _secret_texts(value, secret=secret)]
    return [data] if secret and isinstance(data, str) else []
