"""This daemon's own row, and its configuration as the SQL functions see it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import time, timedelta
from typing import Any
from uuid import UUID

from marketd import __version__
from marketd.store.pool import Database, Statement
from marketd.store.sqlfile import queries


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What market_settings holds."""

    fresh_for: timedelta
    wake_priority: int
    max_attempts: int
    default_size_system: str
    hour_s: float
    day_s: float | None
    fallback_images: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountLimits:
    """One row of market_providers, as far as the configuration decides it."""

    provider: str
    account: str
    off_reason: str | None  #: None: on
    all_sizes: bool
    images: bool
    currency: str
    currencies: Sequence[str]
    quota_hour: int | None
    quota_day: int | None
    day_zone: str
    day_start: time
    rolling: bool
    reserve: float | None
    background_min: float
    pace_s: float
    circuit_after: int
    circuit_open_s: float
    concurrency: int
    first_calls: int
    users: Sequence[str]

    @property
    def lane(self) -> str:
        return f"{self.provider}/{self.account}"

    def row(self) -> tuple[Any, ...]:
        return (
            self.provider, self.account, self.off_reason is None, self.off_reason, self.all_sizes, self.currency,
            list(self.currencies), self.quota_hour, self.quota_day, self.day_zone, self.day_start, self.rolling,
            self.reserve, self.background_min, self.pace_s, self.circuit_after, self.circuit_open_s, self.images,
            self.first_calls,
        )  # fmt: skip

    def told(self) -> dict[str, Any]:
        """What the other daemons have to know of it, so that the lower limit holds."""
        return {
            "on": self.off_reason is None,
            "off_reason": self.off_reason,
            "hour": self.quota_hour,
            "day": self.quota_day,
            "pace_s": self.pace_s,
            "slots": self.concurrency if self.off_reason is None else 0,
        }


class DaemonStore:
    def __init__(self, db: Database, daemon_id: UUID) -> None:
        self._db = db
        self._sql = queries("daemons")
        self._daemon_id = daemon_id

    async def apply(
        self,
        config_hash: str,
        settings: Settings,
        accounts: Sequence[AccountLimits],
        *,
        alive_for: timedelta,
        renewed: Sequence[tuple[str, str]] = (),
        further: Sequence[Statement] = (),
    ) -> None:
        """Write the whole configuration in one transaction, `further` statements with it.

        Of `renewed` lanes refused credentials may be probed once more.
        """
        statements: list[Statement] = [
            (self._sql["know_zones"], ([account.day_zone for account in accounts],)),
            (self._sql["put_settings"], (
                settings.fresh_for, settings.wake_priority, settings.max_attempts, settings.default_size_system,
                settings.hour_s, settings.day_s, json.dumps(dict(settings.fallback_images)), config_hash,
            )),
            (self._sql["register"], (
                self._daemon_id, socket.gethostname(), os.getpid(), __version__, config_hash,
                json.dumps({account.lane: account.told() for account in accounts}), alive_for,
            )),
            (self._sql["clear_account_users"], ()),
        ]  # fmt: skip
        # In key order, as every statement that locks provider rows.
        for account in sorted(accounts, key=lambda a: a.lane):
            statements.append((self._sql["put_provider"], account.row()))
            statements.append((self._sql["carry"], (account.provider, account.account)))
            statements += [
                (self._sql["put_account_user"], (account.provider, user, account.account))
                for user in account.users
            ]
        statements.append((self._sql["switch_off_others"], ([a.lane for a in accounts],)))
        statements.append((self._sql["keep_in_step"], (self._daemon_id, config_hash, None)))
        statements.append((self._sql["probe_again"], ([r[0] for r in renewed], [r[1] for r in renewed])))
        await self._db.together([*statements, *further])

    async def enter_as_tick(self, *, most: int, alive_for: timedelta) -> bool:
        """Say that this process is a tick; False, and nothing said, while `most` others live."""
        rows = await self._db.together(
            [
                (self._sql["one_tick_at_a_time"], ()),
                (self._sql["enter_as_tick"], (
                    self._daemon_id, socket.gethostname(), os.getpid(), __version__, alive_for, most,
                )),
            ]
        )  # fmt: skip
        return bool(rows)

    async def is_in_force(self, config_hash: str) -> bool:
        """Whether the configuration that was written last is this one."""
        return bool(await self._db.fetchval(self._sql["is_in_force"], config_hash))

    async def is_lost(self, config_hash: str) -> bool:
        """Whether `apply` is due once more: what is in force is of a daemon that has gone, or our row is not ours."""
        return bool(await self._db.fetchval(self._sql["is_lost"], self._daemon_id, config_hash))

    async def knock(self, channel: str) -> None:
        """Notify a channel, by a session of the pool."""
        await self._db.fetch(self._sql["knock"], channel)

    async def unregister(self) -> None:
        """Say that this daemon is gone."""
        await self._db.fetch(self._sql["unregister"], self._daemon_id)

    async def differing(self, config_hash: str, refused: str | None) -> list[str]:
        """Other live daemons with another configuration, as `host:pid`; keeps lanes on that any of them runs.

        `refused`: why this daemon goes on with its former file, for others to see. Raises DatabaseUnavailable.
        """
        rows = await self._db.fetch(self._sql["keep_in_step"], self._daemon_id, config_hash, refused)
        return [f"{row['host']}:{row['pid']}" for row in rows]
