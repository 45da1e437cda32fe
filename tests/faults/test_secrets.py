"""Unique secrets are planted, everything that can go wrong with them is made to, and then every place is searched."""

from __future__ import annotations

import asyncio
import json
import secrets
import traceback
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import yaml

from faults.kit import QUICK_JOBS, Connection, ask
from harness import Daemon, settings, until
from marketd import wiring
from marketd.config import ProviderTypes
from marketd.config import load as load_config
from marketd.errors import ConfigError
from marketd.sandbox import Sandbox

PANDA = "DD1391-100"
PROVIDERS = ("stockx", "alias", "ebay")


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7, limits={"*": None}) as server:
        yield server


def _everything_told(sandbox: Sandbox) -> set[str]:
    """The secret ones of the credentials that the daemon is given."""
    return {
        word for words in sandbox.credentials.values() for name, word in words.items() if name != "client_id"
    }


async def _tables(db: Connection) -> str:
    names = await db.fetch(
        "select c.oid::regclass::text as name from pg_class c"
        " where relnamespace = 'public'::regnamespace and relkind = 'r'"
    )
    rows = [await db.fetch(f"select to_jsonb(t)::text as row from {entry['name']} t") for entry in names]
    return "\n".join(row["row"] for table in rows for row in table)


def _spoil_everything(sandbox: Sandbox) -> None:
    """Answers that repeat what was sent, refusals of every credential, and bodies that break a parser."""
    for provider in PROVIDERS:
        echo = json.dumps({"errorMessage": f"bad key {' '.join(sandbox.credentials[provider].values())}"})
        for status in (400, 401, 403, 404, 500):
            sandbox.fault(provider, "status", status=status, body=echo)
        for kind in ("wrong_shape", "html", "reset", "truncated"):
            sandbox.fault(provider, kind)
        if provider != "alias":
            sandbox.expire_tokens(provider)
            sandbox.fault(provider, "invalid_grant")
            sandbox.fault(provider, "status", endpoint="token", status=500, body=echo)


@pytest.mark.timeout(90)
async def test_no_secret_is_found_in_logs_metrics_tables_tracebacks_or_the_process_list(
    db: Connection, database: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    parts, login, password = (
        urlsplit(database),
        f"planted_{secrets.token_hex(4)}",
        f"Pw-{secrets.token_hex(12)}",
    )
    await db.execute(f"create role {login} login superuser password '{password}'")
    dsn = f"{parts.scheme}://{login}:{password}@{parts.netloc.rpartition('@')[2]}{parts.path}?{parts.query}"
    planted = {password} | _everything_told(sandbox)
    told = settings(
        dsn,
        sandbox,
        tmp_path / "state",
        providers=PROVIDERS,
        stanza={"timeout": "2s", "circuit": {"failures": 50, "open": "1s"}},
        jobs=QUICK_JOBS,
        log={"level": "debug", "format": "json"},
    )
    data = json.loads(json.dumps(told))  # nothing shared, which YAML would write as an alias
    daemon = Daemon(tmp_path / "one", data)
    try:
        await daemon.start()
        _spoil_everything(sandbox)
        await until(lambda: _another_round(db, sandbox), within_s=40, what="all that can go wrong")
        await _crash_inside(db)
        seen = {
            "process list": _process_list(),
            "metrics": await _metrics(daemon),
            "tables": await _tables(db),
        }
        await daemon.kill()
        data["providers"]["stockx"]["pace"] = {"calls": "many"}
        daemon.write(data)
        await daemon.spawn()
        assert await daemon.process.wait() == 78
        data["providers"]["stockx"]["pace"] = {"calls": 1}
        data["database"]["dsn"] = dsn.replace(parts.path, "/no_such_database")
        daemon.write(data)
        await daemon.spawn()
        assert await daemon.process.wait() == 75
    finally:
        if daemon.process.returncode is None:
            await daemon.kill()
        await db.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", login)
        await until(
            lambda: db.fetchval("select count(*) = 0 from pg_stat_activity where usename = $1", login)
        )
        await db.execute(f"drop role {login}")
    seen["log"] = daemon.text()
    assert "Traceback" in seen["log"] or "exception" in seen["log"], "a crash was among what was logged"
    minted = {
        json.loads(file.read_text())["access_token"] for file in (tmp_path / "state").glob("*-token.json")
    }
    for place, text in seen.items():
        assert text, place
        leaked = [secret[:4] + "..." for secret in planted | minted if secret in text]
        assert leaked == [], f"in the {place}"
    modes = {
        file.name: oct(file.stat().st_mode & 0o777) for file in (tmp_path / "state").glob("*-token.json")
    }
    assert set(modes.values()) == {"0o600"}, modes


async def _another_round(db: Connection, sandbox: Sandbox) -> bool:
    """Whatever stopped a lane or ended a job: ask again. True when every fault was met."""
    for provider in PROVIDERS:
        await db.execute("select market_resume($1)", provider)
        await db.execute("select market_enqueue($1, $2, '10', 200)", provider, PANDA)
    await asyncio.sleep(0.1)
    return not sandbox.open_faults()["open"]


async def _crash_inside(db: Connection) -> None:
    """A statement that the daemon does not expect to fail: its traceback is logged."""
    await db.execute("""
        create function boom() returns trigger language plpgsql as
        $$ begin raise exception 'a fault of the schema' using errcode = '22012'; end $$;
        create trigger boom before insert on market_prices for each row execute function boom()""")
    await ask(db, "stockx", "CP9366", "10.5")
    crashed = "select exists (select from market_jobs where sku = 'CP9366' and started_at is not null)"
    await until(lambda: db.fetchval(crashed), what="the crash")
    await asyncio.sleep(0.5)
    await db.execute("drop trigger boom on market_prices")


async def _metrics(daemon: Daemon) -> str:
    line = next(json.loads(line) for line in daemon.text().splitlines() if '"event": "ready"' in line)
    async with aiohttp.ClientSession() as session, session.get(line["metrics"]) as response:
        return await response.text()


def _process_list() -> str:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.append((folder / "cmdline").read_bytes().decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return "\n".join(found)


def _leaves(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(data, dict) and data:
        return [leaf for key, value in data.items() for leaf in _leaves(value, (*path, key))]
    return [path]


@pytest.mark.parametrize("form", ["${PLANTED}", "x${PLANTED:-}y", "${file:planted}"])
def test_no_fault_of_a_configuration_shows_what_a_substitution_brought(tmp_path: Path, form: str) -> None:
    """At every key of the shipped file, whatever type it wants."""
    secret = f"planted-{secrets.token_hex(8)}"
    (tmp_path / "planted").write_text(secret)
    shipped = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text())
    file, types, refused = tmp_path / "config.yaml", wiring.provider_types(), 0
    for path in _leaves(shipped):
        value: Any = form
        for key in reversed(path):
            value = {key: value}
        file.write_text(yaml.safe_dump(value))
        told = _told(file, types, {"PLANTED": secret})
        refused += bool(told)
        assert secret not in told, path
    assert refused > 10


def _told(file: Path, types: Mapping[str, ProviderTypes], env: Mapping[str, str]) -> str:
    """All that is said of a file, with the traceback that a bug would show; empty when it loads."""
    try:
        load_config(file, types, env)
    except ConfigError as error:
        return "\n".join([*error.problems, *traceback.format_exception(error)])
    return ""


def test_metrics_are_served_on_loopback_unless_told_otherwise() -> None:
    from marketd.config import from_mapping

    assert from_mapping({}, {}).http.host == "127.0.0.1"
