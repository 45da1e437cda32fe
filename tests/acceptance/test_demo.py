"""`marketd demo` as a newcomer runs it: a process of its own, with a data directory of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from harness import until

_ROW = re.compile(
    r"^  (.+?)  +\S+ +\S+ +(stockx|alias|ebay) +((?:GBP|USD) \d\S*) .* (priced|no_asks)$", re.MULTILINE
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, for the socket's sake, and open to the user as whom root's Postgres runs."""
    made = Path(tempfile.mkdtemp(prefix="mkt-demo-", dir="/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


async def _start(folder: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "marketd", "demo", "--state-dir", str(folder), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=folder,
        env={key: value for key, value in os.environ.items() if not key.startswith("MARKETD_")},
    )  # fmt: skip


async def _once(folder: Path) -> str:
    process = await _start(folder, "--once", "--port", "0")
    out, err = await asyncio.wait_for(process.communicate(), 50)
    assert (process.returncode, err) == (0, b""), err.decode()
    return out.decode()


def _left(folder: Path) -> list[str]:
    """Command lines of processes that still have to do with the demo's directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        if str(folder) in line:
            found.append(line)
    return found


@pytest.mark.timeout(110)
async def test_once_prices_ten_shoes_at_three_providers_and_again_the_next_time(folder: Path) -> None:
    first = await _once(folder)
    assert len(_ROW.findall(first)) == 30, first
    assert "30 of 30 answered" in first
    assert re.search(r"^  stockx +\d+ +\d+ +\d+ of 100 ", first, re.MULTILINE)
    second = await _once(folder)
    assert len(_ROW.findall(second)) == 30, second
    assert _left(folder) == []


@pytest.mark.timeout(60)
async def test_it_serves_metrics_and_other_commands_until_ctrl_c_and_leaves_nothing_behind(
    folder: Path,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = await _start(folder, "--port", str(port))
        said = await _until_said(process, "metrics:")
    assert f"(port {port} is taken)" in said
    url = said.split()[1]
    page = await asyncio.to_thread(lambda: urlopen(url, timeout=5).read().decode())
    assert "marketd_build_info" in page

    async def priced() -> bool:
        return len(await _prices(folder)) >= 30

    await until(priced, within_s=40, what="the filled table")
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, err) == (0, b"")
    assert "ended; the data stays in" in out.decode()
    assert _left(folder) == []


async def _until_said(process: asyncio.subprocess.Process, start: str) -> str:
    assert process.stdout is not None
    while line := (await asyncio.wait_for(process.stdout.readline(), 30)).decode():
        if line.startswith(start):
            return line
    raise AssertionError(f"it never said {start!r}")


async def _prices(folder: Path) -> list[str]:
    """The finished jobs, as another terminal sees them."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "marketd", "jobs", "--state", "done", "--json",
        stdout=asyncio.subprocess.PIPE, cwd=folder, env={**os.environ, "STATE_DIRECTORY": str(folder)},
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0
    return [job["sku"] for job in json.loads(out) if job["outcome"] == "priced"]
