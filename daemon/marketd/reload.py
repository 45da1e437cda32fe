"""SIGHUP: the whole file is validated, then swapped; on any fault the old configuration stays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from marketd import config as configuration
from marketd import errors
from marketd.config import Config, ProviderTypes
from marketd.telemetry import Observer


class Reloader:
    """Applies a changed file, one reload at a time; a SIGHUP during a reload causes one more."""

    def __init__(
        self,
        running: Config,
        path: Path,
        types: Mapping[str, ProviderTypes],
        apply: Callable[[Config, Config], Awaitable[None]],
        observer: Observer,
        on_result: Callable[[bool], None],
    ) -> None:
        """`apply(old, new)` writes the new limits to Postgres, then swaps what runs."""
        self._running = running
        self._path = path
        self._types = types
        self._apply = apply
        self._observer = observer
        self._on_result = on_result
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Reload soon. Safe in a signal handler of the loop."""
        self._asked.set()

    async def run(self) -> None:
        """Reload whenever asked; until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            self._on_result(await self.reload())

    async def reload(self) -> bool:
        """One reload. False: the old configuration stays, and the log says why."""
        try:
            loaded = configuration.load(self._path, self._types)
            changes = configuration.diff(self._running, loaded)
            waiting = configuration.restart_only(changes)
            new = configuration.keep_running_parts(self._running, loaded)
            await self._apply(self._running, new)
        except errors.ConfigError as error:
            for problem in error.problems:
                self._observer.event("config_rejected", problem=problem)
            return False
        except errors.DatabaseUnavailable as error:
            self._observer.event("config_rejected", problem=f"the limits cannot be written: {error}")
            return False
        for change in waiting:
            self._observer.event("config_needs_restart", change=str(change))
        live = [str(change) for change in changes if change not in waiting]
        self._running = new
        self._observer.event("config_reloaded", changes=live)
        return True
