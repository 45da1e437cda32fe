"""Access tokens, login codes and test accounts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

DEFAULT_ACCOUNT = "default"


def credentials_of(base: Mapping[str, str], account: str) -> dict[str, str]:
    """The words that a further account goes by: the default ones with its name behind."""
    if account == DEFAULT_ACCOUNT:
        return dict(base)
    return {name: f"{value}--{account}" for name, value in base.items()}


def account_of(word: str | None, base: str) -> str | None:
    """Whose credential this is, None if nobody's."""
    if word == base:
        return DEFAULT_ACCOUNT
    if word and word.startswith(f"{base}--"):
        return word.removeprefix(f"{base}--")
    return None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token stands for."""

    account: str
    scopes: frozenset[str]
    until: float


class Tokens:
    """The live tokens of one provider. All are forgotten with the process, as tests of recovery want it."""

    def __init__(self, life_s: float) -> None:
        self.life_s = life_s
        self._grants: dict[str, Grant] = {}
        self._serial = count(1)

    def issue(
        self, prefix: str, account: str, *, scopes: frozenset[str] = frozenset(), life_s: float | None = None
    ) -> str:
        life = self.life_s if life_s is None else life_s
        token = f"{prefix}{next(self._serial):06}"
        self._grants[token] = Grant(account, scopes, time.monotonic() + life)
        return token

    def grant(self, token: str | None) -> Grant | None:
        """What the token allows, None when it is unknown or has expired."""
        found = self._grants.get(token or "")
        return found if found and time.monotonic() < found.until else None

    def redeem(self, token: str | None) -> Grant | None:
        """As `grant`, and the token is used up."""
        found = self.grant(token)
        self._grants.pop(token or "", None)
        return found

    def expire(self) -> int:
        """End all tokens now; returns how many there were."""
        ended = len(self._grants)
        self._grants.clear()
        return ended
