"""What may become of a job: a closed set, decided once, written once, told once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """The price of `size` (the provider's own US size) answers the job."""

    size: str | None
    reason: str = "priced"  #: `priced`, `no_asks`, `all_sizes`


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """Costs an attempt; due again after `delay`."""

    delay: timedelta
    error_code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """Costs no attempt; pending again at once (the provider's state, not the job's, makes it wait)."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snoozed:
    """Costs no attempt; due again at a known time."""

    until: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Never again by itself. `cooldown` keeps background repeats of the target away for so long."""

    error_code: str
    message: str
    cooldown: timedelta


Outcome: TypeAlias = Priced | Retried | Released | Snoozed | Failed
