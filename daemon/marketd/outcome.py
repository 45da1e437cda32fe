"""What may become of a job: a closed set, decided once, written once, told once."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TypeAlias

from marketd.values import value


@value
class Priced:
    """The price of `size` (the provider's own US size) answers the job."""

    size: str | None
    reason: str = "priced"  #: `priced`, `no_asks`, `all_sizes`


@value
class Retried:
    """Costs an attempt; due again after `delay`."""

    delay: timedelta
    error_code: str
    message: str


@value
class Released:
    """Costs no attempt; pending again at once (the provider's state, not the job's, makes it wait)."""

    reason: str


@value
class Snoozed:
    """Costs no attempt; due again at a known time."""

    until: datetime
    reason: str


@value
class Failed:
    """Never again by itself. `cooldown` keeps background repeats of the target away for so long."""

    error_code: str
    message: str
    cooldown: timedelta


Outcome: TypeAlias = Priced | Retried | Released | Snoozed | Failed
