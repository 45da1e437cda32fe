"""From the command line to the configuration and the database.

The daemon and `check-config` need the whole configuration. Other commands only need to know where the database
is, so a provider's credential that an operator may not read does not keep them from asking.
"""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from marketd.cli.exits import CommandError, Exit
from marketd.config import Config, from_mapping, load
from marketd.config.faults import suggestion
from marketd.config.substitution import Substitution
from marketd.config.yaml_source import read
from marketd.embedded import EmbeddedError, EmbeddedPostgres
from marketd.errors import ConfigError, DatabaseUnavailable, SchemaError, StatementRefused
from marketd.store.pool import Database
from marketd.store.sqlfile import queries

SYSTEM_FILE = Path("/etc/marketd/config.yaml")
POSTGRES = "postgres"  #: below state_dir, where the daemon keeps an embedded server
DEMO = "demo"  #: below state_dir, the demo's own
_ASKING = re.compile(r"function market_(enqueue|refresh|watch|unwatch|viewed|why)")
_POISON = "poison"  #: the word of jobs that bring their worker down, written by the sweep
_OUTLINE = ("database", "state_dir", "http")

_NO_DSN = (
    "no database is configured: set MARKETD_DSN=postgresql://user:password@host:port/database (or database.dsn in "
    "{file}), or set database.embedded: true there to try things out"
)


def find_file(arguments: Namespace, env: Mapping[str, str] = os.environ) -> Path | None:
    """The configuration file to use: --config, $MARKETD_CONFIG, ./config.yaml, /etc/marketd/config.yaml."""
    if given := arguments.config or env.get("MARKETD_CONFIG"):
        return Path(given)
    return next((path for path in (Path("config.yaml"), SYSTEM_FILE) if os.path.isfile(path)), None)


def whole(arguments: Namespace) -> tuple[Config, Path]:
    """The configuration as the daemon takes it, and its file. Raises ConfigError."""
    from marketd.wiring import provider_types

    path = find_file(arguments)
    if path is None:
        raise ConfigError(
            [
                "no configuration found: give --config FILE, set MARKETD_CONFIG, or put a config.yaml here or into "
                f"{SYSTEM_FILE.parent}"
            ]
        )
    return load(path, provider_types()), path


def outline(arguments: Namespace, env: Mapping[str, str] = os.environ) -> Config:
    """Where the database, the state and /metrics are; nothing else of the file is looked at.

    Without any file: what the shipped one says. Raises ConfigError.
    """
    path = find_file(arguments, env)
    if path is None:
        state_dir = {"state_dir": env["STATE_DIRECTORY"]} if env.get("STATE_DIRECTORY") else {}
        return from_mapping({"database": {"dsn": env.get("MARKETD_DSN", "")}} | state_dir, {})
    if (found := _outline_of(path, env)) is not None:
        return found
    try:
        return whole(arguments)[0]  # tells what is wrong, and where
    except ConfigError as error:
        ours = re.compile(rf"{re.escape(str(path))}:\d+:\d+: ({'|'.join(_OUTLINE)})\b")
        raise ConfigError(
            [problem for problem in error.problems if ours.match(problem)] or error.problems
        ) from None


def _outline_of(path: Path, env: Mapping[str, str]) -> Config | None:
    try:
        source = read(path.read_text(encoding="utf-8-sig"), Substitution(env, path.parent))
    except (OSError, UnicodeDecodeError):
        return None
    heads = [(), *((key,) for key in _OUTLINE)]  # a fault of the file as a whole has no key
    if not isinstance(source.data, dict) or any(fault.path[:1] in heads for fault in source.faults):
        return None
    try:
        return from_mapping({key: source.data[key] for key in _OUTLINE if key in source.data}, {})
    except ConfigError:
        return None


def own_dsn(config: Config, path: Path) -> str | None:
    """The configured DSN; None for an embedded database. Raises ConfigError when there is neither."""
    if config.database.dsn is not None:
        return config.database.dsn.get_secret_value()
    if not config.database.embedded:
        raise ConfigError([_NO_DSN.format(file=path)])
    return None


