"""Faults on demand: which request is to go wrong, in which way, how often."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

#: kind -> the options that it takes, with their defaults; `mishaps` plays them
KINDS: Mapping[str, Mapping[str, Any]] = {
    "status": {"status": 500, "retry_after": None, "body": None, "html": False},
    "message": {"status": 500},
    "invalid_grant": {},
    "stall": {"seconds": 25.0},
    "drip": {"seconds": 10.0, "chunks": 20},
    "reset": {"when": "before"},
    "truncated": {},
    "empty": {},
    "html": {},
    "wrong_shape": {"body": {"unexpected": True}},
    "content_type": {"content_type": "text/plain; charset=utf-8"},
    "huge": {"size": 64 * 2**20},
    "gzip_bomb": {"size": 64 * 2**20},
    "redirect": {"location": "https://elsewhere.invalid/", "status": 302},
    "invalid_utf8": {},
    "nan": {},
    "overflow": {},
    "negative": {},
    "absurd": {},
    "no_warnings": {},
}
#: kinds that change amounts, and so wait for an answer that holds some
ON_AMOUNTS = frozenset({"nan", "overflow", "negative", "absurd"})


@dataclass(slots=True, kw_only=True)
class Fault:
    """One order. Without `endpoint` it meets any endpoint but `token`; `*` meets them all."""

    id: int
    provider: str
    kind: str
    endpoint: str | None
    left: int | None  #: how often it still strikes, None = until cleared
    after: int = 0  #: matching requests that it lets pass first
    probability: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)

    def meets(self, provider: str, endpoint: str, priced: frozenset[str]) -> bool:
        if self.provider != provider or self.left == 0:
            return False
        if self.endpoint is not None:
            return self.endpoint in ("*", endpoint)
        return endpoint in priced if self.kind in ON_AMOUNTS else endpoint != "token"

    def told(self) -> dict[str, Any]:
        """For the control interface."""
        return {name: getattr(self, name) for name in self.__slots__}


class Faults:
    """The open orders, first come first served. Chances are drawn from a seed, so runs can be repeated."""

    def __init__(self, seed: int) -> None:
        self._open: list[Fault] = []
        self._ids = count(1)
        self._random = random.Random(seed)

    def order(
        self,
        provider: str,
        kind: str,
        *,
        times: int | None = 1,
        endpoint: str | None = None,
        after: int = 0,
        probability: float = 1.0,
        **options: Any,
    ) -> Fault:
        """Make the next `times` matching requests go wrong. ValueError for an unknown kind or option."""
        if kind not in KINDS:
            raise ValueError(f"unknown fault kind {kind!r}; known: {', '.join(KINDS)}")
        unknown = sorted(set(options) - set(KINDS[kind]))
        if unknown:
            raise ValueError(f"fault {kind} takes no {', '.join(unknown)}; it takes {list(KINDS[kind])}")
        fault = Fault(
            id=next(self._ids),
            provider=provider,
            kind=kind,
            endpoint="token" if kind == "invalid_grant" else endpoint,
            left=times,
            after=after,
            probability=probability,
            options={**KINDS[kind], **options},
        )
        self._open.append(fault)
        return fault

    def take(self, provider: str, endpoint: str, priced: frozenset[str]) -> Fault | None:
        """The fault that this request meets, already counted down."""
        for fault in self._open:
            if not fault.meets(provider, endpoint, priced):
                continue
            if fault.after > 0:
                fault.after -= 1
                continue
            if fault.probability < 1 and self._random.random() >= fault.probability:
                continue
            if fault.left is not None:
                fault.left -= 1
            return fault
        return None

    def give_back(self, fault: Fault) -> None:
        """The fault found nothing to spoil; it strikes another time."""
        if fault.left is not None:
            fault.left += 1

    def clear(self, ids: Iterable[int] | None = None) -> int:
        """Drop these orders, or all; returns how many were still open."""
        wanted = None if ids is None else set(ids)
        dropped = [fault for fault in self._open if wanted is None or fault.id in wanted]
        self._open = [fault for fault in self._open if fault not in dropped]
        return sum(fault.left != 0 for fault in dropped)

    @property
    def open(self) -> tuple[Fault, ...]:
        """Orders that can still strike."""
        return tuple(fault for fault in self._open if fault.left != 0)
