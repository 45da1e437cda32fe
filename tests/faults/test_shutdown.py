"""SIGTERM and SIGINT in every phase, with everything stuck that can be: out in time, jobs given back unpaid."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from faults.kit import Connection, ask, broken, load
from faults.proxy import Proxy
from harness import Daemon, settings, until
from marketd.sandbox import Sandbox
from marketd.store.sqlfile import queries

GRACE_S = 1.0
WITHIN_S = GRACE_S + 5
#: names of phases -> the statement that Postgres is stuck in
STUCK = {
    "claiming": "insert into market_fetches as",
    "charging a call": "from market_take(",
    "settling": "insert into market_price_history",
    "polling": "update market_daemons set alive_until",
}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, products=10, limits={"*": None}) as server:
        yield server


def _daemon(proxy: Proxy, sandbox: Sandbox, folder: Path, **stanza: Any) -> Daemon:
    # A listen_dsn of its own makes the daemon send every statement's text, by which it is known.
    section = {"dsn": proxy.dsn, "listen_dsn": proxy.dsn}
    data = settings(
        proxy.dsn,
        sandbox,
        folder / "state",
        stanza={"timeout": "30s", **stanza},
        jobs={"shutdown_grace": f"{GRACE_S}s", "lease": "30s"},
        database=section,
    )
    return Daemon(folder, data)


async def _out(daemon: Daemon, number: signal.Signals) -> tuple[int, float]:
    """Exit code, and seconds from the signal to the end."""
    began = time.monotonic()
    daemon.process.send_signal(number)
    code = await asyncio.wait_for(daemon.process.wait(), WITHIN_S + 10)
    return code, time.monotonic() - began


async def _unpaid(db: Connection) -> None:
    rows = await db.fetch("select status, attempt, rescues from market_jobs")
    assert {tuple(row) for row in rows} == {("pending", 0, 0)}
    assert await db.fetchval("select count(*) from market_fetches") == 0
    assert await broken(db) == {}


@pytest.mark.parametrize(
    ("phase", "number"),
    [
        ("idle", signal.SIGINT),
        ("a fetch that stalls", signal.SIGTERM),
        ("a fetch that stalls", signal.SIGINT),
        ("a login that stalls", signal.SIGINT),
        ("waiting for the pace", signal.SIGTERM),
    ],
)
async def test_a_daemon_is_out_in_time_and_gives_back_what_it_held(
    db: Connection, proxy: Proxy, sandbox: Sandbox, tmp_path: Path, phase: str, number: signal.Signals
) -> None:
    slow = {"pace": {"calls": 1, "per": "4s"}} if phase == "waiting for the pace" else {}
    daemon = _daemon(proxy, sandbox, tmp_path, **slow)
    if phase == "a fetch that stalls":
        sandbox.fault("stockx", "stall", times=None, seconds=60)
    if phase == "a login that stalls":
        sandbox.fault("stockx", "stall", endpoint="token", times=None, seconds=60)
    await daemon.start()
    if phase != "idle":
        await ask(db, "stockx", load(sandbox, 1)[0]["sku"], None)
        await until(lambda: asyncio.sleep(0, len(sandbox.requests)), what="the request")
    code, seconds = await _out(daemon, number)
    assert (code, "Traceback" in daemon.text()) == (0, False), daemon.text()[-2000:]
    assert seconds < WITHIN_S
    if phase != "idle":
        await _unpaid(db)


# Both signals are one way from here on, so each phase meets one of them.
@pytest.mark.parametrize(
    ("phase", "number"), [(phase, (signal.SIGTERM, signal.SIGINT)[n % 2]) for n, phase in enumerate(STUCK)]
)
async def test_a_statement_that_hangs_does_not_keep_the_process(
    db: Connection, proxy: Proxy, sandbox: Sandbox, tmp_path: Path, phase: str, number: signal.Signals
) -> None:
    daemon = _daemon(proxy, sandbox, tmp_path)
    trap = proxy.trap(STUCK[phase], "before")
    await daemon.spawn()
    await ask(db, "stockx", load(sandbox, 1)[0]["sku"], None)
    await until(lambda: asyncio.sleep(0, trap.sprung.is_set()), what=phase)
    _, seconds = await _out(daemon, number)
    assert seconds < WITHIN_S
    assert "Traceback" not in daemon.text(), daemon.text()[-3000:]
    job = await db.fetchrow("select status, attempt from market_jobs")
    assert job is not None
    # What Postgres could not be told any more, the end of the lease tells.
    assert job["status"] in ("pending", "running", "done")
    assert await broken(db) == {}


@pytest.mark.parametrize(("trouble", "number"), [("silent", signal.SIGTERM), ("away", signal.SIGINT)])
async def test_a_database_that_is_silent_or_away_does_not_keep_the_process(
    db: Connection, proxy: Proxy, sandbox: Sandbox, tmp_path: Path, trouble: str, number: signal.Signals
) -> None:
    daemon = _daemon(proxy, sandbox, tmp_path)
    sandbox.fault("stockx", "stall", times=None, seconds=60)
    await daemon.start()
    await ask(db, "stockx", load(sandbox, 1)[0]["sku"], None)
    await until(lambda: asyncio.sleep(0, sandbox.count("stockx")), what="the request")
    if trouble == "away":
        await proxy.stop()
        await until(lambda: asyncio.sleep(0, "database_unavailable" in daemon.text()), what="word of it")
    else:
        proxy.silence(also_new=True)
        await asyncio.sleep(1.2)  # so that poll and heartbeat are stuck, too
    _, seconds = await _out(daemon, number)
    assert seconds < WITHIN_S
    assert "Traceback" not in daemon.text(), daemon.text()[-3000:]
    assert await broken(db) == {}
    # Nobody could be told: the end of the lease gives the job back, its attempt refunded. To Postgres this looks like a
    # death, so it counts as a rescue.
    await db.execute("update market_fetches set lease_expires_at = '-infinity'")
    await db.execute("update market_jobs set lease_expires_at = '-infinity' where status = 'running'")
    await db.execute(queries("jobs")["rescue"])
    assert tuple(await db.fetchrow("select status, attempt, rescues from market_jobs") or ()) == (
        "pending",
        0,
        1,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_daemon_that_cannot_start_yet_ends_at_once(
    proxy: Proxy, sandbox: Sandbox, tmp_path: Path, number: signal.Signals
) -> None:
    proxy.silence(also_new=True)
    daemon = _daemon(proxy, sandbox, tmp_path)
    await daemon.spawn()
    await until(lambda: asyncio.sleep(0, proxy.accepted), what="the first connection")
    code, seconds = await _out(daemon, number)
    assert seconds < WITHIN_S
    assert code == 0
    assert "Traceback" not in daemon.text(), daemon.text()[-3000:]


async def test_a_hangup_while_it_starts_is_a_reload_once_it_has(
    proxy: Proxy, sandbox: Sandbox, tmp_path: Path
) -> None:
    daemon = _daemon(proxy, sandbox, tmp_path)
    trap = proxy.trap("update market_settings set fresh_for", "before")
    await daemon.spawn()
    await until(lambda: asyncio.sleep(0, trap.sprung.is_set()), what="the start")
    daemon.process.send_signal(signal.SIGHUP)
    trap.release()
    await until(lambda: asyncio.sleep(0, "config_reloaded" in daemon.text()), what="the reload")
    assert await daemon.stop() == 0


async def test_signals_while_it_signs_off_do_not_cut_that_short(
    db: Connection, proxy: Proxy, sandbox: Sandbox, tmp_path: Path
) -> None:
    daemon = _daemon(proxy, sandbox, tmp_path)
    await daemon.start()
    trap = proxy.trap("delete from market_daemons where daemon_id", "before")
    daemon.process.terminate()
    await asyncio.wait_for(trap.sprung.wait(), 5)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        daemon.process.send_signal(number)
    trap.release()
    assert await asyncio.wait_for(daemon.process.wait(), 5) == 0
    assert await db.fetchval("select count(*) from market_daemons") == 0


async def test_a_name_that_is_looked_up_for_ever_does_not_keep_the_process(
    db: Connection, proxy: Proxy, sandbox: Sandbox, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    path = tmp_path / "path"
    path.mkdir()
    (path / "uvloop.py").write_text("raise ImportError")  # it looks names up without Python
    (path / "sitecustomize.py").write_text(
        "import pathlib, socket, time\n"
        "look_up = socket.getaddrinfo\n"
        "def hang(host, *args, **kwargs):\n"
        "    if host in ('hangs.invalid', b'hangs.invalid'):\n"
        f"        pathlib.Path({str(asked)!r}).touch()\n"
        "        time.sleep(120)\n"
        "    return look_up(host, *args, **kwargs)\n"
        "socket.getaddrinfo = hang\n"
    )
    address = {"base_url": "https://hangs.invalid/v1", "timeout": "30s"}
    jobs = {"shutdown_grace": f"{GRACE_S}s", "lease": "30s"}
    data = settings(proxy.dsn, sandbox, tmp_path / "state", providers=("alias",), stanza=address, jobs=jobs)
    del data["testing"]
    daemon = Daemon(tmp_path, data, env={"PYTHONPATH": str(path)})
    await daemon.start()
    await ask(db, "alias", load(sandbox, 1)[0]["sku"], None)
    await until(lambda: asyncio.sleep(0, asked.exists()), what="the look-up")
    code, seconds = await _out(daemon, signal.SIGTERM)
    assert (code, "Traceback" in daemon.text()) == (0, False), daemon.text()[-2000:]
    assert seconds < WITHIN_S
    await _unpaid(db)


async def test_a_second_signal_ends_it_at_once(
    db: Connection, proxy: Proxy, sandbox: Sandbox, tmp_path: Path
) -> None:
    daemon = _daemon(proxy, sandbox, tmp_path)
    data = settings(proxy.dsn, sandbox, tmp_path / "state", jobs={"shutdown_grace": "60s", "lease": "30s"})
    daemon.write(data)
    sandbox.fault("stockx", "stall", times=None, seconds=60)
    await daemon.start()
    await ask(db, "stockx", load(sandbox, 1)[0]["sku"], None)
    await until(lambda: asyncio.sleep(0, sandbox.count("stockx")), what="the request")
    daemon.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.8)  # signals closer together count as one request
    code, seconds = await _out(daemon, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert seconds < 2
