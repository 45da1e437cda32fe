"""A whole daemon inside a test: the real App against a real Postgres and the sandbox."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from marketd import config, wiring
from marketd.app import App
from marketd.config import Config
from marketd.sandbox import Sandbox
from marketd.signals import Stop
from marketd.telemetry import Observer
from windows import SESSION

CURRENCIES = {"stockx": "GBP", "alias": "USD", "ebay": "USD"}
GOLDEN = (
    ("DD1391-100", "10"),
    ("DZ5485-612", "9.5"),
    ("DZ5485-410", "9"),
    ("FV5029-010", "11"),
    ("DC7770-160", "7"),
    ("DD1503-103", "7.5W"),
    ("IB4171-100", "5Y"),
    ("1116109-CHE", "8W"),
    ("CP9366", "10.5"),
    ("CV9388-100", "10W"),
)


def settings(
    dsn: str,
    sandbox: Sandbox,
    state_dir: Path,
    *,
    providers: tuple[str, ...] = ("stockx",),
    stanza: Mapping[str, Any] | None = None,
    **sections: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """A quick configuration as plain data: short polls, no pace to speak of, generous budgets, windows just begun."""
    quick: dict[str, Any] = {
        "currency": None,
        "budget": {"per_hour": 100_000},
        "pace": {"calls": 100, "per": "1s"},
        **(stanza or {}),
    }
    return {
        "database": {"dsn": dsn},
        "state_dir": str(state_dir),
        "http": {"port": 0},
        "scheduler": {"poll": "1s", "interval": "2s", **sections.get("scheduler", {})},
        "jobs": {"lease": "3s", "shutdown_grace": "2s", "fresh_for": "10m", **sections.get("jobs", {})},
        "testing": SESSION,
        **{name: value for name, value in sections.items() if name not in ("scheduler", "jobs")},
        "providers": {
            name: {
                **{key: value for key, value in sandbox.settings[name].items() if value is not None},
                **quick,
                "currency": CURRENCIES[name],
            }
            for name in providers
        },
    }


def configured(*args: Any, **kwargs: Any) -> Config:
    """`settings`, validated."""
    return config.from_mapping(settings(*args, **kwargs), wiring.provider_types())


@asynccontextmanager
async def running(configuration: Config, *observers: Observer) -> AsyncIterator[App]:
    """A daemon that is ready; stopped in an orderly way at the end."""
    app, stop, ready = App(configuration, observers=observers), Stop(), asyncio.Event()
    serving = asyncio.create_task(app.serve(stop, on_ready=ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if serving.done():
        serving.result()
    try:
        yield app
    finally:
        stop.set()
        await serving


async def until(condition: Callable[[], Awaitable[Any]], *, within_s: float = 15.0, what: str = "it") -> Any:
    """Ask again and again until the answer is true; the answer. AssertionError when time is up."""
    deadline = time.monotonic() + within_s
    while True:
        if answer := await condition():
            return answer
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s} s"
        await asyncio.sleep(0.02)


class Daemon:
    """A `marketd run` of its own process, which a test may kill."""

    def __init__(
        self, folder: Path, data: Mapping[str, Any], *, env: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "config.yaml"
        self.log = folder / "log"
        self._env = {**os.environ, **(env or {})}
        self._process: asyncio.subprocess.Process | None = None
        self.write(data)

    def write(self, data: Mapping[str, Any]) -> None:
        """Replace the configuration file, in one step."""
        fresh = self.config.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(json.loads(json.dumps(data)), sort_keys=False))  # no shared parts
        fresh.replace(self.config)

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "the daemon was not started"
        return self._process

    async def start(self, *, ready_within_s: float = 20.0) -> None:
        """Start it and wait until its log says that it is ready."""
        seen = self.text().count('"event": "ready"')
        await self.spawn()

        async def ready() -> bool:
            assert self.process.returncode is None, f"marketd ended early:\n{self.text()[-2000:]}"
            return self.text().count('"event": "ready"') > seen

        await until(ready, within_s=ready_within_s, what="the start")

    async def spawn(self) -> None:
        """Start it; it may well end at once."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "marketd", "run", "--config", str(self.config),
                stdout=log, stderr=log, env=self._env,
            )  # fmt: skip

    def text(self) -> str:
        """Everything that it ever printed."""
        return self.log.read_text() if self.log.exists() else ""

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await self.process.wait()

    async def stop(self, *, within_s: float = 10.0) -> int:
        """SIGTERM, and its exit code; a daemon that has ended already only tells the code."""
        if self.process.returncode is None:
            self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), within_s)
