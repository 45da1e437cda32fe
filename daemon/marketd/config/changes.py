"""What a reload would change, in an operator's words, and what of it has to wait for a restart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from marketd.config.flat import leaves
from marketd.config.schema import Config

RESTART_ONLY = ("database", "state_dir", "http", "testing")  #: top-level keys that a reload leaves alone


class Change(NamedTuple):
    """One value that differs; None on a side that has no such key. Secrets are masked on both sides."""

    key: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        if self.old is None:
            return f"{self.key}: added, {self.new}"
        if self.new is None:
            return f"{self.key}: removed, was {self.old}"
        return f"{self.key}: {self.old} -> {self.new}"


def diff(old: Config, new: Config) -> list[Change]:
    """Every value that differs, sorted by key."""
    before = {leaf.key: leaf for leaf in leaves(old)}
    after = {leaf.key: leaf for leaf in leaves(new)}
    changes = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        if was is None or now is None or was.fingerprint != now.fingerprint:
            changes.append(Change(key, was and was.shown, now and now.shown))
    return changes


def restart_only(changes: Iterable[Change]) -> list[Change]:
    """Those changes that take effect only after a restart."""
    return [change for change in changes if change.key.split(".", 1)[0] in RESTART_ONLY]