def any_dsn(config: Config) -> str:
    """The configured DSN, or that of a running embedded server under state_dir. Raises DatabaseUnavailable."""
    if config.database.dsn is not None:
        return config.database.dsn.get_secret_value()
    try:
        for folder in (config.state_dir / POSTGRES, config.state_dir / DEMO / POSTGRES):
            if dsn := EmbeddedPostgres.attach(folder):
                return dsn
    except EmbeddedError as error:
        raise DatabaseUnavailable(f"{error}; run this command as that user, or set MARKETD_DSN") from error
    raise DatabaseUnavailable(
        f"no database: MARKETD_DSN (database.dsn) is not set, and no embedded one runs under {config.state_dir}; "
        "set it, or start `marketd demo` or a daemon with database.embedded: true first"
    )


@asynccontextmanager
async def database(arguments: Namespace) -> AsyncIterator[Database]:
    """The database that the configuration means, with Postgres's refusals as expected errors."""
    config = outline(arguments)
    settings = config.database
    async with connected(
        any_dsn(config),
        timeout_s=settings.statement_timeout.total_seconds(),
        pooled=settings.listen_dsn is not None,
    ) as db:
        yield db


@asynccontextmanager
async def connected(dsn: str, *, timeout_s: float = 15.0, pooled: bool = False) -> AsyncIterator[Database]:
    """One connection to the database at `dsn`. Raises DatabaseUnavailable, SchemaError, CommandError."""
    db = Database(dsn, size=1, timeout_s=timeout_s, pooled=pooled, application="marketd command")
    try:
        await db.open()
    except DatabaseUnavailable as error:
        raise DatabaseUnavailable(
            f"{error}; check that Postgres runs and that database.dsn is right"
        ) from error
    try:
        await _check_schema(db)
        yield db
    except StatementRefused as error:
        raise in_words(error) from error
    finally:
        await db.close()


async def known(db: Database, provider: str | None, error: str | None = None) -> None:
    """A mistyped word shall not read as "nothing is wrong there": raises CommandError for one that is unknown."""
    from marketd.metrics.words import ERRORS

    if provider is not None:
        names = [row["provider"] for row in await db.fetch(queries("cli")["providers"])]
        _one_of("provider", provider, names)
    if error is not None and error not in (*ERRORS, _POISON):
        # A provider of somebody else's may have words of its own.
        met = [row["error_code"] for row in await db.fetch(queries("cli")["error_codes"])]
        _one_of("error", error, sorted({*ERRORS, _POISON, *met}))


def _one_of(what: str, word: str, names: Sequence[str]) -> None:
    if word not in names:
        raise CommandError(
            f"{what} {word!r} is unknown (known: {', '.join(names)}){suggestion(word, names)}", Exit.USAGE
        )


async def _check_schema(db: Database) -> None:
    """Raise SchemaError for another schema than ours, which may well answer, and wrongly."""
    from marketd import migrate

    try:
        await migrate.check(db)
    except StatementRefused as error:
        # An app's login may call functions and not read this table; what it calls tells what is missing.
        if not isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
            raise


def in_words(refusal: StatementRefused | asyncpg.PostgresError) -> CommandError | SchemaError:
    """What an operator can do about a statement that Postgres refused."""
    error = refusal.__cause__ if isinstance(refusal, StatementRefused) else refusal
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, asyncpg.InvalidParameterValueError):
        # The function's own name is not what was typed.
        return CommandError(re.sub(r"^market_\w+: ", "", message), Exit.USAGE)
    if isinstance(
        error, asyncpg.UndefinedTableError | asyncpg.UndefinedFunctionError | asyncpg.UndefinedColumnError
    ):
        return SchemaError(
            f"the database's schema does not fit this program ({message}): run `marketd migrate`"
        )
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        role = "market_producer" if _ASKING.search(message) else "market_operator"
        return CommandError(
            f"Postgres does not allow it ({message}): use a login with the role {role} (`grant {role} to ...`)"
        )
    return CommandError(f"Postgres refused ({getattr(error, 'sqlstate', '?')}): {message}")
