"""A configuration as flat `key = text` pairs, secrets masked, and what can be told from that."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from pydantic import BaseModel, SecretBytes, SecretStr

from marketd.config.durations import format_duration
from marketd.config.faults import SECRET_KEYS

MASK = "**********"


class Leaf(NamedTuple):
    """One value: what may be shown of it, and a fingerprint that differs whenever the value does."""

    key: str
    shown: str
    fingerprint: str


def _text(value: Any) -> str:
    if isinstance(value, timedelta):
        return format_duration(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _children(value: Any) -> Iterable[tuple[str, Any]] | None:
    if isinstance(value, BaseModel) and "__str__" not in vars(type(value)):
        return [(name, getattr(value, name)) for name in sorted(type(value).model_fields)]
    if isinstance(value, Mapping):
        return sorted((str(key), item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return [(str(number), item) for number, item in enumerate(value)]
    return None


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Every value below `value`, keys in dotted form and sorted; an empty mapping or list is no leaf."""
    children = _children(value)
    if children is not None:
        for name, child in children:
            yield from leaves(child, (*path, name))
        return
    key = ".".join(path)
    if isinstance(value, SecretStr | SecretBytes):
        value, secret = value.get_secret_value(), True
    else:
        secret = value is not None and not SECRET_KEYS.isdisjoint(path)
    text = _text(value)
    if not secret:
        yield Leaf(key, text, f"={text}")
        return
    hashed = hashlib.sha256(f"{key}\0{text}".encode()).hexdigest()
    yield Leaf(key, MASK if text else "(empty)", f"#{hashed}")


def secrets(value: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every non-empty secret text below `value`, so that a log can hide it."""
    children = _children(value)
    if children is not None:
        for name, child in children:
            yield from secrets(child, (*path, name))
        return
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(text, str) and text and (text is not value or not SECRET_KEYS.isdisjoint(path)):
        yield text


def digest(config: BaseModel, *, leave_out: Iterable[str] = ()) -> str:
    """sha256 in hex over all leaves but those under the top-level keys of `leave_out`."""
    skipped = frozenset(leave_out)
    sha = hashlib.sha256()
    for leaf in leaves(config):
        if leaf.key.split(".", 1)[0] not in skipped:
            sha.update(f"{leaf.key}{leaf.fingerprint}\n".encode())
    return sha.hexdigest()
