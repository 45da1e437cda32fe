"""A login that may not do what is asked of it is told which rights are missing and who gives them; exit code 78."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
import yaml

from harness import settings
from marketd.embedded import TEST_SETTINGS, EmbeddedPostgres
from marketd.migrate import apply_roles
from marketd.sandbox import Sandbox
from processes import daemon

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Login = Callable[..., Awaitable[tuple[str, str]]]
PASSWORD = "a-password-of-ours"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7) as server:
        yield server


@pytest.fixture
async def login(db: Connection, database: str) -> AsyncIterator[Login]:
    """Makes logins that are members of the roles named; yields name and DSN."""
    made: list[str] = []

    async def make(*roles: str, dsn: str = database) -> tuple[str, str]:
        name = f"who_{secrets.token_hex(4)}"
        members = f"in role {', '.join(roles)}" if roles else ""
        await db.execute(f"create role {name} login password '{PASSWORD}' {members}")
        made.append(name)
        parts = urlsplit(dsn)
        place = parts.netloc.rpartition("@")[2]
        return name, f"{parts.scheme}://{name}:{PASSWORD}@{place}{parts.path}?{parts.query}"

    yield make
    for name in made:
        await db.execute(f"drop owned by {name}; drop role {name}")


@pytest.mark.parametrize("roles", [(), ("market_reader",), ("market_operator",)])
async def test_a_daemon_without_its_role_exits_78_and_names_it(
    database: str, login: Login, sandbox: Sandbox, tmp_path: Path, roles: tuple[str, ...]
) -> None:
    await apply_roles(database)
    name, dsn = await login(*roles)
    async with daemon(tmp_path, settings(dsn, sandbox, tmp_path / "state"), ready=False) as process:
        assert await process.ended() == 78
    (told,) = [str(line["problem"]) for line in process.log if line["event"] == "cannot_start"]
    assert "permission denied" in told
    assert "marketd migrate --roles" in told
    assert f'grant market_daemon to "{name}"' in told
    assert PASSWORD not in told


async def test_a_tick_without_its_role_exits_78_too(
    database: str, login: Login, sandbox: Sandbox, tmp_path: Path
) -> None:
    await apply_roles(database)
    name, dsn = await login("market_operator")
    code, told = await _command(tmp_path, settings(dsn, sandbox, tmp_path / "state"), "tick")
    assert code == 78
    assert f'grant market_daemon to "{name}"' in told


async def test_a_database_that_cannot_be_had_is_told_by_its_place(
    database: str, login: Login, tmp_path: Path
) -> None:
    name, dsn = await login()
    query = parse_qs(urlsplit(dsn).query)
    place = f"{query['host'][0]}:{query['port'][0]}"
    missing = dsn.replace(urlsplit(dsn).path, "/nowhere")
    for command in ("migrate", "tick", "status"):
        code, told = await _command(tmp_path, {"database": {"dsn": missing}}, command)
        assert code == 75
        assert f"cannot connect to Postgres at {place} (database nowhere, user {name})" in told
        assert 'database "nowhere" does not exist' in told
        assert PASSWORD not in told


async def test_who_may_not_make_roles_is_told_so_and_need_not_where_they_are_there(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="mkt-"))  # a short path: it holds the socket
    folder.chmod(0o711)  # for root, whose Postgres runs as another user
    try:
        with EmbeddedPostgres(folder / "pg", TEST_SETTINGS) as server:
            await _roles_by_an_owner(server.dsn(), tmp_path)
    finally:
        shutil.rmtree(folder)


async def _roles_by_an_owner(superuser: str, folder: Path) -> None:
    admin = await asyncpg.connect(superuser)
    try:
        await admin.execute(f"create role \"shop owner\" login password '{PASSWORD}'")
        await admin.execute('create database shop owner "shop owner"')
    finally:
        await admin.close()
    parts = urlsplit(superuser)
    dsn = f"postgresql://shop%20owner:{PASSWORD}@/shop?{parts.query}"
    plain = {"database": {"dsn": dsn}}
    assert (await _command(folder, plain, "migrate"))[0] == 0
    code, told = await _command(folder, plain, "migrate", "--roles")
    assert code == 1
    assert 'alter role "shop owner" createrole' in told
    await apply_roles(superuser.replace(f"{parts.path}?", "/shop?"))
    code, told = await _command(folder, plain, "migrate", "--roles")
    assert (code, told) == (0, "")


async def _command(folder: Path, plain: dict[str, Any], *arguments: str) -> tuple[int | None, str]:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(plain))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "marketd", *arguments, "--config", str(path)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await child.communicate()
    return child.returncode, told.decode()
