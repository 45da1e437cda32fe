"""Brings a database's schema up to this program: forward only, checksummed, all pending steps in one transaction.

Any number may run at once: a transaction-level advisory lock lets one work, and it is polled, not waited for, so that
a waiter holds no snapshot that the worker's DDL would have to wait for.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from importlib import resources
from typing import Any, Protocol, TypeAlias

import asyncpg

from marketd.clock import jittered
from marketd.errors import SchemaError
from marketd.store.sqlfile import Migration, migrations

_LOCK = 0x6D61726B657464  # "marketd"
_PATIENCE_S = 120.0
_LOCK_TIMEOUT = "set local lock_timeout = '5s'"  #: apps queue up behind whoever waits for a table
#: what the files are written for, whatever the login has
_AS_WRITTEN = "set local search_path = public; set local standard_conforming_strings = on"
_LEDGER_IS = """
select case when not has_schema_privilege(to_regnamespace('public')::oid, 'usage') then 'closed'
            when to_regclass('public.market_schema') is null then 'missing'
            when to_regclass('market_schema') is null then 'out of sight' else 'there' end"""
_LEDGER = """
create table if not exists market_schema (
  version int primary key,
  name text not null,
  sha256 text not null,
  applied_at timestamptz not null default clock_timestamp(),
  took_ms int not null
)"""
_TAKEN = """
select relname::text as name from pg_class
 where relnamespace = 'public'::regnamespace and relkind <> 'c' and relname = any ($1)
 union
select proname::text from pg_proc where pronamespace = 'public'::regnamespace and proname = any ($1)
 order by name"""
_OPEN_TO = """
with given as (
  select a.grantee, c.relname::text as name from pg_class c, aclexplode(c.relacl) a
   where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S')
     and (starts_with(c.relname, 'market_') or c.relname = 'stockx_market_prices')
   union all
  select a.grantee, p.proname::text from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
   where p.pronamespace = 'public'::regnamespace and starts_with(p.proname, 'market_')
)
select case grantee when 0 then 'PUBLIC' else grantee::regrole::text end as role,
       array_agg(distinct name order by name) as names
  from given where grantee = 0 or grantee = to_regrole('anon') group by grantee order by role"""
_CREATES = re.compile(r"^create (?:or replace )?(?:table|view|function|type)\s+(\w+)", re.MULTILINE)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def migrate(dsn: str, *, plan: bool = False) -> list[int]:
    """Apply what is missing and return its numbers; with `plan` only tell them.

    Raises SchemaError when the database is newer than this program, holds changed steps, or holds the first
    system's tables.
    """
    connection = await asyncpg.connect(dsn, timeout=15, command_timeout=_PATIENCE_S, statement_cache_size=0)
    try:
        async with connection.transaction():
            await _lock(connection)
            await connection.execute(_LOCK_TIMEOUT)
            await connection.execute(_AS_WRITTEN)
            pending = _pending(await _applied(connection))
            if not plan:
                await _apply(connection, pending)
            return [step.version for step in pending]
    finally:
        await connection.close(timeout=5)


class Asked(Protocol):
    """A connection or a pool: whoever answers queries."""

    async def fetch(self, query: str, /, *args: Any) -> list[asyncpg.Record]: ...

    async def fetchval(self, query: str, /, *args: Any) -> Any: ...


async def check(connection: Asked) -> None:
    """Raise SchemaError unless the schema is exactly the one that this program was written for."""
    pending = _pending(await _applied(connection))
    if pending:
        what = (
            "is missing"
            if pending[0].version == 1
            else f"is old (at {pending[0].version - 1}, this program needs {pending[-1].version})"
        )
        raise SchemaError(f"the database's schema {what}: run `marketd migrate`, then try again")


def version() -> int:
    """The schema version that this program was written for."""
    return migrations()[-1].version


async def apply_roles(dsn: str) -> None:
    """Create and grant the roles of `sql/roles.sql`; may be repeated."""
    text = (resources.files("marketd") / "sql" / "roles.sql").read_text(encoding="utf-8")
    connection = await asyncpg.connect(dsn, timeout=15, command_timeout=_PATIENCE_S)
    try:
        async with connection.transaction():
            await connection.execute(_LOCK_TIMEOUT)
            await connection.execute(_AS_WRITTEN)
            await connection.execute(text)
    finally:
        await connection.close(timeout=5)


async def open_to(dsn: str) -> dict[str, list[str]]:
    """What PUBLIC and `anon`, who shall have nothing, may use of marketd: names by role.

    Supabase's default privileges give `anon` (whoever visits its API) every right on all that is new in `public`.
    """
    connection = await asyncpg.connect(dsn, timeout=15, command_timeout=_PATIENCE_S, statement_cache_size=0)
    try:
        return {row["role"]: row["names"] for row in await connection.fetch(_OPEN_TO)}
    finally:
        await connection.close(timeout=5)


async def _lock(connection: Connection) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not await connection.fetchval("select pg_try_advisory_xact_lock($1)", _LOCK):
        if time.monotonic() > deadline:
            raise SchemaError(f"another migration has held the lock for {_PATIENCE_S:.0f} s; see pg_locks")
        await asyncio.sleep(jittered(0.1))


async def _applied(connection: Asked) -> dict[int, str]:
    found = await connection.fetchval(_LEDGER_IS)
    if found == "closed":
        raise SchemaError(
            "the login has no right to the schema public: a daemon's needs `grant market_daemon to ...`, an operator's "
            "market_operator; to migrate is for the schema's owner"
        )
    if found == "out of sight":
        login = await connection.fetchval("select quote_ident(session_user)")
        raise SchemaError(
            "the login's search_path does not lead to the schema public, where the tables of marketd are: "
            f"`alter role {login} set search_path = public`, then try again"
        )
    if found == "missing":
        taken = await connection.fetch(_TAKEN, sorted(_created()))
        if taken:
            raise SchemaError(
                "the database holds objects of the first system, or of an app, under names that marketd takes: "
                f"{', '.join(row['name'] for row in taken)}. "
                "Run sql/legacy.sql first: it moves these to the schema market_legacy and copies what is of use"
            )
        return {}
    rows = await connection.fetch("select version, sha256 from market_schema")
    return {row["version"]: row["sha256"] for row in rows}


def _created() -> set[str]:
    return {name for step in migrations() for name in _CREATES.findall(step.sql)}


def _pending(applied: dict[int, str]) -> Sequence[Migration]:
    known = {step.version: step for step in migrations()}
    for number, sha256 in sorted(applied.items()):
        if number not in known:
            raise SchemaError(
                f"the database is at schema {max(applied)}, newer than this program ({max(known)}): upgrade marketd"
            )
        if known[number].sha256 != sha256:
            raise SchemaError(
                f"migration {number:04d}_{known[number].name}.sql was changed after it was applied: "
                "this database is of another build. Install the version that made it, or restore a backup that "
                "was made by this one"
            )
    return [step for number, step in known.items() if number not in applied]


async def _apply(connection: Connection, steps: Sequence[Migration]) -> None:
    if not steps:
        return
    await connection.execute(_LEDGER)
    for step in steps:
        began = time.monotonic()
        await connection.execute(step.sql)
        await connection.execute(
            "insert into market_schema (version, name, sha256, took_ms) values ($1, $2, $3, $4)",
            step.version, step.name, step.sha256, int((time.monotonic() - began) * 1000),
        )  # fmt: skip
