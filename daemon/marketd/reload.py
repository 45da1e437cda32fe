"""SIGHUP: the whole file is validated, then swapped; on any fault the old configuration stays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from marketd import config as configuration
from marketd import errors, systemd
from marketd.config import Config, ProviderTypes
from marketd.telemetry import Observer

LOGIN_FILES = "*-login.json"  #: as `login.login_file` names them
_LOOK_EVERY_S = 2.0


class Reloader:
    """Applies a changed file, one reload at a time; a SIGHUP during a reload causes one more."""

    def __init__(
        self,
        running: Config,
        path: Path,
        types: Mapping[str, ProviderTypes],
        complete: Callable[[Config], Config],
        apply: Callable[[Config, Config], Awaitable[None]],
        observer: Observer,
        on_result: Callable[[str | None], None],
        asked: asyncio.Event,
    ) -> None:
        """`asked` is set by whoever wants a reload.

        `complete` adds what stands elsewhere than in the file. `apply(old, new)` writes the new limits to Postgres,
        then swaps what runs.

        `on_result` gets None, or the first fault for which the file was refused.
        """
        self._running = running
        self._path = path
        self._types = types
        self._complete = complete
        self._apply = apply
        self._observer = observer
        self._on_result = on_result
        self._asked = asked

    async def run(self) -> None:
        """Reload whenever asked; until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            # Both also around a refused file: with Type=notify-reload systemd waits for them.
            systemd.reloading()
            problem = await self.reload()
            self._on_result(problem)
            systemd.ready(
                "reloaded" if problem is None else f"the file is refused, the former one holds: {problem}"
            )

    async def reload(self) -> str | None:
        """One reload. Returns the first fault for which the old configuration stays; the log has them all."""
        try:
            loaded = configuration.load(self._path, self._types)
            waiting = configuration.restart_only(configuration.diff(self._running, loaded))
            new = self._complete(configuration.keep_running_parts(self._running, loaded))
            await self._apply(self._running, new)
        except errors.ConfigError as error:
            for problem in error.problems:
                self._observer.event("config_rejected", problem=problem)
            return error.problems[0]
        except errors.DatabaseUnavailable as error:
            problem = f"the limits cannot be written: {error}"
            self._observer.event("config_rejected", problem=problem)
            return problem
        for change in waiting:
            self._observer.event("config_needs_restart", change=str(change))
        live = [str(change) for change in configuration.diff(self._running, new)]
        self._running = new
        self._observer.event("config_reloaded", changes=live)
        return None


class LoginWatch:
    """Asks for a reload when a login is stored or replaced, so that `marketd auth` need not tell anybody."""

    def __init__(self, state_dir: Path, asked: asyncio.Event) -> None:
        """What is stored now is taken for known: make it before the logins are read."""
        self._state_dir = state_dir
        self._asked = asked
        self._known = self._look()

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if (seen := self._look()) != self._known:
                self._known = seen
                self._asked.set()

    def _look(self) -> dict[str, tuple[int, int]]:
        # By the inode's own time, too: root's file is handed over after it was written.
        try:
            return {
                file.name: (status.st_ino, status.st_ctime_ns)
                for file in self._state_dir.glob(LOGIN_FILES)
                for status in [file.stat()]
            }
        except OSError:  # the folder is not there yet, or a file has just been replaced
            return {}
