"""Where the daemon's Postgres is, and whether it has the schema that this version works with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress

import asyncpg

from marketd import errors, migrate
from marketd.config import Config
from marketd.embedded import EmbeddedError, EmbeddedPostgres
from marketd.store.addresses import user_of
from marketd.store.pool import GONE, in_words, unreachable

_CONNECT_S = 10
_CLOSE_S = 2


async def locate(config: Config, stack: AsyncExitStack) -> str:
    """The DSN; an embedded server is started and migrated first, and `stack` stops it.

    Raises ConfigError when the configuration names no database, DatabaseUnavailable when the embedded one won't start.
    """
    database = config.database
    if database.dsn is not None:
        return database.dsn.get_secret_value()
    if not database.embedded:
        raise errors.ConfigError(
            [
                "database.dsn: not set: give the address of your Postgres (MARKETD_DSN as shipped), "
                "or set database.embedded: true to try things out"
            ]
        )
    server = EmbeddedPostgres(config.state_dir / "postgres")
    try:
        # In this thread on purpose: the server is told to die with the thread that started it.
        dsn = server.start()
    except EmbeddedError as error:
        raise errors.DatabaseUnavailable(str(error)) from error
    stack.callback(server.stop)
    await migrate.migrate(dsn)
    return dsn


def running_embedded(config: Config) -> str | None:
    """The DSN of the embedded server that another process runs for this configuration, None when there is none.

    Raises DatabaseUnavailable when it is there and cannot be used.
    """
    if config.database.dsn is not None or not config.database.embedded:
        return None
    try:
        return EmbeddedPostgres.attach(config.state_dir / "postgres")
    except EmbeddedError as error:
        raise errors.DatabaseUnavailable(str(error)) from error


async def check_schema(dsn: str, *, pooled: bool) -> None:
    """Raises SchemaError when it is older or newer than this version, DatabaseUnavailable when nobody answers.

    `pooled`, as for `Database`: the login's own search_path will hold, and has to lead to the tables.
    """
    try:
        # No cache: behind a transaction pooler a prepared statement may be looked for on another server.
        connection = await asyncpg.connect(
            dsn, timeout=_CONNECT_S, command_timeout=_CONNECT_S, statement_cache_size=0
        )
    except (*GONE, asyncpg.PostgresError) as error:
        raise errors.DatabaseUnavailable(unreachable(dsn, error)) from error
    try:
        async with connection.transaction():
            if not pooled:
                await connection.execute("set local search_path = public")
            await migrate.check(connection)
    except asyncpg.SyntaxOrAccessError as error:
        raise errors.SchemaError(unfit(dsn, error)) from error
    except (*GONE, asyncpg.PostgresError) as error:
        raise errors.DatabaseUnavailable(unreachable(dsn, error)) from error
    finally:
        await _close(connection)


def unfit(dsn: str, error: BaseException) -> str:
    """What an operator does about a statement of the daemon that Postgres refuses for what the database lacks."""
    said = error.__cause__ if isinstance(error, errors.StatementRefused) else error
    if not isinstance(said, asyncpg.InsufficientPrivilegeError):
        return f"the database does not fit this program ({in_words(said or error)}): run `marketd migrate`"
    return (
        f"Postgres does not allow a daemon's work ({in_words(said)}): run `marketd migrate --roles` as the schema's "
        f'owner, then `grant market_daemon to "{user_of(dsn)}"`'
    )


@contextmanager
def fitting(dsn: Callable[[], str]) -> Iterator[None]:
    """Raises SchemaError with a remedy where a right, a table or a column is missing, which no new try will mend."""
    try:
        yield
    except errors.DatabaseUnfit as error:
        raise errors.SchemaError(unfit(dsn(), error)) from error


async def _close(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    with suppress(*GONE):  # it may have gone by itself
        await connection.close(timeout=_CLOSE_S)
