"""Commands that come before the daemon: the schema, the configuration, the versions."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from contextlib import ExitStack

import asyncpg

from marketd import __version__
from marketd import migrate as schema
from marketd.cli import access
from marketd.cli.exits import CommandError, Exit
from marketd.cli.tables import as_json, lane
from marketd.config import Config, json_schema
from marketd.embedded import EmbeddedError, EmbeddedPostgres
from marketd.errors import ConfigError, DatabaseUnavailable
from marketd.store.addresses import user_of
from marketd.store.pool import unreachable
from marketd.store.sqlfile import migrations

_UNREACHABLE = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
)


def migrate(arguments: Namespace) -> int:
    """Apply what the schema lacks, or with --plan tell it."""
    config, path = access.whole(arguments)
    dsn = access.own_dsn(config, path)
    with ExitStack() as stack:
        if dsn is None:
            dsn = _embedded(config, stack)
        steps, exposed = asyncio.run(_migrate(dsn, plan=arguments.plan, roles=arguments.roles))
    names = [f"{step.version:04d}_{step.name}" for step in migrations() if step.version in steps]
    for role, things in exposed.items():
        print(_warning(role, things), file=sys.stderr)
    if arguments.json:
        told = {
            "plan": arguments.plan,
            "steps": names,
            "schema_version": schema.version(),
            "open_to": exposed,
        }
        print(as_json(told))
        return Exit.OK
    for name in names:
        print(f"{'to do' if arguments.plan else 'done'}: {name}")
    left = "would be" if names and arguments.plan else "is"
    print(f"the schema {left} at version {schema.version()}, the one that this program needs")
    if arguments.roles:
        print("the roles of sql/roles.sql " + ("would be granted" if arguments.plan else "are granted"))
    return Exit.OK


def _embedded(config: Config, stack: ExitStack) -> str:
    """DSN of the embedded server: the one that runs, else one for as long as `stack` is open."""
    server = EmbeddedPostgres(config.state_dir / access.POSTGRES)
    try:
        running = EmbeddedPostgres.attach(config.state_dir / access.POSTGRES)
        return running or stack.enter_context(server).dsn()
    except EmbeddedError as error:
        raise DatabaseUnavailable(str(error)) from error


def _warning(role: str, things: list[str]) -> str:
    """What to do about a role that may use what is nobody's."""
    some = ", ".join(things[:3]) + (f" and {len(things) - 3} more" if len(things) > 3 else "")
    if role == "PUBLIC":
        return f"warning: everybody who may log in has rights on {some}: `marketd migrate --roles` takes them away"
    return (
        f"warning: {role}, whom anybody may be, has rights on {some}, by this server's default privileges. "
        "After `marketd migrate --roles` apply sql/supabase.sql, which takes them away: "
        'psql "$MARKETD_DSN" -v ON_ERROR_STOP=1 -f sql/supabase.sql'
    )


async def _migrate(dsn: str, *, plan: bool, roles: bool) -> tuple[list[int], dict[str, list[str]]]:
    """The steps, and to whom the result is open."""
    try:
        steps = await schema.migrate(dsn, plan=plan)
        if roles and not plan:
            await schema.apply_roles(dsn)
        return steps, await schema.open_to(dsn)
    except _UNREACHABLE as error:
        raise DatabaseUnavailable(
            f"{unreachable(dsn, error)}; check that it runs and that database.dsn is right"
        ) from error
    except asyncpg.LockNotAvailableError as error:
        raise DatabaseUnavailable(
            "another transaction holds a table that has to change (see pg_locks); nothing is half done, try again"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        said = " ".join(str(error).split())
        raise CommandError(f"Postgres does not allow it ({said}): {_who_may(dsn, error)}") from error
    except asyncpg.PostgresError as error:
        raise CommandError(f"nothing is half done; Postgres refused ({error.sqlstate}): {error}") from error


def _who_may(dsn: str, error: asyncpg.InsufficientPrivilegeError) -> str:
    if "role" not in str(error):
        return "migrate as the schema's owner"
    return (
        f'--roles needs the right to make roles. As a superuser: `alter role "{user_of(dsn)}" createrole`, '
        "or run `marketd migrate --roles` once with a superuser's database.dsn"
    )


def check_config(arguments: Namespace) -> int:
    """Tell every fault of the configuration, or that there is none."""
    from marketd.providers import discover
    from marketd.wiring import built, lanes_of, off_reason, provider_types

    if arguments.schema:
        print(as_json(json_schema(provider_types())))
        return Exit.OK
    try:
        config, path = access.whole(arguments)
        config = built(config, discover())
    except ConfigError as error:
        if arguments.json:
            print(as_json({"ok": False, "problems": error.problems}))
            return Exit.CONFIG
        raise
    stanzas = config.providers
    off = {
        lane(name, account): off_reason(stanzas[name], stanzas[name].credentials_of(account))
        for name, account in lanes_of(config)
    }
    if arguments.json:
        print(
            as_json(
                {"ok": True, "problems": [], "file": str(path), "off": {k: v for k, v in off.items() if v}}
            )
        )
        return Exit.OK
    print(f"{path}: no faults")
    for name, reason in off.items():
        print(f"  {name}: {f'off ({reason})' if reason else 'on'}")
    if config.database.dsn is None and not config.database.embedded:
        print("  no database yet: `marketd run` will want MARKETD_DSN (database.dsn)")
    return Exit.OK


def version(arguments: Namespace) -> int:
    """Print the versions of program and schema."""
    if arguments.json:
        print(as_json({"version": __version__, "schema_version": schema.version()}))
    else:
        print(f"marketd {__version__} (schema {schema.version()})")
    return Exit.OK
