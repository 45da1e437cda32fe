"""The admin server, over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from marketd.admin import Admin
from marketd.errors import CannotListen
from marketd.metrics import Metrics


@asynccontextmanager
async def _served(reasons: list[str]) -> AsyncIterator[str]:
    metrics = Metrics(process=False)
    metrics.init_labels(["stockx"])
    admin = Admin("127.0.0.1", 0, render=metrics.render, reasons=lambda: reasons)
    await admin.start()
    try:
        yield f"http://127.0.0.1:{admin.port}"
    finally:
        await admin.stop()
        await admin.stop()


async def _get(url: str, **headers: str) -> tuple[int, str, Any]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        body = await (answer.json() if answer.content_type == "application/json" else answer.text())
        return answer.status, answer.content_type, body


async def test_metrics_are_served_in_the_form_asked_for() -> None:
    async with _served([]) as base:
        status, kind, body = await _get(base + "/metrics")
        assert (status, kind) == (200, "text/plain")
        assert 'marketd_lane_state{provider="stockx",state="ready"} 0.0' in body
        status, kind, body = await _get(base + "/metrics", Accept="application/openmetrics-text")
        assert (status, kind) == (200, "application/openmetrics-text")
        assert body.endswith("# EOF\n")


async def test_alive_and_ready_are_different_questions() -> None:
    reasons: list[str] = []
    async with _served(reasons) as base:
        assert await _get(base + "/readyz") == (200, "application/json", {"ready": True, "reasons": []})
        reasons += ["database: no answer for 12 s", "draining"]
        assert (await _get(base + "/healthz"))[0] == 200
        assert await _get(base + "/readyz") == (
            503,
            "application/json",
            {"ready": False, "reasons": ["database: no answer for 12 s", "draining"]},
        )


async def test_other_paths_are_not_found() -> None:
    async with _served([]) as base:
        assert (await _get(base + "/"))[0] == 404


async def test_a_port_in_use_is_an_error_at_start() -> None:
    async with _served([]) as base:
        port = int(base.rpartition(":")[2])
        second = Admin("127.0.0.1", port, render=lambda _: (b"", "text/plain"), reasons=list)
        with pytest.raises(CannotListen, match="address already in use; is another marketd running"):
            await second.start()
        await second.stop()


async def test_after_the_stop_nobody_answers() -> None:
    async with _served([]) as base:
        pass
    with pytest.raises(aiohttp.ClientConnectorError):
        await _get(base + "/healthz")
