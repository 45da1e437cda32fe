"""`marketd auth stockx` as an operator runs it, against the sandbox's login."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
import yaml

from harness import settings, until
from marketd import login
from marketd.config import load
from marketd.providers import discover
from marketd.sandbox import Sandbox
from marketd.wiring import accounts_of, provider_types, with_logins
from processes import daemon

CALLBACK = "https://example.test/callback"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=1, limits={"*": None}) as server:
        yield server


class Command:
    """One `marketd auth` under way: what it printed so far, and what it is told."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.printed = ""

    async def until(self, pattern: str) -> str:
        """Read on until a line fits; the line."""
        assert self.process.stdout is not None
        while line := (await asyncio.wait_for(self.process.stdout.readline(), 20)).decode():
            self.printed += line
            if re.search(pattern, line):
                return line.strip()
        raise AssertionError(f"no line with {pattern!r} in:\n{self.printed}")

    async def end(self, said: str = "") -> tuple[int, str, str]:
        """Answer on its standard input, and wait: exit code, everything printed, the complaint."""
        out, err = await asyncio.wait_for(self.process.communicate(said.encode()), 20)
        assert self.process.returncode is not None
        return self.process.returncode, self.printed + out.decode(), err.decode()


async def start(
    sandbox: Sandbox,
    tmp_path: Path,
    *arguments: str,
    credentials: dict[str, str] | None = None,
    data: dict[str, Any] | None = None,
    before: tuple[str, ...] = (),
) -> Command:
    config = tmp_path / "config.yaml"
    if data is None:
        data = settings("postgresql://unused@127.0.0.1/unused", sandbox, tmp_path / "state")
        keys = sandbox.credentials["stockx"] | {"refresh_token": ""}
        data["providers"]["stockx"]["credentials"] = keys | (credentials or {})
        config.write_text(yaml.safe_dump(data))
    process = await asyncio.create_subprocess_exec(
        *before,
        *(sys.executable, "-m", "marketd", "auth", "stockx", "--config", str(config), *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    return Command(process)


async def browser(address: str, *, follow: bool = False) -> str:
    """What a browser does with the address; where it is sent."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.get(address, allow_redirects=False) as response:
            target = response.headers["Location"]
        if follow:
            async with session.get(target) as response:
                assert response.status == 200
    return target


def stored(tmp_path: Path) -> Path:
    return login.login_file(tmp_path / "state", "stockx", "default")


async def test_a_pasted_address_yields_a_login_that_the_daemon_takes_up(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    command = await start(sandbox, tmp_path, "--redirect-uri", CALLBACK)
    address = await command.until("/authorize")
    code, out, err = await command.end(await browser(address) + "\n")
    assert (code, err) == (0, "")
    assert "within seconds" in out
    assert "invalid_grant" in out, "it says what to do when the token is withdrawn one day"
    assert stat.S_IMODE(stored(tmp_path).stat().st_mode) == 0o600
    secrets = sandbox.credentials["stockx"]
    assert not [name for name, word in secrets.items() if name != "client_id" and word in out + err]
    config = load(tmp_path / "config.yaml", provider_types())
    assert accounts_of(config, discover())[0].off_reason == "no credentials: refresh_token not set"
    assert accounts_of(with_logins(config), discover())[0].off_reason is None


async def test_a_loopback_redirect_is_heard_without_any_typing(
    sandbox: Sandbox, tmp_path: Path, unused_tcp_port: int
) -> None:
    uri = f"http://127.0.0.1:{unused_tcp_port}/callback"
    command = await start(sandbox, tmp_path, "--redirect-uri", uri)
    address = await command.until("/authorize")
    await command.until("Waiting for the browser")
    while True:
        try:
            await browser(address, follow=True)
            break
        except aiohttp.ClientConnectorError:
            await asyncio.sleep(0.02)
    assert (await command.end())[0] == 0
    assert stored(tmp_path).exists()


async def test_a_refresh_token_in_the_configuration_counts_and_that_is_said(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    command = await start(
        sandbox, tmp_path, "--redirect-uri", CALLBACK, credentials={"refresh_token": "an-old-one"}
    )
    _, out, _ = await command.end(await browser(await command.until("/authorize")) + "\n")
    assert "make it empty" in out
    assert "an-old-one" not in out


async def test_a_refused_code_says_what_to_do_and_stores_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    command = await start(sandbox, tmp_path, "--redirect-uri", CALLBACK)
    target = await browser(await command.until("/authorize"))
    code, _, err = await command.end(re.sub("code=[^&]*", "code=wrong", target) + "\n")
    assert code == 1
    assert "invalid_grant" in err
    assert "run this again" in err
    assert "Traceback" not in err
    assert not stored(tmp_path).exists()


@pytest.mark.parametrize(
    ("said", "reason"),
    [("", "its state differs"), ("https://example.test/?error=access_denied\n", "access_denied")],
)
async def test_an_answer_that_is_none_ends_in_one_line(
    sandbox: Sandbox, tmp_path: Path, said: str, reason: str
) -> None:
    command = await start(sandbox, tmp_path, "--redirect-uri", CALLBACK)
    await command.until("/authorize")
    code, _, err = await command.end(said)
    assert (code, err.count("\n")) == (1, 1)
    assert reason in err


async def test_an_interrupt_ends_it_at_once(sandbox: Sandbox, tmp_path: Path) -> None:
    command = await start(sandbox, tmp_path, "--redirect-uri", CALLBACK)
    await command.until("Paste that whole address")
    command.process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(command.process.wait(), 10) == 130
    assert await command.process.stderr.read() == b""  # type: ignore[union-attr]


async def test_without_the_applications_key_it_says_what_is_missing(sandbox: Sandbox, tmp_path: Path) -> None:
    command = await start(sandbox, tmp_path, credentials={"client_secret": ""})
    code, _, err = await command.end()
    assert code == 78
    assert "providers.stockx.credentials.client_secret" in err
    command = await start(sandbox, tmp_path, "--account", "nobody")
    code, _, err = await command.end()
    assert (code, "there is no account 'nobody'" in err) == (78, True)


async def test_a_wrong_key_is_told_as_such(sandbox: Sandbox, tmp_path: Path) -> None:
    command = await start(
        sandbox, tmp_path, "--redirect-uri", CALLBACK, credentials={"client_secret": "wrong-secret"}
    )
    code, _, err = await command.end(await browser(await command.until("/authorize")) + "\n")
    assert code == 1
    assert "Check client_id and client_secret" in err
    assert "wrong-secret" not in err


async def test_a_full_disk_is_told_before_the_login(sandbox: Sandbox, tmp_path: Path) -> None:
    # No file may grow: for who writes, the same as a disk without room.
    command = await start(sandbox, tmp_path, before=("bash", "-c", 'ulimit -f 0; exec "$@"', "limited"))
    code, out, err = await command.end()
    assert (code, out) == (1, "")
    assert re.search(r"state_dir \S+ takes no file", err)
    assert "Traceback" not in err
    assert not list((tmp_path / "state").iterdir())


async def test_a_running_daemon_takes_a_login_up_by_itself(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    plain = settings(database, sandbox, tmp_path / "state")
    keys = sandbox.credentials["stockx"] | {"refresh_token": ""}
    plain["providers"]["stockx"]["credentials"] = keys
    async with daemon(tmp_path, plain) as process:
        assert (await process.logged("provider_off"))["reason"] == "no credentials: refresh_token not set"
        await _logged_in(sandbox, tmp_path, plain)
        told = await process.logged("config_reloaded")
        (change,) = told["changes"]
        assert change.startswith("providers.stockx.credentials.refresh_token: ")
        assert sandbox.credentials["stockx"]["refresh_token"] not in change
        await _priced(db)


async def test_a_lane_whose_login_was_withdrawn_goes_on_with_the_next_one(
    db: asyncpg.Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    plain = settings(database, sandbox, tmp_path / "state")
    keys = sandbox.credentials["stockx"] | {"refresh_token": ""}
    plain["providers"]["stockx"]["credentials"] = keys
    stored(tmp_path).parent.mkdir()
    stored(tmp_path).write_text(json.dumps({"client_id": keys["client_id"], "refresh_token": "an-old-one"}))
    async with daemon(tmp_path, plain) as process:
        await db.fetch("select * from market_enqueue('stockx', 'DD1391-100', null, 200)")
        refused = "select circuit_reason = 'unauthorized' from market_providers where provider = 'stockx'"
        await until(lambda: db.fetchval(refused))
        await _logged_in(sandbox, tmp_path, plain)
        await process.logged("config_reloaded")
        await _priced(db)


async def _logged_in(sandbox: Sandbox, tmp_path: Path, plain: dict[str, Any]) -> None:
    command = await start(sandbox, tmp_path, "--redirect-uri", CALLBACK, data=plain)
    code, _, err = await command.end(await browser(await command.until("/authorize")) + "\n")
    assert (code, err) == (0, "")


async def _priced(db: asyncpg.Connection) -> None:
    await db.fetch("select * from market_enqueue('stockx', 'DD1391-100', null, 200)")
    await until(lambda: db.fetchval("select count(*) > 0 from market_prices"))


async def test_a_state_folder_that_cannot_be_made_is_told_before_the_login(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("a file in the way")
    command = await start(sandbox, tmp_path)
    code, out, err = await command.end()
    assert (code, out) == (1, "")
    assert "state_dir" in err
