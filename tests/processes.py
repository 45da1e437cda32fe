"""The daemon as a process of its own, watched as systemd watches it: its log, its datagrams, its exit code."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from harness import until

ROOT = Path(__file__).resolve().parents[1]


class DaemonProcess:
    """A running `marketd run`. `log` has its JSON lines, `said` what it told the service manager."""

    def __init__(self, child: asyncio.subprocess.Process, config: Path) -> None:
        self.child = child
        self.config = config
        self.log: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.stderr = ""

    def signal(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    def write_config(self, settings: Mapping[str, Any]) -> None:
        self.config.write_text(yaml.safe_dump(dict(settings)))

    async def logged(self, event: str, *, since: int = 0) -> dict[str, Any]:
        """The first line of this event at or after position `since`, as soon as it is there."""

        async def find() -> dict[str, Any] | None:
            return next((line for line in self.log[since:] if line["event"] == event), None)

        found: dict[str, Any] = await until(find, what=f"log line {event}")
        return found

    async def told(self, text: str, *, since: int = 0) -> str:
        """The first datagram with this text at or after position `since`."""

        async def find() -> str | None:
            return next((said for said in self.said[since:] if text in said), None)

        found: str = await until(find, what=f"datagram {text}")
        return found

    async def reload(self) -> dict[str, Any]:
        """SIGHUP; returns the log line that ends it."""
        since = len(self.log)
        self.signal(signal.SIGHUP)

        async def end() -> dict[str, Any] | None:
            ends = ("config_reloaded", "config_rejected")
            return next((line for line in self.log[since:] if line["event"] in ends), None)

        found: dict[str, Any] = await until(end, what="the reload")
        return found

    async def metric(self, sample: str) -> float:
        """One sample of /metrics, by its name with labels as exported."""
        url = (await self.logged("ready"))["metrics"]
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            for line in (await answer.text()).splitlines():
                if line.startswith(f"{sample} "):
                    return float(line.rpartition(" ")[2])
        raise AssertionError(f"{sample} is not exported")

    async def counted(self, sample: str, value: float) -> None:
        """Wait until a sample has this value: a job's end is in the database before it is in the metrics."""

        async def reached() -> bool:
            return await self.metric(sample) == value

        await until(reached, what=f"{sample} {value:g}")

    async def ended(self, within_s: float = 15) -> int:
        """The exit code, once it ended; negative: by that signal."""
        async with asyncio.timeout(within_s):
            return await self.child.wait()


@asynccontextmanager
async def daemon(
    folder: Path, settings: Mapping[str, Any], *, watchdog_s: float | None = None, ready: bool = True
) -> AsyncIterator[DaemonProcess]:
    """Starts `marketd run` with these settings as its file; killed at the end if it still runs.

    `ready` waits until it says so, and fails with its log when it ends instead.
    """
    config = folder / "config.yaml"
    address = f"marketd-{secrets.token_hex(8)}"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MARKETD_", "STOCKX_"))}
    env |= {"PYTHONPATH": str(ROOT / "daemon"), "NOTIFY_SOCKET": f"@{address}"}
    if watchdog_s is not None:
        env["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
    config.write_text(yaml.safe_dump(dict(settings)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
        manager.bind(f"\0{address}")
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "marketd", "run", "--config", str(config)),
            env=env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        process = DaemonProcess(child, config)
        readers = [
            asyncio.create_task(_read_log(process)),
            asyncio.create_task(_read_errors(process)),
            asyncio.create_task(_read_datagrams(process, manager)),
        ]
        try:
            if ready:
                await _ready(process)
            yield process
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
            await asyncio.gather(*readers[:2])
            readers[2].cancel()
            await asyncio.wait(readers)


async def _ready(process: DaemonProcess) -> None:
    async def ready_or_gone() -> bool:
        return any("READY=1" in said for said in process.said) or process.child.returncode is not None

    await until(ready_or_gone, what="the start")
    assert process.child.returncode is None, (process.log, process.stderr)


async def _read_log(process: DaemonProcess) -> None:
    assert process.child.stdout is not None
    async for line in process.child.stdout:
        process.log.append(json.loads(line))


async def _read_errors(process: DaemonProcess) -> None:
    assert process.child.stderr is not None
    async for line in process.child.stderr:
        process.stderr += line.decode()


async def _read_datagrams(process: DaemonProcess, manager: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        process.said.append((await loop.sock_recv(manager, 4096)).decode())
