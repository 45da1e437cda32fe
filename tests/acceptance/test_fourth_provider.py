"""A provider that the project does not know, taken from the documentation, works without touching any other file."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from harness import Daemon, until

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ADDING_A_PROVIDER.md"


@pytest.fixture
async def bazaar() -> AsyncIterator[str]:
    """The marketplace of the page."""

    async def offers(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer a-key":
            return web.json_response({"message": "who are you"}, status=401)
        if request.match_info["code"] != "DD1391-100":
            return web.json_response({"message": "unknown code"}, status=404)
        found = [
            {"size": "10", "ask_cents": 12500, "bid_cents": 0},
            {"size": "11", "ask_cents": 0, "bid_cents": 9000},
        ]
        return web.json_response({"title": "Dunk", "currency": "USD", "image": None, "offers": found})

    application = web.Application()
    application.router.add_get("/offers/{code}", offers)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def _install(folder: Path, *, needs_token_url: bool = False) -> None:
    """The page's module as an installed distribution: the module itself, and the entry point's metadata."""
    (module,) = re.findall(r"## The module\n+```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    if needs_token_url:
        made = "        return oauth.StaticToken("
        assert made in module
        refusal = (
            "        if not token_url:\n"
            "            raise ValueError(f'no token_url for {credentials.key.get_secret_value()}')\n"
        )
        module = module.replace(made, refusal + made)
    folder.mkdir()
    (folder / "marketd_bazaar.py").write_text(module)
    info = folder / "marketd_bazaar-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: marketd-bazaar\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[marketd.providers]\nbazaar = marketd_bazaar\n")


async def test_the_documented_provider_fetches_prices(
    db: asyncpg.Connection, database: str, bazaar: str, tmp_path: Path
) -> None:
    plugins = tmp_path / "plugins"
    _install(plugins)
    configuration = {
        "database": {"dsn": database},
        "state_dir": str(tmp_path / "state"),
        "http": {"port": 0},
        "scheduler": {"poll": "200ms"},
        "providers": {"bazaar": {"base_url": bazaar, "credentials": {"key": "a-key"}, "currency": "USD"}},
    }
    daemon = Daemon(tmp_path, configuration, env={"PYTHONPATH": str(plugins)})
    await daemon.start()
    try:
        for sku, size in (("DD1391-100", "10"), ("DD1391-100", "11"), ("DD1391-100", "12"), ("NOPE-1", "9")):
            await db.fetch("select * from market_enqueue('bazaar', $1, $2, 200)", sku, size)

        async def settled() -> bool:
            open_jobs = "select count(*) from market_jobs where status in ('pending', 'running')"
            return await db.fetchval(open_jobs) == 0

        await until(settled)
    finally:
        assert await daemon.stop() == 0
    states = await db.fetch(
        "select sku, size, state, lowest_ask, highest_bid from market_price_status where provider = 'bazaar'"
    )
    assert {tuple(row) for row in states} == {
        ("DD1391-100", "10", "priced", Decimal(125), None),
        ("DD1391-100", "11", "no_asks", None, Decimal(90)),
        ("DD1391-100", "12", "size_not_offered", None, None),
        ("NOPE-1", "9", "unknown_sku", None, None),
    }


async def test_a_provider_that_refuses_its_stanza_keeps_the_daemon_down_or_as_it_was(
    db: asyncpg.Connection, database: str, bazaar: str, tmp_path: Path
) -> None:
    plugins = tmp_path / "plugins"
    _install(plugins, needs_token_url=True)
    stanza = {"base_url": bazaar, "credentials": {"key": "a-key"}, "currency": "USD"}
    configuration = {
        "database": {"dsn": database},
        "state_dir": str(tmp_path / "state"),
        "http": {"port": 0},
        "scheduler": {"poll": "200ms"},
        "providers": {"bazaar": stanza},
    }
    daemon = Daemon(tmp_path, configuration, env={"PYTHONPATH": str(plugins)})
    refusal = "providers.bazaar: ValueError: no token_url for **********"
    await daemon.spawn()
    assert await asyncio.wait_for(daemon.process.wait(), 20) == 78
    assert refusal in daemon.text()

    daemon.write({**configuration, "providers": {"bazaar": {**stanza, "token_url": bazaar}}})
    await daemon.start()
    try:
        before = await db.fetchval("select config_hash from market_settings")
        daemon.write({**configuration, "scheduler": {"poll": "300ms"}})
        daemon.process.send_signal(signal.SIGHUP)

        async def rejected() -> bool:
            return '"event": "config_rejected"' in daemon.text()

        await until(rejected)
        assert await db.fetchval("select config_hash from market_settings") == before
    finally:
        assert await daemon.stop() == 0
    assert daemon.text().count(refusal) >= 2
    assert "a-key" not in daemon.text()


async def test_what_a_provider_refuses_is_told_by_check_config_with_its_place(
    bazaar: str, tmp_path: Path
) -> None:
    plugins = tmp_path / "plugins"
    _install(plugins, needs_token_url=True)
    shop = {"credentials": {"key": "another-key"}}
    stanza = {
        "base_url": bazaar,
        "credentials": {"key": "a-key"},
        "currency": "USD",
        "accounts": {"shop": shop},
    }
    daemon = Daemon(tmp_path, {"state_dir": str(tmp_path / "state"), "providers": {"bazaar": stanza}})
    code, told = await _checked(daemon, plugins)
    assert code == 78
    assert told.splitlines() == [
        f"marketd: {daemon.config}:3:3: providers.bazaar: ValueError: no token_url for **********",
        f"marketd: {daemon.config}:9:7: providers.bazaar.accounts.shop: ValueError: no token_url for **********",
    ]

    module = plugins / "marketd_bazaar.py"
    held = "        self.options = options\n"
    assert held in module.read_text()
    module.write_text(module.read_text().replace(held, "        raise LookupError('no\\nsuch index')\n"))
    daemon.write({"providers": {"bazaar": {**stanza, "options": {}}}})
    code, told = await _checked(daemon, plugins)
    assert (code, told) == (
        78,
        f"marketd: {daemon.config}:11:5: providers.bazaar.options: LookupError: no such index\n",
    )

    # Who is off is not built, here as little as at a start.
    daemon.write({"providers": {"bazaar": {**stanza, "enabled": False}}})
    assert await _checked(daemon, plugins) == (0, "")


async def _checked(daemon: Daemon, plugins: Path) -> tuple[int, str]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "marketd", "check-config", "--config", str(daemon.config),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(plugins)},
    )  # fmt: skip
    _, told = await child.communicate()
    assert child.returncode is not None
    return child.returncode, told.decode()
