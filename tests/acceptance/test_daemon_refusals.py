"""When the daemon cannot start: the exit code tells systemd whether to try again, the log tells people why."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from harness import settings
from marketd.sandbox import Sandbox
from processes import DaemonProcess, daemon


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7) as server:
        yield server


async def _refused(folder: Path, plain: dict[str, Any]) -> tuple[int, str, DaemonProcess]:
    """Exit code, all that was said about it, and the process."""
    async with daemon(folder, plain, ready=False) as process:
        code = await process.ended()
    assert not [said for said in process.said if "READY=1" in said]
    problems = [str(line["problem"]) for line in process.log if line["event"] == "cannot_start"]
    return code, "\n".join([*problems, process.stderr]), process


async def test_without_a_schema_it_exits_78_and_names_the_command(
    empty_database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    code, told, _ = await _refused(tmp_path, settings(empty_database, sandbox, tmp_path / "state"))
    assert code == 78
    assert "marketd migrate" in told


async def test_with_a_newer_schema_it_exits_78(database: str, sandbox: Sandbox, tmp_path: Path) -> None:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(
            "insert into market_schema select 9999, 'of_tomorrow', sha256, applied_at, 1 from market_schema limit 1"
        )
    finally:
        await connection.close()
    code, told, _ = await _refused(tmp_path, settings(database, sandbox, tmp_path / "state"))
    assert code == 78
    assert "newer" in told


async def test_without_a_dsn_it_exits_78_and_starts_no_database(sandbox: Sandbox, tmp_path: Path) -> None:
    plain = settings("", sandbox, tmp_path / "state")
    code, told, _ = await _refused(tmp_path, plain)
    assert code == 78
    assert "MARKETD_DSN" in told
    assert not (tmp_path / "state" / "postgres").exists()


async def test_with_the_database_down_it_exits_75(sandbox: Sandbox, tmp_path: Path) -> None:
    with socket.socket() as taken:
        # Bound and not listening: nobody answers, and nobody else can.
        taken.bind(("127.0.0.1", 0))
        dsn = f"postgresql://marketd:a-password-of-ours@127.0.0.1:{taken.getsockname()[1]}/market"
        code, told, _ = await _refused(tmp_path, settings(dsn, sandbox, tmp_path / "state"))
    assert code == 75
    assert "Postgres" in told
    assert "a-password-of-ours" not in told


async def test_with_its_port_taken_it_exits_1_and_names_the_address(
    database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        plain = settings(database, sandbox, tmp_path / "state") | {"http": {"port": port}}
        code, told, _ = await _refused(tmp_path, plain)
    assert code == 1
    assert f"127.0.0.1:{port}" in told


async def test_with_a_wrong_argument_it_exits_2() -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "marketd", "run", "--polite"), stderr=asyncio.subprocess.PIPE
    )
    _, told = await child.communicate()
    assert (child.returncode, b"--polite" in told) == (2, True)


async def test_with_a_broken_file_it_exits_78_and_names_every_fault(
    database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    plain = settings(database, sandbox, tmp_path / "state")
    plain |= {"scheduler": {"interval": "soon", "pol": "1s"}}
    code, told, _ = await _refused(tmp_path, plain)
    assert code == 78
    assert "scheduler.interval" in told
    assert "did you mean 'poll'" in told
