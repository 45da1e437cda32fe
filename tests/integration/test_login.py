"""The one-time login at StockX, against the sandbox."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from pydantic import SecretStr

from marketd import errors, login
from marketd.providers.stockx import Credentials
from marketd.sandbox import Sandbox


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=1) as server:
        yield server


async def _browser(address: str) -> str:
    """What a browser does with the address: follow it, and end where it is sent."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        session.get(address, allow_redirects=False) as response,
    ):
        return response.headers["Location"]


async def test_a_login_stores_a_refresh_token_that_the_daemon_takes_up(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    keys = sandbox.credentials["stockx"]
    shown: list[str] = []

    async def answer() -> str:
        return await _browser(shown[0])

    file = login.login_file(tmp_path, "stockx", "default")
    await login.login(
        token_url=sandbox.settings["stockx"]["token_url"],
        client_id=keys["client_id"],
        client_secret=keys["client_secret"],
        redirect_uri="https://example.test/callback",
        file=file,
        show=shown.append,
        answer=answer,
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    without = Credentials(api_key=SecretStr("k"), client_id=keys["client_id"], client_secret=SecretStr("s"))
    assert without.missing() == ("refresh_token",)
    completed = login.stored(tmp_path, "stockx", "default", without)
    assert isinstance(completed, Credentials)
    assert completed.missing() == ()
    assert completed.refresh_token.get_secret_value() == keys["refresh_token"]
    other = without.model_copy(update={"client_id": "another"})
    assert login.stored(tmp_path, "stockx", "default", other) is other, "a login belongs to its client"


async def test_a_code_that_the_provider_refuses_is_told_and_nothing_is_stored(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    keys = sandbox.credentials["stockx"]
    shown: list[str] = []

    async def answer() -> str:
        state = shown[0].rpartition("state=")[2]
        return f"https://example.test/callback?code=wrong&state={state}"

    file = login.login_file(tmp_path, "stockx", "default")
    with pytest.raises(errors.Unauthorized, match="invalid_grant"):
        await login.login(
            token_url=sandbox.settings["stockx"]["token_url"],
            client_id=keys["client_id"],
            client_secret=keys["client_secret"],
            redirect_uri="https://example.test/callback",
            file=file,
            show=shown.append,
            answer=answer,
        )
    assert not file.exists()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("https://x.test/?code=c&state=other", "its state differs"),
        ("https://x.test/?error=access_denied&state=s", "access_denied"),
        ("https://x.test/?state=s", "no code"),
        ("nonsense", "its state differs"),
    ],
)
def test_an_answer_that_is_not_of_this_login_is_refused(address: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        login.code_of(address, "s")


async def test_a_loopback_redirect_is_heard(sandbox: Sandbox, unused_tcp_port: int) -> None:
    import asyncio

    uri = f"http://127.0.0.1:{unused_tcp_port}/callback"
    waiting = asyncio.create_task(login.heard(uri))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        while True:
            try:
                async with session.get(uri, params={"code": "c", "state": "s"}) as response:
                    assert response.status == 200
                    break
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.01)
    assert login.code_of(await waiting, "s") == "c"


def test_a_damaged_file_is_a_configuration_fault(tmp_path: Path) -> None:
    login.login_file(tmp_path, "stockx", "default").write_text("{")
    with pytest.raises(errors.ConfigError, match="marketd auth stockx"):
        login.stored(tmp_path, "stockx", "default", Credentials(client_id="c"))
