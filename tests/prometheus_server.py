"""A real Prometheus for tests, with the shipped rules."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from harness import until

ROOT = Path(__file__).resolve().parents[1]


class Prometheus:
    """Its HTTP interface."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def get(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer. AssertionError when Prometheus refuses."""
        async with self._session.get(f"{self._url}/api/v1/{path}", params=parameters) as answer:
            body = await answer.json()
            assert body["status"] == "success", body
            return body["data"]

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        found: list[dict[str, Any]] = (await self.get("query", query=expr))["result"]
        return found

    async def is_up(self) -> bool:
        """Whether it answers at all."""
        try:
            async with self._session.get(f"{self._url}/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


@asynccontextmanager
async def prometheus(folder: Path, target_port: int, *, every: str = "1s") -> AsyncIterator[Prometheus]:
    """Scrapes the daemon on that port with the shipped rules, of which only the waiting times are cut short."""
    for name in ("alerts.yml", "recording.yml"):
        text = (ROOT / "prometheus" / name).read_text()
        (folder / name).write_text(re.sub(r"^(\s+for: )\w+$", r"\g<1>1s", text, flags=re.MULTILINE))
    config = yaml.safe_load((ROOT / "prometheus" / "scrape.example.yml").read_text())
    config["global"] = {"scrape_interval": every, "evaluation_interval": every}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{target_port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = _free_port()
    with (folder / "prometheus.log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
        try:
            async with aiohttp.ClientSession() as session:
                server = Prometheus(f"http://127.0.0.1:{port}", session)
                await until(server.is_up, within_s=30, what="Prometheus")
                yield server
        finally:
            if child.returncode is None:
                child.terminate()
            await child.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
