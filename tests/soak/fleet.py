"""Daemons as a service manager keeps them: started again whenever they end, until told to stop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import Daemon, until

_RESTART_S = 0.2  #: systemd's RestartSec is longer; a storm shall not wait for it


class Kept:
    """One daemon that is started again when it ends. `exits` counts how it ended, by exit code."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.daemon = Daemon(folder, settings)
        self.exits: Counter[int] = Counter()
        self._seen = 0
        self._keeper: asyncio.Task[None] | None = None
        self._up = asyncio.Event()  #: it said that it is ready, and has not ended since
        self._killed: asyncio.subprocess.Process | None = None  #: the last one; what it said is no news

    async def start(self) -> None:
        """Keep it running from now on; returns once it is ready."""
        self._keeper = asyncio.create_task(self._keep())
        await self.ready()

    @property
    def pid(self) -> int:
        return self.daemon.process.pid

    @property
    def is_ready(self) -> bool:
        self._read()
        return self._up.is_set()

    async def ready(self, *, within_s: float = 90) -> None:
        """Wait until it is up, however often it has to be started."""

        async def up() -> bool:
            assert self._keeper is not None
            if self._keeper.done():
                self._keeper.result()
            return self.is_ready

        await until(up, within_s=within_s, what="a ready daemon")

    def kill(self) -> None:
        """kill -9, at whatever it is doing."""
        self._up.clear()
        self._killed = self.daemon.process
        if self._killed.returncode is None:
            self._killed.kill()

    async def stop(self) -> int:
        """SIGTERM, and its exit code."""
        assert self._keeper is not None
        await self.ready()
        self._keeper.cancel()
        await asyncio.wait({self._keeper})
        return await self.daemon.stop(within_s=60)

    async def _keep(self) -> None:
        while True:
            self._seen = self.daemon.log.stat().st_size if self.daemon.log.exists() else 0
            await self.daemon.spawn()
            code = await self.daemon.process.wait()
            self._up.clear()
            self.exits[code] += 1
            await asyncio.sleep(_RESTART_S)

    def _read(self) -> None:
        """Looks at what was logged since the last look."""
        if not self.daemon.log.exists():
            return
        with self.daemon.log.open("rb") as log:
            log.seek(self._seen)
            news = log.read()
        process = self.daemon.process
        if b'"event": "ready"' in news and process.returncode is None and process is not self._killed:
            self._up.set()
        self._seen += news.rfind(b"\n") + 1
